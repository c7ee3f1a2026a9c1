"""Everything that is declared stands in setup.cfg, but for the extension, which needs no compiler to be there."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "teleport_db._speed",
            ["teleport_db/_speed.c"],
            depends=sorted(glob("teleport_db/speed/*.c")),
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            py_limited_api=True,
            optional=True,
        )
    ]
)

"""What is installed is what is here: the declared packages, the wheel, the commands, twistd's plugin."""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import teleport_db

ROOT = Path(__file__).parent.parent
PROGRAMS = ("teleport", "tctl", "tsh")
#: What the wheel is built from.
SOURCES = ("setup.py", "setup.cfg", "README.rst", "LICENSE", "MANIFEST.in", "teleport_db", "twisted")


def output(*command: str | Path, cwd: Path) -> str:
    """Run a command that has to succeed, without the network's or the caller's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    said = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if said.returncode:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {said.returncode}:\n{said.stdout}")
    return said.stdout


class DeclarationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.config = configparser.ConfigParser()
        self.config.read(ROOT / "setup.cfg")

    def test_packages(self) -> None:
        """setup.cfg names every package, and none that is not there."""
        declared = set(self.config["options"]["packages"].split())
        here = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "teleport_db").rglob("__init__.py")}
        self.assertEqual(declared, here | {"twisted.plugins"})

    def test_plugin_directory(self) -> None:
        """A file __init__.py below twisted/ would hide Twisted itself."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])

    def test_commands_exist(self) -> None:
        """The console scripts lead to functions."""
        lines = self.config["options.entry_points"]["console_scripts"].split("\n")
        targets = dict(line.split(" = ") for line in lines if line)
        self.assertEqual(set(targets), set(PROGRAMS))
        for target in targets.values():
            module, _, function = target.partition(":")
            self.assertTrue(callable(getattr(import_module(module), function)))

    def test_documented(self) -> None:
        """docs/commands.rst names every command of every program."""
        text = (ROOT / "docs" / "commands.rst").read_text()
        for name in PROGRAMS:
            program = import_module(f"teleport_db.cli.{name}").PROGRAM
            said = text.split("\nteleport\n---")[0] + text.split(f"\n{name}\n---")[1].split("\n---")[0]
            self.assertEqual([words for words in program.commands if words not in said], [], name)

    def test_scripts_run(self) -> None:
        """The commands that README names can be executed."""
        for name in ("script/demo", "script/drivers", "script/test", "script/check", ".ci/run"):
            self.assertTrue((ROOT / name).stat().st_mode & stat.S_IXUSR, name)

    def test_changelog(self) -> None:
        """Every fragment is of a type that towncrier knows."""
        settings = tomllib.loads((ROOT / "towncrier.toml").read_text())["tool"]["towncrier"]
        types = {each["directory"] for each in settings["type"]}
        for path in (ROOT / settings["directory"]).iterdir():
            if path.name != "README.rst":
                self.assertIn(path.name.split(".")[1], types, path.name)


class WheelTests(SynchronousTestCase):
    """A wheel of this checkout in an environment where nothing of the checkout is on the path."""

    if any(importlib.util.find_spec(name) is None for name in ("pip", "setuptools", "wheel")):
        skip = "pip, setuptools and wheel are needed to build without a network: pip install '.[test]'"

    def build(self) -> Path:
        """The wheel, built from a copy so that the checkout stays as it is."""
        copy, wheels = Path(self.mktemp()).resolve(), Path(self.mktemp()).resolve()
        copy.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", "dropin.cache", "*.egg-info")
        for name in SOURCES:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, copy / name)
        build = (
            "wheel",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--use-pep517",
            "--wheel-dir",
            wheels,
            copy,
        )
        output(sys.executable, "-m", "pip", *build, cwd=copy)
        (wheel,) = wheels.glob("*.whl")
        return wheel

    def test_wheel(self) -> None:
        """It has the package, its types, the plugin and the licence; installed, its commands and twistd work."""
        wheel = self.build()
        names = set(zipfile.ZipFile(wheel).namelist())
        self.assertTrue({"teleport_db/py.typed", "twisted/plugins/teleport_db_plugin.py"} <= names)
        self.assertTrue(any(name.endswith("/LICENSE") for name in names))
        self.assertEqual([name for name in names if name.startswith(("tests", "script", "bench", "docs"))], [])

        fresh = Path(self.mktemp()).resolve()
        venv.create(fresh, with_pip=False)
        python = fresh / "bin" / "python"
        install = ("install", "--no-deps", "--no-index", "--quiet", wheel)
        output(sys.executable, "-m", "pip", "--python", python, *install, cwd=fresh)
        # What it depends on is lent by this environment: directories on the path, whose .pth files do not count.
        (packages,) = (fresh / "lib").glob("python*/site-packages")
        lent = dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
        (packages / "lent.pth").write_text("\n".join(lent) + "\n")

        where = output(python, "-c", "import teleport_db; print(teleport_db.__file__)", cwd=fresh)
        self.assertEqual(Path(where.strip()).parent, packages / "teleport_db")
        for program in PROGRAMS:
            said = output(fresh / "bin" / program, "version", cwd=fresh)
            self.assertIn(teleport_db.__version__, said)
        twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
        self.assertIn("teleport-db", output(*twistd, "--help", cwd=fresh))
        self.assertIn("--config", output(*twistd, "teleport-db", "--help", cwd=fresh))

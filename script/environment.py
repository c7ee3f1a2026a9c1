"""Make ``.venv`` and install this checkout into it, with the extras named on the command line.

The checkout is installed editable, in the one mode that keeps the plugin for ``twistd`` visible.  A stamp
holds what ``setup.cfg`` said, so that a second run needs neither pip nor network; a lock lets two runs of
a fresh clone wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import venv
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "installed.json"


def declared() -> str:
    """A digest of everything that decides what has to be installed."""
    files = [ROOT / "setup.cfg", ROOT / "setup.py", *sorted((ROOT / "teleport_db").rglob("*.c"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def installed() -> dict[str, str]:
    """Extra -> digest of what was declared when it was installed here."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def works() -> bool:
    """Whether the environment's Python still starts and has pip: its base may have been upgraded away."""
    command = [PYTHON, "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def install(extras: list[str]) -> None:
    """Install the checkout with these extras; what pip says is shown when it fails."""
    print(f"Installing into {ENVIRONMENT} (the first time takes a minute) ...", file=sys.stderr, flush=True)
    command = [
        *(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--use-pep517"),
        *("--config-settings", "editable_mode=compat", "--editable", f".[{','.join(extras)}]"),
    ]
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if said.returncode:
        print(said.stdout, file=sys.stderr)
        raise SystemExit(
            "pip could not install what setup.cfg asks for; its words stand above. It needs a package registry."
        )


def main(extras: list[str]) -> None:
    """Bring ``.venv`` up to what the checkout declares."""
    current = declared()
    if not os.access(ENVIRONMENT if ENVIRONMENT.exists() else ROOT, os.W_OK):
        if all(installed().get(extra) == current for extra in extras):
            return
        raise SystemExit(
            f"{ENVIRONMENT} cannot be written by this user, and it lacks something: use a clone of your own"
        )
    with ExitStack() as stack:
        lock = os.open(ROOT, os.O_RDONLY)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not works():
            print(f"Making {ENVIRONMENT} ...", file=sys.stderr, flush=True)
            venv.create(ENVIRONMENT, clear=True, with_pip=True)
        before = installed()
        if any(before.get(extra) != current for extra in extras):
            wanted = sorted({*extras, *(extra for extra in before if extra in ("demo", "test", "docs"))})
            install(wanted)
            STAMP.write_text(json.dumps(dict.fromkeys(wanted, current)))


if __name__ == "__main__":
    main(sys.argv[1:])

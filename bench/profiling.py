"""Where the time goes: a flame graph of each process between client and database, by py-spy."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.system import System, Trouble


@contextlib.contextmanager
def profiled(system: System, file: str) -> Iterator[None]:
    """Watch all processes between for as long as this lasts.

    :param file: ``NAME.svg``; each process's name goes before the ending.
    """
    beside = Path(sys.executable).parent / "py-spy"
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        raise Trouble("py-spy is not installed: pip install py-spy")
    path = Path(file)
    watchers = [
        subprocess.Popen(
            [program, "record", "--nonblocking", "-r", "100", "-o", target, "--pid", str(process.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for process in system.middle
        for target in [str(path.with_name(f"{path.stem}-{process.name}{path.suffix or '.svg'}"))]
    ]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.send_signal(signal.SIGINT)
            watcher.wait()

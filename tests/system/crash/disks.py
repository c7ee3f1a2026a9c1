"""Disks that are full or broken, by what the kernel really does: a small tmpfs, RLIMIT_FSIZE, strace's faults."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.system.crash.apart import Apart
from tests.system.support import until

MEBIBYTE = 1 << 20


def _mount(directory: Path, size: int) -> str:
    """Mount a tmpfs; why that cannot be done, or nothing."""
    said = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stderr.strip() if said.returncode else ""


def why_no_small_disk() -> str | None:
    """Why there is none on this machine; None when there can be."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "a small disk needs root and mount"
    probe = Path(os.environ.get("TMPDIR", "/tmp")) / f"teleport-db-mount-{os.getpid()}"
    probe.mkdir()
    try:
        trouble = _mount(probe, MEBIBYTE)
        if not trouble:
            subprocess.run(["umount", str(probe)], check=True)
        return f"no small disk: {trouble}" if trouble else None
    finally:
        probe.rmdir()


def why_no_tracing() -> str | None:
    """Why no fault can be put into a running process; None when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and scope.exists() and scope.read_text().strip() != "0":
        return "strace may not attach to a running process here (kernel.yama.ptrace_scope)"
    said = subprocess.run(
        ["strace", "-qq", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"strace: {said.stderr.strip()[-200:]}" if said.returncode else None


@contextlib.contextmanager
def small_disk(world: Apart, victim: str, directory: Path, size: int = 2 * MEBIBYTE) -> Iterator[Path]:
    """Have a service's directory on a disk of this size, and what is in it; stops the service and starts it again."""
    world.running[victim].stop()
    aside = directory.with_name(f"{directory.name}-aside")
    directory.rename(aside)
    directory.mkdir(mode=0o700)
    trouble = _mount(directory, size)
    assert not trouble, trouble
    try:
        shutil.copytree(aside, directory, dirs_exist_ok=True)
        world.begin(victim).until_up()
        yield directory
    finally:
        world.running[victim].stop()
        shutil.rmtree(aside)
        shutil.copytree(directory, aside)
        subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()
        aside.rename(directory)
        world.begin(victim).until_up()


@contextlib.contextmanager
def filled(directory: Path) -> Iterator[None]:
    """No room on the disk, to the last byte."""
    path = directory / "all.ballast"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        path.unlink()


@contextlib.contextmanager
def no_larger_files(pid: int, size: int) -> Iterator[None]:
    """No file of the process grows beyond so many bytes: a write ends there, the next one fails."""
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def broken_disk(pid: int) -> Iterator[None]:
    """Every fsync of the process fails, as where a disk loses what it was given."""
    tracing = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-e", "trace=fsync", "-e", f"inject=fsync:error={errno.errorcode[errno.EIO]}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _tracer(pid) == tracing.pid, "strace to be attached")
        yield
    finally:
        tracing.terminate()
        tracing.wait()


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])

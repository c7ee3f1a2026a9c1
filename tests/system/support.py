"""A cluster of real processes, its PostgreSQL, and the people who use it.

::

    World                 a directory, free ports, a PostgreSQL of its own
      start_auth()        teleport start -c auth-proxy.yaml      conf/auth-proxy.yaml, paths and ports replaced
      agent(...)          teleport start --roles=db ...
      person("alice")     a home: tsh, psql, the invite's page

Nothing waits for time: :func:`until` polls what processes and files say, with an end.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import pyotp

from teleport_db.certs.authority import Authority, AuthorityKind
from teleport_db.pgwire.messages import SSL_REQUEST, parse_error
from tests import postgres

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent
#: The token of conf/auth-proxy.yaml and of the guide.
STATIC_TOKEN = "cbdeeab9-6f88-436d-a673-44d14bd86bb7"
#: A role of whose statements each waits until its record is on the disk.
STRICT = """\
kind: role
version: v3
metadata: {name: strict}
spec:
  options: {record_session: {default: strict}}
"""
#: Seconds that anything may take; only what is broken takes that long.
PATIENCE = 40.0
STEP = 30
T = TypeVar("T")


def _load_demo() -> ModuleType:
    """``script/demo.py``, for its browser; it finds its neighbour ``postgres`` by that name."""
    sys.modules.setdefault("postgres", postgres._script)
    spec = importlib.util.spec_from_file_location("teleport_db_script_demo", ROOT / "script" / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


demo = _load_demo()


def until(condition: Callable[[], T], what: str | Callable[[], str], *, seconds: float = PATIENCE) -> T:
    """Poll until ``condition`` holds; its value.  The one place where these tests wait."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            words = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {seconds:.0f} seconds in vain for {words}")
        time.sleep(0.05)


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs."""
        return self.out + self.err

    @property
    def errors(self) -> list[str]:
        """The lines on stderr."""
        return self.err.splitlines()

    def json(self) -> Any:
        """The output read as JSON."""
        return json.loads(self.out)


class Failed(AssertionError):
    """A command that had to succeed did not."""


def failing(call: Callable[[], Said]) -> Said:
    """Call until it fails, as it will when a change has come through; what it said then."""
    return until(lambda: next((said for said in [call()] if said.code), None), "a failure")


def program(name: str) -> list[str]:
    """How to run one of our commands, or one beside this Python."""
    if name in ("teleport", "tctl", "tsh"):
        return [sys.executable, "-m", f"teleport_db.cli.{name}"]
    return [str(COMMANDS / name)] if (COMMANDS / name).exists() else [name]


class Process:
    """A process that stays, with its output in a file."""

    def __init__(self, name: str, words: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = cwd / f"{name}.log"
        self._begins = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self._popen = subprocess.Popen(
                [*program(words[0]), *words[1:]],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=postgres._script.die_with_parent(),  # noqa: PLW1509 - one system call, no lock
            )
        self.pid = self._popen.pid

    @property
    def said(self) -> str:
        """What it wrote since this start."""
        return self.log.read_bytes()[self._begins :].decode(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._popen.poll()

    def until_said(self, words: str, count: int = 1) -> None:
        """Wait until its output has these words so many times; it must not end meanwhile."""

        def there() -> bool:
            ended = self.code is not None
            if self.said.count(words) >= count:
                return True
            if ended:
                raise AssertionError(f"{self.name} ended with {self.code}:\n{self.said[-3000:]}")
            return False

        until(there, lambda: f"{self.name} to say {words!r}:\n{self.said[-3000:]}")

    def until_up(self) -> Process:
        """Wait until all its services are."""
        self.until_said("all services are up")
        return self

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        until(lambda: self.code is not None, lambda: f"{self.name} to end:\n{self.said[-3000:]}")
        assert self.code is not None
        return self.code

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> int:
        """Ask it to end, as an init system would; its exit status."""
        if self.code is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
        assert self.code is not None
        return self.code


def run(
    words: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    typed: str = "",
    fails: bool | None = False,
    seconds: float = PATIENCE,
) -> Said:
    """Run a command to its end.

    :param fails: whether a failure is expected; None takes either.
    """
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )
    said = Said(done.returncode, done.stdout, done.stderr)
    if fails is not None and (said.code != 0) != fails:
        raise Failed(f"{shlex.join(words)} ended with {said.code}\n{said.text}")
    return said


class Person:
    """Somebody with a home of their own, who uses ``tsh`` and ``psql``."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.home = world.directory / f"home-{name}"
        self.home.mkdir(exist_ok=True)
        self.environment = {
            **world.environment,
            "HOME": str(self.home),
            "TELEPORT_HOME": str(self.home / "tsh"),
            "PGSERVICEFILE": str(self.home / "pg_service.conf"),
        }
        self.password = ""
        self.codes: pyotp.TOTP | None = None
        self._step = 0

    def invited(self, *flags: str) -> Person:
        """Create the user with ``tctl`` and redeem the invite on its page."""
        said = self.world.tctl("users", "add", self.name, *flags, "--format=json").json()
        self.redeem(said["url"])
        return self

    def redeem(self, url: str) -> str:
        """Fill in the page of an invite or a reset; what the last page says."""
        browser = demo.Browser()
        page = browser.get(url)
        self.password = secrets.token_urlsafe(12)
        typed = {"password": self.password, "password_again": self.password}
        if page.secret:
            # A code counts once; the one of the step before leaves the present one to log in with.
            self.codes, self._step = pyotp.TOTP(page.secret), int(time.time()) // STEP - 1
            typed["otp"] = self.codes.generate_otp(self._step)
        done = browser.submit(url, page, **typed)
        if "password" in done.fields:
            raise Failed(f"the invite was not taken: {done.text}")
        return " ".join(done.text.split())

    def next_code(self) -> str:
        """A one-time code that has not been used."""
        if self.codes is None:
            return ""
        self._step += 1
        return self.codes.generate_otp(self._step)

    def login(self, *flags: str, **options: Any) -> Said:
        """``tsh login``, by default with ``--insecure``."""
        flags = flags or ("--insecure",)
        return self.tsh(
            *("login", f"--proxy=localhost:{self.world.web}", f"--user={self.name}", *flags),
            typed=f"{self.password}\n{self.next_code()}\n",
            **options,
        )

    def tsh(self, *words: str, **options: Any) -> Said:
        """Run ``tsh``."""
        return run([*program("tsh"), *words], cwd=self.home, environment=self.environment, **options)

    def service(self, name: str, user: str = "", database: str = "") -> str:
        """psql's connection string of a database that is logged in."""
        more = f"{f' user={user}' if user else ''}{f' dbname={database}' if database else ''}"
        return f"service={self.world.cluster}-{name}{more}"

    def psql(self, conninfo: str, sql: str = "", *words: str, **options: Any) -> Said:
        """Run SQL through psql, unaligned and without headers; ERRCODEs are shown."""
        command = [*self.world.client("psql"), "-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", conninfo]
        more = ["-c", sql] if sql else []
        return run([*command, *more, *words], cwd=self.home, environment=self.environment, **options)

    def settings(self, name: str) -> dict[str, str]:
        """A database's section of the service file."""
        found: dict[str, str] = {}
        inside = False
        for line in (self.home / "pg_service.conf").read_text().splitlines():
            if line.startswith("["):
                inside = line == f"[{self.world.cluster}-{name}]"
            elif inside and "=" in line:
                key, _, value = line.partition("=")
                found[key] = value
        return found


class World:
    """A cluster and everything around it, in one directory that goes with it."""

    cluster = "test"

    def __init__(self, *, with_postgres: bool = True) -> None:
        self.directory = postgres.temporary_directory("teleport-db-sys-")
        self.directory.chmod(0o755)
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PG", "TELEPORT_", "PYTHON", "SSL_")) and name not in ("HOME", "USER", "LOGNAME")
        }
        self.environment = {
            **outside,
            "HOME": str(self.directory),
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PSQLRC": os.devnull,
            "LC_ALL": "C.UTF-8",
        }
        self.processes: list[Process] = []
        self.people: dict[str, Person] = {}
        self.web, self.tunnel, self.auth_port, self.ssh = free_ports(4)
        self.postgres: Any = None
        if with_postgres:
            self.postgres = postgres.PostgresServer(postgres.SOURCE)
            self.postgres.start()

    def close(self) -> None:
        """Stop everything and remove it."""
        # Those who came late depend on those who came early.
        for process in reversed(self.processes):
            process.stop()
        if self.postgres is not None:
            self.postgres.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Processes.

    def start(self, name: str, *words: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start a process that stays."""
        process = Process(name, words, cwd=self.directory, environment={**self.environment, **(environment or {})})
        self.processes.append(process)
        return process

    def run(self, *words: str, **options: Any) -> Said:
        """Run a command to its end in the cluster's directory."""
        environment = {**self.environment, **options.pop("environment", {})}
        return run([*program(words[0]), *words[1:]], cwd=self.directory, environment=environment, **options)

    def file(self, name: str, text: str) -> Path:
        """Write a file."""
        path = self.directory / name
        path.write_text(text)
        return path

    def seed(self, name: str, replacing: Mapping[str, str]) -> Path:
        """An example of ``conf`` with paths and addresses replaced; everything else as it stands there."""
        text = (ROOT / "conf" / name).read_text()
        for old, new in replacing.items():
            assert old in text, f"{name} has no {old!r} any more"
            text = text.replace(old, new)
        return self.file(name, text)

    def addresses(self) -> dict[str, str]:
        """What ``conf``'s examples of auth and proxy need replaced."""
        return {
            "data_dir: /var/lib/teleport": f"data_dir: {self.directory}/data",
            "0.0.0.0:3025": f"127.0.0.1:{self.auth_port}",
            "0.0.0.0:3080": f"127.0.0.1:{self.web}",
            "0.0.0.0:3024": f"127.0.0.1:{self.tunnel}",
        }

    def start_auth(self) -> Process:
        """auth and proxy, from ``conf/auth-proxy.yaml``; again after a crash."""
        self.seed(
            "auth-proxy.yaml",
            {
                **self.addresses(),
                "0.0.0.0:3023": f"127.0.0.1:{self.ssh}",
                "teleport.example.com:3080": f"localhost:{self.web}",
            },
        )
        self.auth = self.start("auth", "teleport", "start", "--debug", "--config=auth-proxy.yaml").until_up()
        return self.auth

    def agent(self, name: str, *flags: str, database: str = "", data: str = "", uri: str = "") -> Process:
        """A database service from flags, as the guide has it.

        :param name: of the process, and of the database service unless ``database`` names that.
        """
        words = [
            *("teleport", "start", "--debug", "--roles=db", f"--auth-server=localhost:{self.web}"),
            *(f"--data-dir={self.directory}/{data or name}", f"--db-name={database or name}"),
            *("--db-protocol=postgres", f"--db-uri={uri or f'localhost:{self.postgres.port}'}"),
        ]
        return self.start(name, *words, *flags)

    # Administration.

    def tctl(self, *words: str, **options: Any) -> Said:
        """Run ``tctl`` on the auth host."""
        return self.run("tctl", *words, f"--data-dir={self.directory}/data", **options)

    def status(self) -> dict[str, Any]:
        """``tctl status``."""
        found: dict[str, Any] = self.tctl("status", "--format=json").json()
        return found

    def authority(self, kind: AuthorityKind) -> Authority:
        """An authority of the cluster with its key, as only its data directory has it."""
        path = self.directory / "data" / "storage" / "state.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as state:
            ((text,),) = state.execute("SELECT value FROM items WHERE key = ?", (f"/authority/{kind}",))
        value = json.loads(text)
        return Authority.load(kind, value["certificate"].encode(), value["key"].encode())

    def until_served(self, *names: str, agents: int = 1) -> None:
        """Wait until auth knows these database services and the proxy has so many agents of each."""

        def there() -> bool:
            said = self.tctl("db", "ls", "--format=json", fails=None)
            listed = {db["name"]: db.get("agents", 1) for db in said.json()} if said.code == 0 else {}
            return all(listed.get(name, 0) >= agents for name in names)

        until(there, lambda: f"{names} in {self.tctl('db', 'ls', fails=None).text}")

    def certify(self, *hosts: str) -> None:
        """Give PostgreSQL a certificate of the cluster for these hosts, and have it ask for the cluster's."""
        names = ",".join(hosts or ("localhost", "127.0.0.1"))
        self.tctl("auth", "sign", "--format=db", f"--host={names}", "--out=server", "--ttl=8760h", "--overwrite")
        self.postgres.use_tls(*((self.directory / f"server.{end}").read_bytes() for end in ("crt", "key", "cas")))

    def person(self, name: str) -> Person:
        """The person of this name."""
        if name not in self.people:
            self.people[name] = Person(self, name)
        return self.people[name]

    def client(self, name: str) -> list[str]:
        """A client program of PostgreSQL: the server's own, of its version."""
        installation = self.postgres.installation
        if not os.path.exists(installation.program(name)):
            return [name]
        libraries = installation.libraries
        extra = [] if libraries is None else ["env", f"LD_LIBRARY_PATH={libraries}"]
        return [*extra, installation.program(name)]

    # The audit log.

    def events(self, **only: object) -> list[dict[str, Any]]:
        """Events whose fields have these values, oldest first."""
        listed = self.tctl("audit", "ls", "--limit=10000", "--format=json").json()
        return [event for event in reversed(listed) if all(event.get(key) == value for key, value in only.items())]

    def until_recorded(self, **only: object) -> list[dict[str, Any]]:
        """Wait until there is such an event."""
        return until(lambda: self.events(**only), lambda: f"an event with {only}")


def metrics_world(*people: str, sql: str = "", names: str = "metrics") -> World:
    """auth and proxy, an agent of ``aurora``, and people who have logged in to alice's database ``metrics`` there.

    :param people: alice alone, if nobody is named.
    :param sql: more for the server to begin with.
    :param names: databases that they may open.
    """
    with closing_on_failure(World()) as world:
        world.start_auth()
        world.certify()
        world.postgres.sql(f"CREATE USER alice; CREATE DATABASE metrics OWNER alice; {sql}")
        world.agent("aurora", f"--token={STATIC_TOKEN}", "--insecure").until_up()
        world.until_served("aurora")
        for name in people or ("alice",):
            person = world.person(name).invited(f"--db-names={names}", "--db-users=alice")
            person.login()
            person.tsh("db", "login", "--db-user=alice", "--db-name=metrics", "aurora")
    return world


def free_ports(count: int) -> list[int]:
    """So many different free ports."""
    found: list[int] = []
    while len(found) < count:
        port = postgres.free_port()
        if port not in found:
            found.append(port)
    return found


_worlds: dict[Callable[[], Any], Any] = {}


def shared(build: Callable[[], T]) -> T:
    """What ``build`` makes, made once; the world of another module ends when a new one begins."""
    if build not in _worlds:
        end_shared()
        try:
            _worlds[build] = build()
        except Exception as error:
            _worlds[build] = error
            raise
    found = _worlds[build]
    if isinstance(found, Exception):
        raise found
    return found  # type: ignore[no-any-return]


def end_shared() -> None:
    """End the shared world."""
    for build, world in list(_worlds.items()):
        if isinstance(world, World):
            del _worlds[build]
            world.close()


atexit.register(end_shared)


@contextlib.contextmanager
def closing_on_failure(world: World) -> Any:
    """A world that could not be built leaves nothing behind."""
    try:
        yield world
    except BaseException:
        world.close()
        raise


def refusal(settings: Mapping[str, str], user: str, database: str, *, certificate: bool = True) -> dict[str, str]:
    """Log in as libpq would, by hand; the fields of the ErrorResponse, none when the login was accepted.

    psql prints the words of a refused connection only; this has its SQLSTATE.

    :param settings: of the service file.
    """
    context = ssl.create_default_context(cafile=settings["sslrootcert"])
    if certificate:
        context.load_cert_chain(settings["sslcert"], settings["sslkey"])
    parameters = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
    startup = struct.pack("!ii", 8 + len(parameters), 196608) + parameters
    with socket.create_connection(("localhost", int(settings["port"])), timeout=PATIENCE) as plain:
        plain.sendall(SSL_REQUEST)
        if plain.recv(1) != b"S":
            raise AssertionError("no TLS")
        with context.wrap_socket(plain, server_hostname="localhost") as secured, secured.makefile("rb") as stream:
            secured.sendall(startup)
            kind, length = struct.unpack("!ci", stream.read(5))
            body = stream.read(length - 4)
    return parse_error(body) if kind == b"E" else {}

"""The drivers' own test suites, run directly and through the proxy.

::

    pip download, npm pack      the source package, unpacked in a temporary directory, an environment of its own
       |
       +-- its tests ---- TLS, client certificate ------------------------> PostgreSQL     "directly"
       +-- the same ----- TLS, tsh's certificate --> proxy --> agent -----> PostgreSQL     "through the proxy"

Nothing of a driver is changed.  What takes its settings from libpq's environment gets them there; for the
others a module that Python (``sitecustomize``) or Node (``--require``) loads first adds the client
certificate.  Every run has a new database.  The exit status is 1 when a test passes directly and does not
through the proxy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from tests.system.support import Person, World

ROOT = Path(__file__).resolve().parent.parent
#: Seconds for the whole of one suite, and for one test.
PATIENCE, TEST_PATIENCE = 900, 60
DIRECTLY, PROXIED = "directly", "through the proxy"
#: Administrator of the server: several suites create roles and databases, pg8000's knows no other name.
USER = "postgres"
#: Loaded by Python before a driver whose tests make their TLS contexts with the standard library's function.
SITECUSTOMIZE = """\
import os
import ssl

_create_default_context = ssl.create_default_context


def create_default_context(*arguments, **options):
    context = _create_default_context(*arguments, **options)
    context.load_cert_chain(os.environ["PGSSLCERT"], os.environ["PGSSLKEY"])
    return context


ssl.create_default_context = create_default_context
"""
#: Loaded by Node before a suite of node-postgres, which takes no client certificate from the environment.
PRELOAD = """\
const fs = require('fs')
const read = (name) => fs.readFileSync(process.env[name])
require(require.resolve('pg', { paths: [process.cwd()] })).defaults.ssl = {
  ca: read('PGSSLROOTCERT'), cert: read('PGSSLCERT'), key: read('PGSSLKEY'),
}
"""


class Impossible(Exception):
    """A suite cannot run here; the text says why."""


@dataclass(frozen=True)
class Suite:
    """One source package and how its tests are started.

    :param package: the registry's name, with a version that carries its tests where newer ones do not.
    :param tests: what must be in the package, and is given to the test program.
    :param needs: more packages that the tests import.
    :param from_source: built here, as libpq's own driver is; else its wheel of the same version is installed.
    :param copied: run beside the source instead of in it, where it would hide what was installed.
    :param certificate_by_hand: its tests make TLS contexts themselves and know of no client certificate.
    :param database: the only name that the suite knows, else each run has a database of its own name.
    :param set_up: SQL that its documentation asks for.
    """

    driver: str
    package: str
    tests: tuple[str, ...]
    needs: tuple[str, ...] = ()
    npm: bool = False
    from_source: bool = False
    copied: bool = False
    certificate_by_hand: bool = False
    database: str = ""
    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    set_up: str = ""

    @property
    def name(self) -> str:
        """Without the version."""
        return self.package.partition("@")[0]


SUITES = (
    Suite("psycopg", "psycopg", ("tests",)),
    Suite("psycopg2", "psycopg2", ("tests",), from_source=True, copied=True, set_up="CREATE EXTENSION hstore"),
    Suite("asyncpg", "asyncpg", ("tests",), ("distro",), copied=True),
    Suite(
        "pg8000",
        "pg8000",
        ("test",),
        ("pytest-mock", "pytest-benchmark", "pytz"),
        certificate_by_hand=True,
        database="postgres",
        set_up="CREATE EXTENSION hstore",
        words=("--benchmark-skip",),
    ),
    Suite(
        "node-postgres",
        "pg-pool@3.6.2",
        ("test",),
        ("pg", "mocha@10", "expect.js", "co", "lodash", "bluebird"),
        npm=True,
        # It ends at any warning, and today's pg says that a Promise of one's own will not be taken for ever.
        environment={"NODE_OPTIONS": "--no-deprecation"},
    ),
    Suite("node-postgres", "pg-cursor@2.10.3", ("test",), ("pg", "mocha@10"), npm=True),
    Suite(
        "sqlalchemy",
        "sqlalchemy",
        ("test/dialect/postgresql/test_query.py", "test/dialect/postgresql/test_on_conflict.py"),
        ("psycopg[binary]",),
        words=("--dburi=postgresql+psycopg://", "--maxfail=100000"),
        set_up="CREATE SCHEMA test_schema; CREATE EXTENSION hstore; CREATE EXTENSION citext",
    ),
)
DRIVERS = tuple(dict.fromkeys(suite.driver for suite in SUITES))


@dataclass(frozen=True)
class Outcome:
    """What one test did."""

    state: str
    words: str = ""


Outcomes = dict[str, Outcome]


@dataclass
class Report:
    """What came of one suite."""

    suite: Suite
    version: str = ""
    runs: dict[str, Outcomes] = field(default_factory=dict)
    impossible: str = ""

    def counted(self, way: str) -> str:
        """``passed / failed / skipped``."""
        states = [outcome.state for outcome in self.runs[way].values()]
        return " / ".join(str(states.count(state)) for state in ("passed", "failed", "skipped"))

    def different(self) -> Iterator[tuple[str, str, Outcome]]:
        """Test, what it did directly, and what through the proxy."""
        direct, proxied = self.runs[DIRECTLY], self.runs[PROXIED]
        for name in sorted({*direct, *proxied}):
            before, after = direct.get(name, Outcome("absent")), proxied.get(name, Outcome("absent"))
            if before.state != after.state:
                yield name, before.state, after

    @property
    def broken(self) -> bool:
        """Whether a test passes directly and not through the proxy."""
        return any(before == "passed" for _, before, _ in self.different()) if len(self.runs) == 2 else False


def call(words: Sequence[str | Path], *, cwd: Path, environment: Mapping[str, str], seconds: float = PATIENCE) -> str:
    """Run a command; its output, whatever its exit status.

    :raises Impossible: when it is not there or does not end.
    """
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise Impossible(f"{words[0]}: {error.strerror}") from None
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Impossible(f"{Path(words[0]).name} did not end within {seconds:.0f} seconds") from None
    finally:
        with contextlib.suppress(OSError):
            # Its own process group: whatever its tests have left behind goes too.
            os.killpg(process.pid, 9)
        process.wait()
    text = said.decode(errors="replace")
    (cwd / "said.log").write_text(text)
    return text


class Workshop:
    """A suite's directory: its source, its environment, its results."""

    def __init__(self, suite: Suite, directory: Path) -> None:
        self.suite, self.directory = suite, directory
        self.directory.mkdir()
        self.source = directory / "source"
        self.version = ""
        outside = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PG", "PYTHON", "TELEPORT_", "SSL_", "PSYCOPG")) and key != "VIRTUAL_ENV"
        }
        self.environment = {**outside, "HOME": str(directory), "LC_ALL": "C.UTF-8"}
        self.python = directory / "environment" / "bin" / "python"

    # Getting it.

    def prepare(self) -> None:
        """Fetch, unpack, look for the tests, install.

        :raises Impossible: in words.
        """
        self._fetch()
        if not all((self.source / path).exists() for path in self.suite.tests):
            raise Impossible("its source package carries no tests")
        if self.suite.npm:
            self._install_npm()
        else:
            self._install_pip()

    def _fetch(self) -> None:
        package = self.suite.package
        words: tuple[str, ...] = ("npm", "pack", "--silent", package)
        if not self.suite.npm:
            # Metadata may be built with packages of which only wheels are at hand: no-binary names it alone.
            words = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package, package)
        before = {*self.directory.iterdir()}
        said = call(words, cwd=self.directory, environment={**self.environment, "HOME": os.path.expanduser("~")})
        fetched = [path for path in self.directory.iterdir() if path not in before and path.name != "said.log"]
        archives = [path for path in fetched if path.name.endswith((".tar.gz", ".tgz"))]
        if not archives:
            raise Impossible(f"no source package: {last_line(said)}")
        name = archives[0].name.removesuffix(".tar.gz").removesuffix(".tgz")
        self.version = name.rpartition("-")[2]
        with tarfile.open(archives[0]) as archive:
            archive.extractall(self.directory / "unpacked", filter="data")
        (unpacked,) = (self.directory / "unpacked").iterdir()
        unpacked.rename(self.source)

    def _install_pip(self) -> None:
        suite = self.suite
        home = {**self.environment, "HOME": os.path.expanduser("~")}
        call((sys.executable, "-m", "venv", self.directory / "environment"), cwd=self.directory, environment=home)
        wanted = str(self.source) if suite.from_source else f"{suite.package}=={self.version}"
        install = (self.python, "-m", "pip", "install", "-q", "pytest", "pytest-timeout", *suite.needs, wanted)
        said = call(install, cwd=self.directory, environment=home)
        found = call((self.python, "-c", "import pytest"), cwd=self.directory, environment=self.environment)
        shown = (self.python, "-m", "pip", "show", "-q", suite.package)
        missing = "not found" in call(shown, cwd=self.directory, environment=home)
        if found or missing:
            raise Impossible(f"could not be installed: {last_line(said)}")
        if suite.certificate_by_hand:
            (packages,) = (self.directory / "environment" / "lib").glob("python3*/site-packages")
            (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)

    def _install_npm(self) -> None:
        home = {**self.environment, "HOME": os.path.expanduser("~")}
        words = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", *self.suite.needs)
        said = call(words, cwd=self.source, environment=home)
        if not (self.source / "node_modules" / ".bin" / "mocha").exists():
            raise Impossible(f"could not be installed: {last_line(said)}")
        (self.directory / "preload.js").write_text(PRELOAD)

    # Running it.

    def run(self, settings: Mapping[str, str]) -> Outcomes:
        """Run the tests with libpq's variables."""
        environment = {**self.environment, **settings, **self.suite.environment}
        return (self._mocha if self.suite.npm else self._pytest)(environment)

    def _pytest(self, environment: Mapping[str, str]) -> Outcomes:
        suite, cwd = self.suite, self.source
        if suite.copied:
            cwd = self.directory / "beside"
            for name in suite.tests:
                shutil.copytree(self.source / name, cwd / name, dirs_exist_ok=True)
        results = self.directory / "results.xml"
        results.unlink(missing_ok=True)
        path = f"{self.python.parent}{os.pathsep}{environment['PATH']}"
        more = {"PATH": path, "PSYCOPG2_TESTDB": environment["PGDATABASE"]}
        words = [word.replace("psycopg://", psycopg_url(environment)) for word in suite.words]
        said = call(
            (
                *(
                    self.python,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    "--continue-on-collection-errors",
                    "-o",
                    "junit_family=xunit1",
                ),
                *(f"--timeout={TEST_PATIENCE}", f"--junitxml={results}", *words, *suite.tests),
            ),
            cwd=cwd,
            environment={**environment, **more},
        )
        if not results.exists():
            raise Impossible(f"its tests did not start: {last_line(said)}")
        return junit(results)

    def _mocha(self, environment: Mapping[str, str]) -> Outcomes:
        results = self.directory / "results.json"
        results.unlink(missing_ok=True)
        said = call(
            (
                *("node_modules/.bin/mocha", "--exit", "--reporter=json", f"--reporter-option=output={results}"),
                *("--timeout=20000", f"--require={self.directory / 'preload.js'}", *self.suite.tests),
            ),
            cwd=self.source,
            environment=environment,
        )
        if not results.exists():
            raise Impossible(f"its tests did not start: {last_line(said)}")
        found: Outcomes = {}
        listed = json.loads(results.read_text())
        for state, key in (("passed", "passes"), ("skipped", "pending"), ("failed", "failures")):
            for test in listed[key]:
                found[unique(found, test["fullTitle"])] = Outcome(state, first_line(test["err"].get("message", "")))
        return found


def psycopg_url(environment: Mapping[str, str]) -> str:
    """SQLAlchemy's; the certificates come from libpq's environment."""
    return "psycopg://{PGUSER}@{PGHOST}:{PGPORT}/{PGDATABASE}".format_map(environment)


def last_line(text: str) -> str:
    """What a command said last."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing was said")[:300]


def first_line(text: str) -> str:
    """What a failure says first."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200]


def unique(found: Outcomes, name: str) -> str:
    """The name, numbered where it is taken."""
    number, candidate = 1, name
    while candidate in found:
        number += 1
        candidate = f"{name} ({number})"
    return candidate


def junit(path: Path) -> Outcomes:
    """Read pytest's results; a class that could not be set up is a failed test."""
    found: Outcomes = {}
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - written by our own child
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.get("name") == "test_suite":
            continue  # unittest's collection, taken for a test by pytest
        state, words = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                state, words = "failed", first_line(child.get("message") or child.text or "")
            elif child.tag == "skipped" and state == "passed":
                state, words = "skipped", child.get("message") or ""
        if case.get("name") and name in found and state == "failed":
            found[name] = Outcome(state, words)  # an error after the test's end has an entry of its own
        else:
            found[unique(found, name)] = Outcome(state, words)
    return found


class Ways:
    """The two ways to the same PostgreSQL, as libpq's variables."""

    def __init__(self, source: str) -> None:
        from tests import postgres
        from tests.system.support import STATIC_TOKEN, World

        self.world: World = World(with_postgres=False)
        settings = {"max_prepared_transactions": "10", "wal_level": "logical"}
        try:
            self.world.postgres = postgres.PostgresServer(source, settings=settings)
            self.world.postgres.start()
            self.world.start_auth()
            self.world.certify()
            self.world.agent("aurora", f"--token={STATIC_TOKEN}", "--insecure").until_up()
            self.world.until_served("aurora")
            self.person: Person = self.world.person("alice").invited("--db-names=*", "--db-users=*")
            self.person.login()
            self.person.tsh("db", "login", f"--db-user={USER}", f"--db-name={USER}", "aurora")
            self._certify()
        except BaseException:
            self.world.close()
            raise

    def _certify(self) -> None:
        """A certificate for the direct way, from the authority that PostgreSQL trusts the agent's by."""
        from teleport_db.certs import keys

        key = keys.new_key()
        authority = self.world.authority("db_client")
        issued = authority.issue(
            keys.load_public(keys.public_pem(key)), common_name=USER, now=time.time(), ttl=86400, server=False
        )
        self.world.file("direct.crt", keys.pem(issued).decode())
        self.world.file("direct.cas", self.world.authority("db").certificate_pem.decode())
        secret = self.world.file("direct.key", "")
        secret.chmod(0o600)
        secret.write_bytes(keys.private_pem(key))

    def settings(self, way: str, database: str) -> dict[str, str]:
        """libpq's environment."""
        directory = self.world.directory
        if way == DIRECTLY:
            certificate, key, authority = (str(directory / f"direct.{end}") for end in ("crt", "key", "cas"))
            port = str(self.world.postgres.port)
        else:
            section = self.person.settings("aurora")
            certificate, key, authority = section["sslcert"], section["sslkey"], section["sslrootcert"]
            port = section["port"]
        return {
            "PGHOST": "localhost",
            "PGPORT": port,
            "PGUSER": USER,
            "PGDATABASE": database,
            "PGSSLMODE": "verify-full",
            "PGSSLCERT": certificate,
            "PGSSLKEY": key,
            "PGSSLROOTCERT": authority,
        }

    def database(self, name: str, set_up: str) -> None:
        """A new database with this name, in a server without what earlier runs left in it."""
        listed = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        for left in self.world.postgres.sql(listed, database="template1").splitlines():
            self.world.postgres.sql(f'DROP DATABASE "{left}" WITH (FORCE)', database="template1")
        for left in self.world.postgres.sql("SELECT rolname FROM pg_roles WHERE oid >= 16384").splitlines():
            # Roles may own what is left in the database "postgres".
            with contextlib.suppress(RuntimeError):
                self.world.postgres.sql(f'DROP OWNED BY "{left}"; DROP ROLE "{left}"')
        for sql in (f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"'):
            self.world.postgres.sql(sql, database="template1")
        for each in filter(None, set_up.split(";")):
            # An extension that this PostgreSQL does not have is the tests' business.
            with contextlib.suppress(RuntimeError):
                self.world.postgres.sql(each, database=name)


def tried(suite: Suite, ways: Ways, directory: Path) -> Report:
    """Run one suite both ways."""
    report = Report(suite)
    workshop = Workshop(suite, directory)
    try:
        workshop.prepare()
        for way in (DIRECTLY, PROXIED):
            database = suite.database or f"{suite.name}_tests".replace("-", "_")
            ways.database(database, suite.set_up)
            began = time.monotonic()
            settings = ways.settings(way, database)
            if suite.npm:
                del settings["PGSSLMODE"]  # it would come before the defaults that have the certificate
            report.runs[way] = workshop.run(settings)
            print(f"  {way}: {report.counted(way)} in {time.monotonic() - began:.0f} s", flush=True)
    except Impossible as trouble:
        report.impossible = str(trouble)
        print(f"  {trouble}", flush=True)
    report.version = workshop.version
    return report


def show(reports: Sequence[Report]) -> None:
    """The table, then every test that differs."""
    rows = [("driver", "package", f"{DIRECTLY} p/f/s", f"{PROXIED} p/f/s")]
    for report in reports:
        ran = len(report.runs) == 2
        counts = (report.counted(DIRECTLY), report.counted(PROXIED)) if ran else (report.impossible, "")
        rows.append((report.suite.driver, f"{report.suite.name} {report.version}", *counts))
    widths = [max(len(row[column]) for row in rows if column < 2 or row[3]) for column in range(4)]
    print()
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    for report in reports:
        if len(report.runs) < 2:
            continue
        for name, before, after in report.different():
            print(
                f"\n{report.suite.name}: {name}\n    {before} directly, {after.state} through the proxy: {after.words}"
            )


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="script/drivers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help=f"of {', '.join(DRIVERS)}; default: all")
    parser.add_argument("--postgres", choices=("wheel", "system"), default="wheel", help="default: 18 from the wheel")
    parser.add_argument("--results", type=Path, help="write every test's outcome to this file as JSON")
    arguments = parser.parse_args()
    unknown = {*arguments.drivers} - {*DRIVERS}
    if unknown:
        parser.error(f"no such driver: {', '.join(sorted(unknown))}")
    chosen = arguments.drivers or DRIVERS
    sys.path.insert(0, str(ROOT))
    from tests import postgres
    from tests.system.support import demo

    with demo.interruptible(), contextlib.ExitStack() as stack:
        try:
            ways = Ways(arguments.postgres)
        except postgres.Unavailable as trouble:
            print(trouble, file=sys.stderr)
            return 1
        stack.callback(ways.world.close)
        print(f"PostgreSQL {ways.world.postgres.installation.version()} ({arguments.postgres})", flush=True)
        reports = []
        for suite in SUITES:
            if suite.driver in chosen:
                print(f"{suite.driver}: {suite.package}", flush=True)
                reports.append(tried(suite, ways, ways.world.directory / f"suite-{suite.name}"))
        show(reports)
        if arguments.results is not None:
            arguments.results.write_text(json.dumps([written(report) for report in reports], indent=1))
    return int(any(report.broken for report in reports))


def written(report: Report) -> dict[str, Any]:
    """A report as JSON has it."""
    runs = {way: {name: [o.state, o.words] for name, o in run.items()} for way, run in report.runs.items()}
    return {"package": report.suite.name, "version": report.version, "impossible": report.impossible, "runs": runs}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

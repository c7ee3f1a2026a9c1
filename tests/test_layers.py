"""The floors of docs/architecture.rst, held: imports go down, and the lowest floors are pure.

The sources are read, not run: imports inside functions and below ``if TYPE_CHECKING`` count as well.
The seams alone may name, for the type checker's eyes, what stands above them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
PACKAGE = "teleport_db"

#: Room -> floor; the longest prefix of a module's name counts.
FLOORS = {
    "": 0,
    "errors": 0,
    "interfaces": 0,
    "pgwire": 1,
    "mux": 1,
    "access": 1,
    "config": 1,
    "identity": 1,
    "clienthello": 1,
    "alpn": 1,
    "hostport": 1,
    "amazon": 1,
    "_speed": 1,
    "audit": 2,
    "audit.__init__": 1,  # runs before audit.events does
    "audit.events": 1,
    "audit.executions": 1,
    "audit.codes": 1,
    "audit.redaction": 1,
    "audit.connstrings": 1,
    "audit.sinks.__init__": 1,  # as audit's
    "audit.sinks.cutting": 1,
    "audit.sinks.rfc5424": 1,
    "audit.shipped": 1,
    "audit.exchange": 1,
    "audit.spooled": 1,
    "audit.moments": 1,
    "certs": 2,
    "net": 2,
    "tunnel": 2,
    "storage": 2,
    "api": 2,
    "auth": 3,
    "proxy": 3,
    "db": 3,
    "cli": 4,
    "services": 4,
    "tap": 4,
    "__main__": 4,
}
#: What may import from above below ``if TYPE_CHECKING``: nothing runs there.
SEAMS = {"interfaces"}
#: On this floor no room knows another.
STRANGERS = 3
#: What a pure module cannot import: input and output, clocks, randomness, other threads.
IMPURE = {
    *("twisted", "OpenSSL", "asyncio", "concurrent", "io", "multiprocessing", "os", "pathlib", "random", "secrets"),
    *("select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile"),
    *("threading", "urllib", "uuid", "http"),
}
#: What of the module time only converts, with the number of arguments that keeps it from the clock.
CONVERSIONS = {"gmtime": 1, "strftime": 2}
#: What it cannot call: a clock by another name, a file without an import.
IMPURE_CALLS = {"open", "input", "print", "now", "utcnow", "today", "from_file", "urandom"}


@attrs.frozen
class Place:
    """Where a module stands."""

    module: str
    floor: int
    room: str


def place(module: str) -> Place:
    """The place of ``audit.events`` (named below the package; a package's own file is ``x.__init__``)."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        room = ".".join(parts[:length])
        if room in FLOORS:
            return Place(module, FLOORS[room], parts[0])
    if module == "__init__":
        return Place(module, 0, "")
    raise LookupError(f"{PACKAGE}.{module} stands on no floor: give it one in {Path(__file__).name}")


def for_types_only(tree: ast.AST) -> set[ast.AST]:
    """Every node below ``if TYPE_CHECKING``."""
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports."""
    package = f"{PACKAGE}.{module}".split(".")[:-1]
    ignored = for_types_only(tree) if module in SEAMS else set()
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}"


def known(name: str) -> str | None:
    """The module of the project that an imported name belongs to, named below the package."""
    if name != PACKAGE and not name.startswith(PACKAGE + "."):
        return None
    parts = name.split(".")[1:]
    while parts:
        path = ROOT.joinpath(PACKAGE, *parts)
        if path.with_suffix(".py").exists():
            return ".".join(parts)
        if (path / "__init__.py").exists():
            return ".".join([*parts, "__init__"])
        # A room that is not built yet keeps its place.
        if len(parts) == 1 and parts[0] in FLOORS:
            return parts[0]
        parts.pop()
    return "__init__"


def faults(source: str, module: str) -> list[str]:
    """What the source of a module does that its floor does not allow, with lines."""
    here, tree, found = place(module), ast.parse(source), []
    for line, name in imports(tree, module):
        target = known(name)
        if target is not None:
            there = place(target)
            if there.floor > here.floor:
                found.append(f"{module}:{line}: floor {here.floor} imports {name} of floor {there.floor}")
            elif there.floor == here.floor == STRANGERS and there.room != here.room:
                found.append(f"{module}:{line}: {here.room} imports {name}, a room of its own floor")
        elif here.floor == 1 and (name.split(".")[0] in IMPURE or name.startswith("time.")):
            found.append(f"{module}:{line}: a pure module imports {name}")
    if here.floor == 1:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time" and node.attr not in CONVERSIONS:
                found.append(f"{module}:{node.lineno}: a pure module uses time.{node.attr}")
            if isinstance(node, ast.Call):
                if reads_clock(node):
                    found.append(f"{module}:{node.lineno}: a pure module asks the clock")
                called = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
                if called in IMPURE_CALLS:
                    found.append(f"{module}:{node.lineno}: a pure module calls {called}()")
    return found


def reads_clock(node: ast.Call) -> bool:
    """Whether a conversion of ``time`` is left to take the present time."""
    if not isinstance(node.func, ast.Attribute) or ast.unparse(node.func.value) != "time":
        return False
    return len(node.args) < CONVERSIONS.get(node.func.attr, 0)


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts), path


class LayerTests(SynchronousTestCase):
    def test_floors(self) -> None:
        """No module of the project imports upwards, next door on floor 3, or anything impure on floor 1."""
        found = [fault for module, path in modules() for fault in faults(path.read_text(), module)]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_plugin(self) -> None:
        """twistd reads the plugin on every start, so it imports nothing of the project."""
        tree = ast.parse((ROOT / "twisted" / "plugins" / "teleport_db_plugin.py").read_text())
        self.assertEqual([name for _, name in imports(tree, "plugin") if name.startswith(PACKAGE)], [])

    def test_packages_speak(self) -> None:
        """Every package says in its docstring what it is."""
        silent = [
            m
            for m, path in modules()
            if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
        ]
        self.assertEqual(silent, [])


class CheckerTests(SynchronousTestCase):
    """The checker sees what it is there for."""

    def refused(self, module: str, source: str) -> None:
        self.assertEqual(len(faults(source, module)), 1, source)

    def allowed(self, module: str, source: str) -> None:
        self.assertEqual(faults(source, module), [], source)

    def test_upwards(self) -> None:
        self.refused("net.tcp", "from teleport_db.auth.server import Server")
        self.refused("net.tcp", "from ..auth import server")
        self.refused("mux.session", "def later():\n    import teleport_db.net.tcp\n")
        self.refused("errors", "from .identity import Identity")
        self.refused("errors", "if TYPE_CHECKING:\n    from .identity import Identity")
        self.refused("interfaces", "from .identity import Identity")
        self.allowed("interfaces", "if TYPE_CHECKING:\n    from .identity import Identity")
        self.refused("audit.__init__", "from teleport_db.audit.log import AuditLog")
        self.allowed("auth.server", "from ..certs import authority\nfrom teleport_db.errors import BadRequest")
        self.allowed("net.tcp", "from teleport_db import errors, interfaces")

    def test_next_door(self) -> None:
        self.refused("proxy.web", "from teleport_db.auth.users import Users")
        self.allowed("proxy.web", "from .front import Front\nfrom teleport_db.proxy import router")
        self.allowed("tunnel.stream", "from teleport_db.net import tcp")

    def test_pure(self) -> None:
        self.refused("pgwire.startup", "from twisted.internet.defer import Deferred")
        self.refused("mux.frames", "from time import monotonic")
        self.refused("mux.frames", "import time\nclock = time.monotonic")
        self.refused("mux.frames", "import time\ntime.gmtime()")
        self.allowed("mux.frames", "import time\ntime.strftime('%Y', time.gmtime(0))")
        self.refused("audit.events", "import datetime\ndatetime.datetime.now()")
        self.refused("config.parser", "open('/etc/teleport.yaml')")
        self.allowed("audit.log", "import os, time\nfrom twisted.internet import defer")
        self.allowed("pgwire.startup", "import struct, enum, attrs")

    def test_homeless(self) -> None:
        self.assertRaises(LookupError, place, "somewhere.new")

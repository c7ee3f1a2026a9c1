"""A real PostgreSQL for tests, started when the first test asks for it and stopped with the run.

::

    class RealTests(TestCase):
        skip = postgres.skip

        def setUp(self) -> None:
            self.server = postgres.shared()
            self.server.use_tls(certificate, key, client_ca)
            self.server.sql("CREATE USER alice")

``TELEPORT_DB_TEST_POSTGRES`` chooses ``wheel`` or ``system``; without it the wheel is taken first.  What
starts the server is ``script/postgres.py``, which the demo uses as well.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest import SkipTest


def _load() -> ModuleType:
    """``script/postgres.py``; ``script`` is no package, and only a checkout has it."""
    name = "teleport_db_script_postgres"
    path = Path(__file__).parent.parent / "script" / "postgres.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_script = _load()

PostgresServer = _script.PostgresServer
Unavailable = _script.Unavailable
CERTIFICATES_ONLY: str = _script.CERTIFICATES_ONLY
free_port = _script.free_port
temporary_directory = _script.temporary_directory

#: The server to test with: ``wheel``, ``system`` or ``any``.
SOURCE = os.environ.get("TELEPORT_DB_TEST_POSTGRES", "any")
#: For a test case's ``skip``: what this machine lacks, else None.
skip: str | None = _script.why_not(SOURCE)

why_not = _script.why_not

#: By source: a server, or why there is none.
_state: dict[str, object] = {}


def shared(source: str = SOURCE) -> PostgresServer:  # type: ignore[valid-type]
    """The run's one server of a source; whoever uses it sets TLS and drops what it creates.

    :raises SkipTest: when this machine turns out to lack something, in words.
    """
    if source not in _state:
        server = PostgresServer(source)
        try:
            server.start()
            atexit.register(server.stop)
            _state[source] = server
        except Unavailable as trouble:
            _state[source] = trouble
    if isinstance(_state[source], Unavailable):
        raise SkipTest(str(_state[source]))
    return _state[source]

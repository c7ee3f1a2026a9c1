"""The starts and ends of a process in the audit log, and what its configuration has become meanwhile.

::

    all services are up    config.update, where a key is another than at the last start
                           service.start, ``after_crash`` where no service.stop came before
    the process is to end  service.stop
    DATA/starts/ROLE.json  {"salt", "running", "settings": {KEY: [VALUE, HASH of what is not told]}}      0600

The event is kept first and the file follows: a crash between the two tells of something twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

import teleport_db
from teleport_db.certs.files import read_secret, write_secret
from teleport_db.config.changes import Value, changes, settings
from teleport_db.config.model import Config
from teleport_db.errors import ConfigError

log = Logger()

START, STOP, CHANGED = "service.start", "service.stop", "config.update"

#: Keys of one event at most; the rest is counted.
MAX_CHANGES = 100

#: Keeps an event of this process: its name, its fields.
Record = Callable[..., Awaitable[None]]


class Starts:
    """Of one process.

    :param config: with the host's names.
    :param record: where the events go.
    :param entropy: so many random bytes.
    """

    def __init__(self, config: Config, record: Record, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        enabled = {"auth": config.auth.enabled, "proxy": config.proxy.enabled, "db": config.db.enabled}
        self._services = [role for role, is_on in enabled.items() if is_on]
        self._config, self._record, self._entropy = config, record, entropy
        self._path = os.path.join(config.teleport.data_dir, "starts", f"{self._services[0]}.json")
        self._salt = b""
        self._settings: dict[str, Value] = {}

    async def started(self) -> None:
        """All services are up; what cannot be kept is said in the log, for the sessions that need a record fail."""
        try:
            await self._started()
        except CancelledError:
            raise
        except Exception:
            log.failure("the start of this process was not recorded")

    async def _started(self) -> None:
        known = self._read()
        self._salt = bytes.fromhex(known["salt"]) if known else self._entropy(16)
        self._settings = settings(self._config, self._salt)
        if known:
            before = {key: (str(told), str(digest)) for key, (told, digest) in known["settings"].items()}
            found = changes(before, self._settings)
            if found:
                more = {"more": len(found) - MAX_CHANGES} if len(found) > MAX_CHANGES else {}
                await self._record(CHANGED, **self._about, changes=found[:MAX_CHANGES], **more)
        crashed = {"after_crash": True} if known and known["running"] else {}
        await self._record(START, **self._about, version=teleport_db.__version__, **crashed)
        self._keep(running=True)

    async def stopped(self) -> None:
        """It is about to end."""
        if not self._settings:
            return
        try:
            await self._record(STOP, **self._about)
            self._keep(running=False)
        except Exception:
            log.failure("the end of this process was not recorded")

    @property
    def _about(self) -> dict[str, Any]:
        return {"services": self._services, "node_name": self._config.teleport.nodename}

    def _read(self) -> dict[str, Any] | None:
        """What was kept at the last start; None at the first, and when it cannot be read."""
        try:
            known = json.loads(read_secret(self._path))
            bytes.fromhex(known["salt"])
            fits = all(len(value) == 2 for value in known["settings"].values()) and "running" in known
        except FileNotFoundError:
            return None
        except (OSError, ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warn("{path} cannot be read, so what has changed is not known: {error}", path=self._path, error=error)
            return None
        return known if fits else None

    def _keep(self, *, running: bool) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        kept = {"salt": self._salt.hex(), "running": running, "settings": self._settings}
        write_secret(self._path, json.dumps(kept).encode())

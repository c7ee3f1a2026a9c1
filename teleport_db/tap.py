"""``twistd teleport-db``: the options, and the service they make."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError

from teleport_db.config.parser import parse
from teleport_db.errors import ConfigError
from teleport_db.services.process import Teleport, explain

log = Logger()


class Options(TwistedOptions):
    """The command line after ``twistd teleport-db``."""

    synopsis = "[--config FILE]"
    longdesc = "Runs the auth, proxy and db services of a configuration file, as 'teleport start' does."
    optParameters = [  # noqa: RUF012 - Twisted's own form
        ["config", "c", "/etc/teleport.yaml", "The configuration file."],
    ]

    def postOptions(self) -> None:
        """Read the file, so that what is wrong with it is told before the process becomes a daemon."""
        path = self["config"]
        try:
            self["parsed"] = parse(Path(path).read_text(encoding="utf-8"), path)
        except ConfigError as error:
            raise UsageError(str(error)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}: {getattr(error, 'strerror', None) or error}; give a file with --config"
            ) from error


class _Process(Service):
    """Makes the process's services when it starts, under twistd's own reactor."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._teleport: Teleport | None = None
        self.failed = False

    def startService(self) -> None:
        from twisted.internet import reactor

        super().startService()  # type: ignore[no-untyped-call]
        self._teleport = Teleport(self._options["parsed"], reactor=reactor)
        self._teleport.startService()
        self._teleport.ready.addErrback(self._not_ready, reactor)

    def _not_ready(self, reason: Failure, reactor: Any) -> None:
        log.critical("teleport-db: {reason}", reason=explain(reason))
        atexit.register(_end_in_failure)
        reactor.stop()

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        return self._teleport.stopService() if self._teleport is not None else None


def _end_in_failure() -> None:
    """twistd ends with 0 however its services fared; what supervises it has to learn of a failed start."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def makeService(options: Options) -> Service:
    """The service of ``twistd teleport-db``."""
    return _Process(options)

"""A Twisted program that runs a whole cluster beside its own work."""

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from teleport_db.config import Config, parse
from teleport_db.services import Teleport


async def main(reactor: Any, config: Config) -> None:
    cluster = Teleport(config, reactor=reactor)
    cluster.startService()
    reactor.addSystemEventTrigger("before", "shutdown", cluster.stopService)
    await cluster.ready
    print("the cluster is up", flush=True)
    await Deferred()  # the program's own work


if __name__ == "__main__":
    path = sys.argv[1]
    config = parse(Path(path).read_text(), path)
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, config)))

"""Writes numbered keys for ever and prints each number once it was answered; the test kills it."""

import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from teleport_db.storage.sqlite import SQLiteBackend


async def write(path: str) -> None:
    backend = SQLiteBackend(path, reactor=reactor)
    number = 0
    while True:
        await backend.create(f"/n/{number:06}", {"number": number})
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    Deferred.fromCoroutine(write(sys.argv[1])).addErrback(lambda failure: failure.printTraceback())
    reactor.run()

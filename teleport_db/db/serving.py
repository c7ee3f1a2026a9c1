"""Which databases an agent serves, from several sources, while it runs.

::

    configuration   those of the file, for ever
    others          what they say now takes the place of what they said before

A name belongs to the source that was there first: nobody who tags a resource of a cloud, or creates one in the
cluster, takes a name away from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from teleport_db.config.model import Database
from teleport_db.db.labels import DynamicLabels, Run
from teleport_db.db.surroundings import Served

log = Logger()


def leads_to(database: Database) -> Database:
    """What of a database a session rests on; the rest may change below it."""
    return attrs.evolve(database, description="", static_labels={}, dynamic_labels={})


class Serving:
    """The databases of an agent.

    :param run: runs the command of a dynamic label.
    :param changed: called when a dynamic label has another value than before.
    :ivar served: by name; it changes in place.
    """

    def __init__(self, *, run: Run, clock: IReactorTime, changed: Callable[[], None]) -> None:
        self._run, self._clock, self._changed = run, clock, changed
        self._sources: dict[str, tuple[Database, ...]] = {}
        self._labels: dict[str, DynamicLabels] = {}
        self._running = False
        #: Names that a source was told it does not get.
        self._told: set[tuple[str, str]] = set()
        self.served: dict[str, Served] = {}

    def start(self) -> None:
        """Run the commands of the labels."""
        self._running = True
        for labels in self._labels.values():
            labels.start()

    def stop(self) -> None:
        """Run none any more."""
        self._running = False
        for labels in self._labels.values():
            labels.stop()

    def replace(self, source: str, databases: Sequence[Database]) -> frozenset[str]:
        """Serve these in the place of those that the source gave before.

        :return: the names that lead nowhere now, or elsewhere.
        """
        self._sources[source] = tuple(databases)
        wanted = self._wanted()
        gone = frozenset(
            name
            for name, one in self.served.items()
            if name not in wanted or leads_to(one.database) != leads_to(wanted[name])
        )
        for name in [name for name in self.served if name not in wanted]:
            self._remove(name)
        for name, database in wanted.items():
            if name not in self.served or self.served[name].database != database:
                self._add(database)
        return gone

    def _wanted(self) -> dict[str, Database]:
        wanted: dict[str, Database] = {}
        taken = set()
        for source, databases in self._sources.items():
            for database in databases:
                if database.name in wanted:
                    taken.add((source, database.name))
                else:
                    wanted[database.name] = database
        for source, name in sorted(taken - self._told):
            log.warn("database service {name} of {source} is not served: its name is taken", name=name, source=source)
        self._told = taken
        return wanted

    def _add(self, database: Database) -> None:
        self._remove(database.name)
        labels = DynamicLabels(database.dynamic_labels, run=self._run, clock=self._clock, changed=self._changed)
        self._labels[database.name] = labels

        def present() -> Mapping[str, str]:
            return {**database.static_labels, **labels.values}

        self.served[database.name] = Served(database, present)
        if self._running:
            labels.start()

    def _remove(self, name: str) -> None:
        self.served.pop(name, None)
        labels = self._labels.pop(name, None)
        if labels is not None:
            labels.stop()

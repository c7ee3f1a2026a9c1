"""Which of the databases that are registered in the cluster an agent takes up."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.logger import Logger

from teleport_db.config.databases import Selector
from teleport_db.config.model import Database

log = Logger()

#: Registered databases that one agent takes up: auth hears of 1,000 from an agent, its own included.
MOST = 900


@attrs.frozen
class Wanted:
    """What an agent's configuration and its join token say.

    :param selectors: by the databases' labels.
    :param scope: the names that the token allows; None for any.
    :param commands: whether the commands of dynamic labels are run here: whoever may register databases would
        otherwise run programs on every agent's machine.
    """

    selectors: tuple[Selector, ...] = ()
    scope: tuple[str, ...] | None = None
    commands: bool = False

    def of(self, databases: Sequence[Database]) -> list[Database]:
        """Those that are served, of these; the log has the reason for those that match and are not."""
        found: list[Database] = []
        for database in databases:
            if not any(selector.matches(database.static_labels) for selector in self.selectors):
                continue
            why = self._objection(database) if len(found) < MOST else f"this agent has taken up {MOST} already"
            if why:
                log.warn("database service {name} is not served: {why}", name=database.name, why=why)
            else:
                found.append(database)
        return found

    def _objection(self, database: Database) -> str:
        if self.scope is not None and database.name not in self.scope:
            return "the join token of this agent does not allow it"
        if database.dynamic_labels and not self.commands:
            # Without its labels a role that denies by one of them would not.
            return "it has dynamic labels, whose commands are not run here (db_service.resource_commands)"
        return ""

"""Discovery: what AWS has, looked at again and again, becomes what the agent serves.

::

    for each entry of db_service.aws, each region, instances and clusters:
        asked      ──▶ as before      again after a period
                   ──▶ different      served from now on; what is gone is dropped
                   ──▶ failed         said once, what was known stays; again after longer and longer

One question at a time, in a thread: discovery is in no hurry, and AWS counts an account's calls.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from teleport_db.config.model import AmazonDiscovery, Database
from teleport_db.db.aws import Sessions, Source, code_of, explain
from teleport_db.db.awsdatabases import Listed, clusters, instances, named

log = Logger()

#: The source of these databases at the agent.
AWS = "AWS"
#: Seconds until a question that failed is asked again: the first time, and at most.
RETRY_SECONDS = (15.0, 900.0)
#: What is asked: the operation's paginator, the key of its items, who reads them.
_QUESTIONS = (
    ("describe_db_instances", "DBInstances", instances),
    ("describe_db_clusters", "DBClusters", clusters),
)


@attrs.define(eq=False)
class Look:
    """One question, asked again and again.

    :ivar failures: how often it failed since it was last answered.
    :ivar told: the code of the failure that the log has.
    """

    matcher: AmazonDiscovery
    region: str
    operation: str
    items: str
    read: Callable[..., list[Listed]]
    found: list[Listed] = attrs.field(factory=list)
    failures: int = 0
    told: str = ""
    call: IDelayedCall | None = None

    @property
    def source(self) -> Source:
        """Whose credentials it is asked with."""
        return Source(self.region, self.matcher.assume_role_arn, self.matcher.external_id)

    def ask(self, sessions: Sessions) -> list[Listed]:
        """Ask AWS; blocks, and raises what botocore raises."""
        pages = sessions.get(self.source).client("rds").get_paginator(self.operation).paginate()
        return self.read([item for page in pages for item in page[self.items]], self.matcher, self.region)


class Discovery(Service):
    """Keeps an agent's databases like AWS's.

    :param serve: the agent's: takes a source and its databases.
    :param allowed: whether the agent may serve a database of this name.
    :param in_thread: as ``deferToThread``.
    """

    def __init__(
        self,
        matchers: Sequence[AmazonDiscovery],
        *,
        serve: Callable[[str, Sequence[Database]], None],
        allowed: Callable[[str], bool],
        in_thread: Callable[..., Deferred[Any]],
        clock: IReactorTime,
        sessions: Sessions | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._serve = serve
        self._allowed = allowed
        self._in_thread = in_thread
        self._clock = clock
        self._sessions = sessions or Sessions(now=clock.seconds)
        self._uniform = uniform
        self._lock = DeferredLock()
        self._served: list[Database] = []
        self._refused: set[str] = set()
        self._looks = [
            Look(matcher, region, *question)
            for matcher in matchers
            for region in matcher.regions
            for question in _QUESTIONS
        ]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for look in self._looks:
            self._soon(look, 0.0)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        for look in self._looks:
            if look.call is not None and look.call.active():
                look.call.cancel()

    def _soon(self, look: Look, seconds: float) -> None:
        if self.running:
            look.call = self._clock.callLater(seconds, self._begin, look)

    def _begin(self, look: Look) -> None:
        Deferred.fromCoroutine(self._look(look)).addErrback(
            lambda reason: log.failure("discovery in {region} has ended", reason, region=look.region)
        )

    async def _look(self, look: Look) -> None:
        try:
            found: list[Listed] = await self._lock.run(self._in_thread, look.ask, self._sessions)
        except Exception as error:
            self._soon(look, self._failed(look, error))
            return
        if look.told:
            log.info("AWS answers {operation} in {region} again", operation=look.operation, region=look.region)
        look.failures, look.told = 0, ""
        if found != look.found:
            look.found = found
            self._changed()
        self._soon(look, look.matcher.period)

    def _failed(self, look: Look, error: Exception) -> float:
        """Say it, once; the seconds until it is asked again."""
        code = code_of(error)
        if code != look.told:
            look.told = code
            log.warn(
                "databases cannot be discovered by {operation} in {region}: {reason} ({detail})",
                operation=look.operation,
                region=look.region,
                reason=explain(error, look.source),
                detail=str(error),
            )
        self._sessions.forget(look.source)
        least, most = RETRY_SECONDS
        look.failures += 1
        return self._uniform(least, min(most, least * 2 ** min(look.failures, 16)))

    def _changed(self) -> None:
        if not self.running:
            return
        databases = named(one for look in self._looks for one in look.found)
        refused = {database.name for database in databases if not self._allowed(database.name)}
        for name in sorted(refused - self._refused):
            log.warn("database {name} was discovered, but this agent's join token does not allow it", name=name)
        self._refused = refused
        now = [database for database in databases if database.name not in refused]
        before = {database.name for database in self._served}
        for name in sorted({database.name for database in now} - before):
            log.info("database service {name} was discovered", name=name)
        for name in sorted(before - {database.name for database in now}):
            log.info("database service {name} is gone", name=name)
        self._served = now
        self._serve(AWS, now)

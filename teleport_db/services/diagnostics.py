"""``--diag-addr``: health and figures of a process over plain HTTP, for its own machine or a private network.

::

    GET /healthz    200 while the reactor turns
    GET /readyz     200 when all services are up, 503 before
    GET /metrics    gauges in Prometheus' text form
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.web.resource import Resource
from twisted.web.server import Request

from teleport_db.config.model import Address
from teleport_db.net.http import BoundedSite
from teleport_db.net.tcp import listen


@attrs.frozen
class Gauge:
    """One figure: what it says, and how it is read."""

    help: str
    read: Callable[[], float]


class _Page(Resource):
    isLeaf = True

    def __init__(self, content_type: bytes, render: Callable[[], tuple[int, str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._content_type = content_type
        self._render = render

    def render_GET(self, request: Request) -> bytes:
        status, text = self._render()
        request.setResponseCode(status)
        request.setHeader(b"content-type", self._content_type)
        return text.encode()


def exposition(gauges: Mapping[str, Gauge]) -> str:
    """The figures in the text form that Prometheus reads (version 0.0.4)."""
    lines = []
    for name, gauge in gauges.items():
        lines += [f"# HELP {name} {gauge.help}", f"# TYPE {name} gauge", f"{name} {gauge.read():g}"]
    return "\n".join(lines) + "\n"


class Diagnostics(Service):
    """Listens at ``--diag-addr``.

    :param ready: whether all services are up.
    :param gauges: gives the figures there are by now, by name.
    """

    port: Any

    def __init__(
        self, address: Address, *, ready: Callable[[], bool], gauges: Callable[[], Mapping[str, Gauge]], reactor: Any
    ) -> None:
        self._address = address
        self._ready = ready
        self._gauges = gauges
        self._reactor = reactor

    def open(self) -> None:
        """Listen; CannotListenError when that is not possible."""
        root = Resource()
        json_type, text_type = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
        root.putChild(b"healthz", _Page(json_type, lambda: (200, json.dumps({"status": "ok"}))))
        root.putChild(b"readyz", _Page(json_type, self._readiness))
        root.putChild(b"metrics", _Page(text_type, lambda: (200, exposition(self._gauges()))))
        site = BoundedSite(root, reactor=self._reactor)
        self.port = listen(self._reactor, self._address.port, site, interface=self._address.host)

    def _readiness(self) -> tuple[int, str]:
        if self._ready():
            return 200, json.dumps({"status": "ok"})
        return 503, json.dumps({"status": "starting"})

    def stopService(self) -> Any:
        super().stopService()  # type: ignore[no-untyped-call]
        return self.port.stopListening()

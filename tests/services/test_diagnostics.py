"""Health and figures over plain HTTP."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, readBody

from teleport_db.config.model import Address
from teleport_db.services.diagnostics import Diagnostics, Gauge, exposition


class Exposition(SynchronousTestCase):
    def test_text(self) -> None:
        """Each gauge has its help, its type and its value."""
        text = exposition({"sessions": Gauge("sessions open", lambda: 3), "agents": Gauge("agents", lambda: 0.5)})
        self.assertEqual(
            text,
            "# HELP sessions sessions open\n# TYPE sessions gauge\nsessions 3\n"
            "# HELP agents agents\n# TYPE agents gauge\nagents 0.5\n",
        )


class Pages(TestCase):
    async def get(self, service: Diagnostics, path: str) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{service.port.getHost().port}{path}"
        response = await Agent(reactor).request(b"GET", url.encode())
        return response.code, await readBody(response)

    async def test_pages(self) -> None:
        """Health is there at once, readiness when the services are, and figures are those of the moment."""
        state: dict[str, Any] = {"ready": False, "sessions": 1}
        service = Diagnostics(
            Address("127.0.0.1", 0),
            ready=lambda: state["ready"],
            gauges=lambda: {"sessions": Gauge("open", lambda: state["sessions"])},
            reactor=reactor,
        )
        service.open()
        service.startService()
        self.addCleanup(service.stopService)
        self.assertEqual(await self.get(service, "/healthz"), (200, b'{"status": "ok"}'))
        self.assertEqual(await self.get(service, "/readyz"), (503, b'{"status": "starting"}'))
        state.update(ready=True, sessions=7)
        self.assertEqual(await self.get(service, "/readyz"), (200, b'{"status": "ok"}'))
        self.assertIn(b"\nsessions 7\n", (await self.get(service, "/metrics"))[1])
        self.assertEqual((await self.get(service, "/other"))[0], 404)

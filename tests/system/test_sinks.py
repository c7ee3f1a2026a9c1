"""auth is killed, again and again, and its receivers misbehave: each still gets the whole log, in order."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api.http import Client
from teleport_db.audit import logfile
from teleport_db.cli.session import local_administrator
from teleport_db.errors import TeleportDBError
from tests.audit.sinks.receivers import HTTPSReceiver, SyslogReceiver, ca_file
from tests.net.material import Material
from tests.system.support import Process, World, free_ports, until

#: Before each kill of auth, what the web server does with requests before it takes them.
PLANS: list[list[Any]] = [
    ["cut", "lose"],
    [204, "half", (503, {"Retry-After": "1"})],
    [413, 204, "cut"],
    [(429, {"Retry-After": "2"}), 204, "lose"],
    [500, 401],
]

SINKS = """\
  audit:
    max_file: 64KiB
    sinks:
    - {{name: copy, type: file, path: {directory}/copy.jsonl}}
    - name: siem
      type: https
      url: https://127.0.0.1:{https}/in
      ca_file: {ca}
      header_files: {{Authorization: {directory}/secret}}
      batch_events: 20
    - {{name: collector, type: syslog, address: "127.0.0.1:{syslog}", ca_file: {ca}, max_message: 64KiB}}
    - {{name: impostor, type: https, url: "https://127.0.0.1:{impostor}/in", ca_file: {ca}}}
proxy_service:"""


class SinkWorld(World):
    """A cluster whose auth has a sink of each kind but S3, and one that is an impostor."""

    def __init__(self) -> None:
        super().__init__(with_postgres=False)
        (self.diagnostics,) = free_ports(1)
        self.https, self.syslog = HTTPSReceiver(), SyslogReceiver()
        self.impostor = HTTPSReceiver(of=Material("other CA"))
        self.file("secret", "Bearer hush-hush-0815\n").chmod(0o600)
        self.sinks = SINKS.format(
            directory=self.directory,
            ca=ca_file(self.directory),
            **{name: getattr(self, name).port for name in ("https", "syslog", "impostor")},
        )

    def addresses(self) -> dict[str, str]:
        data = f"data_dir: {self.directory}/data\n  diag_addr: 127.0.0.1:{self.diagnostics}"
        return {**super().addresses(), "data_dir: /var/lib/teleport": data, "proxy_service:": self.sinks}

    def gauges(self) -> dict[str, float]:
        """What auth's process tells Prometheus."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.diagnostics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}

    def close(self) -> None:
        super().close()
        for receiver in (self.https, self.syslog, self.impostor):
            receiver.close()


class Busy:
    """Has auth write an event with each call, until it does not answer any more."""

    def __init__(self, world: World) -> None:
        self.done = 0
        self._client: Client = local_administrator(str(world.directory / "data")).client()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with contextlib.suppress(TeleportDBError):
            while True:
                self._client.call("POST", "/v1/tokens", {"roles": ["db"]})
                self.done += 1

    def join(self) -> None:
        self._thread.join()
        self._client.close()


class KilledTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = SinkWorld()
        self.addCleanup(self.world.close)

    def log(self) -> list[bytes]:
        """The log's lines with their ends."""
        directory = self.world.directory / "data" / "audit"
        return [line for file in logfile.files(directory) for line in file.lines(directory)]

    def events(self) -> list[Any]:
        """What is in the lines that are no checkpoints."""
        return [made["event"] for made in map(json.loads, self.log()) if "event" in made]

    def states(self) -> dict[str, dict[str, Any]]:
        said = self.world.tctl("audit", "sinks", "--format=json", fails=None)
        return {sink["name"]: sink for sink in said.json()} if said.code == 0 else {}

    def in_order(self, numbered: list[tuple[int, Any]]) -> list[Any]:
        """The records by their numbers: none is missing, none comes before its time, and none is two."""
        found: list[Any] = []
        for number, record in numbered:
            self.assertLessEqual(number, len(found) + 1, "a gap")
            if number == len(found) + 1:
                found.append(record)
            self.assertEqual(found[number - 1], record)
        return found

    def test_killed(self) -> None:
        """Killed in the middle of it all, with receivers that break off, refuse, and lose acknowledgements."""
        world = self.world
        done = 0
        for plan in PLANS:
            world.https.plan = list(plan)
            world.syslog.may_hang_up.set()
            world.syslog.hang_up_at = len(world.syslog.messages) + 30
            auth = world.start_auth()
            done += self.busy(auth)
        world.https.plan = []
        auth = world.start_auth()
        until(
            lambda: [self.states().get(name, {}).get("behind") for name in ("copy", "siem", "collector")] == [0, 0, 0],
            lambda: f"all of it to arrive: {self.states()}",
        )
        impostor = self.states()["impostor"]
        self.assertEqual((impostor["state"], impostor["sent"]), ("failing", 0))
        self.assertIn("does not verify", impostor["error"])
        gauges = world.gauges()
        self.assertEqual(gauges["teleport_db_audit_sinks_failing"], 1)
        self.assertGreater(gauges["teleport_db_audit_sinks_behind"], done)
        self.assertEqual(world.tctl("audit", "sinks", "--check", fails=None).code, 1)
        self.assertEqual(auth.stop(), 0)
        self.complete(done)

    def busy(self, auth: Process) -> int:
        """Kill auth while it writes, and one of its receivers has taken some of that; how many events it answered."""
        busy, before = Busy(self.world), len(self.world.https.requests)
        until(lambda: busy.done > 60 and len(self.world.https.requests) > before, "events, and some of them taken")
        auth.kill()
        busy.join()
        return busy.done

    def complete(self, least: int) -> None:
        """Each has all that the log has."""
        world, events = self.world, self.events()
        self.assertGreaterEqual(len(events), least)
        copy, lines = (world.directory / "copy.jsonl").read_bytes(), b"".join(self.log())
        self.assertTrue(lines.startswith(copy), "the copy is not the log")
        self.assertLess(len(lines) - len(copy), 8192)  # what was written at the end
        web = [(one.first + n, record) for one in world.https.requests for n, record in enumerate(one.records)]
        syslog = [(int(one.data["meta"]["sequenceId"]), json.loads(one.text)) for one in world.syslog.messages]
        for numbered in (web, syslog):
            found = self.in_order(numbered)
            self.assertEqual(found, events[: len(found)])
            self.assertLess(len(events) - len(found), 10)
            self.assertLess(len(numbered), 2 * len(found), "most of it came twice")
        self.assertEqual({one.headers["authorization"] for one in world.https.requests}, {"Bearer hush-hush-0815"})
        self.assertEqual((world.impostor.heard, world.impostor.requests), (0, []))
        self.assertNotIn("hush-hush", self.world.auth.log.read_text())

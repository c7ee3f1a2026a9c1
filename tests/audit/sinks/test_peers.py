"""Syslog and HTTPS to real servers on real sockets, well and badly behaved, and to impostors."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from teleport_db.audit.logfile import LogFile
from teleport_db.audit.shipping import inline
from teleport_db.audit.sinks import syslog
from teleport_db.audit.sinks.https import HTTPSTarget
from teleport_db.audit.sinks.reading import Batch, Place
from teleport_db.audit.sinks.syslog import SyslogTarget
from teleport_db.audit.sinks.target import NotTaken
from teleport_db.config.sinks import HTTPSSink, SyslogSink
from teleport_db.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionTrouble,
    RemoteProtocolError,
    TeleportDBError,
)
from tests.audit.sinks.receivers import HTTPSReceiver, Receiver, SyslogReceiver, ca_file
from tests.net.material import Material, authority

FILE = LogFile("2027-01-15")
SECRET = "Bearer hush-hush-0815"
#: Bytes; what has sent so many could have gone on.
ENDLESS = 64 << 20


def batch(first: int, count: int, size: int = 10) -> Batch:
    """Records with numbers."""
    records = [
        b'{"ei":0,"event":"x","uid":"u","code":"TDB02I","time":"2027-01-15T08:00:00.125Z","n":%d,"pad":"%s"}'
        % (n, b"x" * size)
        for n in range(first, first + count)
    ]
    places = [Place(FILE, line=number, sent=number) for number in (first - 1, first + count - 1)]
    return Batch(records, *places, first)


class PeerCase(TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.ca = ca_file(self.directory)
        self.receivers: list[Receiver] = []

    async def fails(self, sending: Any, error: type[TeleportDBError], words: str) -> TeleportDBError:
        try:
            await sending
        except error as found:
            self.assertRegex(str(found), words)
            self.assertEqual(len(str(found).splitlines()), 1)
            self.assertNotIn("hush", f"{found!r} {found} {found.detail}")
            return found
        raise AssertionError("it was taken")

    def secret(self, name: str, text: str) -> str:
        path = self.directory.absolute() / name
        path.write_text(text)
        return str(path)


class HTTPSTests(PeerCase):
    def receiver(self, *names: str, **more: Any) -> HTTPSReceiver:
        made = HTTPSReceiver(*names, **more)
        self.addCleanup(made.close)
        return made

    def target(self, receiver: HTTPSReceiver, **more: Any) -> HTTPSTarget:
        settings: dict[str, Any] = {"ca_file": self.ca, "host": "127.0.0.1", "port": receiver.port, **more}
        sink = HTTPSSink(name="siem", path="/in?token=hush", **settings)
        target = HTTPSTarget(sink, cluster="root", reactor=reactor, in_thread=inline)
        self.addCleanup(target.close)
        return target

    async def test_taken(self) -> None:
        """A POST a batch, over one connection, with what a receiver needs to know."""
        receiver = self.receiver()
        target = self.target(receiver, headers={"X-Tenant": "one"})
        await target.send(batch(1, 5))
        await target.send(batch(6, 2))
        self.assertEqual([record["n"] for record in receiver.records], [1, 2, 3, 4, 5, 6, 7])
        self.assertEqual(receiver.connections, 1)
        first, second = receiver.requests
        self.assertEqual((first.path, first.first, second.first), ("/in?token=hush", 1, 6))
        self.assertEqual(first.headers["host"], f"127.0.0.1:{receiver.port}")
        self.assertEqual((first.headers["x-tenant"], first.headers["x-audit-cluster"]), ("one", "root"))
        self.assertEqual(first.headers["content-type"], "application/x-ndjson")

    async def test_quiet(self) -> None:
        """A connection that is made and ends is no news."""
        heard: list[LogEvent] = []
        globalLogPublisher.addObserver(heard.append)
        self.addCleanup(globalLogPublisher.removeObserver, heard.append)
        target = self.target(self.receiver())
        await target.send(batch(1, 5))
        await target.close()
        self.assertEqual([event for event in heard if "factory" in event], [])

    async def test_packed(self) -> None:
        """gzip, where that is said."""
        receiver = self.receiver()
        await self.target(receiver, compress=True).send(batch(1, 100))
        self.assertEqual((len(receiver.records), receiver.requests[0].headers["content-encoding"]), (100, "gzip"))

    async def test_secret(self) -> None:
        """A header out of a file, read each time; what is wrong with it repeats nothing."""
        receiver = self.receiver()
        path = self.secret("token", f"{SECRET}\n")
        target = self.target(receiver, header_files={"Authorization": path})
        await target.send(batch(1, 1))
        self.secret("token", "Bearer new")
        await target.send(batch(2, 1))
        said = [request.headers["authorization"] for request in receiver.requests]
        self.assertEqual(said, [SECRET, "Bearer new"])
        for text in ("", f"{SECRET}\nX-More: 1", f"{SECRET}\x00", "hush-ü", "hush" * 10_000):
            self.secret("token", text)
            await self.fails(target.send(batch(3, 1)), ConfigError, "no value of the header Authorization")
        os.unlink(path)
        await self.fails(target.send(batch(3, 1)), ConfigError, "Authorization cannot be read: no such file")

    async def test_refused(self) -> None:
        """Anything but 2xx is a refusal, in words, with what the other side asks for."""
        receiver = self.receiver()
        target = self.target(receiver)
        cases: list[tuple[Any, str, float, bool]] = [
            (500, "answers 500", 0, False),
            (401, "answers 401: it does not take the credentials", 0, False),
            (413, "answers 413: the batch is too large", 0, True),
            ((503, {"Retry-After": "120"}), "answers 503", 120, False),
            ((429, {"Retry-After": "7"}), "answers 429", 7, False),
            ((503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), "answers 503", 0, False),
            ((503, {"Retry-After": "soon"}), "answers 503", 0, False),
            ((503, {"Retry-After": "9" * 500}), "answers 503", float("9" * 64), False),
            ((500, {"Retry-After": "120"}), "answers 500", 0, False),
            ((307, {"Location": "https://127.0.0.1:1/"}), "answers 307: redirects are not followed", 0, False),
        ]
        for plan, words, wait, too_large in cases:
            receiver.plan = [plan]
            error = await self.fails(target.send(batch(1, 3)), NotTaken, words)
            assert isinstance(error, NotTaken)
            self.assertEqual((error.wait, error.too_large), (wait, too_large), plan)
            self.assertNotIn("/in", str(error))
        receiver.plan = [(503, {"Retry-After": "Wed, 21 Oct 2999 07:28:00 GMT"})]
        error = await self.fails(target.send(batch(1, 3)), NotTaken, "503")
        self.assertGreater(error.wait, 1e9)  # type: ignore[attr-defined]
        self.assertEqual(receiver.requests, [])

    async def test_broken(self) -> None:
        """Connections that end in the middle of the body, before the answer, in it: nothing is acknowledged."""
        receiver = self.receiver()
        target = self.target(receiver)
        for plan in ("cut", "lose", "half"):
            receiver.plan = [plan]
            await self.fails(target.send(batch(1, 2000, size=100)), ConnectionTrouble, "broke")
        self.assertEqual((len(receiver.requests), len(receiver.lost)), (0, 2))
        await target.send(batch(1, 3))
        self.assertEqual([request.first for request in (*receiver.lost, *receiver.requests)], [1, 1, 1])

    async def test_answers(self) -> None:
        """What stands in an answer is nobody's business, however long it is."""
        receiver = self.receiver()
        receiver.plan = [(200, {"Content-Length": str(1 << 20)}), (200, {"Connection": "close"}), (202, {})]
        receiver.body = b"x" * (1 << 20)
        target = self.target(receiver)
        for first in (1, 2, 3):
            await target.send(batch(first, 1))
        self.assertEqual([record["n"] for record in receiver.records], [1, 2, 3])

    async def test_endless(self) -> None:
        """A head that does not end: of many headers, of a long one, of answers that are none yet."""
        receiver = self.receiver()
        target = self.target(receiver)
        sent: list[int] = []
        ended: list[bytes] = []

        def answer(begin: bytes, more: bytes, request: BaseHTTPRequestHandler) -> None:
            request.rfile.read(int(request.headers["content-length"]))
            request.close_connection = True
            sent.append(0)
            with contextlib.suppress(OSError):
                request.wfile.write(begin)
                while sent[-1] < ENDLESS:
                    sent[-1] += request.wfile.write(more)
            ended.append(begin)
            receiver.tell()

        for begin, more in (
            (b"HTTP/1.1 200 OK\r\n", b"X-More: 12345678901234567890\r\n" * 100),
            (b"HTTP/1.1 200 OK\r\nX-More: ", b"x" * 4000),
            (b"HTTP/1.1 200 OK\r\nX-More: 1\r\n", b" 12345678901234567890\r\n" * 100),
            (b"HTTP/1.1 ", b"2" * 4000),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        ):
            receiver.answer = partial(answer, begin, more)  # type: ignore[method-assign]
            await self.fails(
                target.send(batch(1, 1)), RemoteProtocolError, "answer of .* is too long: more than 64 KiB"
            )
            await deferToThread(receiver.wait, lambda: len(ended) == len(sent))
            self.assertLess(sent[-1], ENDLESS, begin)
        del receiver.answer  # type: ignore[attr-defined]
        receiver.plan = [(200, {"X-More": "x" * 10_000, "Content-Length": "200000"})]
        receiver.body = b"x" * 200_000
        for first in (1, 2, 3):
            await target.send(batch(first, 1))
        self.assertEqual([record["n"] for record in receiver.records], [1, 2, 3])

    async def test_silent(self) -> None:
        """A receiver that never answers, and one that is not there."""
        receiver = self.receiver()
        target = self.target(receiver, timeout=0.2)
        receiver.answer = lambda request: request.rfile.read(1 << 30)  # type: ignore[method-assign]
        await self.fails(target.send(batch(1, 1)), ConnectionTrouble, "does not answer within 0.2 seconds")
        await target.close()
        receiver.close()
        self._cleanups = [entry for entry in self._cleanups if entry[0] != receiver.close]
        target = self.target(receiver)
        await self.fails(target.send(batch(1, 1)), ConnectionTrouble, "cannot reach 127.0.0.1:.*: connection refused")

    async def test_impostor(self) -> None:
        """Who is not whom we want hears nothing: another authority's, another name's, one that has expired."""
        other = Material("other CA")
        expired = self.receiver("127.0.0.1")
        from tests.audit.sinks.receivers import context

        expired.context = context(authority().pair("server", "127.0.0.1", age=30))
        for receiver, words in (
            (self.receiver("127.0.0.1", of=other), "does not verify"),
            (self.receiver("elsewhere.test"), "is not for '127.0.0.1'"),
            (expired, "does not verify: certificate has expired"),
        ):
            target = self.target(receiver, header_files={"Authorization": self.secret("token", SECRET)})
            await self.fails(target.send(batch(1, 3)), AuthenticationFailed, words)
            self.assertEqual((receiver.heard, receiver.requests), (0, []))

    async def test_names(self) -> None:
        """The certificate may name another host where that is said, and all hosts of a domain."""
        receiver = self.receiver("*.logs.example.com")
        await self.target(receiver, server_name="intake.logs.example.com").send(batch(1, 1))
        self.assertEqual(len(receiver.records), 1)
        target = self.target(receiver, server_name="logs.example.com")
        await self.fails(target.send(batch(1, 1)), AuthenticationFailed, "is not for 'logs.example.com'")

    async def test_client_certificate(self) -> None:
        """Shown where there is one; files that cannot be used are named."""
        receiver = self.receiver(client_ca=authority().pem)
        mine = self.secret("mine.pem", authority().pair("teleport").decode())
        await self.target(receiver, cert_file=mine, key_file=mine).send(batch(1, 1))
        self.assertEqual(len(receiver.records), 1)
        await self.fails(self.target(receiver).send(batch(1, 1)), TeleportDBError, "certificate|broke")
        for more, words in (
            ({"ca_file": "/nowhere"}, "/nowhere: cannot be read: no such file"),
            ({"ca_file": self.secret("bad", "x")}, "bad: the CA's certificate cannot be used"),
            ({"cert_file": self.ca, "key_file": mine}, "cannot be used"),
        ):
            await self.fails(self.target(receiver, **more).send(batch(1, 1)), ConfigError, words)


class SyslogTests(PeerCase):
    def receiver(self, *names: str, **more: Any) -> SyslogReceiver:
        made = SyslogReceiver(*names, **more)
        self.addCleanup(made.close)
        return made

    def target(self, receiver: SyslogReceiver, **more: Any) -> SyslogTarget:
        settings: dict[str, Any] = {"ca_file": self.ca, "host": "127.0.0.1", "port": receiver.port, **more}
        sink = SyslogSink(name="collector", facility=19, app_name="audit", **settings)
        target = SyslogTarget(sink, hostname="auth1", reactor=reactor, in_thread=inline)
        target.go_back = self.went_back.append
        self.addCleanup(target.close)
        return target

    def setUp(self) -> None:
        super().setUp()
        self.went_back: list[Place] = []

    async def test_taken(self) -> None:
        """Every message, in order, over one connection, which ends as RFC 5425, 4.4, wants it."""
        receiver = self.receiver()
        target = self.target(receiver)
        await target.send(batch(1, 1000, size=500))
        await target.send(batch(1001, 3))
        await deferToThread(receiver.wait, lambda: len(receiver.messages) == 1003)
        self.assertEqual([event["n"] for event in receiver.events], list(range(1, 1004)))
        numbers = [int(message.data["meta"]["sequenceId"]) for message in receiver.messages]
        self.assertEqual(numbers, list(range(1, 1004)))
        first = receiver.messages[0]
        self.assertEqual(
            (first.hostname, first.app_name, first.facility, first.msgid), ("auth1", "audit", 19, "TDB02I")
        )
        await target.close()
        await deferToThread(receiver.wait, lambda: receiver.clean_ends == 1)
        self.assertEqual((receiver.connections, receiver.failed, self.went_back), (1, [], []))

    async def test_lost(self) -> None:
        """A connection that breaks: what was sent just before is to be sent again, what is older is not."""
        receiver = self.receiver()
        target = self.target(receiver)
        await target.send(batch(1, 2))
        link = target._link
        assert link is not None
        receiver.hang_up_at = 4
        await target.send(batch(3, 2))
        receiver.may_hang_up.set()
        await link.closed
        self.assertEqual([place.sent for place in self.went_back], [0])
        await target.send(batch(1, 4))
        await deferToThread(receiver.wait, lambda: len(receiver.messages) == 8)
        self.assertEqual([event["n"] for event in receiver.events], [1, 2, 3, 4, 1, 2, 3, 4])
        self.patch(syslog, "SETTLE", 0.0)
        link = target._link
        assert link is not None
        receiver.may_hang_up.clear()
        receiver.hang_up_at = 10
        await target.send(batch(5, 2))
        receiver.may_hang_up.set()
        await link.closed
        self.assertEqual(len(self.went_back), 1)

    async def test_in_the_middle(self) -> None:
        """A connection that breaks within a batch: it was not taken."""
        receiver = self.receiver()
        target = self.target(receiver)
        receiver.hang_up_at = 3
        receiver.may_hang_up.set()
        await self.fails(target.send(batch(1, 1000, size=20_000)), ConnectionTrouble, "broke|closed the connection")
        await target.send(batch(1, 3))
        await deferToThread(receiver.wait, lambda: len(receiver.messages) == 6)

    async def test_not_read(self) -> None:
        """A receiver that reads nothing takes nothing, however little it was."""
        receiver = self.receiver()
        self.patch(syslog, "SEND_SECONDS", 0.5)
        stuck = deferToThread(receiver.wait, lambda: receiver.ended)
        stuck.addErrback(lambda _: None)
        receiver._read = lambda secured: receiver.wait(lambda: receiver.ended)  # type: ignore[method-assign]
        target = self.target(receiver)
        await self.fails(
            target.send(batch(1, 1000, size=20_000)), ConnectionTrouble, "takes nothing within 0.5 seconds"
        )
        receiver.ended = True
        receiver.tell()
        await stuck

    async def test_impostor(self) -> None:
        """Who is not whom we want hears nothing."""
        other = Material("other CA")
        for receiver, words in (
            (self.receiver("127.0.0.1", of=other), "does not verify"),
            (self.receiver("elsewhere.test"), "is not for '127.0.0.1'"),
        ):
            await self.fails(self.target(receiver).send(batch(1, 3)), AuthenticationFailed, words)
            await deferToThread(receiver.wait, partial(lambda which: bool(which.failed or which.clean_ends), receiver))
            self.assertEqual((receiver.heard, receiver.messages), (0, []))

    async def test_client_certificate(self) -> None:
        """Mutual TLS, as RFC 5425, 4.2.1, has it."""
        receiver = self.receiver(client_ca=authority().pem)
        mine = self.secret("mine.pem", authority().pair("teleport").decode())
        target = self.target(receiver, cert_file=mine, key_file=mine)
        await target.send(batch(1, 2))
        await deferToThread(receiver.wait, lambda: len(receiver.messages) == 2)

    async def test_away(self) -> None:
        """Nobody there."""
        receiver = SyslogReceiver()
        receiver.close()
        await self.fails(self.target(receiver).send(batch(1, 1)), ConnectionTrouble, "connection refused")

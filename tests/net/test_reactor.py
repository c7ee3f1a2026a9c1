"""The reactor: what it does itself, what it leaves to Twisted's, and that an exception ends one connection only."""

from __future__ import annotations

import contextlib
import socket
import sys
from functools import partial
from typing import Any

import attrs
from twisted.internet import reactor as present
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface.verify import verifyObject

from teleport_db.interfaces import ITurns
from teleport_db.net import tcp
from tests.net.material import Recorder, echo

if sys.platform != "linux":
    raise SkipTest("this system has no epoll")

from teleport_db.net.reactor import Reactor, install

#: Turns within which anything has happened.
TURNS = 1000


class Broken(Exception):
    """A protocol's fault."""


class Running(SynchronousTestCase):
    """A reactor of its own, turned by hand."""

    def setUp(self) -> None:
        self.reactor: Any = Reactor()  # type: ignore[no-untyped-call]
        self.accepted: list[Recorder] = []
        self.addCleanup(self.close)

    def close(self) -> None:
        for selectable in [*self.reactor.removeAll(), *self.reactor._internalReaders]:
            selectable.connectionLost(Failure(ConnectionDone()))
        self.reactor._poller.close()

    def until(self, condition: Any) -> None:
        for _ in range(TURNS):
            if condition():
                return
            self.reactor.iterate(0.01)
        self.fail("it never came")

    def listen(self, on_data: Any) -> int:
        def build() -> Recorder:
            self.accepted.append(Recorder(on_data=on_data))
            return self.accepted[-1]

        port = tcp.listen(self.reactor, 0, Factory.forProtocol(build), interface="127.0.0.1")
        return int(port.getHost().port)  # type: ignore[attr-defined]

    def dial(self, port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port))
        self.addCleanup(client.close)
        count = len(self.accepted)
        self.until(lambda: len(self.accepted) > count)
        return client

    def test_echo(self) -> None:
        """Bytes come and go, more than a socket holds as well, and an end is the clean one."""
        client = self.dial(self.listen(echo))
        client.sendall(b"hello")
        self.until(lambda: self.accepted[0].data == b"hello")
        self.assertEqual(client.recv(100), b"hello")
        client.setblocking(False)
        sent, heard, piece = 0, 0, bytes(65536)
        for _ in range(TURNS):
            if sent < 4_000_000:
                with contextlib.suppress(BlockingIOError):
                    sent += client.send(piece)
            self.reactor.iterate(0)
            with contextlib.suppress(BlockingIOError):
                heard += len(client.recv(65536))
            if heard == sent >= 4_000_000:
                break
        self.assertEqual(heard, sent)
        client.close()
        self.until(lambda: self.accepted[0].reason is not None)
        self.assertIsInstance(self.accepted[0].reason.value, ConnectionDone)

    def test_exception(self) -> None:
        """A protocol that raises loses its connection, with a word in the log; others go on."""

        def fail(protocol: Recorder, data: bytes) -> None:
            if data == b"bad":
                raise Broken
            echo(protocol, data)

        port = self.listen(fail)
        good, bad = self.dial(port), self.dial(port)
        bad.sendall(b"bad")
        good.sendall(b"good")
        self.until(lambda: self.accepted[1].reason is not None and self.accepted[0].data)
        self.assertIsInstance(self.accepted[1].reason.value, Broken)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)
        self.assertEqual(good.recv(100), b"good")
        self.assertEqual(bad.recv(100), b"")

    def test_closed_by_another(self) -> None:
        """A connection that another one's event has closed gets none of the same turn."""

        def close_all(protocol: Recorder, data: bytes) -> None:
            for other in self.accepted:
                other.transport.abortConnection()

        port = self.listen(close_all)
        clients = [self.dial(port) for _ in range(3)]
        for client in clients:
            client.sendall(b"x")
        self.until(lambda: all(one.reason is not None for one in self.accepted))
        self.assertEqual(sum(len(one.data) for one in self.accepted), 1)

    def test_timers(self) -> None:
        """What is due is called, and what is called from another thread wakes it."""
        called: list[str] = []
        self.reactor.callLater(0, called.append, "later")
        self.reactor.callFromThread(called.append, "thread")
        self.until(lambda: len(called) == 2)

    def test_end_of_a_turn(self) -> None:
        """What waits for it is called once, behind all events; what it asks for itself is the next turn's."""
        called: list[str] = []

        def heard(protocol: Recorder, data: bytes) -> None:
            called.append("event")
            self.reactor.at_turns_end(lambda: called.append("end"))

        port = self.listen(heard)
        clients = [self.dial(port), self.dial(port)]
        for client in clients:
            client.sendall(b"x")
        self.until(lambda: called.count("end") == 2)
        self.assertEqual(sorted(called[:2]), ["event", "event"])

        def again() -> None:
            called.append("one")
            self.reactor.at_turns_end(lambda: called.append("two"))

        called.clear()
        self.reactor.callLater(0, self.reactor.at_turns_end, again)
        self.until(lambda: "one" in called)
        self.until(lambda: "two" in called)
        self.assertEqual(called, ["one", "two"])

    def test_timed_at_the_end_of_a_turn(self) -> None:
        """A call made when a turn ends behind the timed ones is waited for, and not what was due before."""
        waits: list[float] = []

        @attrs.frozen
        class Poller:
            poller: Any

            def __getattr__(self, name: str) -> Any:
                return getattr(self.poller, name)

            def poll(self, timeout: float, most: int) -> Any:
                waits.append(timeout)
                return self.poller.poll(0, most)

        self.reactor._poller = Poller(self.reactor._poller)
        for others in ((), (100,)):
            for delay in (0, 50):
                for each in others:
                    self.reactor.callLater(each, lambda: None)
                waits.clear()
                self.reactor.at_turns_end(partial(self.reactor.callLater, delay, lambda: None))
                self.reactor.doIteration(self.reactor.timeout())
                (wait,) = waits
                self.assertTrue(0 <= wait <= delay, (others, delay, wait))
                for call in self.reactor.getDelayedCalls():
                    call.cancel()

    def test_end_that_fails(self) -> None:
        """An exception at the end of a turn is a word in the log, and the others are called."""
        called: list[str] = []

        def fail() -> None:
            raise Broken

        self.reactor.at_turns_end(fail)
        self.reactor.at_turns_end(lambda: called.append("other"))
        self.until(lambda: called)
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)

    def test_interface(self) -> None:
        """It says what it provides beside Twisted's."""
        self.assertTrue(verifyObject(ITurns, self.reactor))


class Installing(SynchronousTestCase):
    """Where there is a reactor already."""

    def test_left_alone(self) -> None:
        """It stays."""
        install()
        from twisted.internet import reactor

        self.assertIs(reactor, present)

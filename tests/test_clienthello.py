"""The ClientHello parser against what OpenSSL sends, every division of it, and hostile bytes."""

from __future__ import annotations

import contextlib
import random
import ssl

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.clienthello import MAX_HELLO, ClientHello, NeedMore, parse, resumes
from teleport_db.errors import RemoteProtocolError
from tests.net import material


def hello(
    sni: str | None = "db.example.com",
    alpn: tuple[str, ...] = ("postgresql",),
    *,
    version: ssl.TLSVersion | None = None,
) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=sni)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def split(wire: bytes, size: int) -> bytes:
    """The same hello in records of ``size`` bytes each."""
    body = wire[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def built(extensions: bytes, *, tail: bytes = b"") -> bytes:
    """A hello with these extensions."""
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions + tail
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def resuming() -> tuple[bytes, bytes]:
    """The first hello of a client, and that of the one that resumes its session."""
    server, client = material.server_context(), material.client_context()
    hellos: list[bytes] = []
    session = None
    for _ in range(2):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.wrap_bio(down, up, server_hostname="server.test", session=session)
        theirs = server.wrap_bio(up, down, server_side=True)
        with contextlib.suppress(ssl.SSLWantReadError):
            ours.do_handshake()
        hellos.append(up.read())
        up.write(hellos[-1])
        for step in (theirs.do_handshake, ours.do_handshake, theirs.do_handshake, ours.read):
            with contextlib.suppress(ssl.SSLWantReadError):
                step()
        session = ours.session
    return hellos[0], hellos[1]


class Resuming(SynchronousTestCase):
    """Whether a client offers to resume a session."""

    def test_resumes(self) -> None:
        """It does with the extension for it, and only then."""
        first, second = resuming()
        self.assertFalse(resumes(first))
        self.assertTrue(resumes(second))
        self.assertFalse(resumes(hello(version=ssl.TLSVersion.TLSv1_2)))

    def test_not_whole(self) -> None:
        """What is cut short, or no hello, says nothing and breaks nothing."""
        _, second = resuming()
        for cut in range(len(second)):
            resumes(second[:cut])
        self.assertFalse(resumes(second[:60]))
        dice = random.Random(7)
        for _ in range(2000):
            resumes(dice.randbytes(dice.randrange(200)))
            mutated = bytearray(second)
            mutated[dice.randrange(len(second))] = dice.randrange(256)
            resumes(bytes(mutated))


class Reading(SynchronousTestCase):
    """What is read."""

    def test_names(self) -> None:
        """SNI, ALPN and versions as the client sent them."""
        found = parse(hello(alpn=("teleport-tunnel", "http/1.1")))
        assert isinstance(found, ClientHello)
        self.assertEqual(found.sni, "db.example.com")
        self.assertEqual(found.alpn, ("teleport-tunnel", "http/1.1"))
        self.assertIn(0x0304, found.versions)
        self.assertIn(0x0303, found.versions)

    def test_absent(self) -> None:
        """A hello need have neither."""
        self.assertIsNone(parse(hello(None, ())).sni)  # type: ignore[union-attr]
        self.assertEqual(parse(hello(None, ())).alpn, ())  # type: ignore[union-attr]
        self.assertEqual(parse(hello(version=ssl.TLSVersion.TLSv1_2)).versions, (0x0303,))  # type: ignore[union-attr]

    def test_no_extensions(self) -> None:
        """Nor any extension at all."""
        body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
        message = b"\x01" + len(body).to_bytes(3, "big") + body
        wire = b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
        self.assertEqual(parse(wire), ClientHello(None, (), (0x0303,)))

    def test_case(self) -> None:
        """Names compare without case."""
        name = b"DB.Example.COM"
        wire = built(extension(0, (len(name) + 3).to_bytes(2, "big") + b"\x00" + len(name).to_bytes(2, "big") + name))
        self.assertEqual(parse(wire).sni, "db.example.com")  # type: ignore[union-attr]

    def test_grease(self) -> None:
        """Unknown extensions and protocols that are no text pass (RFC 8701)."""
        wire = built(extension(0x0A0A, b"") + extension(16, b"\x00\x03\x02\x8a\x8a"))
        self.assertEqual(parse(wire).alpn, ("\x8a\x8a",))  # type: ignore[union-attr]

    def test_divided(self) -> None:
        """However divided, into reads and into records, it is the same hello, and never asks for too much."""
        wire = hello()
        expected = parse(wire)
        for size in (10, 17, 50, 511):
            whole = split(wire, size)
            self.assertEqual(parse(whole), expected)
            for cut in range(len(whole)):
                found = parse(whole[:cut])
                assert isinstance(found, NeedMore)
                self.assertGreater(found.missing, 0)
                self.assertLessEqual(found.missing, len(whole) - cut)

    def test_more_behind(self) -> None:
        """Early data and other records behind the hello are none of its business."""
        wire = hello()
        self.assertEqual(parse(wire + b"\x17\x03\x03\x00\x05hello"), parse(wire))


class Refusing(SynchronousTestCase):
    """What is refused."""

    def test_other_protocols(self) -> None:
        """The first byte that tells is enough."""
        for junk in (b"G", b"\x00", b"\x15", b"\x16\x02", b"\x16\x03\x01\x00\x10\x02", b"\x16\x03\x01\x00\x00"):
            self.assertRaises(RemoteProtocolError, parse, junk)
        self.assertRaises(RemoteProtocolError, parse, b"\x16\x03\x01\x50\x00")

    def test_other_record_between(self) -> None:
        """Nothing may come between the records of a hello."""
        wire = split(hello(), 100)
        self.assertRaises(RemoteProtocolError, parse, wire[:105] + b"\x15\x03\x01\x00\x02\x01\x00" + wire[105:])

    def test_too_large(self) -> None:
        """A hello above 16 KiB is refused at its header, and one in tiny records when it gets there."""
        self.assertRaises(RemoteProtocolError, parse, b"\x16\x03\x01\x00\x04\x01\x00\x40\x00")
        large = built(extension(21, bytes(8000)))
        self.assertIsInstance(parse(large), ClientHello)
        self.assertRaises(RemoteProtocolError, parse, split(large, 1)[:MAX_HELLO])
        self.assertRaises(RemoteProtocolError, parse, split(large, 1)[:1000])

    def test_malformed(self) -> None:
        """Lengths that do not fit, lists that are empty, names that cannot be."""
        for wire in (
            built(b"", tail=b"x"),
            built(b"\x00"),
            built(extension(16, b"")),
            built(extension(16, b"\x00\x00")),
            built(extension(16, b"\x00\x01\x00")),
            built(extension(16, b"\x00\x02\x01ax")),
            built(extension(0, b"")),
            built(extension(0, b"\x00\x04\x01\x00\x01a")),
            built(extension(0, b"\x00\x04\x00\x00\x01\x00")),
            built(extension(0, b"\x00\x04\x00\x00\x01\xe9")),
            built(extension(0, b"\x00\x03\x00\x00\x00")),
            built(extension(0, b"\x00\x08\x00\x00\x01a\x00\x00\x01b")),
            built(extension(43, b"\x00")),
            built(extension(43, b"\x03\x03\x03\x03")),
            built(extension(5, b"") + extension(5, b"")),
        ):
            self.assertRaises(RemoteProtocolError, parse, wire)

    def test_mutated(self) -> None:
        """No bytes raise anything else."""
        dice = random.Random(3)
        wires = [hello(), split(hello(), 40), built(extension(0, b"\x00\x04\x00\x00\x01a"))]
        seen = set()
        for _ in range(30000):
            wire = bytearray(dice.choice(wires))
            for _ in range(dice.randrange(1, 4)):
                what = dice.randrange(3)
                at = dice.randrange(len(wire))
                if what == 0:
                    wire[at] = dice.randrange(256)
                elif what == 1:
                    del wire[at : at + dice.randrange(1, 5)]
                else:
                    wire[at:at] = dice.randbytes(dice.randrange(1, 5))
                if not wire:
                    break
            try:
                seen.add(type(parse(bytes(wire))))
            except RemoteProtocolError:
                seen.add(RemoteProtocolError)
        self.assertEqual(seen, {ClientHello, NeedMore, RemoteProtocolError})

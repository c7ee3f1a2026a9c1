"""What opens a stream between proxy and agent."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.errors import RemoteProtocolError
from teleport_db.tunnel.header import (
    MAX_FRAME,
    CancelHeader,
    ControlHeader,
    FrameReader,
    SessionHeader,
    decode_header,
    encode_frame,
    encode_header,
)

SESSION = SessionHeader(certificate=b"\x30\x00", client_address="127.0.0.1:5", session_id="s", pid=7, secret=b"k" * 32)


class HeaderTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """Each header is read back as it was, and what follows it is kept."""
        for header in (SESSION, CancelHeader(client_address="x", pid=1, secret=b"abcd"), ControlHeader()):
            wire = encode_header(header) + b"what follows"
            for cut in range(len(wire)):
                reader = FrameReader()
                value = reader.feed(wire[:cut])
                follows = b"" if value is None else reader.rest()
                if value is None:
                    value = reader.feed(wire[cut:])
                    follows = reader.rest()
                else:
                    follows += wire[cut:]
                assert value is not None
                self.assertEqual(decode_header(value), header)
                self.assertEqual(follows, b"what follows")

    def test_frames_follow_each_other(self) -> None:
        """Several frames that arrive together are given out one by one."""
        reader = FrameReader()
        self.assertEqual(reader.feed(encode_frame({"a": 1}) + encode_frame({"b": 2})), {"a": 1})
        self.assertEqual(reader.feed(b""), {"b": 2})
        self.assertIsNone(reader.feed(b""))

    def test_hostile(self) -> None:
        """A frame that is too long is refused before it is waited for; nonsense is refused."""
        for wire in (
            (MAX_FRAME + 1).to_bytes(4, "big"),
            b"\xff\xff\xff\xff",
            b"\x00\x00\x00\x02[]",
            b"\x00\x00\x00\x01{",
            (60000).to_bytes(4, "big") + b"[" * 60000,
        ):
            self.assertRaises(RemoteProtocolError, FrameReader().feed, wire)

    def test_hostile_headers(self) -> None:
        """Missing, mistyped and unknown fields are refused."""
        good = {"type": "session", "certificate": "", "client_address": "", "session_id": "", "pid": 1, "secret": ""}
        decode_header(good)
        for change in (
            {"type": "other"},
            {"type": ["session"]},
            {"certificate": "!"},
            {"certificate": 3},
            {"pid": -1},
            {"pid": "1"},
            {"pid": 2**32},
            {"secret": "xyz"},
            {"session_id": "x" * 257},
        ):
            self.assertRaises(RemoteProtocolError, decode_header, {**good, **change})
        for name in good:
            self.assertRaises(RemoteProtocolError, decode_header, {k: v for k, v in good.items() if k != name})

    def test_secret_does_not_print(self) -> None:
        self.assertNotIn("kkkk", repr(SESSION))

    def test_too_long_to_send(self) -> None:
        self.assertRaises(ValueError, encode_frame, {"x": "y" * MAX_FRAME})

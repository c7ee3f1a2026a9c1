"""The small languages: durations, addresses, labels, tokens."""

from __future__ import annotations

import random

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config import (
    Address,
    DynamicLabel,
    format_duration,
    parse_address,
    parse_duration,
    parse_labels,
    parse_static_token,
    parse_system_roles,
)
from teleport_db.config.values import parse_retention, parse_size

DURATIONS = [
    ("1h", 3600.0),
    ("30m", 1800.0),
    ("90s", 90.0),
    ("8760h", 31536000.0),
    ("1h30m", 5400.0),
    ("1.5h", 5400.0),
    (".5s", 0.5),
    ("1.s", 1.0),
    ("100ms", 0.1),
    ("1us", 1e-6),
    ("1µs", 1e-6),
    ("24h0m0s", 86400.0),
    ("0", 0.0),
    ("0s", 0.0),
]
NO_DURATIONS = [
    "",
    "1",
    "h",
    "1d",
    "-1h",
    "+1h",
    "1h ",
    " 1h",
    "1 h",
    "1h30",
    "١h",
    "1e3s",
    "9" * 30 + "h",
    "999999999h",
    ".",
]

ADDRESSES = [
    ("db:5432", None, Address("db", 5432)),
    ("db.example.com:1", None, Address("db.example.com", 1)),
    ("db", 80, Address("db", 80)),
    ("10.0.0.1:65535", None, Address("10.0.0.1", 65535)),
    ("[::1]:5432", None, Address("::1", 5432)),
    ("[::1]", 80, Address("::1", 80)),
    ("::1", 80, Address("::1", 80)),
    ("[2001:0DB8::0]:1", None, Address("2001:db8::", 1)),
    ("my_db:1", None, Address("my_db", 1)),
]
NO_ADDRESSES = [
    "",
    ":",
    "db",
    "db:",
    "db:0",
    "db:65536",
    "db:-1",
    "db:1.0",
    "db:５",
    ":5432",
    "a b:1",
    "-a:1",
    "a..b:1",
]
NO_ADDRESSES += [
    "::1",
    "::1:x",
    "1.2.3:5",
    "256.1.1.1:1",
    "[::1:1",
    "[db]:1",
    "a/b:1",
    "postgres://db:1",
    "a" * 300 + ":1",
    "a\n:1",
]


class ValueTests(SynchronousTestCase):
    """Tables of what is read and what is refused."""

    def refused(self, function: object, *args: object) -> None:
        error = self.assertRaises(ValueError, function, *args)
        self.assertNotIn("\n", str(error))

    def test_durations(self) -> None:
        """Go's form and nothing else."""
        for text, seconds in DURATIONS:
            self.assertEqual(parse_duration(text), seconds, text)
        for text in NO_DURATIONS:
            self.refused(parse_duration, text)

    def test_audit_files(self) -> None:
        """How large files grow, and how long they are kept; too little of either is refused."""
        for text, size in (("64KiB", 65536), ("64 MiB", 64 << 20), ("4GiB", 4 << 30)):
            self.assertEqual(parse_size(text), size)
        for text, seconds in (("365d", 365 * 86400.0), ("24h", 86400.0), ("never", 0.0)):
            self.assertEqual(parse_retention(text), seconds)
        for text in ("", "64", "64MB", "63KiB", "5GiB", "-1MiB"):
            self.refused(parse_size, text)
        for text in ("", "0", "23h", "0d", "1y", "-1d"):
            self.refused(parse_retention, text)

    def test_duration_round_trip(self) -> None:
        """What is written is read again, to the millisecond."""
        for seconds, text in (
            (108000, "30h0m0s"),
            (90, "1m30s"),
            (1.5, "1.5s"),
            (0, "0s"),
            (60, "1m0s"),
            (0.1, "0.1s"),
        ):
            self.assertEqual(format_duration(seconds), text)
        dice = random.Random(1)
        for _ in range(500):
            seconds = dice.randrange(10**9) / 1000
            self.assertEqual(parse_duration(format_duration(seconds)), seconds)

    def test_addresses(self) -> None:
        """Names, IPv4 and IPv6, with and without a default port."""
        for text, port, expected in ADDRESSES:
            self.assertEqual(parse_address(text, port), expected)
            self.assertEqual(parse_address(str(expected)), expected)
        for text in NO_ADDRESSES:
            self.refused(parse_address, text)
        self.assertEqual(parse_address(":3080", listen=True), Address("0.0.0.0", 3080))

    def test_roles(self) -> None:
        """Both spellings of the database service, none twice."""
        self.assertEqual(parse_system_roles("proxy, auth,db,Database"), ("proxy", "auth", "db"))
        for text in ("", "proxy,", "proxy,dbs", "kube", "admin"):
            self.refused(parse_system_roles, text)

    def test_tokens(self) -> None:
        """A token may have colons, or be a path."""
        self.assertEqual(parse_static_token("db:a:b").token, "a:b")
        token = parse_static_token("database:/etc/token")
        self.assertEqual((token.roles, token.token, token.is_path), (("db",), "/etc/token", True))

    def test_labels(self) -> None:
        """Plain, quoted and dynamic ones."""
        labels = parse_labels('env=test,k2="v, \\"2\\" \\\\", arch=[1m30s:/bin/uname -m],empty=,x==')
        self.assertEqual(dict(labels.static), {"env": "test", "k2": 'v, "2" \\', "empty": "", "x": "="})
        self.assertEqual(dict(labels.dynamic), {"arch": DynamicLabel(("/bin/uname", "-m"), 90.0)})
        self.assertEqual(parse_labels("").static, {})
        for text in (
            "a",
            "=b",
            "a=b,",
            ",a=b",
            'a="b',
            'a="b"c',
            "a=[1m:/x",
            "a=[1m:]",
            "a=[/x]",
            "a=[0s:/x]",
            "a=b,a=c",
        ):
            self.refused(parse_labels, text)
        self.refused(parse_labels, "a b=c")
        self.refused(parse_labels, "*=c")

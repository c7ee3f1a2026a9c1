"""Values of flags, and what is printed."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.cli import output, values
from teleport_db.errors import AuthenticationFailed, UsageError


class ValueTests(SynchronousTestCase):
    """What people type."""

    def test_proxy_address(self) -> None:
        """A scheme before it and a missing port are fine."""
        for text, expected in {
            "teleport.example.com": ("teleport.example.com", 3080),
            "teleport.example.com:443": ("teleport.example.com", 443),
            "https://teleport.example.com:443/": ("teleport.example.com", 443),
            "[::1]:3080": ("::1", 3080),
            "10.0.0.1": ("10.0.0.1", 3080),
        }.items():
            self.assertEqual(values.proxy_address("--proxy", text), expected)
        for text in ("", "a b", "a:0", "a:99999", "http://x", "../x"):
            with self.assertRaises(UsageError) as raised:
                values.proxy_address("--proxy", text)
            self.assertTrue(str(raised.exception).startswith("--proxy: "))

    def test_split_address(self) -> None:
        """An address that was written by a program."""
        self.assertEqual(values.split_address("[::1]:3025\n"), ("::1", 3025))
        self.assertEqual(values.split_address("a:1"), ("a", 1))
        for text in ("", "a", ":1", "a:b", "a:0", "a:70000", "a:-1"):
            with self.assertRaises(ValueError):
                values.split_address(text)

    def test_seconds(self) -> None:
        """Lengths of time, one second at least."""
        self.assertEqual(values.seconds("--ttl", "8760h"), 8760 * 3600)
        self.assertEqual(values.seconds("--ttl", "1h30m"), 5400)
        for text in ("", "0s", "10", "1 day", "-1h"):
            with self.assertRaises(UsageError):
                values.seconds("--ttl", text)

    def test_items(self) -> None:
        """Lists with commas."""
        self.assertEqual(values.items(" a, b,,c "), ["a", "b", "c"])
        self.assertEqual(values.items(None), [])

    def test_file_name(self) -> None:
        """No name of another machine leads out of a directory."""
        for name in ("root", "teleport.example.com", "alice@example.com", "::1", "мир"):
            self.assertEqual(values.file_name("it", name), name)
        for name in ("", ".", "..", "../x", "a/b", ".hidden", "a\x00b", "a\nb", "x" * 201):
            with self.assertRaises(AuthenticationFailed):
                values.file_name("it", name)


class OutputTests(SynchronousTestCase):
    """What people and programs read."""

    def test_table(self) -> None:
        """The guide's own example."""
        rows = [["aurora", "AWS Aurora", "env=dev"]]
        self.assertEqual(
            output.table(["Name", "Description", "Labels"], rows).splitlines(),
            ["Name   Description Labels", "------ ----------- -------", "aurora AWS Aurora  env=dev"],
        )

    def test_empty_table(self) -> None:
        """No rows leave the headers."""
        self.assertEqual(output.table(["User", "Roles"], []), "User Roles\n---- -----")

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
    def test_hostile_cells(self, rows: list[list[str]]) -> None:
        """Nothing in a cell adds a line or reaches the terminal as a command."""
        text = output.table(["A", "B"], rows)
        self.assertEqual(len(text.split("\n")), 2 + len(rows))
        self.assertTrue(all(line.isprintable() for line in text.split("\n")))

    def test_clean(self) -> None:
        """Colours, new lines and right-to-left marks are spelled out; letters of any script stay."""
        self.assertEqual(output.clean("a\x1b[31mb\nc\u202ed é 漢"), "a\\x1b[31mb\\nc\\u202ed é 漢")

    def test_formats(self) -> None:
        """JSON and YAML hold the same."""
        value = [{"name": "é", "labels": {"a": "yes", "n": None}, "ok": True}]
        self.assertEqual(json.loads(output.to_json(value)), value)
        self.assertEqual(yaml.safe_load(output.to_yaml(value)), value)
        for form, expected in (("json", output.to_json(value)), ("yaml", output.to_yaml(value)), ("text", "T")):
            stream = io.StringIO()
            with redirect_stdout(stream):
                output.emit(value, form, lambda: "T")
            self.assertEqual(stream.getvalue(), expected + "\n")

    def test_terminal(self) -> None:
        """In no form do texts of other machines reach the terminal as anything but letters."""
        value = {"\x9bkey": "a\x1b[31m\x7f\x9b2J\u202e\u2028\ud800 é 漢", "new": "\n"}
        for form in (output.to_json(value), output.to_json_line(value)):
            self.assertTrue(all(line.isprintable() for line in form.split("\n")), ascii(form))
            self.assertEqual(json.loads(form), value)
            self.assertIn("é 漢", form)
        value.popitem()
        value["\x9bkey"] = "a\x1b[31m\x7f\x9b2J\u202e\u2028 é 漢"
        form = output.to_yaml(value)
        self.assertTrue(all(line.isprintable() for line in form.split("\n")), ascii(form))
        self.assertEqual(yaml.safe_load(form), value)

    def test_times(self) -> None:
        """Points and lengths of time."""
        self.assertEqual(output.moment(1_800_000_000), "2027-01-15 08:00:00 UTC")
        self.assertEqual(output.timestamp(1_800_000_000.9), "2027-01-15T08:00:00Z")
        self.assertEqual([output.duration(n) for n in (9, 61, 43199, -5)], ["9s", "1m1s", "11h59m", "0s"])

    def test_labels(self) -> None:
        """Sorted pairs."""
        self.assertEqual(output.labels({"b": "2", "a": "1"}), "a=1,b=2")
        self.assertEqual(output.labels(None), "")

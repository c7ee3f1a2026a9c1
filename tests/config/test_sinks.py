"""``auth_service.audit.sinks``: each key, and what is refused."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config.model import check
from teleport_db.config.parser import parse
from teleport_db.config.sinkreaders import _COMMON, _KINDS
from teleport_db.config.sinks import FileSink, HTTPSSink, S3Sink, Sink, SyslogSink
from teleport_db.errors import ConfigError

HEAD = "auth_service:\n  audit:\n    sinks:\n"


def sinks(*lines: str) -> tuple[Sink, ...]:
    """The sinks of a file with these lines; the first is its fourth."""
    return parse(HEAD + "".join(f"    {line}\n" for line in lines), "f").auth.audit.sinks


ROOT = Path(__file__).parents[2]


class ExampleTests(SynchronousTestCase):
    """What people copy is what the program takes."""

    def test_documentation(self) -> None:
        """The page about sinks has one of each kind, and every key."""
        text = (ROOT / "docs" / "sinks.rst").read_text()
        (block,) = re.findall(r"code-block:: yaml\n\n((?:    .*\n|\n)+)", text)
        found = parse(textwrap.dedent(block), "sinks.rst").auth.audit.sinks
        self.assertEqual([sink.kind for sink in found], ["file", "syslog", "https", "s3"])
        known = {key for _, _, keys, _ in _KINDS.values() for key in keys} | set(_COMMON)
        self.assertEqual([key for key in known if f"``{key}``" not in text], [])

    def test_commented(self) -> None:
        """So are the comments of the samples."""
        for path, kinds in (
            ("conf/auth-proxy.yaml", ["file", "syslog", "https", "s3"]),
            ("teleport_db/config/sample.py", ["file", "syslog"]),
        ):
            text = (ROOT / path).read_text()
            block, *_ = re.findall(r"^  # audit:\n((?:  #   .*\n)+)", text, re.MULTILINE)
            lines = "".join(f"{line[4:]}\n" for line in block.splitlines())
            found = parse(f"auth_service:\n  audit:\n{textwrap.indent(lines, '  ')}", path).auth.audit.sinks
            self.assertEqual([sink.kind for sink in found], kinds)


class SinkTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """Every key reaches its field; what is left out has its default."""
        found = sinks(
            "- {name: copy, type: file, path: /var/log/audit.jsonl, begin: now, format: events, events: user.*}",
            "- {name: short, type: syslog, address: logs.example.com}",
            "- name: syslog",
            "  type: SYSLOG",
            "  address: '[::1]:601'",
            "  ca_file: /ca",
            "  cert_file: /cert",
            "  key_file: /key",
            "  server_name: logs",
            "  facility: local3",
            "  app_name: audit",
            "  max_message: 64KiB",
            "- {name: web, type: https, url: 'https://siem.example.com'}",
            "- name: web2",
            "  type: https",
            "  url: https://siem.example.com:8088/in?x=1",
            "  headers: {X-Tenant: one two}",
            "  header_files: {Authorization: /token}",
            "  batch_events: 5",
            "  batch_bytes: 64KiB",
            "  compress: yes",
            "  timeout: 1m",
            "- {name: s3, type: s3, bucket: b.b}",
            "- name: s32",
            "  type: s3",
            "  bucket: audit",
            "  prefix: a/b",
            "  region: eu-west-1",
            "  endpoint_url: https://storage.example.com",
            "  encryption: aws:kms",
            "  kms_key_id: alias/x",
            "  object_size: 1MiB",
            "  object_interval: 1h",
        )
        tls = {"ca_file": "/ca", "cert_file": "/cert", "key_file": "/key", "server_name": "logs"}
        self.assertEqual(
            found,
            (
                FileSink(name="copy", path="/var/log/audit.jsonl", begin="now", format="events", events=("user.*",)),
                SyslogSink(name="short", host="logs.example.com", port=6514),
                SyslogSink(
                    name="syslog", host="::1", port=601, facility=19, app_name="audit", max_message=65536, **tls
                ),
                HTTPSSink(name="web", host="siem.example.com", port=443, path="/"),
                HTTPSSink(
                    name="web2",
                    host="siem.example.com",
                    port=8088,
                    path="/in?x=1",
                    headers={"X-Tenant": "one two"},
                    header_files={"Authorization": "/token"},
                    batch_events=5,
                    batch_bytes=65536,
                    compress=True,
                    timeout=60.0,
                ),
                S3Sink(name="s3", bucket="b.b"),
                S3Sink(
                    name="s32",
                    bucket="audit",
                    prefix="a/b/",
                    region="eu-west-1",
                    endpoint_url="https://storage.example.com",
                    encryption="aws:kms",
                    kms_key_id="alias/x",
                    object_size=1 << 20,
                    object_interval=3600.0,
                ),
            ),
        )
        self.assertEqual([sink.format for sink in found], ["events", *["events"] * 4, "log", "log"])
        self.assertEqual(found[2].target, "[::1]:601")

    def test_refused(self) -> None:
        """With the key's path and the line, and nothing that may be secret."""
        https = "type: https, url: 'https://h'"
        for line, key, words in (
            ("- {name: a}", "[0]", "type is missing: one of file, syslog, https, s3"),
            ("- {name: a, type: kafka}", "[0].type", "'kafka' is none of file, syslog, https, s3"),
            ("- {type: file, path: /x}", "[0]", "name is missing"),
            ("- {name: a, type: file}", "[0]", "path is missing"),
            ("- {name: A, type: file, path: /x}", "[0].name", "not a name for a sink"),
            ("- {name: ../x, type: file, path: /x}", "[0].name", "not a name for a sink"),
            ("- {name: a, type: file, path: x}", "[0].path", "not the absolute path"),
            ("- {name: a, type: file, path: /x, bucket: b}", "[0].bucket", "unknown key"),
            ("- {name: a, type: file, path: /x, events: ['^a$']}", "[0].events[0]", "not the name of an event"),
            (
                "- {name: a, type: file, path: /x, events: [user.logon]}",
                "[0].events[0]",
                "'user.logon' .did you mean user.login",
            ),
            ("- {name: a, type: file, path: /x, events: [nobody.*]}", "[0].events[0]", "no event has such a name"),
            ("- {name: a, type: file, path: /x/}", "[0].path", "a directory"),
            ("- {name: a, type: file, path: /x, format: csv}", "[0].format", "none of log, events"),
            ("- {name: a, type: syslog, address: h, facility: x}", "[0].facility", "is none of kern"),
            ("- {name: a, type: syslog, address: h, max_message: 100KB}", "[0].max_message", "between 2KiB and 1MiB"),
            ("- {name: a, type: syslog, address: h, cert_file: /c}", "[0].cert_file", "key_file is missing"),
            ("- {name: a, type: syslog, address: h, app_name: 'a b'}", "[0].app_name", "APP-NAME"),
            ("- {name: a, type: https, url: 'http://h/hush'}", "[0].url", "in the clear"),
            ("- {name: a, type: https, url: 'https://u:hush@h'}", "[0].url", "no user"),
            ("- {name: a, type: https, url: 'https://h:0/hush'}", "[0].url", "between 1 and 65535"),
            (f"- {{name: a, {https}, headers: {{authorization: hush}}}}", "[0].headers.authorization", "header_files"),
            (f"- {{name: a, {https}, headers: {{Host: x}}}}", "[0].headers.Host", "set by the program"),
            (
                f"- {{name: a, {https}, headers: {{x-audit-first: 1}}}}",
                "[0].headers.x-audit-first",
                "set by the program",
            ),
            (
                f"- {{name: a, {https}, headers: {{X-Audit-Count: 1}}}}",
                "[0].headers.X-Audit-Count",
                "set by the program",
            ),
            (
                f"- {{name: a, {https}, headers: {{X-Audit-Cluster: x}}}}",
                "[0].headers.X-Audit-Cluster",
                "set by the program",
            ),
            (f"- {{name: a, {https}, header_files: {{Expect: /x}}}}", "[0].header_files.Expect", "set by the program"),
            (f"- {{name: a, {https}, headers: {{'a b': x}}}}", "[0].headers.'a b'", "not the name of a header"),
            (f'- {{name: a, {https}, headers: {{a: "hush\\n"}}}}', "[0].headers.a", "not the value of a header"),
            (f'- {{name: a, {https}, headers: {{a: "hush\\tx"}}}}', "[0].headers.a", "not the value of a header"),
            (f'- {{name: a, {https}, headers: {{a: "hush\\x7f"}}}}', "[0].headers.a", "not the value of a header"),
            (f"- {{name: a, {https}, headers: {{A: x, a: y}}}}", "[0].headers.a", "given twice"),
            (f"- {{name: a, {https}, header_files: {{a: hush}}}}", "[0].header_files.a", "absolute path"),
            (f"- {{name: a, {https}, headers: {{A: x}}, header_files: {{a: /y}}}}", "[0].header_files", "as well"),
            (f"- {{name: a, {https}, batch_events: 0}}", "[0].batch_events", "between 1 and 100000"),
            (f"- {{name: a, {https}, timeout: 0s}}", "[0].timeout", "between 1s and 600s"),
            ("- {name: a, type: s3, bucket: x}", "[0].bucket", "name of a bucket"),
            ("- {name: a, type: s3, bucket: abc, encryption: rot13}", "[0].encryption", "none of"),
            ("- {name: a, type: s3, bucket: abc, kms_key_id: x}", "[0].kms_key_id", "encryption: aws:kms"),
            ("- {name: a, type: s3, bucket: abc, endpoint_url: 'http://h'}", "[0].endpoint_url", "not an address"),
            ("- {name: a, type: s3, bucket: abc, object_size: 1GiB}", "[0].object_size", "64KiB and 64MiB"),
        ):
            error = self.assertRaises(ConfigError, sinks, line)
            self.assertRegex(error.message, words, line)
            self.assertEqual((error.path, error.line), (f"auth_service.audit.sinks{key}", 4), line)
            self.assertNotIn("hush", str(error))
        for path in (
            "/var/lib/teleport/audit/x",
            "/var/lib//teleport/x/../audit/2027-01-15.jsonl",
            "/var/lib/teleport/storage/x",
        ):
            config = parse(f"{HEAD}    - {{name: a, type: file, path: {path}}}\n", "f")
            error = self.assertRaises(ConfigError, check, config)
            self.assertIn("/var/lib/teleport has the cluster's own files", str(error))
        check(parse(f"{HEAD}    - {{name: a, type: file, path: /var/lib/teleports}}\n", "f"))
        for lines, words in (
            (("- {name: a, type: file, path: /x}", "- {name: a, type: file, path: /y}"), "another sink .line 4"),
            (("- {name: a, type: file, path: /x}", "- {name: b, type: file, path: /x}"), "another sink writes"),
            (("- {name: a, type: file, path: /x}", "- {name: b, type: file, path: //z/../x}"), "another sink writes"),
            ((" x: y",), "a list belongs here"),
        ):
            self.assertRegex(self.assertRaises(ConfigError, sinks, *lines).message, words)

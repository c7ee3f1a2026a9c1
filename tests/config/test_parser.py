"""The file: what is taken, and where each refusal points."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config import (
    Address,
    Config,
    DynamicLabel,
    PasswordLogin,
    Secret,
    StaticToken,
    check,
    load_documents,
    parse,
    sample_config,
)
from teleport_db.config.model import AuditFiles
from teleport_db.errors import ConfigError

CONF = Path(__file__).parent.parent.parent / "conf"

AUTH_PROXY = """\
teleport:
  data_dir: /var/lib/teleport
  nodename: test
auth_service:
  enabled: "yes"
  cluster_name: "test"
  listen_addr: 0.0.0.0:3025
  tokens:
  - proxy,node,database:cbdeeab9-6f88-436d-a673-44d14bd86bb7
proxy_service:
  enabled: "yes"
  listen_addr: 0.0.0.0:3023
  web_listen_addr: 0.0.0.0:3080
  tunnel_listen_addr: 0.0.0.0:3024
  public_addr: teleport.example.com:3080
ssh_service:
  enabled: "no"
"""

DB = """\
db_service:
  enabled: yes
  databases:
  - name: one
    protocol: postgres
    uri: db:5432
"""


def database(*lines: str) -> str:
    """A file with one database that has ``lines`` besides; the first is line 7 of the file."""
    return DB + "".join(f"    {line}\n" for line in lines)


#: A file, the line of the error, the key's path, and what the message says.
REFUSED: list[tuple[str, int, str, str]] = [
    ("auth_service:\n  lisen_addr: 1\n", 2, "auth_service.lisen_addr", r"unknown key \(did you mean listen_addr\?\)"),
    ("xyz: 1\n", 1, "xyz", "unknown key$"),
    ("db_service:\n  audit:\n    durability: never\n", 3, "db_service.audit.durability", "none of write, fsync"),
    ("db_services:\n  enabled: no\n", 1, "db_services", "did you mean db_service"),
    ("teleport: [1]\n", 1, "teleport", "a mapping belongs here"),
    ("teleport:\n  nodename: [a]\n", 2, "teleport.nodename", "a single value belongs here, not a sequence"),
    ("teleport:\n  nodename: ''\n", 2, "teleport.nodename", "not a host"),
    ("teleport:\n  nodename: 10.0.0.1\n", 2, "teleport.nodename", "not a name"),
    ("teleport:\n  data_dir: ''\n", 2, "teleport.data_dir", "missing"),
    ("teleport:\n  auth_servers: ['a:1', 'a:65536']\n", 2, "teleport.auth_servers[1]", "between 1 and 65535"),
    ("teleport:\n  auth_servers: [~]\n", 2, "teleport.auth_servers[0]", "missing"),
    ("teleport:\n  auth_servers: ['https://a:1']\n", 2, "teleport.auth_servers[0]", "without a scheme"),
    ("teleport:\n  ca_pin: sha256:12\n", 2, "teleport.ca_pin", "not a CA pin"),
    ("teleport:\n  storage:\n    type: dynamodb\n", 3, "teleport.storage.type", "'dynamodb' is not supported"),
    ("teleport:\n  storage:\n    type: sqlight\n", 3, "teleport.storage.type", "did you mean sqlite"),
    ("teleport:\n  log:\n    severity: loud\n", 3, "teleport.log.severity", "none of debug"),
    ("teleport:\n  connection_limits: {}\n", 2, "teleport.connection_limits", "not supported by this version"),
    ("auth_service:\n  enabled: maybe\n", 2, "auth_service.enabled", "yes or no"),
    ("auth_service:\n  listen_addr: 0.0.0.0:0\n", 2, "auth_service.listen_addr", "between 1 and 65535"),
    ("auth_service:\n  tokens: ['secret']\n", 2, "auth_service.tokens[0]", "ROLES:TOKEN"),
    ("auth_service:\n  tokens: ['dbs:secret']\n", 2, "auth_service.tokens[0]", "did you mean db"),
    ("auth_service:\n  tokens: ['app:secret']\n", 2, "auth_service.tokens[0]", "app is not supported"),
    ("auth_service:\n  tokens: ['db:']\n", 2, "auth_service.tokens[0]", "not a token"),
    ("auth_service:\n  client_idle_timeout: 30\n", 2, "auth_service.client_idle_timeout", "did you mean 30s"),
    ("auth_service:\n  trusted_clusters: [a]\n", 2, "auth_service.trusted_clusters", "not supported"),
    ("auth_service:\n  authentication: {type: saml}\n", 2, "auth_service.authentication.type", "'saml' is not supp"),
    ("auth_service:\n  authentication: {type: oidc}\n", 2, "auth_service.authentication.type", "'oidc' is not supp"),
    (
        "auth_service:\n  authentication:\n    second_factor: u2f\n",
        3,
        "auth_service.authentication.second_factor",
        "'u2f' is not supported",
    ),
    ("proxy_service:\n  https_key_file: /k\n", 2, "proxy_service.https_key_file", "https_cert_file is missing"),
    ("proxy_service:\n  acme: {enabled: yes}\n", 2, "proxy_service.acme", "not supported"),
    ("ssh_service:\n  enabled: yes\n", 2, "ssh_service.enabled", "SSH service is not part of this system"),
    ("ssh_service:\n  labels: {a: b}\n", 2, "ssh_service", "SSH service is not part of this system"),
    ("app_service:\n  enabled: 'yes'\n", 2, "app_service.enabled", "not part of this system"),
    (DB.replace("one", "One"), 4, "db_service.databases[0].name", "not a name for a database service"),
    (DB.replace("one", "1ne"), 4, "db_service.databases[0].name", "not a name for a database service"),
    (DB.replace("one", "on-"), 4, "db_service.databases[0].name", "not a name for a database service"),
    (DB.replace("one", "a" * 64), 4, "db_service.databases[0].name", "not a name for a database service"),
    (DB.replace("postgres", "mysql"), 5, "db_service.databases[0].protocol", "'mysql' is not supported"),
    (DB.replace("db:5432", "db"), 6, "db_service.databases[0].uri", "the port is missing"),
    (DB.replace("db:5432", "db:x"), 6, "db_service.databases[0].uri", "not a port"),
    (DB.replace("db:5432", "':5432'"), 6, "db_service.databases[0].uri", "not a host"),
    (DB.replace("    uri: db:5432\n", ""), 4, "db_service.databases[0]", "uri is missing"),
    (DB + DB.partition("databases:\n")[2], 7, "db_service.databases[1].name", r"another database \(line 4\)"),
    (database("labels: {'a b': c}"), 7, "db_service.databases[0].labels.'a b'", "not a label's name"),
    (database("labels: [a]"), 7, "db_service.databases[0].labels", "labels are a mapping"),
    (database("labels: {a: b}", "static_labels: {a: c}"), 8, "db_service.databases[0].static_labels", "given twice"),
    (database('labels: {a: "x\\ny"}'), 7, "db_service.databases[0].labels.a", "no control characters"),
    (database("dynamic_labels:", "- name: a"), 8, "db_service.databases[0].dynamic_labels[0]", "command is missing"),
    (
        database("dynamic_labels:", "- {name: a, command: [x], period: 1ms}"),
        8,
        "db_service.databases[0].dynamic_labels[0].period",
        "too short",
    ),
    (database("aws: {regoin: x}"), 7, "db_service.databases[0].aws.regoin", "did you mean region"),
    (database("credentials: []"), 7, "db_service.databases[0].credentials", "a mapping belongs here"),
    (database("credentials: {}"), 7, "db_service.databases[0].credentials", "nobody's password"),
    (database("credentials: {users: {}}"), 7, "db_service.databases[0].credentials", "nobody's password"),
    (database("credentials:", "  pasword_file: /p"), 8, "db_service.databases[0].credentials.pasword_file", "did you"),
    (database("credentials:", "  password_file: p"), 8, "db_service.databases[0].credentials.password_file", "absol"),
    (database("credentials:", "  password_env: a-b"), 8, "db_service.databases[0].credentials.password_env", "not the"),
    (
        database("credentials:", "  password_file: /p", "  password_env: P"),
        9,
        "db_service.databases[0].credentials.password_env",
        "not both",
    ),
    (
        database("credentials:", "  users:", "    al: {password: hunter2}"),
        9,
        "db_service.databases[0].credentials.users.al.password",
        "does not belong in this file",
    ),
    (database("credentials: {password: x}"), 7, "db_service.databases[0].credentials.password", "does not belong"),
    (database("credentials: {users: [al]}"), 7, "db_service.databases[0].credentials.users", "users are a mapping"),
    (
        database("credentials:", "  users:", "    al: {}"),
        9,
        "db_service.databases[0].credentials.users.al",
        "password_file or password_env is missing",
    ),
    (
        database("credentials:", f"  users: {{{'a' * 64}: {{password_env: P}}}}"),
        8,
        "db_service.databases[0].credentials.users." + "a" * 64,
        "not the name of a database user",
    ),
    (
        database("credentials: {password_env: P, require_auth: [md5, scram-sha256]}"),
        7,
        "db_service.databases[0].credentials.require_auth[1]",
        "did you mean scram-sha-256",
    ),
    (
        database("credentials: {password_env: P, require_auth: gss}"),
        7,
        "db_service.databases[0].credentials.require_auth",
        "'gss' is not supported",
    ),
    (
        database("aws: {region: us-east-1}", "credentials: {password_env: P}"),
        8,
        "db_service.databases[0].credentials",
        "one of the two",
    ),
    (database("gcp: {project: x}"), 7, "db_service.databases[0].gcp", "not supported"),
    # YAML
    ("teleport:\n  nodename: a\nteleport:\n", 3, "teleport", r"given twice \(first in line 1\)"),
    ("teleport: &a\n  nodename: b\n", 1, "teleport", "anchors are not taken"),
    ("auth_service: *a\n", 1, "auth_service", "aliases are not taken"),
    ("teleport:\n  nodename: !!python/name:os.system x\n", 2, "teleport.nodename", "tags are not taken"),
    ("teleport:\n  <<: {a: b}\n", 2, "teleport.'<<'", "unknown key"),
    ("teleport: {\n", 2, "", "not YAML"),
    ("teleport:\n\tnodename: a\n", 2, "", r"not YAML: .* \(column 1\)"),
    ("teleport: {}\n---\nteleport: {}\n", 3, "", "only one document"),
    ("? [a]\n: b\n", 1, "", "a key is a word"),
    ("teleport: " + "[" * 40 + "]" * 40, 1, "teleport" + "[0]" * 32, "nested more than 32 deep"),
    ("teleport: " + "[" * 900, 1, "teleport" + "[0]" * 32, "nested more than 32 deep"),
    ("#" * (1024 * 1024 + 1), 0, "", "too many"),
    ("a: \x00", 0, "", "not YAML"),
    ("a: \ud800", 0, "", "half a character"),
]


class ParseTests(SynchronousTestCase):
    """Files as a whole."""

    def test_audit(self) -> None:
        """Records are with the operating system before a statement runs, unless more is asked for."""
        unsaid = parse("db_service:\n  enabled: no\n", "x").db.audit
        self.assertEqual((unsaid.durability, unsaid.statement_messages), ("write", False))
        said = parse("db_service:\n  audit: {durability: fsync, statement_messages: yes}\n", "x").db.audit
        self.assertEqual((said.durability, said.statement_messages), ("fsync", True))

    def test_far_too_deep(self) -> None:
        """However deep, the words are the same; libyaml may have stopped before anything is known of the path."""
        for text in ("teleport: " + "[" * 100_000, "teleport: [" + "{a: [" * 50_000):
            error = self.assertRaises(ConfigError, parse, text, "t.yaml")
            self.assertEqual((error.source, error.line), ("t.yaml", 1))
            self.assertRegex(str(error), "nested more than 32 deep")

    def test_guide_auth_proxy(self) -> None:
        """The guide's first sample means what it says."""
        config = parse(AUTH_PROXY, "teleport.yaml")
        self.assertEqual(config.teleport.nodename, "test")
        self.assertEqual(config.auth.cluster_name, "test")
        token = StaticToken(("proxy", "node", "db"), "cbdeeab9-6f88-436d-a673-44d14bd86bb7")
        self.assertEqual(config.auth.tokens, (token,))
        self.assertEqual(config.proxy.public_addresses, (Address("teleport.example.com", 3080),))
        self.assertTrue(config.auth.enabled and config.proxy.enabled and not config.db.enabled)
        check(config)

    def test_example_files(self) -> None:
        """Every file of conf/ parses, and stands on its own."""
        names = sorted(path.name for path in CONF.glob("*.yaml"))
        self.assertEqual(names, ["auth-proxy.yaml", "db.yaml", "teleport.yaml"])
        for name in names:
            check(parse((CONF / name).read_text(), name), name)
        self.assertEqual(parse((CONF / "auth-proxy.yaml").read_text(), ""), parse(AUTH_PROXY, ""))
        (aurora,) = parse((CONF / "db.yaml").read_text(), "").db.databases
        self.assertEqual(
            (aurora.name, aurora.aws.region, dict(aurora.static_labels)), ("aurora", "us-east-1", {"env": "dev"})
        )

    def test_example_credentials(self) -> None:
        """The database with passwords that conf/db.yaml has commented out means what it says."""
        text = (CONF / "db.yaml").read_text()
        _, metrics = parse(re.sub(r"(?m)^  # (- name: \"metrics\"| )", r"  \1", text), "").db.databases
        self.assertEqual(
            metrics.credentials,
            PasswordLogin(
                Secret(file="/etc/teleport/metrics.password"),
                {"alice": Secret(env="METRICS_ALICE_PASSWORD")},
                ("scram-sha-256",),
            ),
        )
        assert metrics.credentials is not None
        self.assertEqual(str(metrics.credentials.secret_for("bob")), "/etc/teleport/metrics.password")
        self.assertEqual(str(metrics.credentials.secret_for("alice")), "environment variable METRICS_ALICE_PASSWORD")
        self.assertIsNone(PasswordLogin(None, {"alice": Secret(env="A")}).secret_for("bob"))

    def test_no_secret_is_repeated(self) -> None:
        """What somebody wrote in the wrong place does not get into an error's text."""
        for line in ("{password: hunter2}", "{password_env: 'hunter2!'}", "{users: {al: {password: hunter2}}}"):
            error = self.assertRaises(ConfigError, parse, database(f"credentials: {line}"), "")
            self.assertNotIn("hunter2", str(error))

    def test_sample(self) -> None:
        """What `teleport configure` prints parses, and so does every line it has commented out."""
        check(parse(sample_config(), "sample"))
        lines = [re.sub(r"^( *)# (?= *([\w-]+:( |$)|- ))", r"\1", line) for line in sample_config().splitlines()]
        text = "\n".join(line for line in lines if "ca_pin" not in line and line.strip() != "databases: []")
        config = parse(text, "sample")
        self.assertEqual(len(config.db.databases), 1)
        self.assertEqual(config.auth.client_idle_timeout, 1800)
        self.assertTrue(config.auth.tokens[0].is_path)

    def test_defaults(self) -> None:
        """Nothing in the file is auth and proxy at Teleport's ports."""
        for text in ("", "---\n", "# nothing\n", "teleport:\n"):
            self.assertEqual(parse(text, ""), Config())
        config = Config()
        ports = [config.auth.listen_addr.port, config.proxy.listen_addr.port, config.proxy.web_listen_addr.port]
        self.assertEqual([*ports, config.proxy.tunnel_listen_addr.port], [3025, 3023, 3080, 3024])
        self.assertTrue(config.auth.enabled and config.proxy.enabled and not config.db.enabled)

    def test_enabled(self) -> None:
        """yes and no, quoted or not, in any of YAML's words."""
        for words, expected in ((("yes", '"yes"', "true", "on", "'on'", "YES"), True), (("no", '"no"', "off"), False)):
            for word in words:
                self.assertEqual(parse(f"db_service:\n  enabled: {word}\n", "").db.enabled, expected, word)

    def test_every_key(self) -> None:
        """Each key of the configuration reaches its field."""
        text = """\
teleport:
  auth_token: 0123
  auth_servers: proxy.example.com
  ca_pin: [sha256:%s]
  log: {output: /var/log/t, severity: WARN, format: {output: json}}
  storage: {type: sqlite}
  advertise_ip: "2001:DB8::1"
  pid_file: /run/t.pid
  diag_addr: 127.0.0.1:3000
auth_service:
  enabled: no
  authentication: {type: local, second_factor: "off"}
  session_recording: proxy
  client_idle_timeout: 1h30m
  disconnect_expired_cert: yes
  audit: {max_file: 16MiB, retention: 30d, compress: no}
proxy_service:
  web_listen_addr: ":443"
  public_addr: [a.example.com, "[::1]:8443"]
  https_key_file: /k
  https_cert_file: /c
app_service: {enabled: no, apps: [{anything: goes}]}
db_service:
  enabled: yes
  databases:
  - name: one
    protocol: postgres
    uri: "[::1]:5432"
    ca_cert_file: /ca
    labels: {a: 1, b: no}
    static_labels: {c: "x y"}
    dynamic_labels:
    - {name: d, command: [/bin/uname, -r], period: 5m}
    - {name: e, command: /bin/true}
""" % ("A" * 64)  # fmt: skip
        config = parse(text, "")
        shared, (one,) = config.teleport, config.db.databases
        self.assertEqual(shared.auth_token, "0123")
        self.assertEqual(shared.auth_servers, (Address("proxy.example.com", 3025),))
        self.assertEqual(shared.ca_pin, ("sha256:" + "a" * 64,))
        self.assertEqual((shared.log.output, shared.log.severity, shared.log.format), ("/var/log/t", "warning", "json"))
        self.assertEqual((shared.advertise_ip, shared.pid_file), ("2001:db8::1", "/run/t.pid"))
        self.assertEqual(shared.diag_addr, Address("127.0.0.1", 3000))
        self.assertEqual((config.auth.client_idle_timeout, config.auth.disconnect_expired_cert), (5400.0, True))
        self.assertEqual(config.auth.audit, AuditFiles(16 << 20, 30 * 86400.0, False))
        self.assertEqual((config.auth.authentication.second_factor, config.auth.session_recording), ("off", "proxy"))
        self.assertEqual(config.proxy.web_listen_addr, Address("0.0.0.0", 443))
        self.assertEqual([str(one) for one in config.proxy.public_addresses], ["a.example.com:3080", "[::1]:8443"])
        self.assertEqual((one.uri, one.ca_cert_file), (Address("::1", 5432), "/ca"))
        self.assertEqual(dict(one.static_labels), {"a": "1", "b": "no", "c": "x y"})
        expected = {"d": DynamicLabel(("/bin/uname", "-r"), 300.0), "e": DynamicLabel(("/bin/true",), 60.0)}
        self.assertEqual(dict(one.dynamic_labels), expected)

    def test_secrets_do_not_print(self) -> None:
        """Neither a configuration's repr nor an error repeats a token."""
        config = parse("teleport: {auth_token: hush}\nauth_service: {tokens: ['db:hush']}\n", "")
        self.assertNotIn("hush", repr(config))
        for text in ("auth_service: {tokens: [hush]}", "auth_service: {tokens: ['db:hu sh']}"):
            error = self.assertRaises(ConfigError, parse, text, "")
            self.assertNotIn("hu", str(error).replace("auth_service", ""))

    def test_on_host(self) -> None:
        """The cluster is called after the node, and the node after the host."""
        config = Config().on_host("db1")
        self.assertEqual((config.teleport.nodename, config.auth.cluster_name), ("db1", "db1"))
        config = parse("teleport: {nodename: n}\n", "").on_host("db1")
        self.assertEqual((config.teleport.nodename, config.auth.cluster_name), ("n", "n"))
        self.assertEqual(parse(AUTH_PROXY, "").on_host("db1"), parse(AUTH_PROXY, ""))


class RefusalTests(SynchronousTestCase):
    """Each refusal says where and why, in one line."""

    def test_refused(self) -> None:
        """The table above."""
        for text, line, path, message in REFUSED:
            shown = text if len(text) < 200 else text[:200]
            error = self.assertRaises(ConfigError, parse, text, "t.yaml")
            self.assertEqual((error.source, error.line, error.path), ("t.yaml", line, path), f"{shown}\n{error}")
            self.assertRegex(error.message, message, shown)
            self.assertNotIn("\n", str(error))
            where = f"t.yaml:{line}: " if line else "t.yaml: "
            self.assertTrue(str(error).startswith(where + (f"{path}: " if path else "")), str(error))

    def test_size(self) -> None:
        """A mebibyte is still read, and quickly."""
        text = "teleport:\n  nodename: a\n"
        self.assertEqual(parse(text + "#" * (1024 * 1024 - len(text)), "").teleport.nodename, "a")

    def test_check(self) -> None:
        """What only the whole can tell."""
        none = "auth_service: {enabled: no}\nproxy_service: {enabled: no}\n"
        for text, path, message in (
            (none, "", "no service is enabled"),
            ("db_service: {enabled: yes}\n", "db_service.databases", "at least one database"),
            (none + DB, "teleport.auth_servers", "address to join"),
            ("proxy_service: {web_listen_addr: '0.0.0.0:3025'}", "proxy_service.web_listen_addr", "is auth_service"),
        ):
            error = self.assertRaises(ConfigError, check, parse(text, ""), "t.yaml")
            self.assertEqual(error.path, path)
            self.assertIn(message, error.message)
        check(parse("proxy_service: {tunnel_listen_addr: '0.0.0.0:3080'}", ""))


class DocumentTests(SynchronousTestCase):
    """Files of resources."""

    def test_documents(self) -> None:
        """Plain values with the line each document began at; empty documents are left out."""
        text = "kind: role\nspec: {a: [1, -2, 1.5, yes, 'no', ~, 010, 1_0, 2001-01-01, 1:30]}\n---\n---\nkind: user\n"
        first, second = load_documents(text, "f")
        self.assertEqual((first.line, second.line), (1, 5))
        expected = [1, -2, 1.5, True, "no", None, "010", "1_0", "2001-01-01", "1:30"]
        self.assertEqual(first.value, {"kind": "role", "spec": {"a": expected}})

    def test_guarded(self) -> None:
        """The same bounds hold as for the configuration."""
        for text in ("a: &x b\nc: *x\n", "a: 1\na: 2\n", "[" * 50, "x" * (1024 * 1024 + 1)):
            self.assertRaises(ConfigError, load_documents, text, "f")

"""``tctl`` on the auth host and elsewhere, as processes."""

from __future__ import annotations

import json
import stat

import yaml
from cryptography import x509

from teleport_db.certs import keys
from teleport_db.identity import from_certificate
from tests.cli.support import CommandTestCase, Result

ROLE = """\
kind: role
version: v3
metadata:
  name: developer
spec:
  allow:
    db_labels:
      environment: ["dev", "stage"]
    db_names: ["main", "metrics", "postgres"]
    db_users: ["alice", "bob"]
"""


class TctlTestCase(CommandTestCase):
    """With the files of a local administrator."""

    def setUp(self) -> None:
        super().setUp()
        self.data = self.home / "data"
        self.cluster.make_admin(self.data)

    def tctl(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        return self.run_program("tctl", "--data-dir", str(self.data), *arguments, stdin=stdin, **environment)

    def sent(self, method: str, path: str) -> dict[str, object]:
        """The body of the last call of a path."""
        found = [body for m, target, body in self.cluster.calls if (m, target.partition("?")[0]) == (method, path)]
        self.assertTrue(found, self.cluster.calls)
        return found[-1]  # type: ignore[no-any-return]


class ConnectionTests(TctlTestCase):
    """Whom it calls."""

    def test_status(self) -> None:
        """Cluster, version, each authority's rotation, the pin."""
        said = self.succeeds(self.tctl("status"))
        self.assertEqual(said.splitlines()[0].split(), ["Cluster", "root"])
        self.assertIn("never updated", said)
        self.assertIn(keys.spki_pin(self.cluster.host_ca.certificate), said)
        self.assertEqual(json.loads(self.succeeds(self.tctl("status", "--format=json")))["cluster"], "root")

    def test_config(self) -> None:
        """``-c`` names the data directory, however the YAML spells it."""
        for text in (
            f"teleport:\n  data_dir: {self.data}\n",
            f'teleport: {{data_dir: "{self.data}", nodename: x}}\n',
            f"teleport:\n  # data_dir: /elsewhere\n  data_dir: '{self.data}'\n",
        ):
            (self.home / "t.yaml").write_text(text)
            self.succeeds(self.run_program("tctl", "-c", "t.yaml", "status"))
        self.succeeds(self.run_program("tctl", "status", "-c", "t.yaml"))

    def test_broken_config(self) -> None:
        """A file that cannot be read is named with its line."""
        (self.home / "t.yaml").write_text("teleport:\n  data_dur: /x\n")
        self.fails(self.run_program("tctl", "-c", "t.yaml", "status"), "t.yaml:2", "data_dur")
        self.fails(self.run_program("tctl", "-c", "none.yaml", "status"), "none.yaml")

    def test_nothing_there(self) -> None:
        """A directory where no auth service has run."""
        result = self.run_program("tctl", "--data-dir=/nowhere", "status")
        self.fails(result, "/nowhere/admin", "--data-dir")

    def test_profile(self) -> None:
        """Elsewhere it is the login of ``tsh``."""
        self.login()
        self.succeeds(self.run_program("tctl", f"--proxy={self.cluster.address}", "status"))

    def test_away(self) -> None:
        """An auth service that is down is named by its address."""
        (self.data / "admin/address").write_text("127.0.0.1:1\n")
        self.fails(self.tctl("status"), "127.0.0.1:1")


class UserTests(TctlTestCase):
    """People."""

    def test_add(self) -> None:
        """The guide's own command."""
        said = self.succeeds(self.tctl("users", "add", "bob", "root", "--db-names=postgres", "--db-users=alice,carol"))
        self.assertIn(f"https://{self.cluster.address}/web/invite/f00d", said)
        self.assertIn("1h0m", said)
        traits = {"logins": ["root"], "db_names": ["postgres"], "db_users": ["alice", "carol"]}
        expected = {"name": "bob", "roles": ["access"], "traits": traits, "ttl": 3600}
        self.assertEqual(self.sent("POST", "/v1/users"), expected)

    def test_any_order(self) -> None:
        """Flags between the account and its logins."""
        self.succeeds(self.tctl("users", "add", "--db-names=*", "bob", "--roles=access,editor", "root,ubuntu"))
        sent = self.sent("POST", "/v1/users")
        self.assertEqual(sent["traits"], {"logins": ["root", "ubuntu"], "db_names": ["*"], "db_users": ["bob"]})
        self.assertEqual(sent["roles"], ["access", "editor"])

    def test_add_refused(self) -> None:
        """What is wrong with the flags, and a user that is there."""
        self.fails(self.tctl("users", "add", "bob", "--ttl=49h"), "48h", code=2)
        self.fails(self.tctl("users", "add", "bob", "--ttl=x"), "--ttl", code=2)
        self.fails(self.tctl("users", "add", "bob", "--roles="), "--roles", code=2)
        self.fails(self.tctl("users", "add"), "ACCOUNT", code=2)
        self.fails(self.tctl("users", "add", "alice"), "already")

    def test_ls(self) -> None:
        """User and Roles."""
        lines = self.succeeds(self.tctl("users", "ls")).splitlines()
        self.assertEqual(
            [line.split() for line in lines], [["User", "Roles"], ["-----", "------"], ["alice", "access"]]
        )
        self.assertEqual(json.loads(self.succeeds(self.tctl("users", "ls", "--format=json")))[0]["kind"], "user")

    def test_update(self) -> None:
        """Roles and traits are set, the rest stays; a conflict is told."""
        self.succeeds(self.tctl("users", "update", "alice", "--set-roles=access,dba", "--set-db-names=a"))
        spec = self.cluster.resources["user"]["alice"]["spec"]
        self.assertEqual(spec, {"roles": ["access", "dba"], "traits": {"db_users": ["alice"], "db_names": ["a"]}})
        self.fails(self.tctl("users", "update", "alice"), "nothing to set", code=2)
        self.fails(self.tctl("users", "update", "nobody", "--set-roles=a"), "nobody")

    def test_traits(self) -> None:
        """Traits of one's own are set and removed, those not named stay."""
        self.succeeds(self.tctl("users", "add", "bob", "--trait=team=red,blue", "--trait=email=bob@example.com"))
        traits = self.sent("POST", "/v1/users")["traits"]
        self.assertEqual((traits["team"], traits["email"]), (["red", "blue"], ["bob@example.com"]))
        self.succeeds(self.tctl("users", "update", "bob", "--set-trait=team=", "--set-trait=shift=night"))
        traits = self.cluster.resources["user"]["bob"]["spec"]["traits"]
        self.assertEqual((traits["email"], traits["shift"]), (["bob@example.com"], ["night"]))
        self.assertNotIn("team", traits)
        self.fails(self.tctl("users", "update", "bob", "--set-trait=team"), "--set-trait: write NAME=VALUE", code=2)

    def test_unlock(self) -> None:
        """What failed is forgotten; who has failed nowhere may look for a lock."""
        self.assertIn("failed from 2 addresses", self.succeeds(self.tctl("users", "unlock", "alice")))
        self.cluster.failed_sources = 0
        self.assertIn("tctl rm lock/NAME", self.succeeds(self.tctl("users", "unlock", "alice")))
        self.fails(self.tctl("users", "unlock", "nobody"), "nobody")

    def test_reset(self) -> None:
        """A link of another kind."""
        facts = json.loads(self.succeeds(self.tctl("users", "reset", "alice", "--format=json", "--ttl=8h")))
        self.assertEqual(facts["url"], f"https://{self.cluster.address}/web/reset/f00d")
        self.assertEqual(self.sent("POST", "/v1/users/alice/reset"), {"ttl": 8 * 3600})

    def test_rm(self) -> None:
        """Deleting, once."""
        self.succeeds(self.tctl("users", "rm", "alice"))
        self.assertEqual(self.cluster.resources["user"], {})
        self.fails(self.tctl("users", "rm", "alice"), "alice")


class TokenTests(TctlTestCase):
    """Joining."""

    def test_add(self) -> None:
        """The command is ready: pin, proxy, database."""
        flags = ["--db-name=test", "--db-protocol=postgres", "--db-uri=db.example.com:5432"]
        said = self.succeeds(self.tctl("tokens", "add", "--type=db", *flags, "--ttl=5m"))
        pin = keys.spki_pin(self.cluster.host_ca.certificate)
        command = said.partition("\n  ")[2].replace("\\\n", "").split()
        self.assertEqual(
            command,
            [
                *["teleport", "start", "--roles=db", "--token=cbdeeab96f88436da67344d14bd86bb7"],
                *[f"--ca-pin={pin}", f"--auth-server={self.cluster.address}", *flags],
            ],
        )
        self.assertIn("5m0s", said)
        expected = {"roles": ["db"], "ttl": 300, "value": None, "databases": ["test"], "uses": 1}
        self.assertEqual(self.sent("POST", "/v1/tokens"), expected)
        self.assertIn("This token will expire in 5m0s.\n\nRun this", said)

    def test_spellings(self) -> None:
        """``database`` is ``db``, several are a list."""
        self.succeeds(self.tctl("tokens", "add", "--type=proxy,database", "--value=secret-token"))
        sent = self.sent("POST", "/v1/tokens")
        self.assertEqual((sent["roles"], sent["value"], sent["databases"]), (["proxy", "db"], "secret-token", []))

    def test_refused(self) -> None:
        """The flags are checked as ``teleport start`` would."""
        add = ("tokens", "add", "--type=db")
        self.fails(self.tctl("tokens", "add"), "--type", code=2)
        self.fails(self.tctl("tokens", "add", "--type=x"), "--type", code=2)
        self.fails(self.tctl(*add, "--db-name=Not_A_Label"), "--db-name", code=2)
        self.fails(self.tctl(*add, "--db-name=a", "--db-uri=x"), "--db-uri", code=2)
        self.fails(self.tctl(*add, "--db-name=a", "--db-protocol=mysql"), "--db-protocol", code=2)
        self.fails(self.tctl(*add, "--db-uri=a:1"), "--db-name", code=2)
        self.assertEqual([call for call in self.cluster.calls if call[0] == "POST"], [])

    def test_ls_and_rm(self) -> None:
        """Only a prefix is shown; static tokens never expire."""
        self.assertIn("no active tokens", self.succeeds(self.tctl("tokens", "ls")))
        self.succeeds(self.tctl("tokens", "add", "--type=db", "--value=0123456789abcdef"))
        self.cluster.tokens.append(
            {"name": "x", "prefix": "cbde", "roles": ["proxy", "db"], "labels": {}, "expires": None, "static": True}
        )
        said = self.succeeds(self.tctl("tokens", "ls"))
        self.assertNotIn("0123456789", said)
        lines = said.splitlines()
        self.assertEqual(lines[0].split(), ["Token", "Type", "Labels", "Expiry", "Time", "(UTC)"])
        self.assertEqual(lines[3].split(), ["cbde...", "proxy,db", "never"])
        self.assertNotIn("0123456789", self.succeeds(self.tctl("tokens", "rm", "0123456789abcdef")))
        self.assertEqual(len(self.cluster.tokens), 1)
        self.fails(self.tctl("tokens", "rm", "nope"), "no such token")

    def test_uses(self) -> None:
        """A token for several hosts says so, and listings then say how many are left."""
        said = self.succeeds(self.tctl("tokens", "add", "--type=db", "--uses=5"))
        self.assertIn("expire in 1h0m.\nUntil then 5 hosts may join with it.\n", said)
        self.assertEqual(self.sent("POST", "/v1/tokens")["uses"], 5)
        self.cluster.tokens[0]["uses_left"] = 2
        self.cluster.tokens.append({**self.cluster.tokens[0], "uses": None, "uses_left": None, "expires": None})
        lines = self.succeeds(self.tctl("tokens", "ls")).splitlines()
        self.assertTrue(lines[0].endswith("  Uses Left"), lines)
        self.assertEqual([line[-6:].strip() for line in lines[2:]], ["2 of 5", "any"])
        self.fails(self.tctl("tokens", "add", "--type=db", "--uses=0"), "--uses", code=2)
        self.fails(self.tctl("tokens", "add", "--type=db", "--uses=x"), "--uses", code=2)


class SignTests(TctlTestCase):
    """Certificates in files."""

    def test_db(self) -> None:
        """Three files, 0600; every host is a SAN; the authority is that of the agents' certificates."""
        self.succeeds(
            self.tctl("auth", "sign", "--format=db", "--host=db.example.com,10.0.0.1", "--out=server", "--ttl=8760h")
        )
        for ending in ("key", "crt", "cas"):
            self.assertEqual(stat.S_IMODE((self.home / f"server.{ending}").stat().st_mode), 0o600)
        certificate = x509.load_pem_x509_certificate((self.home / "server.crt").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["db.example.com"])
        self.assertEqual(list(map(str, names.get_values_for_type(x509.IPAddress))), ["10.0.0.1"])
        key = keys.load_private((self.home / "server.key").read_bytes())
        self.assertEqual(key.public_key(), certificate.public_key())
        self.assertEqual((self.home / "server.cas").read_bytes(), self.cluster.db_client_ca.certificate_pem)
        self.assertEqual(self.sent("POST", "/v1/certificates/database-server")["ttl"], 8760 * 3600)

    def test_overwrite(self) -> None:
        """What is there is asked about, before anything is signed."""
        (self.home / "server.crt").write_text("mine")
        arguments = ("auth", "sign", "--format=db", "--host=a", "--out=server")
        self.fails(self.tctl(*arguments, stdin="y\n"), "server.crt", "--overwrite")
        self.assertEqual(self.cluster.calls, [])
        terminal = ("--data-dir", str(self.data), *arguments)
        code, said = self.at_terminal("tctl", *terminal, answers=("n",))
        self.assertEqual((code, (self.home / "server.crt").read_text()), (1, "mine"), said)
        code, said = self.at_terminal("tctl", *terminal, answers=("y",))
        self.assertEqual(code, 0, said)
        self.succeeds(self.tctl(*arguments, "--overwrite"))

    def test_file(self) -> None:
        """One file with key, certificate and authority, under the proxy's address."""
        self.succeeds(self.tctl("auth", "sign", "--format=file", "--user=alice", "-o", "robot.pem"))
        text = (self.home / "robot.pem").read_bytes()
        self.assertTrue(text.startswith(f"# proxy: {self.cluster.address}\n".encode()))
        certificates = x509.load_pem_x509_certificates(text)
        self.assertEqual(from_certificate(certificates[0]).usage, "file")
        self.assertEqual(certificates[1], self.cluster.host_ca.certificate)
        self.assertEqual(keys.load_private(text).public_key(), certificates[0].public_key())

    def test_file_for_tctl(self) -> None:
        """An identity file administers from elsewhere."""
        self.succeeds(self.tctl("auth", "sign", "--user=alice", "--out=robot.pem"))
        self.succeeds(self.run_program("tctl", "-i", "robot.pem", "status"))
        self.succeeds(self.run_program("tctl", "status", "-i", "robot.pem", f"--auth-server={self.cluster.address}"))

    def test_refused(self) -> None:
        """Flags that do not belong together."""
        self.fails(self.tctl("auth", "sign", "--format=db", "--out=x"), "--host", code=2)
        self.fails(self.tctl("auth", "sign", "--format=file", "--out=x"), "--user", code=2)
        self.fails(self.tctl("auth", "sign", "--format=file", "--out=x", "--host=a", "--user=b"), "--host", code=2)
        self.fails(self.tctl("auth", "sign", "--format=db", "--host=a"), "--out", code=2)
        self.fails(self.tctl("auth", "rotate"), "later", code=2)
        self.fails(self.tctl("auth", "sign", "--format=db", "--host=a", "--out=none/x"), "none")


class ResourceTests(TctlTestCase):
    """YAML in and out."""

    def test_create_and_get(self) -> None:
        """Documents of a file become resources; a listing can be created from again."""
        (self.home / "r.yaml").write_text(f"---\n{ROLE}---\n{ROLE.replace('developer', 'second')}")
        said = self.succeeds(self.tctl("create", "-f", "r.yaml"))
        self.assertEqual(len(said.splitlines()), 2)
        self.assertEqual(self.cluster.resources["role"]["developer"]["spec"], yaml.safe_load(ROLE)["spec"])
        listing = self.succeeds(self.tctl("get", "roles"))
        self.assertEqual([role["metadata"]["name"] for role in yaml.safe_load_all(listing)], ["developer", "second"])
        self.fails(self.tctl("create", "-f", "-", stdin=listing), "already")
        self.succeeds(self.tctl("create", "--force", "-f", "-", stdin=listing))

    def test_words_stay_words(self) -> None:
        """Dates, and yes and no as YAML 1.1 has them, arrive as they were written."""
        lock = "kind: lock\nmetadata: {name: l, expires: 2026-01-31T12:00:00Z}\nspec: {target: {user: 'yes'}}\n"
        self.succeeds(self.tctl("create", "-", stdin=lock))
        made = self.cluster.resources["lock"]["l"]
        self.assertEqual(made["metadata"]["expires"], "2026-01-31T12:00:00Z")
        self.assertEqual(made["spec"]["target"]["user"], "yes")

    def test_nothing_is_done_by_half(self) -> None:
        """A document that cannot be read keeps the others from being created; file and line are told."""
        (self.home / "r.yaml").write_text(f"{ROLE}---\nkind: role\nspec: {{}}\n")
        self.fails(self.tctl("create", "-f", "r.yaml"), "r.yaml:12")
        (self.home / "r.yaml").write_text(f"{ROLE}---\nkind: [\n")
        self.fails(self.tctl("create", "-f", "r.yaml"), "r.yaml")
        (self.home / "r.yaml").write_text(f"{ROLE}---\n{ROLE.replace('db_names', 'db_nmaes')}")
        said = self.fails(
            self.tctl("create", "-f", "r.yaml"), "spec.allow.db_nmaes: unknown key (did you mean db_names?)"
        )
        self.assertRegex(said, r"r\.yaml:\d+:5: ")
        self.assertEqual(self.cluster.resources["role"], {})
        self.fails(self.tctl("create", "-f", "none.yaml"), "none.yaml")
        self.fails(self.tctl("create"), "tctl create -f FILE", code=2)

    def test_refused_by_the_server(self) -> None:
        """The server's reason, at the document's place."""
        (self.home / "r.yaml").write_text("kind: user\nmetadata: {name: x}\n")
        self.fails(self.tctl("create", "-f", "r.yaml"), "r.yaml:1", "spec is missing")

    def test_get(self) -> None:
        """One, several kinds, other formats."""
        (self.home / "r.yaml").write_text(ROLE)
        self.succeeds(self.tctl("create", "r.yaml"))
        self.assertEqual(yaml.safe_load(self.succeeds(self.tctl("get", "role/developer")))["kind"], "role")
        both = json.loads(self.succeeds(self.tctl("get", "users,roles", "--format=json")))
        self.assertEqual([resource["kind"] for resource in both], ["user", "role"])
        lines = self.succeeds(self.tctl("get", "role", "--format=text")).splitlines()
        self.assertEqual((lines[0].split(), lines[2].split()), (["Kind", "Name", "Details"], ["role", "developer"]))
        self.assertEqual(self.succeeds(self.tctl("get", "locks")), "")
        self.fails(self.tctl("get", "role/none"), "none")
        self.fails(self.tctl("get", "unicorn"), "unicorn")
        self.fails(self.tctl("get", "role/"), "role/", code=2)

    def test_rm(self) -> None:
        """By kind and name."""
        self.succeeds(self.tctl("rm", "users/alice"))
        self.fails(self.tctl("rm", "user/alice"), "alice")
        self.fails(self.tctl("rm", "user"), "KIND/NAME", code=2)

    def editor(self, script: str) -> dict[str, str]:
        file = self.home / "editor"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return {"EDITOR": str(file), "TMPDIR": str(self.home)}

    def test_edit(self) -> None:
        """What the editor saved is written, over the revision that was read."""
        self.succeeds(self.tctl("edit", "user/alice", **self.editor("sed -i s/access/auditor/ $1")))
        self.assertEqual(self.cluster.resources["user"]["alice"]["spec"]["roles"], ["auditor"])
        self.assertEqual(list(self.home.glob("user-*.yaml")), [])

    def test_edit_nothing(self) -> None:
        """No change is no call."""
        said = self.succeeds(self.tctl("edit", "user/alice", **self.editor("true")))
        self.assertIn("Nothing", said)
        self.assertNotIn("PUT", [call[0] for call in self.cluster.calls])

    def test_edit_fails(self) -> None:
        """A mistake keeps what was written, and says where."""
        for script in ("echo '[' >> $1", "exit 1", "sed -i s/alice/bob/ $1"):
            said = self.fails(self.tctl("edit", "user/alice", **self.editor(script)), "what you wrote is in")
            self.assertTrue(next(self.home.glob("user-*.yaml")).name in said)
            next(self.home.glob("user-*.yaml")).unlink()
        self.fails(self.tctl("edit", "user/alice", EDITOR="/no/editor"), "EDITOR")

    def test_edit_conflict(self) -> None:
        """Somebody else was faster."""
        user = self.cluster.resources["user"]["alice"]
        editor = self.editor("sed -i s/access/auditor/ $1")
        original = self.cluster.answer

        def racing(method: str, *arguments: object) -> dict[str, object]:
            answer = original(method, *arguments)  # type: ignore[arg-type]
            if method == "GET":
                answer = json.loads(json.dumps(answer))
                user["metadata"]["revision"] += 1
            return answer

        self.cluster.answer = racing  # type: ignore[method-assign]
        self.fails(self.tctl("edit", "user/alice", **editor), "changed meanwhile", "what you wrote is in")


class OtherTests(TctlTestCase):
    """Databases, the audit log, locks."""

    def test_db_ls(self) -> None:
        """Name, Protocol, Address, Labels."""
        lines = self.succeeds(self.tctl("db", "ls")).splitlines()
        self.assertEqual(lines[0].split(), ["Name", "Protocol", "Address", "Labels"])
        self.assertEqual(lines[2].split(), ["aurora", "postgres", "aurora.example.com:5432", "env=dev"])
        self.assertEqual(len(json.loads(self.succeeds(self.tctl("db", "ls", "--format=json")))), 2)

    def test_audit_ls(self) -> None:
        """Filters go to the server; a statement cannot write to the terminal."""
        self.cluster.events = [
            {"event": "db.session.query", "code": "TDB02I", "user": "alice", "time": "2026-01-01T00:00:00.000Z",
             "db_service": "aurora", "db_name": "shop", "db_query": "select '\x1b[31m\n'"},
            {"event": "user.login", "code": "T1000I", "user": "bob"},
        ]  # fmt: skip
        said = self.succeeds(self.tctl("audit", "ls", "--user=alice", "--limit=5", "--since=1h", "--until=2030-01-01"))
        self.assertEqual(len(said.splitlines()), 3)
        self.assertIn("aurora shop", said)
        self.assertNotIn("\x1b", said)
        target = self.cluster.calls[-1][1]
        self.assertIn("user=alice&since=20", target)
        self.assertIn("until=2030-01-01T00%3A00%3A00.000Z", target)
        self.assertIn("limit=5", target)
        lines = self.succeeds(self.tctl("audit", "ls", "--format=jsonl")).splitlines()
        self.assertEqual([json.loads(line) for line in lines], self.cluster.events)
        self.fails(self.tctl("audit", "ls", "--since=yesterday"), "--since", code=2)
        self.fails(self.tctl("audit", "ls", "--limit=0"), "--limit", code=2)

    def test_lock(self) -> None:
        """A lock of a user or a role, for a time."""
        said = self.succeeds(self.tctl("lock", "--user=alice", "--ttl=8h", "--message=why"))
        (name, lock), *_ = self.cluster.resources["lock"].items()
        self.assertIn(f"tctl rm lock/{name}", said)
        self.assertEqual(lock["spec"], {"target": {"user": "alice"}, "message": "why"})
        self.assertRegex(lock["metadata"]["expires"], r"^20\d\d-.*Z$")
        self.fails(self.tctl("lock"), "--user, --role, --db or --server-id", code=2)
        self.fails(self.tctl("lock", "--user=a", "--role=b"), "one target", code=2)

    def test_no_locks(self) -> None:
        """A server that refuses is quoted."""
        del self.cluster.resources["lock"]
        self.fails(self.tctl("lock", "--role=dba"), "lock")

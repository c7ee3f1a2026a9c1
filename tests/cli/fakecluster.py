"""A cluster in threads of the test: a proxy's front door and an auth API behind it, over real TLS.

::

    one port of 127.0.0.1 ─┬─ SNI auth.CLUSTER     the API: host CA's certificate, a client certificate is asked for
                           ├─ ALPN postgresql      a handshake with the host CA's certificate, then nothing
                           └─ else                 the web side: the web CA's certificate

It signs with the project's own authorities and answers in the API's shapes.  Every call is kept, so that
tests see what a command sent.
"""

from __future__ import annotations

import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
from cryptography import x509

from teleport_db.certs import keys
from teleport_db.certs.authority import Authority
from teleport_db.errors import (
    AccessDenied,
    AlreadyExists,
    AuthenticationFailed,
    BadRequest,
    NotFound,
    RevisionConflict,
    SecondFactorRequired,
    TeleportDBError,
)
from teleport_db.identity import DatabaseRoute, Identity, from_certificate

CLUSTER = "root"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
RECOVERY = ["k3vq-8mzt-2abc-def4", "aaaa-bbbb-cccc-dddd"]
DEVICE = {"name": "otp", "type": "TOTP", "added": "2026-11-22T16:11:42Z", "last_used": "2026-11-22T16:11:30Z"}


class FakeCluster:
    """One cluster.

    :param second_factor: what the proxy tells clients to ask for; the code is always 123456, that of a new device
        654321.

    ``session_mfa`` is how long a certificate lives for which a role asks for a code; 0 when none does.
    """

    def __init__(
        self, *, second_factor: str = "off", proxy_names: tuple[str, ...] = ("localhost", "127.0.0.1")
    ) -> None:
        self.now = time.time()
        self.second_factor = second_factor
        self.user_ca, self.host_ca, self.db_ca, self.db_client_ca = (
            Authority.create(kind, CLUSTER, now=self.now) for kind in ("user", "host", "db", "db_client")
        )
        self.web_ca = Authority.create("host", "web", now=self.now)
        self.calls: list[tuple[str, str, Any]] = []
        self.passwords = {"alice": "correct horse"}
        self.login_ttl: float | None = None
        self.shortened = ""
        self.failed_sources = 2
        self.devices: list[dict[str, Any]] = []
        self.enrolling = ""
        self.session_mfa = 0.0
        self.resources: dict[str, dict[str, dict[str, Any]]] = {
            "user": {},
            "role": {},
            "lock": {},
            "token": {},
            "db": {},
        }
        self.revision = 0
        self.tokens: list[dict[str, Any]] = []
        self.databases: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.sinks: list[dict[str, Any]] = []
        self.sessions: list[dict[str, Any]] = []
        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name)
        self._contexts(proxy_names)
        self._server = _Server(self)
        self.address = f"localhost:{self._server.server_address[1]}"
        self.proxy_address = self.address
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._directory.cleanup()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def web_ca_file(self) -> str:
        """What ``SSL_CERT_FILE`` wants for the web side's certificate to verify."""
        file = self.path / "web-ca.pem"
        file.write_bytes(self.web_ca.certificate_pem)
        return str(file)

    def _pair(self, authority: Authority, name: str, names: tuple[str, ...]) -> str:
        key = keys.new_key()
        certificate = authority.issue(
            key.public_key(), common_name=name, now=self.now, ttl=3600, server=True, names=names
        )
        file = self.path / f"{name}.pem"
        file.write_bytes(keys.private_pem(key) + keys.pem(certificate))
        return str(file)

    def _contexts(self, proxy_names: tuple[str, ...]) -> None:
        def context(file: str, *alpn: str) -> ssl.SSLContext:
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.load_cert_chain(file)
            made.set_alpn_protocols(list(alpn))
            return made

        self.web = context(self._pair(self.web_ca, "web", ("localhost", "127.0.0.1")), "http/1.1")
        self.api = context(self._pair(self.host_ca, "auth", (f"auth.{CLUSTER}",)), "teleport-auth")
        self.api.verify_mode = ssl.CERT_OPTIONAL
        self.api.load_verify_locations(cadata=(self.user_ca.certificate_pem + self.host_ca.certificate_pem).decode())
        self.postgres = context(self._pair(self.host_ca, "proxy", proxy_names), "postgresql")

    def identity(self, name: str = "alice", *, usage: str = "login", route: DatabaseRoute | None = None) -> Identity:
        user = self.resources["user"].get(name, {}).get("spec", {})
        roles = tuple(user.get("roles", ["access"]))
        return Identity(kind="user", name=name, cluster=CLUSTER, roles=roles, usage=usage, route=route)

    def sign(self, public_key: Any, identity: Identity, ttl: float, *, now: float | None = None) -> str:
        authority = self.user_ca if identity.kind == "user" else self.host_ca
        return keys.pem(
            authority.issue(
                public_key,
                common_name=identity.name,
                now=self.now if now is None else now,
                ttl=ttl,
                server=False,
                identity=identity,
            )
        ).decode()

    def make_admin(self, data_dir: Path) -> None:
        """The files that the auth service leaves for a local administrator."""
        folder = data_dir / "admin"
        folder.mkdir(parents=True)
        key = keys.new_key()
        identity = Identity(kind="host", name="admin", cluster=CLUSTER, roles=("admin",))
        (folder / "key.pem").write_bytes(keys.private_pem(key))
        (folder / "cert.pem").write_text(self.sign(key.public_key(), identity, 3600))
        (folder / "cas.pem").write_bytes(self.host_ca.certificate_pem)
        (folder / "address").write_text(f"0.0.0.0:{self.port}\n")

    # The answers.

    def answer(self, method: str, target: str, body: Any, caller: Identity | None) -> dict[str, Any]:
        """Answer one call; ``caller`` is None on the web side."""
        parts = urlsplit(target)
        path, query = [unquote(part) for part in parts.path.split("/")[1:]], dict(parse_qsl(parts.query))
        self.calls.append((method, target, body))
        if path[0] == "webapi":
            return self._web(path[1], body)
        if caller is None:
            raise AuthenticationFailed("this call needs a certificate; log in first")
        if caller.kind == "user" and caller.usage == "database":
            raise AccessDenied("the certificate of one database calls nothing here")
        answering: Callable[..., dict[str, Any]] | None = getattr(self, f"_{method.lower()}_{path[1]}", None)
        if answering is None:
            raise NotFound("there is no such call")
        return answering(path[2:], query, body, caller)

    def _web(self, call: str, body: Any) -> dict[str, Any]:
        if call == "ping":
            return {
                "cluster": CLUSTER,
                "version": "0.1.0",
                "second_factor": self.second_factor,
                "proxy_address": self.proxy_address,
            }
        right = self.passwords.get(body["user"]) == body["password"]
        if not right or (self.second_factor in ("otp", "on") and body["otp"] != "123456"):
            raise AuthenticationFailed("the user, the password or the code is wrong")
        ttl = self.login_ttl or body["ttl"]
        identity = self.identity(body["user"])
        return {
            "user": body["user"],
            "cluster": CLUSTER,
            "certificate": self.sign(keys.load_public(body["public_key"]), identity, ttl),
            "host_ca": self.host_ca.certificate_pem.decode(),
            "expires": _rfc3339(self.now + ttl),
            "shortened": self.shortened,
            "roles": list(identity.roles),
        }

    def _get_status(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        pin = keys.spki_pin(self.host_ca.certificate)
        cas = [{"kind": kind, "pin": pin, "rotation": "never updated"} for kind in ("user", "host", "db", "db_client")]
        return {
            "cluster": CLUSTER,
            "version": "0.1.0",
            "proxy_address": self.proxy_address,
            "ca_pins": [pin],
            "cas": cas,
        }

    def _get_databases(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        return {"items": self.databases}

    def _post_certificates(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        key = keys.load_public(body["public_key"])
        if path == ["database-server"]:
            certificate = self.db_ca.issue(
                key, common_name=body["hosts"][0], now=self.now, ttl=body["ttl"], server=True, names=body["hosts"]
            )
            ca = self.db_client_ca.certificate_pem.decode()
            return {
                "certificate": keys.pem(certificate).decode(),
                "ca": ca,
                "expires": _rfc3339(self.now + body["ttl"]),
            }
        if path == ["identity"]:
            identity = self.identity(body["user"], usage="file")
        else:
            service = body["route"]["service"]
            if service not in {database["name"] for database in self.databases}:
                raise NotFound(f"there is no database {service!r}")
            route = DatabaseRoute(CLUSTER, service, body["route"]["user"], body["route"]["database"])
            identity = self.identity(caller.name, usage="database", route=route)
            if self.session_mfa:
                if not body.get("otp"):
                    raise SecondFactorRequired('role "careful" asks for a one-time code at each login to a database')
                self._prove(body, "otp", caller.name)
                identity = attrs.evolve(identity, mfa=True, login_expires=int(self.now) + 3600)
                body = {**body, "ttl": self.session_mfa}
        return {
            "certificate": self.sign(key, identity, body["ttl"]),
            "host_ca": self.host_ca.certificate_pem.decode(),
            "cluster": CLUSTER,
            "expires": _rfc3339(self.now + body["ttl"]),
        }

    def _post_users(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        name = path[0] if path else body["name"]
        if not path:
            if name in self.resources["user"]:
                raise AlreadyExists(f"there is a user {name!r} already")
            self.put({"kind": "user", "metadata": {"name": name}, "spec": {k: body[k] for k in ("roles", "traits")}})
        elif name not in self.resources["user"]:
            raise NotFound(f"there is no user {name!r}")
        elif path[1] == "unlock":
            return {"user": name, "sources": self.failed_sources}
        return {"user": name, "token": "f00d", "expires": _rfc3339(self.now + body["ttl"])}

    def _get_mfa(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        codes = 8 if self.devices else 0
        return {
            "second_factor": self.second_factor,
            "devices": self.devices,
            "recovery_codes": codes,
            "session_mfa": bool(self.session_mfa),
        }

    def _post_mfa(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        if path == ["confirm"]:
            if body["otp"] != "654321":
                raise BadRequest("the one-time code does not fit; scan the picture and type the code it shows now")
            self.devices.append({**DEVICE, "name": self.enrolling})
            return {"name": self.enrolling, "recovery_codes": [] if self.devices[1:] else RECOVERY}
        self._prove(body, "otp" if self.devices else "password", caller.name)
        if path == ["recovery-codes"]:
            return {"recovery_codes": RECOVERY}
        if path == ["remove"]:
            self.devices = [device for device in self.devices if device["name"] != body["name"]]
            return {"name": body["name"]}
        self.enrolling = body["name"] or "otp"
        return {
            "name": self.enrolling,
            "secret": SECRET,
            "uri": f"otpauth://totp/Teleport:alice%40root?secret={SECRET}",
        }

    def _prove(self, body: Any, by: str, name: str) -> None:
        if body.get(by) != {"otp": "123456", "password": self.passwords[name]}[by]:
            raise AuthenticationFailed(f"the {by} is wrong")

    def _post_password(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        if body["old"] != self.passwords[caller.name] or (self.devices and body["otp"] != "123456"):
            raise AuthenticationFailed("the user name, the password or the one-time code is wrong")
        self.passwords[caller.name] = body["password"]
        return {"user": caller.name}

    def _post_tokens(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        token = body["value"] or "cbdeeab96f88436da67344d14bd86bb7"
        expires = _rfc3339(self.now + body["ttl"])
        self.tokens.append(
            {
                "name": "0a1b",
                "prefix": token[:6],
                "roles": body["roles"],
                "labels": {},
                "expires": expires,
                "uses": body["uses"],
                "uses_left": body["uses"],
            }
        )
        return {"token": token, "roles": body["roles"], "expires": expires}

    def _get_tokens(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        return {"items": self.tokens}

    def _delete_tokens(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        found = [token for token in self.tokens if path[0].startswith(token["prefix"]) or path[0] == token["name"]]
        if not found:
            raise NotFound("there is no such token")
        self.tokens.remove(found[0])
        return {}

    def _get_audit(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        if path == ["sinks"]:
            return {"sinks": self.sinks, "last": 0}
        events = [event for event in self.events if query.get("user") in (None, event.get("user"))]
        return {"events": events[: int(query.get("limit", 1000))], "next": None, "more": False, "last": len(events)}

    def _post_audit(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        return {"checkpoint": '{"checkpoint":{"number":1}}'}

    def _get_sessions(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        if not path:
            return {"sessions": self.sessions, "next": 7 if len(self.sessions) == int(query["limit"]) else None}
        events = [event for event in self.events if event.get("sid") == path[0]]
        if not events:
            raise NotFound("there is no such session, or no role of yours lets you see it")
        if query.get("joined"):
            events = [
                {**event, "result": other} if other.get("event") == "db.session.result" else event
                for event, other in zip(events, [*events[1:], {}], strict=True)
                if event.get("event") != "db.session.result"
            ]
        after = int(query.get("after", 0))
        session = {"sid": path[0], "user": "alice", "db_service": "aurora", "db_name": "shop", "db_user": "bob"}
        return {
            "session": session,
            "events": events[after : after + 2],
            "next": after + 2 if events[after + 2 :] else None,
        }

    def put(self, resource: dict[str, Any]) -> dict[str, Any]:
        self.revision += 1
        resource["metadata"]["revision"] = self.revision
        self.resources[resource["kind"]][resource["metadata"]["name"]] = resource
        return resource

    def _kind(self, path: list[str]) -> dict[str, dict[str, Any]]:
        try:
            return self.resources[path[0]]
        except KeyError:
            raise BadRequest(f"there is no kind {path[0]!r}") from None

    def _one(self, path: list[str]) -> dict[str, Any]:
        try:
            return self._kind(path)[path[1]]
        except KeyError:
            raise NotFound(f"there is no {path[0]} {path[1]!r}") from None

    def _get_resources(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        return self._one(path) if len(path) == 2 else {"items": list(self._kind(path).values())}

    def _post_resources(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        if body["metadata"]["name"] in self._kind(path) and query.get("force") != "1":
            raise AlreadyExists(f"there is a {path[0]} {body['metadata']['name']!r} already")
        if "spec" not in body:
            raise BadRequest("spec is missing")
        there, revision = self._kind(path).get(body["metadata"]["name"]), body["metadata"].get("revision")
        if there is not None and revision not in (None, there["metadata"]["revision"]):
            raise RevisionConflict(f"{path[0]} {there['metadata']['name']!r} was changed meanwhile")
        return self.put(body)

    def _put_resources(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        if self._one(path)["metadata"]["revision"] != body["metadata"].get("revision"):
            raise RevisionConflict(f"{path[0]} {path[1]!r} was changed meanwhile")
        return self.put(body)

    def _delete_resources(self, path: list[str], query: Any, body: Any, caller: Identity) -> dict[str, Any]:
        self._one(path)
        del self._kind(path)[path[1]]
        return {}


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def setup(self) -> None:
        cluster = self.server.cluster  # type: ignore[attr-defined]
        self.request.settimeout(10)
        hello = self.request.recv(4096, socket.MSG_PEEK)
        # By the name first: a context that a callback chooses later does not bring its verify_mode along.
        context = cluster.postgres if b"\x0apostgresql" in hello else cluster.web
        context = cluster.api if f"auth.{CLUSTER}".encode() in hello else context
        self.request = context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        try:
            self.request.do_handshake()
        except ssl.SSLError:
            # Closing with the client's request unread would reset the connection, and the alert be lost.
            socket.socket.shutdown(self.request, socket.SHUT_WR)
            while socket.socket.recv(self.request, 4096):
                pass
            raise
        super().setup()

    def handle(self) -> None:
        if self.request.selected_alpn_protocol() != "postgresql":
            super().handle()

    def _answer(self) -> None:
        cluster = self.server.cluster  # type: ignore[attr-defined]
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        certificate = self.request.getpeercert(binary_form=True)
        try:
            caller = from_certificate(x509.load_der_x509_certificate(certificate)) if certificate else None
            status, answer = 200, cluster.answer(self.command, self.path, json.loads(content or "null"), caller)
        except TeleportDBError as error:
            status, answer = error.status, {"error": {"code": error.code, "message": error.public}}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Tests print nothing."""


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

"""A visitor of the web side without a network, and an auth service that is made up."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlencode

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api.client import APIClient, Pieces
from teleport_db.errors import AuthenticationFailed, BadRequest, NotFound
from teleport_db.proxy.pages import Pages
from teleport_db.proxy.web import web_resource, web_site
from teleport_db.proxy.webapi import WebAPI
from tests.memory import pair
from tests.net.material import HalfRecorder

HOST = "proxy.example.com"
TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
CODE = "123456"
OLD = "the old password"
RECOVERY = ["k3vq-8mzt-2abc-def4", "aaaa-bbbb-cccc-dddd"]


class FakeAPI:
    """Auth's side of the calls that the web makes, as the API describes them.

    ``failure`` is what every call fails with; ``waiting`` holds calls back until it is fired.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.failure: Exception | None = None
        self.waiting: Deferred[None] | None = None
        self.second_factor = "otp"
        self.user = "alice"
        self.invites = {TOKEN: "invite", "r" * 32: "reset"}

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | Pieces | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Deferred[dict[str, Any]]:
        assert not isinstance(body, (bytes, Pieces)), "the web sends objects"
        self.calls.append((method, path, body))
        return Deferred.fromCoroutine(self._call(method, path, body))

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        if self.waiting is not None:
            await self.waiting
        if self.failure is not None:
            raise self.failure
        _, version, what, *rest = path.split("/")
        assert version == "v1", path
        if what == "invites":
            return self._invite(method, unquote(rest[0]), body)
        if (method, what) == ("POST", "password"):
            return self._password(body or {})
        if (method, what) == ("GET", "ping"):
            return {"cluster": "example", "version": "0", "second_factor": self.second_factor}
        if (method, what) == ("GET", "cas"):
            return {"cluster": "example", "user": "", "host": "", "db": "", "db_client": ""}
        assert body is not None and method == "POST" and what in ("login", "join"), (method, path)
        return {"said": dict(body)}

    def _invite(self, method: str, token: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        if token not in self.invites:
            raise NotFound("this link was used already")
        if method == "GET":
            otp = {"secret": SECRET, "uri": f"otpauth://totp/Teleport:{self.user}@example?secret={SECRET}&issuer=x"}
            return {
                "user": self.user,
                "purpose": self.invites[token],
                "second_factor": self.second_factor,
                "otp": None if self.second_factor == "off" else otp,
                "expires": "2030-01-02T03:04:05Z",
            }
        assert body is not None and set(body) == {"password", "otp", "client_address"}, body
        if len(body["password"]) < 8:
            raise BadRequest("a password has at least 8 characters and at most 1024")
        if self.second_factor == "otp" and body["otp"] != CODE:
            raise BadRequest("the one-time code does not fit; scan the picture and type the code it shows now")
        del self.invites[token]
        return {"user": self.user, "recovery_codes": RECOVERY if body["otp"] else []}

    def _password(self, body: Mapping[str, Any]) -> dict[str, Any]:
        assert set(body) == {"user", "old", "otp", "password", "client_address"}, body
        if len(body["password"]) < 8:
            raise BadRequest("a password has at least 8 characters and at most 1024")
        needed = self.second_factor == "otp"
        if (body["user"], body["old"]) != ("alice", OLD) or (needed and body["otp"] != CODE):
            raise AuthenticationFailed("the user name, the password or the one-time code is wrong")
        return {"user": body["user"]}


class Page(HTMLParser):
    """What a visitor sees: text, fields by name, links, and every tag with its attributes."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.fields: dict[str, dict[str, str]] = {}
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "input":
            self.fields[attributes["name"]] = attributes

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID, tag
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += " " + data if "title" not in self.open else ""

    def find(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The tags of a name with these attributes."""
        return [has for name, has in self.tags if name == tag and attributes.items() <= has.items()]

    @property
    def secret(self) -> str:
        """The key that somebody types into an app."""
        (found,) = re.findall(r"\b[A-Z2-7]{32}\b", self.text)
        return str(found)

    @property
    def values(self) -> dict[str, str]:
        """What a form sends that nobody filled in."""
        return {name: attributes.get("value", "") for name, attributes in self.fields.items()}


@attrs.frozen
class Answer:
    """An answer of HTTP."""

    status: int
    headers: Mapping[str, list[str]]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        """One whole answer, its length told and true."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        return cls(int(first.split(" ")[1]), headers, body)

    def header(self, name: str) -> str:
        """The one header of a name, or nothing."""
        (value,) = self.headers.get(name, [""])
        return value

    @property
    def page(self) -> Page:
        assert self.header("content-type") == "text/html; charset=utf-8", self
        return Page(self.body.decode())

    @property
    def json(self) -> Any:
        assert self.header("content-type") == "application/json", self
        return json.loads(self.body)


class WebCase(SynchronousTestCase):
    """A proxy's web side; ``self.ask`` is a visitor."""

    def setUp(self) -> None:
        self.assertEqual(
            list(inspect.signature(FakeAPI.call).parameters.items()),
            list(inspect.signature(APIClient.call).parameters.items()),
        )
        self.api = FakeAPI()
        api: Any = self.api
        self.webapi = WebAPI(api, f"{HOST}:3080", "1.2.3")
        pages = Pages(api, "example", f"{HOST}:3080", lambda: frozenset({HOST, "Other.Example.COM", "::1"}))
        self.site = web_site(web_resource(self.webapi, pages), reactor=Clock())
        self.cookies: dict[str, str] = {}

    def raw(self, data: bytes, site: Any = None) -> Answer:
        """The answer to these bytes."""
        self.client = HalfRecorder()
        channel = (site or self.site).buildProtocol(None)
        self.wire = pair(self.client, channel)
        self.client.transport.write(data)
        self.wire.flush()
        answer = Answer.parse(self.client.data)
        if not data.startswith(b"HEAD"):
            self.assertEqual(len(answer.body), int(answer.header("content-length")))
        return answer

    def ask(self, method: str, path: str, body: bytes | None = None, site: Any = None, **headers: str | None) -> Answer:
        """Ask as a browser would, cookies included; a header that is None is left out."""
        given: dict[str, str | None] = {"host": f"{HOST}:3080", "cookie": None}
        if self.cookies:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if body is not None:
            given |= {"origin": f"https://{HOST}:3080", "content_type": "application/x-www-form-urlencoded"}
            given["content_length"] = str(len(body))
        given |= headers
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value is not None]
        answer = self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""), site)
        for cookie in answer.headers.get("set-cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.ask("GET", path, **headers)

    def fill(self, path: str, **typed: str) -> Answer:
        """Open the form, fill it in, send it."""
        values = self.get(path).page.values
        return self.ask("POST", path, urlencode({**values, **typed}).encode())

    def send_json(self, path: str, value: Any, site: Any = None, **headers: str | None) -> Answer:
        """Call the web API as tsh does."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", path, body, site, **{"origin": None, "content_type": "application/json", **headers})

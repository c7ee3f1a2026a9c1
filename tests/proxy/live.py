"""An auth server and a proxy's web side that listen on 127.0.0.1, with TLS between everything."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread

from teleport_db.api.client import APIClient
from teleport_db.auth.http import auth_site
from teleport_db.certs.keys import new_key, private_pem, public_pem
from teleport_db.certs.tls import KeyPair, client_context, server_context
from teleport_db.certs.web import self_signed
from teleport_db.net.tlslayer import TLSClientEndpoint, TLSServerFactory
from teleport_db.proxy.pages import Pages
from teleport_db.proxy.web import web_resource, web_site
from teleport_db.proxy.webapi import WebAPI
from tests.auth.support import CLUSTER, AuthCase

loop: Any = reactor


class LiveCase(AuthCase):
    """``self.url`` is the proxy; the clock of auth is ours, and starts at the real time."""

    second_factor = "otp"

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        # TLS looks at the real time: authorities of now.
        self.clock.rightNow = loop.seconds()
        for kind in ("host", "user"):
            await self.server.backend.delete(f"/authority/{kind}")
        self.server = await self.start()
        self.admin = self.server.local_admin_credentials().certificate_pem
        self.proxy = self.host("proxy")
        self.auth_port = self._listen_auth()
        self.web_port = self._listen_web()
        self.url = f"https://localhost:{self.web_port.getHost().port}"

    def _listen_auth(self) -> Any:
        key = new_key()
        answer = self.server.issue_host(["auth"], ["127.0.0.1"], public_pem(key))
        context = server_context(
            KeyPair(answer["server_certificate"].encode(), private_pem(key)),
            client_cas=[answer["user_ca"].encode(), answer["host_ca"].encode()],
            lenient_clients=True,
        )
        return self._listen(auth_site(self.server, reactor=loop), context)

    def _listen_web(self) -> Any:
        key = new_key()
        answer = self.server.issue_host(["proxy"], [], public_pem(key))
        calling = client_context(
            cas=[answer["host_ca"].encode()], pair=KeyPair(answer["client_certificate"].encode(), private_pem(key))
        )
        endpoint = TLSClientEndpoint(
            TCP4ClientEndpoint(loop, "127.0.0.1", self.auth_port.getHost().port),
            calling,
            name=f"auth.{CLUSTER}",
            clock=loop,
        )
        self.client = api = APIClient(endpoint, f"auth.{CLUSTER}", reactor=loop)
        self.addCleanup(api.close)
        webapi = WebAPI(api, "proxy.example.com:3080", "1.2.3")
        pages = Pages(api, CLUSTER, "proxy.example.com:3080", lambda: frozenset({"localhost"}))
        site = web_site(web_resource(webapi, pages), reactor=loop)
        pair = self_signed(["localhost", "127.0.0.1"], now=loop.seconds())
        self.web_certificate = pair.certificate_pem.decode()
        return self._listen(site, server_context(pair, alpn=["http/1.1"]))

    def _listen(self, site: Any, context: Any) -> Any:
        port = loop.listenTCP(0, TLSServerFactory(site, context, clock=loop), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port

    async def link(self, name: str = "alice") -> str:
        """The link of a new user's invite."""
        made = await self.call("POST", "/v1/users", {"name": name, "roles": ["access"]})
        return f"{self.url}/web/invite/{made['token']}"

    async def auth_away(self) -> None:
        """Nobody listens any more, and the connections that there were are gone."""
        await self.auth_port.stopListening()
        await self.client.close()

    def proved(self, password: str, code: str) -> Deferred[dict[str, Any]]:
        """A login with it."""
        return self.login(password=password, otp=code)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Deferred[tuple[int, Mapping[str, str], bytes]]:
        """Status, headers and body of an answer, as another implementation of HTTP and TLS reads it."""
        return deferToThread(self._ask, method, path, body, headers or {})

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        context = ssl.create_default_context(cadata=self.web_certificate)
        connection = http.client.HTTPSConnection(
            "localhost", self.web_port.getHost().port, timeout=30, context=context, source_address=("127.0.0.1", 0)
        )
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def fill(self, path: str, **typed: str) -> Deferred[tuple[int, Mapping[str, str], bytes]]:
        """Send the form of a link, with a cookie of before."""
        body = urlencode({"csrf": "c" * 43, **typed}).encode()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": "__Host-csrf=" + "c" * 43,
            "Origin": self.url,
        }
        return self.ask("POST", path, body, headers)

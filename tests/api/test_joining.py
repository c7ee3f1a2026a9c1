"""Joining: who is trusted, and that the token goes to nobody else."""

import json
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from teleport_db.alpn import ALPN_JOIN
from teleport_db.api.joining import Cluster as Found
from teleport_db.api.joining import Door as JoinDoor
from teleport_db.api.joining import find_cluster, join
from teleport_db.certs.keys import new_key, pem, public_pem
from teleport_db.certs.tls import KeyPair, server_context
from teleport_db.errors import AccessDenied, AuthenticationFailed, ConnectionTrouble
from teleport_db.proxy.sniffer import Door
from tests.cluster import CLUSTER, Cluster, MemoryEndpoint, authority, certified

HOST_CA = authority("host")
OTHER_CA = authority("host", "other")


class Web(Resource):
    """What a proxy answers, and what it was told."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.cas: Any = {"cluster": CLUSTER, "host": HOST_CA.certificate_pem.decode()}
        self.answer: tuple[int, Any] = (200, {"host_id": "h-1"})
        self.joins: list[Any] = []

    def render_GET(self, request: Request) -> bytes:
        assert request.path == b"/webapi/cas", request.path
        return json.dumps(self.cas).encode()

    def render_POST(self, request: Request) -> bytes:
        assert request.path == b"/webapi/join", request.path
        self.joins.append(json.load(request.content))
        request.setResponseCode(self.answer[0])
        return json.dumps(self.answer[1]).encode()


def proxy_certificate(ca: Any, *names: str) -> KeyPair:
    return certified(ca, "proxy-1", server=True, names=names or (f"proxy.{CLUSTER}",))


class JoinCase(SynchronousTestCase):
    """A proxy with a web door and a join door."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.web = Web()
        self.serve(proxy_certificate(HOST_CA))
        self.endpoint = MemoryEndpoint(self.cluster, lambda: self.cluster.front.buildProtocol(self.address))
        self.door = JoinDoor(self.endpoint, "proxy.example:3080", "proxy.example")

    @property
    def address(self) -> Any:
        from twisted.internet.address import IPv4Address

        return IPv4Address("TCP", "127.0.0.1", 1)

    def serve(self, joining: KeyPair, web: KeyPair | None = None) -> None:
        site = Site(self.web, reactor=self.cluster.clock)

        def build(address: Any, settled: Any) -> Any:
            settled()
            return site.buildProtocol(address)

        join_context = server_context(joining, alpn=[ALPN_JOIN])
        self.cluster.front.doors[ALPN_JOIN] = Door(build, lambda: join_context)
        web_context = server_context(web or joining, alpn=["http/1.1"])
        self.cluster.front.web = Door(build, lambda: web_context)

    def run_it(self, work: Coroutine[Any, Any, Any]) -> Any:
        running = Deferred.fromCoroutine(work)
        self.cluster.settle()
        return running

    def find(self, *pins: str, insecure: bool = False) -> Deferred[Found]:
        found: Deferred[Found] = self.run_it(
            find_cluster(self.door, pins=pins, insecure=insecure, reactor=self.cluster.clock)
        )
        return found

    def join(self, found: Found) -> Any:
        return self.run_it(
            join(
                self.door,
                found,
                token="t-1",
                roles=["db"],
                public_key=public_pem(new_key()),
                name="node",
                names=[],
                reactor=self.cluster.clock,
            )
        )


class FindTests(JoinCase):
    """Which authority is trusted."""

    def test_pin(self) -> None:
        found = self.successResultOf(self.find("sha256:" + "0" * 64, HOST_CA.pin))
        self.assertEqual(found, Found(CLUSTER, HOST_CA.certificate_pem))

    def test_wrong_pin(self) -> None:
        failure = self.failureResultOf(self.find(OTHER_CA.pin), AuthenticationFailed)
        self.assertIn(HOST_CA.pin, str(failure.value))

    def test_pin_despite_insecure(self) -> None:
        """A pin that was given holds, whatever else was."""
        self.failureResultOf(self.find(OTHER_CA.pin, insecure=True), AuthenticationFailed)

    def test_insecure(self) -> None:
        self.assertEqual(self.successResultOf(self.find(insecure=True)).host_ca, HOST_CA.certificate_pem)

    def test_neither(self) -> None:
        """Without a pin the web certificate must verify; on first use nobody is trusted."""
        failure = self.failureResultOf(self.find(), AuthenticationFailed)
        self.assertIn("--ca-pin", str(failure.value))
        self.assertIn("--insecure", str(failure.value))

    def test_verified_web(self) -> None:
        """A web certificate of a trusted authority vouches for the host CA, if it is for this address."""
        roots = self.mktemp()
        with open(roots, "wb") as file:
            file.write(OTHER_CA.certificate_pem)
        self.patch_environment("SSL_CERT_FILE", roots)
        self.serve(proxy_certificate(HOST_CA), proxy_certificate(OTHER_CA, "proxy.example"))
        self.assertEqual(self.successResultOf(self.find()).host_ca, HOST_CA.certificate_pem)
        self.serve(proxy_certificate(HOST_CA), proxy_certificate(OTHER_CA, "other.example"))
        self.failureResultOf(self.find(), AuthenticationFailed)

    def patch_environment(self, name: str, value: str) -> None:
        import os

        before = os.environ.get(name)
        os.environ[name] = value

        def restore() -> None:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before

        self.addCleanup(restore)

    def test_smuggled(self) -> None:
        """Beside the pinned authority nobody gets another one trusted, wherever it stands."""
        both = [HOST_CA.certificate_pem.decode(), OTHER_CA.certificate_pem.decode()]
        for order in (both, both[::-1]):
            self.web.cas = {"cluster": CLUSTER, "host": "".join(order)}
            found = self.successResultOf(self.find(HOST_CA.pin))
            self.assertEqual(found.host_ca, pem(HOST_CA.certificate))
            self.serve(proxy_certificate(OTHER_CA))
            self.failureResultOf(self.join(found), AuthenticationFailed)
            self.assertEqual(self.web.joins, [])

    def test_nonsense(self) -> None:
        for answer in (
            {},
            {"cluster": CLUSTER},
            {"cluster": CLUSTER, "host": ""},
            {"cluster": CLUSTER, "host": "no PEM"},
            {"cluster": CLUSTER, "host": 1},
            {"cluster": ["x"], "host": HOST_CA.certificate_pem.decode()},
        ):
            self.web.cas = answer
            self.failureResultOf(self.find(insecure=True), ConnectionTrouble)

    def test_away(self) -> None:
        self.endpoint.refusing = True
        self.failureResultOf(self.find(HOST_CA.pin), ConnectionTrouble)


class JoinTests(JoinCase):
    """Trading the token."""

    def test_join(self) -> None:
        found = self.successResultOf(self.find(HOST_CA.pin))
        self.assertEqual(self.successResultOf(self.join(found)), {"host_id": "h-1"})
        (asked,) = self.web.joins
        self.assertEqual((asked["token"], asked["roles"], asked["name"]), ("t-1", ["db"], "node"))
        self.assertIn("PUBLIC KEY", asked["public_key"])

    def test_impostor(self) -> None:
        """The token goes only to a proxy of the verified authority and of this cluster's name."""
        found = self.successResultOf(self.find(HOST_CA.pin))
        for pair in (proxy_certificate(OTHER_CA), proxy_certificate(HOST_CA, "proxy.leaf", "proxy.example")):
            self.serve(pair)
            self.failureResultOf(self.join(found), AuthenticationFailed)
        self.assertEqual(self.web.joins, [])

    def test_refused(self) -> None:
        """A refusal says where, and keeps its class."""
        found = self.successResultOf(self.find(HOST_CA.pin))
        self.web.answer = (403, {"error": {"code": "forbidden", "message": "the token is spent"}})
        failure = self.failureResultOf(self.join(found), AccessDenied)
        self.assertIn("proxy.example:3080", str(failure.value))
        self.assertIn("the token is spent", str(failure.value))

    def test_nothing_left(self) -> None:
        """Each call's connection is closed again."""
        found = self.successResultOf(self.find(HOST_CA.pin))
        self.join(found)
        self.cluster.settle()
        self.assertEqual((self.cluster.wires, self.cluster.front.unsettled.counts), ([], {}))

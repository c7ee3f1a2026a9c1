"""Discovery: what becomes of AWS's answers, how often it is asked, and what is said when it does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.amazon import parse_endpoint
from teleport_db.config.model import Amazon, AmazonDiscovery, Database
from teleport_db.config.values import parse_service_name
from teleport_db.db.aws import Sessions
from teleport_db.db.awsdatabases import clusters, instances, matches, named, service_name
from teleport_db.db.awsdiscovery import RETRY_SECONDS, Discovery
from tests import aws
from tests.aws import ACCOUNT, REGION
from tests.cluster import NOW

MATCHER = AmazonDiscovery(("rds",), (REGION,), {"env": ("dev", "stage")})
PERIOD = MATCHER.period


def instance(name: str = "one", **more: Any) -> dict[str, Any]:
    """An item of DescribeDBInstances."""
    return {
        "DBInstanceIdentifier": name,
        "DBInstanceArn": f"arn:aws:rds:{REGION}:{ACCOUNT}:db:{name}",
        "DBInstanceStatus": "available",
        "DbiResourceId": "db-ABC",
        "Engine": "postgres",
        "EngineVersion": "16.3",
        "IAMDatabaseAuthenticationEnabled": True,
        "Endpoint": {"Address": f"{name}.abc.{REGION}.rds.amazonaws.com", "Port": 5432},
        "TagList": [{"Key": "env", "Value": "dev"}],
    } | more


def cluster(name: str = "main", **more: Any) -> dict[str, Any]:
    """An item of DescribeDBClusters."""
    domain = f"abc.{REGION}.rds.amazonaws.com"
    return {
        "DBClusterIdentifier": name,
        "DBClusterArn": f"arn:aws:rds:{REGION}:{ACCOUNT}:cluster:{name}",
        "Status": "available",
        "DbClusterResourceId": "cluster-ABC",
        "Engine": "aurora-postgresql",
        "EngineVersion": "16.3",
        "IAMDatabaseAuthenticationEnabled": True,
        "Endpoint": f"{name}.cluster-{domain}",
        "ReaderEndpoint": f"{name}.cluster-ro-{domain}",
        "CustomEndpoints": [f"reports.cluster-custom-{domain}"],
        "Port": 5433,
        "DBClusterMembers": [{"IsClusterWriter": True}, {"IsClusterWriter": False}],
        "TagList": [{"Key": "env", "Value": "dev"}],
    } | more


def names(databases: Sequence[Database]) -> list[str]:
    return sorted(database.name for database in databases)


class AnswerTests(SynchronousTestCase):
    """From items to databases."""

    def test_instance(self) -> None:
        """Its address, its labels, and what its policy is about."""
        [found] = named(instances([instance()], MATCHER, REGION))
        self.assertEqual(found.name, f"one-{REGION}-{ACCOUNT}")
        self.assertEqual(str(found.uri), f"one.abc.{REGION}.rds.amazonaws.com:5432")
        self.assertEqual(found.amazon, Amazon(REGION, instance_id="one", resource_id="db-ABC"))
        self.assertEqual(found.description, f"postgres 16.3 in {REGION}")
        self.assertEqual(
            dict(found.static_labels),
            {
                "env": "dev",
                "region": REGION,
                "account-id": ACCOUNT,
                "engine": "postgres",
                "engine-version": "16.3",
                "endpoint-type": "instance",
            },
        )

    def test_cluster(self) -> None:
        """A cluster's writer, its readers, and its custom endpoints."""
        found = named(clusters([cluster()], MATCHER, REGION))
        self.assertEqual(
            {database.name: (database.static_labels["endpoint-type"], database.uri.port) for database in found},
            {
                f"main-{REGION}-{ACCOUNT}": ("primary", 5433),
                f"main-reader-{REGION}-{ACCOUNT}": ("reader", 5433),
                f"main-custom-reports-{REGION}-{ACCOUNT}": ("custom", 5433),
            },
        )
        for database in found:
            self.assertEqual(database.amazon, Amazon(REGION, cluster_id="main", resource_id="cluster-ABC"))
            self.assertIsNotNone(parse_endpoint(database.uri.host))

    def test_no_readers(self) -> None:
        """A cluster of one instance has a reader endpoint that leads to its writer: it is left out."""
        alone = cluster(DBClusterMembers=[{"IsClusterWriter": True}], CustomEndpoints=None)
        self.assertEqual(names(named(clusters([alone], MATCHER, REGION))), [f"main-{REGION}-{ACCOUNT}"])

    def test_left_out(self) -> None:
        """Other engines, no IAM authentication, other tags, members of clusters, what is not there yet or any more."""
        for more in (
            {"Engine": "mysql"},
            {"IAMDatabaseAuthenticationEnabled": False},
            {"TagList": [{"Key": "env", "Value": "prod"}]},
            {"TagList": None},
            {"DBClusterIdentifier": "main"},
            {"DBInstanceStatus": "deleting"},
            {"Endpoint": None},
            {"Endpoint": {"Address": "x"}},
        ):
            self.assertEqual(instances([instance(**more)], MATCHER, REGION), [], more)
        for more in ({"Engine": "aurora-mysql"}, {"Status": "creating"}, {"IAMDatabaseAuthenticationEnabled": None}):
            self.assertEqual(clusters([cluster(**more)], MATCHER, REGION), [], more)

    def test_tags(self) -> None:
        """Which tags are wanted, and what of them becomes labels: no lie about what is known."""
        for tags, wanted, expected in (
            ({}, {}, True),
            ({}, {"*": ("*",)}, True),
            ({"a": "1"}, {"a": ("1", "2")}, True),
            ({"a": "3"}, {"a": ("1", "2")}, False),
            ({"a": "3"}, {"a": ("*",)}, True),
            ({}, {"a": ("*",)}, False),
            ({"a": "1"}, {"a": ("1",), "b": ("1",)}, False),
        ):
            self.assertEqual(matches(tags, wanted), expected, (tags, wanted))
        tags = [{"Key": key, "Value": value} for key, value in (("env", "dev"), ("region", "moon"), ("a b", "c"))]
        tags += [{"Key": "aws:cloudformation:stack", "Value": "s"}, {"Key": "x", "Value": "a\nb"}]
        [found] = named(instances([instance(TagList=tags)], MATCHER, REGION))
        self.assertEqual(found.static_labels["region"], REGION)
        self.assertEqual(found.static_labels["aws:cloudformation:stack"], "s")
        self.assertNotIn("a b", found.static_labels)
        self.assertNotIn("x", found.static_labels)

    def test_named_by_tag(self) -> None:
        """A tag chooses the name; what two want, only one gets."""
        tag = [{"Key": "env", "Value": "dev"}, {"Key": "teleport.dev/database_name", "Value": "Main DB"}]
        found = named(clusters([cluster(TagList=tag)], MATCHER, REGION))
        self.assertEqual(names(found), ["main-db", "main-db-custom-reports", "main-db-reader"])
        both = named(instances([instance("one", TagList=tag), instance("two", TagList=tag)], MATCHER, REGION))
        self.assertEqual(len(set(names(both))), 2)
        again = named(instances([instance("two", TagList=tag), instance("one", TagList=tag)], MATCHER, REGION))
        self.assertEqual({(one.name, one.uri) for one in both}, {(one.name, one.uri) for one in again})

    def test_names(self) -> None:
        """Every name is a DNS-1035 label, and two long ones are two."""
        for text in ("One", "1st", "-a-", "a" * 80, "ä", "", "a.b/c", "a--b", "x" * 62 + "-y"):
            parse_service_name(service_name(text))
        self.assertNotEqual(service_name("a" * 80), service_name("a" * 81))
        self.assertNotEqual(service_name("a"), service_name("a", also="b"))
        same = named([*instances([instance("x")], MATCHER, REGION), *clusters([cluster("x")], MATCHER, REGION)])
        self.assertEqual(len(set(names(same))), 4)


class DiscoveryTests(SynchronousTestCase):
    """Against moto."""

    def setUp(self) -> None:
        self.aws = aws.moto(self)
        self.rds = self.aws.client("rds")
        self.clock = Clock()
        self.clock.rightNow = NOW
        self.served: list[list[str]] = []
        self.in_thread: Any = maybeDeferred
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.discovery = self.make()

    def make(self, allowed: Any = lambda name: True) -> Discovery:
        discovery = Discovery(
            [MATCHER],
            serve=lambda source, databases: self.served.append(names(databases)),
            allowed=allowed,
            in_thread=self.call_in_thread,
            clock=self.clock,
            sessions=Sessions(now=self.clock.seconds),
            uniform=lambda low, high: high,
        )
        self.addCleanup(discovery.stopService)
        return discovery

    def call_in_thread(self, *call: Any) -> Any:
        return self.in_thread(*call)

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "teleport_db.db.awsdiscovery":
            self.said.append(event["log_format"].format(**event))

    def create(self, name: str, **more: Any) -> None:
        self.rds.create_db_instance(
            **{
                "DBInstanceIdentifier": name,
                "DBInstanceClass": "db.t3.micro",
                "Engine": "postgres",
                "MasterUsername": "master",
                "MasterUserPassword": "not-a-secret",
                "AllocatedStorage": 20,
                "EnableIAMDatabaseAuthentication": True,
                "Tags": [{"Key": "env", "Value": "dev"}],
            }
            | more
        )

    def start(self) -> None:
        self.discovery.startService()
        self.clock.advance(0)

    def test_comes_and_goes(self) -> None:
        """What AWS has is served, with the next look what is new, and no longer what is gone."""
        self.create("one")
        self.create("plain", EnableIAMDatabaseAuthentication=False)
        self.create("mysql", Engine="mysql")
        self.rds.create_db_cluster(
            DBClusterIdentifier="main",
            Engine="aurora-postgresql",
            MasterUsername="master",
            MasterUserPassword="not-a-secret",
            EnableIAMDatabaseAuthentication=True,
            Tags=[{"Key": "env", "Value": "stage"}],
        )
        for member in ("main-1", "main-2"):
            self.rds.create_db_instance(
                DBInstanceIdentifier=member,
                DBInstanceClass="db.t3.medium",
                Engine="aurora-postgresql",
                DBClusterIdentifier="main",
            )
        self.start()
        one, main, reader = (f"{name}-{REGION}-{ACCOUNT}" for name in ("one", "main", "main-reader"))
        self.assertEqual(self.served[-1], sorted([one, main, reader]))
        looks = len(self.served)
        self.clock.advance(PERIOD)
        self.assertEqual(len(self.served), looks)
        self.create("two")
        self.rds.delete_db_instance(DBInstanceIdentifier="one", SkipFinalSnapshot=True)
        self.clock.advance(PERIOD)
        self.assertEqual(self.served[-1], sorted([f"two-{REGION}-{ACCOUNT}", main, reader]))
        self.assertIn(f"database service {one} is gone", self.said)

    def test_failing(self) -> None:
        """Said once, what was known stays; asked again later and later, and as before when AWS answers."""
        from botocore.exceptions import ClientError

        self.create("one")
        self.start()

        def throttled(*_: Any) -> Deferred[Any]:
            raise ClientError({"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}, "DescribeDBInstances")

        self.in_thread = lambda *call: maybeDeferred(throttled, *call)
        self.clock.advance(PERIOD)
        for _ in range(12):
            self.clock.advance(RETRY_SECONDS[1])
        self.assertEqual(self.served, [[f"one-{REGION}-{ACCOUNT}"]])
        told = [line for line in self.said if "cannot be discovered" in line]
        self.assertEqual(len(told), 2)  # one for instances, one for clusters
        self.assertIn("takes no more calls", told[0])
        self.in_thread = maybeDeferred
        self.create("two")
        self.clock.advance(RETRY_SECONDS[1])
        self.assertEqual(len(self.served[-1]), 2)
        self.assertEqual(sum("AWS answers" in line for line in self.said), 2)

    def test_backoff(self) -> None:
        """The time between two questions doubles up to a quarter of an hour."""
        asked: list[float] = []

        def fails(*_: Any) -> None:
            asked.append(self.clock.seconds())
            raise RuntimeError

        self.in_thread = lambda *call: maybeDeferred(fails, *call)
        self.discovery._looks = self.discovery._looks[:1]
        self.start()
        for _ in range(400):
            self.clock.advance(10)
        gaps = [round(later - earlier) for earlier, later in pairwise(asked)]
        self.assertEqual(gaps[:5], [30, 60, 120, 240, 480])
        self.assertEqual(set(gaps[6:]), {900})

    def test_permission_missing(self) -> None:
        """One call that is not allowed does not keep the other from being made."""
        from botocore.exceptions import ClientError

        self.create("one")

        def in_thread(function: Any, *words: Any) -> Deferred[Any]:
            if function.__self__.operation == "describe_db_clusters":
                error = {"Error": {"Code": "AccessDenied", "Message": "User: arn is not authorized"}}
                return maybeDeferred(self.fail_with, ClientError(error, "DescribeDBClusters"))
            return maybeDeferred(function, *words)

        self.in_thread = in_thread
        self.start()
        self.assertEqual(self.served, [[f"one-{REGION}-{ACCOUNT}"]])
        [line] = [line for line in self.said if "cannot be" in line]
        self.assertIn("AWS does not allow rds:DescribeDBClusters", line)

    @staticmethod
    def fail_with(error: Exception) -> None:
        raise error

    def test_scope(self) -> None:
        """What the join token does not allow is left out: auth would take none of the others either."""
        self.create("one")
        self.create("two")
        self.discovery = self.make(allowed=lambda name: name.startswith("two"))
        self.start()
        self.assertEqual(self.served[-1], [f"two-{REGION}-{ACCOUNT}"])
        self.assertEqual(sum("join token" in line for line in self.said), 1)

    def test_stopped(self) -> None:
        """An answer that comes after the end changes nothing, and nothing is asked any more."""
        waiting: list[Deferred[Any]] = []

        def in_thread(*_: Any) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1]

        self.in_thread = in_thread
        self.start()
        self.discovery.stopService()
        waiting[0].callback(instances([instance()], MATCHER, REGION))
        self.assertEqual((self.served, self.clock.getDelayedCalls()), ([], []))

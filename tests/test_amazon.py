"""Names of Amazon's taken apart, and ARNs put together."""

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.amazon import (
    Endpoint,
    Kind,
    ca_url,
    connect_arn,
    connect_policy,
    parse_endpoint,
    parse_region,
    parse_role_arn,
    partition,
)

US = "us-west-1.rds.amazonaws.com"
ENDPOINTS = {
    f"postgres-aurora-instance-1.abcdefghijklm.{US}": Endpoint(
        "postgres-aurora-instance-1", Kind.INSTANCE, "us-west-1"
    ),
    f"Main.ABCDEF.{US}.": Endpoint("main", Kind.INSTANCE, "us-west-1"),
    f"main.cluster-abcdefghijkl.{US}": Endpoint("main", Kind.CLUSTER, "us-west-1"),
    f"main.cluster-ro-abcdefghijkl.{US}": Endpoint("main", Kind.READER, "us-west-1"),
    f"reports.cluster-custom-abcdefghijkl.{US}": Endpoint("reports", Kind.CUSTOM, "us-west-1"),
    f"pool.proxy-abcdefghijkl.{US}": Endpoint("pool", Kind.PROXY, "us-west-1"),
    f"readers.endpoint.proxy-abcdefghijkl.{US}": Endpoint("readers", Kind.PROXY, "us-west-1"),
    # A name that looks like another part of a name.
    f"cluster.abcdef.{US}": Endpoint("cluster", Kind.INSTANCE, "us-west-1"),
    "main.cluster-abc.us-gov-east-1.rds.amazonaws.com": Endpoint("main", Kind.CLUSTER, "us-gov-east-1"),
    "main.abc.rds.cn-north-1.amazonaws.com.cn": Endpoint("main", Kind.INSTANCE, "cn-north-1"),
    "main.cluster-ro-abc.rds.cn-northwest-1.amazonaws.com.cn": Endpoint("main", Kind.READER, "cn-northwest-1"),
    "main.abc.cn-north-1.rds.amazonaws.com.cn": Endpoint("main", Kind.INSTANCE, "cn-north-1"),
    "main.abc.us-iso-east-1.rds.c2s.ic.gov": Endpoint("main", Kind.INSTANCE, "us-iso-east-1"),
    # The configuration of the guide.
    "postgres-aurora-instance-1.xxx.us-east-1.rds.amazonaws.com": Endpoint(
        "postgres-aurora-instance-1", Kind.INSTANCE, "us-east-1"
    ),
}
OTHERS = (
    "",
    "db.example.com",
    "rds.amazonaws.com",
    US,
    f"main.{US}",
    f"main.abc.def.{US}",
    f"main.endpoint.abc.{US}",
    f"-main.abc.{US}",
    f"main.abc.{US}.evil.example",
    "main.abc.us-west-1.rds.amazonaws.com.evil",
    "main.abc.us-west-1xrds.amazonaws.com",
    "main.abc.us-west-1.rdsxamazonaws.com",
    "main.abc.us-west-1.redshift.amazonaws.com",
    "main.abc.nowhere.rds.amazonaws.com",
    "127.0.0.1",
    "::1",
)


class EndpointTests(SynchronousTestCase):
    def test_endpoints(self) -> None:
        """Instances, clusters, readers, custom endpoints and proxies, of every partition."""
        for host, expected in ENDPOINTS.items():
            self.assertEqual(parse_endpoint(host), expected, host)

    def test_others(self) -> None:
        """What only looks like one is none."""
        for host in OTHERS:
            self.assertIsNone(parse_endpoint(host), host)

    def test_every_cut(self) -> None:
        """No part of an endpoint's name is one, but for those that begin later in the name."""
        host = f"main.cluster-ro-abcdefghijkl.{US}"
        for cut in range(1, len(host)):
            self.assertIsNone(parse_endpoint(host[:-cut]), host[:-cut])


class NameTests(SynchronousTestCase):
    def test_partitions(self) -> None:
        for region, expected in (
            ("us-east-1", "aws"),
            ("us-gov-west-1", "aws-us-gov"),
            ("cn-north-1", "aws-cn"),
            ("us-isob-east-1", "aws-iso-b"),
            ("us-iso-east-1", "aws-iso"),
            ("eusc-de-east-1", "aws-eusc"),
        ):
            self.assertEqual(partition(region), expected)

    def test_arn(self) -> None:
        """The ARN of the guide, and the policy around it."""
        arn = connect_arn("us-east-2", "1234567890", "cluster-ABCDEFGHIJKL01234")
        self.assertEqual(arn, "arn:aws:rds-db:us-east-2:1234567890:dbuser:cluster-ABCDEFGHIJKL01234/*")
        self.assertEqual(
            connect_arn("cn-north-1", "123456789012", "db-ABC", "alice"),
            "arn:aws-cn:rds-db:cn-north-1:123456789012:dbuser:db-ABC/alice",
        )
        self.assertEqual(
            connect_policy([arn]),
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": ["rds-db:connect"], "Resource": [arn]}],
            },
        )

    def test_bundles(self) -> None:
        """Where the authorities' certificates are, by partition, and at a mirror."""
        for region, expected in (
            ("us-west-1", "https://truststore.pki.rds.amazonaws.com/us-west-1/us-west-1-bundle.pem"),
            (
                "us-gov-east-1",
                "https://truststore.pki.us-gov-west-1.rds.amazonaws.com/us-gov-east-1/us-gov-east-1-bundle.pem",
            ),
            (
                "cn-northwest-1",
                "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn/cn-northwest-1/cn-northwest-1-bundle.pem",
            ),
        ):
            self.assertEqual(ca_url(region), expected)
        self.assertEqual(
            ca_url("us-iso-east-1", "https://m/rds"), "https://m/rds/us-iso-east-1/us-iso-east-1-bundle.pem"
        )
        self.assertIn("rds_ca_url", str(self.assertRaises(ValueError, ca_url, "us-iso-east-1")))

    def test_checked(self) -> None:
        """Regions and roles are checked by their form."""
        self.assertEqual(parse_region("ap-southeast-12"), "ap-southeast-12")
        for text in ("", "x", "us-east", "us-east-1a", "US-EAST-1", "us-east-1/../.."):
            self.assertRaises(ValueError, parse_region, text)
        for text in ("arn:aws:iam::123456789012:role/teleport", "arn:aws-us-gov:iam::123456789012:role/a/b@c"):
            self.assertEqual(parse_role_arn(text), text)
        for text in ("", "teleport", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x"):
            self.assertRaises(ValueError, parse_role_arn, text)

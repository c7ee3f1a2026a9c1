"""What a configuration says of Amazon: ``databases[].aws``, ``db_service.aws``, and what a name alone says."""

from twisted.trial.unittest import SynchronousTestCase

from teleport_db.config import check, parse
from teleport_db.config.flags import Flags, from_flags
from teleport_db.config.model import Address, Amazon, AmazonDiscovery, Config, Database, PasswordLogin, Secret
from teleport_db.errors import ConfigError

CLUSTER = "main.cluster-abc.us-west-1.rds.amazonaws.com"
ROLE = "arn:aws:iam::123456789012:role/teleport"


def file(aws: str = "", *, host: str = CLUSTER) -> str:
    return f"db_service:\n  databases:\n  - name: one\n    protocol: postgres\n    uri: {host}:5432\n    {aws}\n"


def database(aws: str = "", *, host: str = CLUSTER) -> Database:
    (found,) = parse(file(aws, host=host), "").db.databases
    return found


class LoginTests(SynchronousTestCase):
    def test_name_alone(self) -> None:
        """An endpoint's name has the region, the kind, and what it leads to."""
        self.assertEqual(database().amazon, Amazon("us-west-1", cluster_id="main"))
        self.assertEqual(
            database(host="one.abc.us-west-1.rds.amazonaws.com").amazon, Amazon("us-west-1", instance_id="one")
        )
        self.assertEqual(database(host="p.proxy-abc.us-west-1.rds.amazonaws.com").amazon, Amazon("us-west-1"))
        self.assertIsNone(database(host="db.example.com").amazon)

    def test_passwords_win(self) -> None:
        """An instance of RDS whose users have passwords gets no tokens."""
        login = PasswordLogin(Secret("/password"))
        self.assertIsNone(Database("one", Address(CLUSTER, 5432), credentials=login).amazon)
        self.assertIsNone(database("credentials: {password_env: P}").amazon)

    def test_every_key(self) -> None:
        """Each key reaches its field, and wins over the name."""
        aws = (
            f"aws: {{region: us-west-1, assume_role_arn: '{ROLE}', external_id: abc-1,"
            " rds: {instance_id: i, cluster_id: c, resource_id: cluster-ABC}}"
        )
        expected = Amazon("us-west-1", ROLE, "abc-1", "i", "c", "cluster-ABC")
        self.assertEqual(database(aws).amazon, expected)
        self.assertEqual(database(aws, host="db.example.com").amazon, expected)
        self.assertNotIn("abc-1", repr(expected))

    def test_refused(self) -> None:
        """With the key's path."""
        for aws, host, path, said in (
            ("aws: {region: us-east-1}", CLUSTER, "aws", "the endpoint in uri is in us-west-1, not in us-east-1"),
            ("aws: {region: x}", CLUSTER, "aws.region", "not an AWS region"),
            ("aws: {rds: {resource_id: db-A}}", "db.example.com", "aws", "region is missing"),
            ("aws: {rds: {resource_id: A}}", CLUSTER, "aws.rds.resource_id", "db-..., cluster-..."),
            ("aws: {assume_role_arn: teleport}", CLUSTER, "aws.assume_role_arn", "not the ARN of a role"),
            ("aws: {external_id: abc}", CLUSTER, "aws.external_id", "assume_role_arn is missing"),
            ("aws: {external_id: 'a b'}", CLUSTER, "aws.external_id", "not an external id"),
            ("aws: {account_id: 1}", CLUSTER, "aws.account_id", "not supported"),
        ):
            error = self.assertRaises(ConfigError, parse, file(aws, host=host), "")
            self.assertEqual(error.path, f"db_service.databases[0].{path}")
            self.assertIn(said, error.message)

    def test_flags(self) -> None:
        """As the guide has them; a region that is not the endpoint's is refused by the flag's name."""
        flags = Flags(db_name="aurora", db_uri=f"{CLUSTER}:5432", db_aws_region="us-west-1")
        self.assertEqual(from_flags(flags).db.databases[0].amazon, Amazon("us-west-1", cluster_id="main"))
        for region in ("us-east-1", "west"):
            wrong = Flags(db_name="aurora", db_uri=f"{CLUSTER}:5432", db_aws_region=region)
            self.assertEqual(self.assertRaises(ConfigError, from_flags, wrong).source, "--db-aws-region")


class DiscoveryTests(SynchronousTestCase):
    def test_every_key(self) -> None:
        """Each key reaches its field; an agent may have nothing but discovery."""
        config = parse(
            f"""\
teleport: {{auth_servers: "proxy:3080"}}
auth_service: {{enabled: no}}
proxy_service: {{enabled: no}}
db_service:
  enabled: yes
  rds_ca_url: https://mirror.example.com/rds/
  aws:
  - types: [rds]
    regions: [us-west-1, us-east-1]
    tags: {{env: [dev, stage], team: db}}
    assume_role_arn: {ROLE}
    external_id: hush
    period: 1m
  - {{types: rds, regions: eu-west-1}}
""",
            "",
        )
        check(config)
        first, second = config.db.aws
        tags = {"env": ("dev", "stage"), "team": ("db",)}
        self.assertEqual(
            first, AmazonDiscovery(("rds",), ("us-west-1", "us-east-1"), tags, ROLE, external_id="hush", period=60.0)
        )
        self.assertEqual((second.regions, second.period, dict(second.tags)), (("eu-west-1",), 300.0, {}))
        self.assertEqual(config.db.rds_ca_url, "https://mirror.example.com/rds")
        self.assertNotIn("hush", repr(config))
        self.assertEqual(Config().db.aws, ())

    def test_refused(self) -> None:
        """With the key's path."""
        for line, path, said in (
            ("aws: [{types: [rds]}]", "aws[0]", "regions is missing"),
            ("aws: [{types: [redshift], regions: [us-east-1]}]", "aws[0].types[0]", "not supported"),
            ("aws: [{types: [rdss], regions: [us-east-1]}]", "aws[0].types[0]", "did you mean rds"),
            ("aws: [{types: rds, regions: [mars]}]", "aws[0].regions[0]", "not an AWS region"),
            ("aws: [{types: rds, regions: us-east-1, tags: [a]}]", "aws[0].tags", "tags are a mapping"),
            ("aws: [{types: rds, regions: us-east-1, tags: {'*': a}}]", "aws[0].tags.*", "takes the value '*'"),
            ("aws: [{types: rds, regions: us-east-1, period: 1ms}]", "aws[0].period", "too short"),
            ("rds_ca_url: http://mirror", "rds_ca_url", "https://"),
            ("rds_ca_url: https://", "rds_ca_url", "https://"),
        ):
            error = self.assertRaises(ConfigError, parse, f"db_service:\n  {line}\n", "")
            self.assertEqual(error.path, f"db_service.{path}")
            self.assertIn(said, error.message)

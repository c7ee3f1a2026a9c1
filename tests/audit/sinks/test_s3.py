"""A sink in S3, on moto's server: objects that together have each line once, whatever is sent again."""

from __future__ import annotations

import gzip
from typing import Any

from twisted.python.monkey import MonkeyPatcher

from teleport_db.audit.sinks.s3 import S3Target
from teleport_db.config.sinks import S3Sink
from tests import aws
from tests.audit.sinks.support import SinkCase
from tests.audit.test_log import DAY

PREFIX = "teleport/root"


class S3Case(SinkCase):
    settings: dict[str, Any] = {}

    def setUp(self) -> None:
        self.aws = aws.moto(self)
        super().setUp()
        self.s3 = self.aws.client("s3")
        where = {"LocationConstraint": aws.REGION}
        self.s3.create_bucket(Bucket="audit", CreateBucketConfiguration=where)
        self.start()

    def start(self) -> None:
        settings = {
            "bucket": "audit",
            "prefix": "teleport/",
            "region": aws.REGION,
            "object_size": 4000,
            **self.settings,
        }
        sink = S3Sink(name="archive", **settings)
        self.put = S3Target(sink, cluster="root", in_thread=self.in_thread)
        self.begin(sink, self.put)

    def later(self) -> None:
        """The time of an object goes by, and that of a checkpoint within it."""
        self.clock.pump([10] * 31)

    def keys(self) -> list[str]:
        return [found["Key"] for found in self.s3.list_objects_v2(Bucket="audit").get("Contents", [])]

    def content(self) -> bytes:
        """All objects in the order of their names."""
        bodies = (self.s3.get_object(Bucket="audit", Key=key)["Body"].read() for key in sorted(self.keys()))
        return b"".join(gzip.decompress(body) for body in bodies)


class ObjectTests(S3Case):
    def test_objects(self) -> None:
        """One as soon as it is full, or when its time has come; named by day and first line."""
        self.write(3, size=100)
        self.clock.advance(299)
        self.assertEqual(self.keys(), [])
        self.clock.advance(1)
        self.assertEqual(self.keys(), [f"{PREFIX}/2025-11-24/{1:020d}.jsonl.gz"])
        self.write(20, size=1000)
        self.clock.advance(1)
        self.assertGreater(len(self.keys()), 5)
        self.later()
        self.assertEqual(self.content(), self.lines())
        self.clock.advance(DAY)
        self.write(1)
        self.clock.advance(300)
        self.assertIn(f"{PREFIX}/2025-11-25/", self.keys()[-1])
        self.later()
        self.assertEqual(self.content(), self.lines())

    def test_sent_again(self) -> None:
        """An object that was written and not acknowledged is written over, longer; no line is in two."""
        self.write(3)
        put = S3Target._put

        def lost(target: S3Target, batch: Any) -> None:
            put(target, batch)
            raise ConnectionResetError(104, "Connection reset by peer")

        with MonkeyPatcher((S3Target, "_put", lost)):
            self.clock.advance(300)
        first = self.keys()
        self.assertEqual(len(first), 1)
        self.write(4)
        self.start()
        self.later()
        self.assertEqual((self.keys(), self.content()), (first, self.lines()))

    def test_away(self) -> None:
        """A bucket that is not there: said in one line, tried again with new credentials, and nothing is lost."""
        self.s3.delete_bucket(Bucket="audit")
        self.write(2)
        self.clock.advance(300)
        assert self.delivery is not None
        error = self.delivery.status()["error"]
        self.assertRegex(error, r"^s3://audit/teleport/root/2025-11-24/0+1\.jsonl\.gz: .*NoSuchBucket")
        self.assertEqual(len(error.splitlines()), 1)
        self.s3.create_bucket(Bucket="audit", CreateBucketConfiguration={"LocationConstraint": aws.REGION})
        self.later()
        self.later()
        self.assertEqual(self.content(), self.lines())


class EncryptedTests(S3Case):
    settings = {"encryption": "aws:kms", "kms_key_id": "alias/audit"}

    def test_encrypted(self) -> None:
        """With the key that is named."""
        self.write(1)
        self.clock.advance(300)
        (key,) = self.keys()
        found = self.s3.head_object(Bucket="audit", Key=key)
        self.assertEqual((found["ServerSideEncryption"], found["SSEKMSKeyId"]), ("aws:kms", "alias/audit"))
        self.assertEqual(found["Metadata"], {"first-record": "1", "records": "2"})

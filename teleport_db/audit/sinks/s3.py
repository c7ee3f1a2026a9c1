"""A sink in S3: an object for each so many bytes or seconds of the log.

::

    s3://BUCKET/PREFIX CLUSTER/2026-11-22/00000000000000001001.jsonl.gz      from line 1001 of the log on

An object is named after its first line, so one that is sent again, because nobody knows whether it arrived, takes the
place of itself; it may be longer then, and the next begins behind it.  So the objects together have each line once.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from teleport_db.audit.objects import s3_client, s3_errors
from teleport_db.audit.shipping import ThreadHook
from teleport_db.audit.sinks.reading import Batch, Place, State
from teleport_db.audit.sinks.target import go_nowhere
from teleport_db.config.sinks import S3Sink

#: Seconds for a connection, and for an answer.
CONNECT_SECONDS, READ_SECONDS = 5, 30


class S3Target:
    """One bucket and prefix.

    :param in_thread: where boto3 waits.
    """

    def __init__(self, sink: S3Sink, *, cluster: str, in_thread: ThreadHook) -> None:
        self.max_bytes, self.max_records, self.gather = sink.object_size, sink.object_size, sink.object_interval
        self.state: State = {}
        self.go_back: Callable[[Place], None] = go_nowhere
        self._sink, self._cluster, self._in_thread = sink, cluster, in_thread
        self._client: Any = None

    def send(self, batch: Batch) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        return self._in_thread(lambda: self._put(batch))

    def close(self) -> Deferred[None]:
        """See :class:`~teleport_db.audit.sinks.target.Target`."""
        return self._in_thread(self._forget)

    def key(self, batch: Batch) -> str:
        """The name of a batch's object."""
        place = batch.begin
        return f"{self._sink.prefix}{self._cluster}/{place.file.day}/{place.line + 1:020d}.jsonl.gz"

    # In the thread.

    def _put(self, batch: Batch) -> None:
        sink, key = self._sink, self.key(batch)
        options: dict[str, Any] = {}
        if sink.encryption:
            options["ServerSideEncryption"] = sink.encryption
        if sink.kms_key_id:
            options["SSEKMSKeyId"] = sink.kms_key_id
        if self._client is None:
            self._client = s3_client(
                sink.target,
                region=sink.region,
                endpoint_url=sink.endpoint_url,
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": 2, "mode": "standard"},
            )
        try:
            with s3_errors(f"s3://{sink.bucket}/{key}"):
                self._client.put_object(
                    Bucket=sink.bucket,
                    Key=key,
                    Body=gzip.compress(batch.data, 6, mtime=0),
                    ContentType="application/gzip",
                    Metadata={"first-record": str(batch.first), "records": str(len(batch.records))},
                    **options,
                )
        except Exception:
            self._forget()  # credentials that somebody has changed meanwhile are found by a new one only
            raise

    def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

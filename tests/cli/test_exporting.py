"""An export that is killed anywhere goes on, and has each event once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import boto3
from moto.server import ThreadedMotoServer
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from teleport_db.api.http import Client
from teleport_db.cli import exporting, tctl_audit_export
from teleport_db.cli.exporting import FileTarget, S3Target, Target
from teleport_db.errors import AlreadyExists, ConnectionTrouble


class Killed(BaseException):
    """Ends a run where it stands."""


class Log:
    """The call that lists events, from a list."""

    def __init__(self, count: int, size: int = 100) -> None:
        self.events = [{"n": number, "pad": "x" * size} for number in range(count)]

    def call(self, method: str, path: str, body: Any = None, query: Any = None) -> dict[str, Any]:
        after, limit = query["after"], query["limit"]
        found = self.events[after : after + limit]
        return {"events": found, "next": after + len(found), "more": len(found) == limit}


class ExportCase(SynchronousTestCase):
    QUERY = {"format": "jsonl", "since": None, "until": None}

    def setUp(self) -> None:
        self.patch(tctl_audit_export, "PAGE", 10)
        self.log = Log(95)

    def run_export(self, target: Target, **more: Any) -> int:
        begun = target.begin({"user": more.pop("user", None)}, overwrite=more.pop("overwrite", False))
        return tctl_audit_export._copy(cast(Client, self.log), target, self.QUERY, begun)

    def exact(self, data: bytes) -> None:
        self.assertEqual([json.loads(line) for line in data.splitlines()], self.log.events)


def killing(nth: int, function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """``function``, whose nth call is the last thing a run does."""
    left = [nth]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0] and before:
            raise Killed
        answer = function(*args, **kwargs)
        if not left[0]:
            raise Killed
        return answer

    return call


class FileTests(ExportCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def test_killed(self) -> None:
        """At each write and each sync, twice over."""
        for name in ("write", "fsync", "rename"):
            for nth in range(1, 24):
                path = self.directory / f"{name}{nth}"
                for before in (True, False):
                    killer = killing(nth, getattr(os, name), before=before)
                    with contextlib.suppress(Killed), MonkeyPatcher((os, name, killer)):
                        self.run_export(FileTarget(str(path)))
                self.assertEqual(self.run_export(FileTarget(str(path))), 95)
                self.exact(path.read_bytes())
                self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    def test_again(self) -> None:
        """Later it adds what has come since; nobody else's file is touched."""
        path = self.directory / "out"
        self.run_export(FileTarget(str(path)))
        self.log.events += [{"n": 95}, {"n": 96}]
        self.assertEqual(self.run_export(FileTarget(str(path))), 97)
        self.exact(path.read_bytes())
        self.assertRaises(AlreadyExists, self.run_export, FileTarget(str(path)), user="bob")
        path.write_bytes(path.read_bytes()[:-5])
        self.assertRaises(AlreadyExists, self.run_export, FileTarget(str(path)))
        Path(f"{path}.cursor").write_text("{")
        self.assertRaises(AlreadyExists, self.run_export, FileTarget(str(path)))
        Path(f"{path}.cursor").unlink()
        self.assertRaises(AlreadyExists, self.run_export, FileTarget(str(path)))
        self.assertEqual(self.run_export(FileTarget(str(path)), overwrite=True), 97)
        self.exact(path.read_bytes())


class S3Tests(ExportCase):
    """Against moto's server."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(logging.getLogger("werkzeug"), "disabled", True)
        self.server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        self.addCleanup(self.server.stop)
        host, port = self.server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            self.patch(os, "environ", {**os.environ, name: value})
        self.s3 = boto3.client("s3")
        self.s3.create_bucket(Bucket="bucket")
        self.patch(exporting, "PART", 5 << 20)
        self.log = Log(110, 100_000)

    def content(self, key: str) -> bytes:
        return bytes(self.s3.get_object(Bucket="bucket", Key=key)["Body"].read())

    def keys(self) -> list[str]:
        return [found["Key"] for found in self.s3.list_objects_v2(Bucket="bucket").get("Contents", [])]

    def killed(self, key: str, name: str, nth: int, *, before: bool) -> None:
        target = S3Target("bucket", key)
        client = target._client
        with MonkeyPatcher((client, name, killing(nth, getattr(client, name), before=before))):
            self.assertRaises(Killed, self.run_export, target)

    def test_killed(self) -> None:
        """At each call of Amazon's API; what goes on has other processes' memory."""
        for name, nth in (
            ("upload_part", 1),
            ("upload_part", 2),
            ("put_object", 2),
            ("put_object", 3),
            ("complete_multipart_upload", 1),
            ("delete_object", 1),
        ):
            for before in (True, False):
                key = f"{name}{nth}{before}"
                self.killed(key, name, nth, before=before)
                if key != "delete_object1False":
                    self.assertEqual(self.run_export(S3Target("bucket", key)), 110)
                self.exact(self.content(key))
        self.assertEqual([key for key in self.keys() if key.endswith(".cursor")], [])

    def test_there(self) -> None:
        """An object is not replaced unless that is said."""
        self.log = Log(3)
        self.run_export(S3Target("bucket", "a"))
        self.assertRaises(AlreadyExists, self.run_export, S3Target("bucket", "a"))
        self.log = Log(4)
        self.run_export(S3Target("bucket", "a"), overwrite=True)
        self.exact(self.content("a"))
        self.assertRaises(ConnectionTrouble, self.run_export, S3Target("nowhere", "a"))

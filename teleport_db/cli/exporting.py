"""Where an export of the audit log goes, and how it goes on after it was killed."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Protocol

from teleport_db.audit.objects import s3_client, s3_errors
from teleport_db.certs.files import write_secret
from teleport_db.errors import AlreadyExists

Cursor = dict[str, Any]

#: Bytes of a part that is uploaded; 5 MiB is the least that S3 takes.
PART = 8 << 20


class Target(Protocol):
    """Takes the pieces of an export."""

    def begin(self, said: dict[str, Any], *, overwrite: bool) -> Cursor:
        """The cursor of the export to go on with, {} for a new one.

        :param said: what the export is of; AlreadyExists where there is an output of something else.
        """

    def write(self, data: bytes, cursor: Cursor | None) -> None:
        """Add a piece; ``cursor`` says how far everything is with it, None that it goes with the next piece."""

    def finish(self) -> None:
        """There is no more."""


def _check(cursor: Cursor, said: dict[str, Any], where: str) -> Cursor:
    if cursor.get("said") != said:
        raise AlreadyExists(f"{where} is of an export with other flags\n--overwrite begins anew")
    return cursor


class FileTarget:
    """A file, 0600, and ``FILE.cursor`` beside it; calling again later adds what has come since."""

    def __init__(self, path: str) -> None:
        self._path, self._cursor_path = path, f"{path}.cursor"
        self._fd = -1
        self._said: dict[str, Any] = {}
        self._held = b""
        self._size = 0

    def begin(self, said: dict[str, Any], *, overwrite: bool) -> Cursor:
        """See :class:`Target`."""
        self._said = said
        cursor: Cursor = {}
        if not overwrite:
            with contextlib.suppress(FileNotFoundError), open(self._cursor_path, "rb") as file:
                cursor = _check(_read(file.read(), self._cursor_path), said, self._cursor_path)
            if not cursor and os.path.exists(self._path):
                raise AlreadyExists(f"{self._path} is there already\n--overwrite begins anew")
        if not cursor:
            self._keep({})  # before there is a file, which would be taken for another's
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = int(cursor.get("bytes", 0))
        if os.fstat(self._fd).st_size < self._size:
            raise AlreadyExists(f"{self._path} is shorter than {self._cursor_path} says\n--overwrite begins anew")
        os.ftruncate(self._fd, self._size)
        os.lseek(self._fd, self._size, os.SEEK_SET)
        return cursor

    def write(self, data: bytes, cursor: Cursor | None) -> None:
        """See :class:`Target`."""
        self._held += data
        if cursor is None:
            return
        view = memoryview(self._held)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fsync(self._fd)
        self._size += len(self._held)
        self._held = b""
        self._keep(cursor)

    def _keep(self, cursor: Cursor) -> None:
        write_secret(self._cursor_path, json.dumps({**cursor, "bytes": self._size, "said": self._said}).encode())

    def finish(self) -> None:
        """See :class:`Target`."""
        os.close(self._fd)


class S3Target:
    """An object, uploaded in parts, and ``KEY.cursor`` beside it until it is whole."""

    def __init__(self, bucket: str, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._said: dict[str, Any] = {}
        self._held = b""
        self._cursor: Cursor = {}
        self._parts: list[str] = []
        self._upload = ""
        self._client = s3_client("S3")

    @property
    def _where(self) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key}

    @property
    def _beside(self) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._key}.cursor"}

    def begin(self, said: dict[str, Any], *, overwrite: bool) -> Cursor:
        """See :class:`Target`."""
        self._said = said
        with s3_errors(f"s3://{self._bucket}/{self._key}"):
            found = self._object(self._beside)
            cursor = {} if found is None or overwrite else _read(found, f"{self._key}.cursor")
            if found is not None and overwrite:
                self._abort(_read(found, f"{self._key}.cursor"))
            if cursor:
                _check(cursor, said, f"s3://{self._bucket}/{self._key}.cursor")
                self._upload, self._parts, self._cursor = cursor["upload"], list(cursor["parts"]), cursor
                return cursor
            if not overwrite and self._object({**self._where, "Range": "bytes=0-0"}) is not None:
                raise AlreadyExists(f"s3://{self._bucket}/{self._key} is there already\n--overwrite begins anew")
            self._upload = self._client.create_multipart_upload(**self._where)["UploadId"]
            self._keep({})
        return {}

    def _object(self, where: dict[str, str]) -> bytes | None:
        from botocore.exceptions import ClientError

        try:
            return bytes(self._client.get_object(**where)["Body"].read())
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in ("NoSuchKey", "404"):
                return None
            if code == "InvalidRange":  # there, and empty
                return b""
            raise

    def _abort(self, cursor: Cursor) -> None:
        from botocore.exceptions import ClientError

        with contextlib.suppress(ClientError):
            self._client.abort_multipart_upload(**self._where, UploadId=cursor.get("upload", ""))

    def _keep(self, cursor: Cursor) -> None:
        self._cursor = {**cursor, "upload": self._upload, "parts": self._parts, "said": self._said}
        self._client.put_object(**self._beside, Body=json.dumps(self._cursor).encode())

    def write(self, data: bytes, cursor: Cursor | None) -> None:
        """See :class:`Target`; a part is uploaded when it is large enough."""
        self._held += data
        if cursor is not None:
            self._cursor = {**self._cursor, **cursor}
            if len(self._held) >= PART:
                self._part()

    def _part(self) -> None:
        with s3_errors(f"s3://{self._bucket}/{self._key}"):
            number = len(self._parts) + 1
            sent = self._client.upload_part(**self._where, UploadId=self._upload, PartNumber=number, Body=self._held)
            self._parts.append(sent["ETag"])
            self._keep(self._cursor)
            self._held = b""

    def finish(self) -> None:
        """See :class:`Target`."""
        from botocore.exceptions import ClientError

        if self._held or not self._parts:
            self._part()
        with s3_errors(f"s3://{self._bucket}/{self._key}"):
            parts = [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(self._parts, 1)]
            again = bool(self._cursor.get("complete"))
            self._keep({**self._cursor, "complete": True})
            try:
                self._complete(parts)
            except ClientError as error:
                # Killed between the upload's completion and the cursor's end: it was completed.
                if not again or error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                    raise
            self._client.delete_object(**self._beside)

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        self._client.complete_multipart_upload(**self._where, UploadId=self._upload, MultipartUpload={"Parts": parts})


def _read(data: bytes, where: str) -> Cursor:
    try:
        cursor = json.loads(data)
    except ValueError:
        cursor = None
    if not isinstance(cursor, dict):
        raise AlreadyExists(f"{where} cannot be read\n--overwrite begins anew")
    return cursor

"""S3, for what takes the audit log there: boto3, imported when it is needed, and its refusals as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from teleport_db.errors import ConfigError, ConnectionTrouble


def s3_client(where: str, *, region: str = "", endpoint_url: str = "", **patience: Any) -> Any:
    """A client with the credentials of boto3's default chain; it blocks, as all that it does.

    :param where: for errors.
    :param region: "" for that of the environment, as ``endpoint_url``.
    :param patience: of botocore's ``Config``: timeouts, retries.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError("S3 needs the package boto3: pip install boto3", source=where) from None
    with s3_errors(where):
        return boto3.session.Session().client(
            "s3", region_name=region or None, endpoint_url=endpoint_url or None, config=Config(**patience)
        )


@contextlib.contextmanager
def s3_errors(where: str) -> Iterator[None]:
    """What boto3 raises as a ConnectionTrouble of one line."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, ValueError) as error:
        raise ConnectionTrouble(f"{where}: {error}") from error

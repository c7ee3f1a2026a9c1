"""IAM tokens of RDS, checked independently of the library that made them.

Written from AWS's documentation alone ("Create a signed AWS API request", Signature Version 4, with authentication
information in the query string)::

    HOST:PORT/?Action=connect&DBUser=USER&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=KEY/DAY/REGION/rds-db/
    aws4_request&X-Amz-Date=...&X-Amz-Expires=900&X-Amz-SignedHeaders=host[&X-Amz-Security-Token=...]&X-Amz-Signature=...
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

#: Seconds that a token is good for, and that clocks may differ by.
LIFE, SKEW = 900, 300
ALGORITHM = "AWS4-HMAC-SHA256"


class Refused(Exception):
    """The token is not good here; the reason."""


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")


def verify(
    token: str, *, secrets: Mapping[str, str], host: str, port: int, user: str, region: str, now: float
) -> dict[str, str]:
    """The parameters of a token that is good for exactly this; Refused otherwise.

    :param secrets: the secret key by access key.
    """
    address, slash, query = token.partition("/?")
    if not slash or address != f"{host}:{port}":
        raise Refused(f"for {address}, not for {host}:{port}")
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Refused("a parameter is there twice")
    fixed = {"Action": "connect", "DBUser": user, "X-Amz-Algorithm": ALGORITHM, "X-Amz-SignedHeaders": "host"}
    for name, wanted in fixed.items():
        if values.get(name) != wanted:
            raise Refused(f"{name} is {values.get(name)!r}, not {wanted!r}")
    key, day, *scope = values["X-Amz-Credential"].split("/")
    if scope != [region, "rds-db", "aws4_request"]:
        raise Refused(f"signed for {scope}, not for {region}")
    if key not in secrets:
        raise Refused("of an unknown access key")
    made = datetime.strptime(values["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if made.strftime("%Y%m%d") != day:
        raise Refused("signed on another day")
    age = now - made.timestamp()
    if not -SKEW <= age < min(int(values["X-Amz-Expires"]), LIFE):
        raise Refused(f"made {age:.0f} seconds ago")
    signature = values.pop("X-Amz-Signature")
    canonical = "&".join(f"{_escaped(name)}={_escaped(values[name])}" for name in sorted(values))
    request = f"GET\n/\n{canonical}\nhost:{host}:{port}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{values['X-Amz-Date']}\n{day}/{'/'.join(scope)}\n{hashed}"
    signing = f"AWS4{secrets[key]}".encode()
    for part in (day, *scope):
        signing = _hmac(signing, part)
    if not hmac.compare_digest(_hmac(signing, to_sign).hex(), signature):
        raise Refused("the signature is wrong")
    return values

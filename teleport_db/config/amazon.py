"""The sections that speak of Amazon: ``databases[].aws``, and ``db_service.aws`` for what is to be found there.

::

    databases:
    - uri: aurora.cluster-abcdefghijkl.us-west-1.rds.amazonaws.com:5432
      aws:
        region: us-west-1                             # the endpoint's name has it too
        assume_role_arn: arn:aws:iam::123456789012:role/teleport
        external_id: "..."
        rds: {instance_id: ..., cluster_id: ..., resource_id: ...}
    aws:
    - types: [rds]
      regions: [us-west-1]
      tags: {env: [dev, stage]}
      period: 5m
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from teleport_db.amazon import parse_endpoint, parse_region, parse_role_arn
from teleport_db.config import later, values
from teleport_db.config.model import Address, Amazon, AmazonDiscovery
from teleport_db.config.readers import Reader, choice, many, nonempty, same, scalar, section, text_of
from teleport_db.config.yamltext import Node

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}")
_RESOURCE_ID = re.compile(r"(?:db|cluster|prx)-[A-Za-z0-9]{1,60}")
#: What AWS takes; source: the API reference of AssumeRole.
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)

_HTTPS = re.compile(r"https://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/%-]*)?")


def _shaped(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"not {what}: {values.shown(text)}")
        return text

    return parse


def _external_id(text: str) -> str:
    if not _EXTERNAL_ID.fullmatch(text):
        raise ValueError("not an external id (2 to 1224 letters, digits and + = , . @ : / -)")
    return text


_ROLE = {"assume_role_arn": scalar(parse_role_arn), "external_id": scalar(_external_id)}

_rds: Reader[dict[str, Any]] = section(
    dict,
    {
        "instance_id": scalar(_shaped(_IDENTIFIER, "the identifier of an instance")),
        "cluster_id": scalar(_shaped(_IDENTIFIER, "the identifier of a cluster")),
        "resource_id": scalar(_shaped(_RESOURCE_ID, "a resource id (db-..., cluster-... or prx-...)")),
    },
    later=("iam_auth", "subnets", "vpc_id", "security_groups"),
)

_login = section(
    lambda rds=None, **found: Amazon(**found, **(rds or {})),
    {"region": scalar(parse_region), **_ROLE, "rds": _rds},
    later=later.AWS,
)


def amazon_login(node: Node) -> Amazon:
    """The reader of ``databases[].aws``."""
    found = _login(node)
    if found.external_id and not found.assume_role_arn:
        raise node.entries["external_id"][0].error("an external id belongs to a role: assume_role_arn is missing")
    return found


def check_region(aws: Amazon, uri: Address) -> None:
    """Whether a database's region is the one its endpoint is in, and one is known at all.

    :raises ValueError: with a sentence.
    """
    endpoint = parse_endpoint(uri.host)
    if endpoint is None:
        if aws != Amazon() and not aws.region:
            raise ValueError("region is missing: the name in uri is none of Amazon's, so it does not tell")
    elif aws.region and aws.region != endpoint.region:
        raise ValueError(f"the endpoint in uri is in {endpoint.region}, not in {aws.region}")


def parse_ca_url(text: str) -> str:
    """The base of an address over HTTPS, without its last slash."""
    if not _HTTPS.fullmatch(text):
        raise ValueError(f"not an address that begins with https://: {values.shown(text)}")
    return text.rstrip("/")


def _tags(node: Node) -> dict[str, tuple[str, ...]]:
    if node.kind != "mapping":
        raise node.error("tags are a mapping, as in env: [dev, stage]")
    tags = {key: many(text_of)(value) for key, (_, value) in node.entries.items()}
    if tags.get("*", ("*",)) != ("*",):
        raise node.entries["*"][0].error("the tag '*' takes the value '*' only: it stands for all databases")
    return tags


#: The reader of one entry of ``db_service.aws``.
amazon_discovery: Reader[AmazonDiscovery] = section(
    AmazonDiscovery,
    {
        "types": many(scalar(choice(same("rds"), later.AWS_TYPES))),
        "regions": many(scalar(parse_region)),
        "tags": _tags,
        **_ROLE,
        "period": scalar(values.parse_period),
    },
    later=("install", "ssm", "kube_app_discovery", "integration", "setup_access_for_arn"),
    required=("types", "regions"),
)

#: The reader of ``db_service.rds_ca_url``.
ca_url: Reader[str] = scalar(lambda text: parse_ca_url(nonempty(text)))

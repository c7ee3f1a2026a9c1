"""What Amazon's names say: endpoints of RDS and Aurora, regions, partitions, ARNs.

::

    NAME.HASH.REGION.rds.amazonaws.com                   an instance
    NAME.cluster-HASH.REGION.rds.amazonaws.com           a cluster, where it is written
    NAME.cluster-ro-HASH.REGION.rds.amazonaws.com        its readers
    NAME.cluster-custom-HASH.REGION.rds.amazonaws.com    some of its instances, by an endpoint of one's own
    NAME.proxy-HASH.REGION.rds.amazonaws.com             RDS Proxy; NAME.endpoint.proxy-HASH... is another way to one
    ....HASH.rds.REGION.amazonaws.com.cn                 China has region and service the other way round, and both

Source: "Amazon Aurora endpoint connections" and "Connecting to a DB instance" of the RDS user guides; the policy is
that of "Creating and using an IAM policy for IAM database access".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Any

import attrs

#: Beginnings of regions that are not of the partition ``aws``, the longest first.
_PARTITIONS = {
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
    "cn-": "aws-cn",
}
_SUFFIXES = ("amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "c2s.ic.gov", "sc2s.sgov.gov")
_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}"
_ENDPOINT = re.compile(
    r"(?P<name>[a-z][a-z0-9-]{0,62})"
    r"\.(?:(?P<other>endpoint)\.(?=proxy-))?"
    r"(?:(?P<kind>cluster-ro|cluster-custom|cluster|proxy)-)?[a-z0-9]{1,63}"
    rf"\.(?:(?P<region>{_REGION})\.rds|rds\.(?P<region_cn>{_REGION}))"
    rf"\.(?:{'|'.join(map(re.escape, _SUFFIXES))})"
)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,640}", re.ASCII)

#: Where Amazon keeps the bundles of its authorities for databases, by partition.
#: Source: "Certificate bundles by AWS Region" of the RDS user guide, and China's edition of it.
CA_URLS = {
    "aws": "https://truststore.pki.rds.amazonaws.com",
    "aws-us-gov": "https://truststore.pki.us-gov-west-1.rds.amazonaws.com",
    "aws-cn": "https://rds-truststore.s3.cn-north-1.amazonaws.com.cn",
}


class Kind(enum.Enum):
    """What answers at an endpoint."""

    INSTANCE = "instance"
    CLUSTER = "cluster"
    READER = "reader"
    CUSTOM = "custom"
    PROXY = "proxy"


_KINDS = {
    None: Kind.INSTANCE,
    "cluster": Kind.CLUSTER,
    "cluster-ro": Kind.READER,
    "cluster-custom": Kind.CUSTOM,
    "proxy": Kind.PROXY,
}


@attrs.frozen
class Endpoint:
    """An endpoint's name, taken apart.

    :param name: of the instance, of the cluster (its readers' too), of the custom endpoint, of the proxy (or of the
        further endpoint to one).
    """

    name: str
    kind: Kind
    region: str


def parse_endpoint(host: str) -> Endpoint | None:
    """What a host's name says; None when it is no endpoint of RDS."""
    found = _ENDPOINT.fullmatch(host.lower().rstrip("."))
    if found is None:
        return None
    return Endpoint(found["name"], _KINDS[found["kind"]], found["region"] or found["region_cn"])


def parse_region(text: str) -> str:
    """A region's name: its form is checked, there are new ones every year.

    :raises ValueError: with a sentence.
    """
    if not re.fullmatch(_REGION, text):
        raise ValueError(f"not an AWS region: {text[:60]!r} (as in us-east-1)")
    return text


def parse_role_arn(text: str) -> str:
    """The ARN of an IAM role.

    :raises ValueError: with a sentence.
    """
    if not _ROLE.fullmatch(text):
        raise ValueError(f"not the ARN of a role: {text[:100]!r} (as in arn:aws:iam::123456789012:role/NAME)")
    return text


def partition(region: str) -> str:
    """The partition of a region, as it stands in ARNs."""
    return next((found for prefix, found in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def ca_url(region: str, base: str = "") -> str:
    """Where the bundle of a region's authorities is.

    :param base: of a mirror, without the last slash; "" for Amazon's own.
    :raises ValueError: no place is known for the region's partition.
    """
    base = base or CA_URLS.get(partition(region), "")
    if not base:
        raise ValueError(f"it is not known where Amazon keeps the certificates of {region}: set db_service.rds_ca_url")
    return f"{base}/{region}/{region}-bundle.pem"


def connect_arn(region: str, account: str, resource_id: str, user: str = "*") -> str:
    """What ``rds-db:connect`` is allowed on.

    :param resource_id: ``db-...`` of an instance, ``cluster-...`` of Aurora's cluster, ``prx-...`` of a proxy.
    :param user: the database user, ``*`` for all.
    """
    return f"arn:{partition(region)}:rds-db:{region}:{account}:dbuser:{resource_id}/{user}"


def connect_policy(arns: Sequence[str]) -> dict[str, Any]:
    """The IAM policy that allows logins at these."""
    statement = {"Effect": "Allow", "Action": ["rds-db:connect"], "Resource": list(arns)}
    return {"Version": "2012-10-17", "Statement": [statement]}

"""What AWS has told of instances and clusters, as databases of an agent.

::

    an instance         ID-REGION-ACCOUNT
    a cluster           ID-REGION-ACCOUNT, ID-reader-REGION-ACCOUNT, ID-custom-NAME-REGION-ACCOUNT

Region and account belong to the name: two agents that find databases of one name in different places would
otherwise serve them as one.  The tag ``teleport.dev/database_name`` takes the place of all but ``reader`` and
``custom-NAME``.  Instances of a cluster are reached by the cluster's endpoints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from teleport_db.amazon import parse_endpoint
from teleport_db.config.model import Address, Amazon, AmazonDiscovery, Database
from teleport_db.config.values import LABEL_VALUE_LIMIT, parse_label_key, parse_label_value, parse_service_name

ENGINES = ("postgres", "aurora-postgresql")
#: The tags that name a database, the first one above all; the second where a policy of tags forbids the others' signs.
NAME_TAGS = ("teleport.dev/database_name", "TeleportDatabaseName")
#: States in which there is nothing to connect to.
ABSENT = ("creating", "deleting", "failed")
#: The longest name of a database service.
NAME_LIMIT = 63


@attrs.frozen
class Listed:
    """One database that was found, and how it would like to be called."""

    wanted: str
    database: Database


def instances(answer: Iterable[Mapping[str, Any]], matcher: AmazonDiscovery, region: str) -> list[Listed]:
    """The databases in the items of DescribeDBInstances."""
    found = []
    for item in answer:
        endpoint = item.get("Endpoint") or {}
        if item.get("DBClusterIdentifier") or not _usable(item, item.get("DBInstanceStatus"), matcher):
            continue
        address = _address(endpoint.get("Address"), endpoint.get("Port"))
        if address is not None:
            name = str(item["DBInstanceIdentifier"])
            aws = _amazon(matcher, region, instance_id=name, resource_id=str(item.get("DbiResourceId") or ""))
            found.append(_listed(item, address, aws, arn=str(item.get("DBInstanceArn")), suffix="", kind="instance"))
    return found


def clusters(answer: Iterable[Mapping[str, Any]], matcher: AmazonDiscovery, region: str) -> list[Listed]:
    """The databases in the items of DescribeDBClusters: each cluster's endpoints."""
    found = []
    for item in answer:
        if not _usable(item, item.get("Status"), matcher):
            continue
        name = str(item["DBClusterIdentifier"])
        aws = _amazon(matcher, region, cluster_id=name, resource_id=str(item.get("DbClusterResourceId") or ""))
        for host, suffix, kind in _endpoints(item):
            address = _address(host, item.get("Port"))
            if address is not None:
                found.append(_listed(item, address, aws, arn=str(item.get("DBClusterArn")), suffix=suffix, kind=kind))
    return found


def named(listed: Iterable[Listed]) -> list[Database]:
    """The databases by names of their own, whatever the order in which they were found."""
    taken: dict[str, Database] = {}
    for one in sorted(listed, key=lambda one: (one.wanted, str(one.database.uri))):
        name = service_name(one.wanted)
        if name in taken:
            name = service_name(one.wanted, also=str(one.database.uri))
        taken[name] = attrs.evolve(one.database, name=name)
    return list(taken.values())


def service_name(text: str, *, also: str = "") -> str:
    """A DNS-1035 label that is ``text`` as far as it can be.

    :param also: something else that tells it apart.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if re.match(r"[a-z]", name) else f"db-{name}".rstrip("-")
    if len(name) > NAME_LIMIT or also:
        digest = hashlib.sha256(f"{text}\0{also}".encode()).hexdigest()[:8]
        name = f"{name[: NAME_LIMIT - 9].rstrip('-')}-{digest}"
    return parse_service_name(name)


def matches(tags: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether a resource with these tags is meant; nothing wanted means every resource."""
    return all(key == "*" or (key in tags and ("*" in values or tags[key] in values)) for key, values in wanted.items())


def _usable(item: Mapping[str, Any], status: object, matcher: AmazonDiscovery) -> bool:
    return (
        item.get("Engine") in ENGINES
        and bool(item.get("IAMDatabaseAuthenticationEnabled"))
        and status not in ABSENT
        and matches(_tags(item), matcher.tags)
    )


def _tags(item: Mapping[str, Any]) -> dict[str, str]:
    return {str(tag.get("Key", "")): str(tag.get("Value", "")) for tag in item.get("TagList") or ()}


def _endpoints(item: Mapping[str, Any]) -> Iterator[tuple[object, str, str]]:
    yield item.get("Endpoint"), "", "primary"
    if any(not member.get("IsClusterWriter") for member in item.get("DBClusterMembers") or ()):
        yield item.get("ReaderEndpoint"), "-reader", "reader"
    for host in item.get("CustomEndpoints") or ():
        endpoint = parse_endpoint(str(host))
        if endpoint is not None:
            yield host, f"-custom-{endpoint.name}", "custom"


def _address(host: object, port: object) -> Address | None:
    return Address(host, port) if isinstance(host, str) and host and isinstance(port, int) else None


def _amazon(matcher: AmazonDiscovery, region: str, **ids: str) -> Amazon:
    return Amazon(region, matcher.assume_role_arn, matcher.external_id, **ids)


def _listed(item: Mapping[str, Any], address: Address, aws: Amazon, *, arn: str, suffix: str, kind: str) -> Listed:
    tags, name = _tags(item), aws.instance_id or aws.cluster_id
    account = arn.split(":")[4] if arn.count(":") >= 5 else ""
    given = next((tags[tag] for tag in NAME_TAGS if tags.get(tag)), "")
    wanted = f"{given}{suffix}" if given else "-".join(filter(None, (f"{name}{suffix}", aws.region, account)))
    engine, version = str(item.get("Engine")), str(item.get("EngineVersion") or "")
    # What we know ourselves wins over tags of the same key: roles match by it.
    labels = {
        **{key: value for key, value in tags.items() if _is_label(key, value)},
        "region": aws.region,
        "account-id": account,
        "engine": engine,
        "engine-version": version,
        "endpoint-type": kind,
    }
    description = f"{engine} {version} in {aws.region}".replace("  ", " ")
    return Listed(wanted, Database("found", address, description=description, aws=aws, static_labels=labels))


def _is_label(key: str, value: str) -> bool:
    try:
        return bool(parse_label_key(key)) and len(parse_label_value(value)) <= LABEL_VALUE_LIMIT
    except ValueError:
        return False

"""What the commands ask AWS about one database and one identity, and the policy that joins them.

Everything blocks.  What botocore raises passes; :func:`teleport_db.db.aws.explain` has words for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from teleport_db.amazon import Kind, connect_arn, connect_policy, parse_endpoint, partition
from teleport_db.config.model import Amazon, Database
from teleport_db.db.aws import Session, code_of
from teleport_db.errors import NotFound, UsageError

#: The policy that ``bootstrap`` makes.
POLICY_NAME = "teleport-database-access"
#: How many versions of a policy AWS keeps.
MAX_VERSIONS = 5


@attrs.frozen
class Resource:
    """A database as policies know it.

    :param title: what it is, for people: ``cluster main``.
    :param iam: whether it takes IAM tokens; None when that was not asked.
    """

    title: str
    account: str
    resource_id: str
    iam: bool | None = None

    def arn(self, region: str, user: str = "*") -> str:
        """What ``rds-db:connect`` is allowed on."""
        return connect_arn(region, self.account, self.resource_id, user)


@attrs.frozen
class Identity:
    """Who AWS takes us for.

    :param kind: ``user`` or ``role``.
    :param name: without its path.
    """

    arn: str
    account: str
    kind: str
    name: str

    @property
    def policy_source(self) -> str:
        """The ARN whose policies count: a role's, where the identity is a session of it."""
        if ":assumed-role/" not in self.arn:
            return self.arn
        return f"arn:{self.arn.split(':')[1]}:iam::{self.account}:role/{self.name}"


def identity_of(arn: str) -> Identity:
    """An identity by its ARN; UsageError for one that no policy can be attached to."""
    parts = arn.split(":", 5)
    what = parts[5].split("/") if len(parts) == 6 else []
    if len(what) >= 2 and what[0] in ("user", "role"):
        return Identity(arn, parts[4], what[0], what[-1])
    if len(what) >= 2 and what[0] == "assumed-role":
        return Identity(arn, parts[4], "role", what[1])
    raise UsageError(f"no policy can be attached to {arn}: name a user or a role with --attach-to-user or -role")


def present_identity(session: Session) -> Identity:
    """Whose credentials these are."""
    return identity_of(str(session.client("sts").get_caller_identity()["Arn"]))


def clock_ahead(session: Session, now: Callable[[], float]) -> float:
    """Seconds that this machine's clock is ahead of AWS's; negative where it is behind."""
    answer = session.client("sts").get_caller_identity()
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    return now() - parsedate_to_datetime(said).timestamp() if said else 0.0


def find_resource(session: Session, database: Database, amazon: Amazon) -> Resource:
    """The instance, cluster or proxy behind a database; NotFound when AWS has none such here."""
    endpoint = parse_endpoint(database.uri.host)
    rds = session.client("rds")
    if amazon.instance_id:
        return _instance(rds, amazon)
    if amazon.cluster_id:
        return _cluster(rds, amazon.cluster_id, amazon)
    if endpoint is not None and endpoint.kind is Kind.CUSTOM:
        for item in _all(rds, "describe_db_clusters", "DBClusters"):
            if database.uri.host in (item.get("CustomEndpoints") or ()):
                return _cluster_resource(item)
    elif endpoint is not None and endpoint.kind is Kind.PROXY:
        for item in _all(rds, "describe_db_proxies", "DBProxies"):
            if database.uri.host == item.get("Endpoint") or endpoint.name == item.get("DBProxyName"):
                arn = str(item["DBProxyArn"]).split(":")
                iam = any(auth.get("IAMAuth") in ("REQUIRED", "ENABLED") for auth in item.get("Auth") or ())
                return Resource(f"proxy {item['DBProxyName']}", arn[4], arn[-1], iam)
    elif amazon.resource_id:
        account = str(session.client("sts").get_caller_identity()["Account"])
        return Resource(f"resource {amazon.resource_id}", account, amazon.resource_id)
    else:
        raise UsageError(
            f"{database.uri.host} does not tell which instance it is: "
            "set aws.rds.instance_id, cluster_id or resource_id of the database, or give --resource-id"
        )
    raise _missing(f"what is called {database.uri.host}", amazon)


def _all(client: Any, operation: str, items: str) -> Iterable[Mapping[str, Any]]:
    for page in client.get_paginator(operation).paginate():
        yield from page[items]


def _missing(what: str, amazon: Amazon) -> NotFound:
    return NotFound(f"there is no {what} in {amazon.region} of this AWS account: check region and credentials")


def _instance(rds: Any, amazon: Amazon) -> Resource:
    try:
        [item] = rds.describe_db_instances(DBInstanceIdentifier=amazon.instance_id)["DBInstances"]
    except Exception as error:
        if code_of(error) in ("DBInstanceNotFound", "DBInstanceNotFoundFault"):
            raise _missing(f"instance {amazon.instance_id}", amazon) from error
        raise
    if item.get("DBClusterIdentifier"):
        # Aurora: the policy is about the cluster, whichever of its instances is dialled.
        return _cluster(rds, item["DBClusterIdentifier"], amazon)
    return Resource(
        f"instance {amazon.instance_id}",
        str(item["DBInstanceArn"]).split(":")[4],
        str(item["DbiResourceId"]),
        bool(item.get("IAMDatabaseAuthenticationEnabled")),
    )


def _cluster(rds: Any, name: str, amazon: Amazon) -> Resource:
    try:
        [item] = rds.describe_db_clusters(DBClusterIdentifier=name)["DBClusters"]
    except Exception as error:
        if code_of(error) in ("DBClusterNotFoundFault", "DBClusterNotFound"):
            raise _missing(f"cluster {name}", amazon) from error
        raise
    return _cluster_resource(item)


def _cluster_resource(item: Mapping[str, Any]) -> Resource:
    return Resource(
        f"cluster {item['DBClusterIdentifier']}",
        str(item["DBClusterArn"]).split(":")[4],
        str(item["DbClusterResourceId"]),
        bool(item.get("IAMDatabaseAuthenticationEnabled")),
    )


def attach(session: Session, identity: Identity, arns: Sequence[str]) -> str:
    """Make or extend the policy and attach it; its ARN.

    What the policy allows already stays allowed: other agents may rest on it.
    """
    iam = session.client("iam")
    arn = f"arn:{partition(session.region)}:iam::{identity.account}:policy/{POLICY_NAME}"
    try:
        iam.create_policy(
            PolicyName=POLICY_NAME,
            PolicyDocument=json.dumps(connect_policy(arns)),
            Description="Logins of Teleport's database services",
        )
    except Exception as error:
        if code_of(error) != "EntityAlreadyExists":
            raise
        _extend(iam, arn, arns)
    if identity.kind == "user":
        iam.attach_user_policy(UserName=identity.name, PolicyArn=arn)
    else:
        iam.attach_role_policy(RoleName=identity.name, PolicyArn=arn)
    return arn


def _extend(iam: Any, arn: str, arns: Sequence[str]) -> None:
    versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
    [current] = [one["VersionId"] for one in versions if one["IsDefaultVersion"]]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=current)["PolicyVersion"]["Document"]
    allowed = [one for statement in document.get("Statement", ()) for one in statement.get("Resource", ())]
    if set(arns) <= set(allowed):
        return
    if len(versions) >= MAX_VERSIONS:
        oldest = min((one for one in versions if not one["IsDefaultVersion"]), key=lambda one: one["CreateDate"])
        iam.delete_policy_version(PolicyArn=arn, VersionId=oldest["VersionId"])
    wanted = connect_policy(list(dict.fromkeys([*allowed, *arns])))
    iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(wanted), SetAsDefault=True)


def allowed_to_connect(session: Session, identity: Identity, arn: str) -> bool:
    """Whether IAM's own simulation lets the identity connect."""
    answer = session.client("iam").simulate_principal_policy(
        PolicySourceArn=identity.policy_source, ActionNames=["rds-db:connect"], ResourceArns=[arn]
    )
    results = answer["EvaluationResults"]
    return bool(results) and all(result["EvalDecision"] == "allowed" for result in results)


def attached_policies(session: Session, identity: Identity) -> list[Mapping[str, Any]]:
    """The documents of the policies attached to the identity, and of those written into it."""
    iam, who = session.client("iam"), {f"{identity.kind.title()}Name": identity.name}
    found = []
    for listed in _all_of(iam, f"list_attached_{identity.kind}_policies", "AttachedPolicies", who):
        version = iam.get_policy(PolicyArn=listed["PolicyArn"])["Policy"]["DefaultVersionId"]
        answer = iam.get_policy_version(PolicyArn=listed["PolicyArn"], VersionId=version)
        found.append(answer["PolicyVersion"]["Document"])
    for name in _all_of(iam, f"list_{identity.kind}_policies", "PolicyNames", who):
        get = getattr(iam, f"get_{identity.kind}_policy")
        found.append(get(**who, PolicyName=name)["PolicyDocument"])
    return found


def _all_of(iam: Any, operation: str, items: str, who: Mapping[str, str]) -> Iterable[Any]:
    for page in iam.get_paginator(operation).paginate(**who):
        yield from page[items]

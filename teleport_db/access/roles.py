"""Roles, version 3: from a resource and back.

::

    kind: role                      options:        max_session_ttl, client_idle_timeout, ...
    version: v3                     allow | deny:   db_labels   which database services
    metadata: {name: developer}                     db_names    which databases inside them
    spec:                                           db_users    as which database users
      options: / allow: / deny:                     rules       which resources of the cluster

What is not known is refused: a key that was misspelt in a deny block would otherwise allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from teleport_db.access.fields import Field, whole
from teleport_db.config.durations import format_duration
from teleport_db.config.model import frozen_mapping
from teleport_db.config.yamltext import Node

KIND, VERSION = "role", "v3"

#: What a rule may allow to do with a resource.
VERBS = ("*", "list", "create", "read", "readnosecrets", "update", "delete", "rotate", "use")

#: What a rule may speak of.
RESOURCES = tuple(
    sorted(
        {"*", "role", "user", "token", "db", "db_server", "lock", "event", "session", "cert_authority"}
        | {"cluster_auth_preference", "cluster_name", "cluster_config", "trusted_cluster", "remote_cluster"}
        | {"node", "proxy", "auth_server", "host_cert", "access_request", "auth_connector", "github", "saml", "oidc"}
        | {"cluster_networking_config", "session_recording_config"}
    )
)

RECORD_SESSION = ("best_effort", "strict")

#: The options that are lengths of time.
DURATIONS = ("max_session_ttl", "client_idle_timeout")

#: Among ``db_names``, the word that allows replication connections, as in ``pg_hba.conf``.
REPLICATION = "replication"


@attrs.frozen
class Rule:
    """What may be done with resources of the cluster."""

    resources: tuple[str, ...]
    verbs: tuple[str, ...]

    def matches(self, kind: str, verb: str) -> bool:
        """Whether the rule speaks of ``verb`` on ``kind``; who may read may read without secrets."""
        verbs = ("*", verb, "read") if verb == "readnosecrets" else ("*", verb)
        return any(name in self.resources for name in ("*", kind)) and any(name in self.verbs for name in verbs)


@attrs.frozen
class Options:
    """Limits on sessions.  What a role does not say is 0, False or "".

    :param max_session_ttl: seconds a certificate lives at most; 0 leaves it to the default.
    :param client_idle_timeout: seconds without a query until a session is cut; 0 for never.
    :param max_db_connections: sessions of one user at once; 0 for no limit.
    :param record_session: best_effort or strict.
    :param record_parameters: whether the audit log has the values that statements are given.
    :param source_addresses: networks and addresses that clients may come from; empty for any.
    """

    max_session_ttl: float = 0.0
    client_idle_timeout: float = 0.0
    disconnect_expired_cert: bool = False
    require_session_mfa: bool = False
    max_db_connections: int = 0
    record_session: str = ""
    record_parameters: bool = True
    source_addresses: tuple[str, ...] = ()


@attrs.frozen
class Conditions:
    """One block, ``allow`` or ``deny``, as it was written: templates and patterns are text here."""

    db_labels: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=frozen_mapping)
    db_names: tuple[str, ...] = ()
    db_users: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    @property
    def replication(self) -> bool:
        """Whether the block speaks of replication connections: by that very word, never by ``*`` or a trait."""
        return REPLICATION in self.db_names


@attrs.frozen
class Role:
    """One role.  Expiry and revision belong to the store, not to the role."""

    name: str
    allow: Conditions = Conditions()
    deny: Conditions = Conditions()
    options: Options = Options()
    description: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict, converter=frozen_mapping)


def parse_role(resource: Mapping[str, Any] | Node, where: str = "") -> Role:
    """The role that ``resource`` describes: plain values, or a document of a file.

    :param where: the file or the request it came from, for errors; a document knows its own.
    :raises ConfigError: with the path of what cannot be taken, in a document with line and column too.
    """
    top = Field.of(resource, where).keys("kind", "version", "metadata", "spec")
    top.need("kind").word((KIND,))
    top.need("version").word((VERSION,), later=("v1", "v2", "v4", "v5", "v6", "v7", "v8"))
    metadata = top.need("metadata").keys("name", "description", "labels", "expires", "revision", "id", "namespace")
    spec = top.get("spec").keys("options", "allow", "deny")
    labels = metadata.get("labels")
    return Role(
        name=metadata.need("name").role_name(),
        allow=_conditions(spec.get("allow")),
        deny=_conditions(spec.get("deny")),
        options=_options(spec.get("options")),
        description=metadata.get("description").text(default=""),
        labels={key: labels.get(key).text() for key in labels.names()},
    )


def _conditions(block: Field) -> Conditions:
    block.keys(
        "db_labels",
        "db_names",
        "db_users",
        "rules",
        later="logins node_labels app_labels kubernetes_groups kubernetes_users kubernetes_labels request"
        " impersonate cluster_labels aws_role_arns windows_desktop_labels windows_desktop_logins namespaces"
        " review_requests join_sessions db_service_labels db_labels_expression db_roles",
    )
    labels = block.get("db_labels")
    return Conditions(
        db_labels={key: labels.get(key).label_values(key) for key in labels.names()},
        db_names=block.get("db_names").entries(),
        db_users=block.get("db_users").entries(),
        rules=tuple(_rule(rule) for rule in block.get("rules").items()),
    )


def _rule(rule: Field) -> Rule:
    rule.keys("resources", "verbs", later="where actions")
    return Rule(
        resources=whole(item.word(RESOURCES) for item in rule.need("resources").items()),
        verbs=whole(item.word(VERBS) for item in rule.need("verbs").items()),
    )


def _options(block: Field) -> Options:
    block.keys(
        *(field.name for field in attrs.fields(Options) if field.name != "record_parameters"),
        later="forward_agent port_forwarding permit_x11_forwarding cert_format enhanced_recording request_access"
        " request_prompt max_connections max_sessions lock pin_source_ip ssh_file_copy desktop_clipboard"
        " create_db_user create_db_user_mode cert_extensions idp device_trust_mode",
    )
    record = block.get("record_session")
    parameters = True
    if record.is_mapping:
        record.keys("default", "parameters", later="desktop ssh")
        parameters = record.get("parameters").boolean(default=True)
        record = record.get("default")
    return Options(
        max_session_ttl=block.get("max_session_ttl").seconds(shortest=60.0),
        client_idle_timeout=block.get("client_idle_timeout").seconds(never=True),
        disconnect_expired_cert=block.get("disconnect_expired_cert").boolean(),
        require_session_mfa=block.get("require_session_mfa").boolean(),
        max_db_connections=block.get("max_db_connections").count(),
        record_session=record.word(RECORD_SESSION) if record.present else "",
        record_parameters=parameters,
        source_addresses=whole(item.network() for item in block.get("source_addresses").items()),
    )


def role_resource(role: Role) -> dict[str, Any]:
    """The resource of ``role``: what :func:`parse_role` makes the same role of."""
    metadata: dict[str, Any] = {"name": role.name}
    if role.description:
        metadata["description"] = role.description
    if role.labels:
        metadata["labels"] = dict(role.labels)
    spec: dict[str, Any] = {}
    if options := _options_resource(role.options):
        spec["options"] = options
    for key, block in (("allow", role.allow), ("deny", role.deny)):
        if written := _block_resource(block):
            spec[key] = written
    return {"kind": KIND, "version": VERSION, "metadata": metadata, "spec": spec}


def _options_resource(options: Options) -> dict[str, Any]:
    """What an administrator said, and nothing of what is so anyway."""
    found: dict[str, Any] = {}
    for name in DURATIONS:
        if seconds := getattr(options, name):
            found[name] = format_duration(seconds)
    for name in ("disconnect_expired_cert", "require_session_mfa", "max_db_connections"):
        if value := getattr(options, name):
            found[name] = value
    record: dict[str, Any] = {"default": options.record_session} if options.record_session else {}
    if not options.record_parameters:
        record["parameters"] = False
    if record:
        found["record_session"] = record
    if options.source_addresses:
        found["source_addresses"] = list(options.source_addresses)
    return found


def _block_resource(block: Conditions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if block.db_labels:
        found["db_labels"] = {key: list(values) for key, values in block.db_labels.items()}
    if block.db_names:
        found["db_names"] = list(block.db_names)
    if block.db_users:
        found["db_users"] = list(block.db_users)
    if block.rules:
        found["rules"] = [{"resources": list(rule.resources), "verbs": list(rule.verbs)} for rule in block.rules]
    return found


def builtin_roles() -> dict[str, Role]:
    """The roles that every cluster begins with: access, editor, auditor and admin."""
    databases = Conditions(
        db_labels={"*": ("*",)}, db_names=("{{internal.db_names}}",), db_users=("{{internal.db_users}}",)
    )
    everything = (Rule(("*",), ("*",)),)
    reading = (Rule(("event", "session"), ("list", "read")),)
    roles = (
        Role("access", databases, description="Connect to databases as the user's own traits say"),
        Role("editor", Conditions(rules=everything), description="Change everything in the cluster"),
        Role("auditor", Conditions(rules=reading), description="Read the audit log"),
        Role("admin", attrs.evolve(databases, rules=everything), description="Access and editor in one"),
    )
    return {role.name: role for role in roles}

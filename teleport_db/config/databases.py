"""``kind: db``: a database service that is registered while agents run.

::

    kind: db
    version: v3
    metadata: {name: orders, description: Orders, labels: {env: prod}}
    spec:
      protocol: postgres
      uri: orders.internal:5432
      ca_cert: PEM                    or tls: {ca_cert: PEM}
      aws: {region: eu-central-1}
      dynamic_labels: {version: {command: [pg-version], period: 5m}}

It is read as strictly as the configuration's databases.  What names a file or a secret of the agent's machine is
refused: whoever may write resources does not thereby read files of other machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from cryptography import x509

from teleport_db.access.fields import Field
from teleport_db.access.matching import Texts, compile_pattern, is_pattern
from teleport_db.amazon import parse_region
from teleport_db.config import values
from teleport_db.config.durations import format_duration
from teleport_db.config.model import Amazon, Database, DynamicLabel

KIND, VERSION = "db", "v3"

#: Characters of a CA's certificates.
CA_LIMIT = 65536

#: Seconds between two runs of a label's command, unless the resource says.
PERIOD = 60.0


def parse_database(resource: Mapping[str, Any], where: str = "") -> Database:
    """The database of a resource.

    :param where: what it is called in errors.
    :raises ConfigError: with the path of the key that cannot be taken.
    """
    top = Field(resource, where).keys("kind", "version", "metadata", "spec")
    top.need("kind").word((KIND,))
    top.get("version").word((VERSION,), later=("v1", "v2", "v4"))
    metadata = top.need("metadata").keys("name", "description", "labels", "revision", "id", "namespace")
    spec = top.need("spec")
    for key in ("credentials", "ca_cert_file"):
        if spec.is_mapping and spec.get(key).present:
            raise spec.get(key).error("names files of the agent's machine: it belongs into the agent's configuration")
    spec.keys(
        *("protocol", "uri", "ca_cert", "tls", "aws", "dynamic_labels"),
        later="mysql mongodb gcp azure ad oracle admin_user",
    )
    aws = spec.get("aws").keys("region", later="redshift rds elasticache memorydb iam_policy account_id")
    labels = metadata.get("labels")
    static = {
        _label_key(labels.get(key), key): _text(labels.get(key), values.parse_label_value) for key in labels.names()
    }
    dynamic = _dynamic_labels(spec.get("dynamic_labels"))
    for name in dynamic:
        if name in static:
            raise spec.get("dynamic_labels").get(name).error("is one of metadata.labels as well")
    return Database(
        name=_text(metadata.need("name"), values.parse_service_name),
        description=_text(metadata.get("description"), values.parse_label_value, default=""),
        protocol=_text(spec.need("protocol"), values.parse_protocol),
        uri=_text(spec.need("uri"), values.parse_address),
        ca_cert=_ca(spec),
        aws=Amazon(region=_text(aws.get("region"), _region, default="")),
        static_labels=static,
        dynamic_labels=dynamic,
    )


def database_resource(database: Database) -> dict[str, Any]:
    """The resource that :func:`parse_database` makes the same database of."""
    metadata: dict[str, Any] = {"name": database.name}
    if database.description:
        metadata["description"] = database.description
    if database.static_labels:
        metadata["labels"] = dict(database.static_labels)
    spec: dict[str, Any] = {"protocol": database.protocol, "uri": str(database.uri)}
    if database.ca_cert:
        spec["ca_cert"] = database.ca_cert
    if database.aws.region:
        spec["aws"] = {"region": database.aws.region}
    if database.dynamic_labels:
        spec["dynamic_labels"] = {
            name: {"command": list(label.command), "period": format_duration(label.period)}
            for name, label in database.dynamic_labels.items()
        }
    return {"kind": KIND, "version": VERSION, "metadata": metadata, "spec": spec}


def _text(field: Field, reader: Callable[[str], Any], *, default: str | None = None) -> Any:
    text = field.text(default)
    try:
        return reader(text)
    except ValueError as error:
        raise field.error(str(error)) from None


def _region(text: str) -> str:
    return parse_region(text) if text else ""


def _label_key(field: Field, key: str) -> str:
    try:
        return values.parse_label_key(key)
    except ValueError as error:
        raise field.error(str(error)) from None


def _ca(spec: Field) -> str:
    tls = spec.get("tls").keys("mode", "ca_cert", later="server_name trust_system_cert_pool")
    tls.get("mode").text(default="verify-full")
    if tls.get("mode").present:
        tls.get("mode").word(("verify-full",), later=("verify-ca", "insecure"))
    if spec.get("ca_cert").present and tls.get("ca_cert").present:
        raise tls.get("ca_cert").error("ca_cert is given already: one of the two, not both")
    field = tls.get("ca_cert") if tls.get("ca_cert").present else spec.get("ca_cert")
    if not field.present:
        return ""
    if not isinstance(field.value, str) or len(field.value) > CA_LIMIT:
        raise field.error("certificates as PEM belong here")
    try:
        if not x509.load_pem_x509_certificates(field.value.encode()):
            raise ValueError
    except ValueError:
        raise field.error("there is no certificate in it: PEM belongs here, not the name of a file") from None
    return field.value


def _dynamic_labels(field: Field) -> dict[str, DynamicLabel]:
    """By name, as resources have them, or a list as in the configuration."""
    if isinstance(field.value, list | tuple):
        listed = [(item.keys("name", "command", "period").need("name").text(), item) for item in field.items()]
    else:
        listed = [(name, field.get(name).keys("command", "period")) for name in field.names()]
    found: dict[str, DynamicLabel] = {}
    for name, item in listed:
        if _label_key(item, name) in found:
            raise item.error(f"label {name} is given twice")
        command = tuple(part.text() for part in item.need("command").items())
        if not command or not all(command):
            raise item.get("command").error("the command is missing")
        period = item.get("period")
        found[name] = DynamicLabel(command, _text(period, values.parse_period) if period.present else PERIOD)
    return found


@attrs.frozen
class Selector:
    """One entry of ``db_service.resources``: every label of it must match.

    :param labels: the sets of values, by the label's key; ``*`` with any value matches every database.
    """

    labels: Mapping[str, Texts]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a database with these static labels is meant; without any labels nothing is."""
        if not self.labels:
            return False
        return all(key == "*" or (key in labels and labels[key] in texts) for key, texts in self.labels.items())


def selector(labels: Mapping[str, tuple[str, ...]]) -> Selector:
    """A selector of texts: literals, globs, ``^regex$``, ``*``.

    :raises ValueError: with a sentence, for an expression that is none.
    """
    found = {}
    for key, texts in labels.items():
        if key == "*" and texts != ("*",):
            raise ValueError("the label '*' takes the value '*' only")
        patterns = tuple(compile_pattern(text) for text in texts if text != "*" and is_pattern(text))
        literals = frozenset(text for text in texts if text != "*" and not is_pattern(text))
        found[key] = Texts("*" in texts, literals, patterns)
    return Selector(found)

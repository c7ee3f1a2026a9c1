"""Resources as the API and ``tctl get`` spell them, and which names they may have.

::

    {"kind": "role", "version": "v3",
     "metadata": {"name": "dba", "labels": {...}, "expires": "2026-01-31T12:00:00Z", "revision": 7},
     "spec": {...}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from teleport_db.errors import BadRequest

#: Each kind and the version that is written.
VERSIONS = {
    "user": "v2",
    "role": "v3",
    "token": "v2",
    "db": "v3",
    "db_server": "v3",
    "lock": "v2",
    "cluster_auth_preference": "v2",
}
KINDS = tuple(VERSIONS)
#: Teleport's kinds that this version has not.
LATER = {
    "trusted_cluster": "trusted clusters",
    "remote_cluster": "trusted clusters",
    "github": "logins by single sign-on",
    "oidc": "logins by single sign-on",
    "saml": "logins by single sign-on",
    "connector": "logins by single sign-on",
}
#: There is one of it, of this name.
PREFERENCE_NAME = "cluster-auth-preference"

#: A name stands in URLs, certificates (64 characters of a CN), files and terminals: nothing that means
#: something to one of them.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+:-]{0,63}\Z")
_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z")


#: Keys of a resource, and of its metadata; the last two are Teleport's, and without meaning here.
_KEYS = {"kind", "version", "metadata", "spec"}
_METADATA = {"name", "description", "labels", "expires", "revision", "id", "namespace"}


@attrs.frozen
class Resource:
    """One resource.

    :param revision: of the stored state; None for what was never stored.
    :param expires: RFC 3339, "" for never.
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    revision: int | None = None
    expires: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """The shape above."""
        metadata: dict[str, Any] = {"name": self.name}
        if self.description:
            metadata["description"] = self.description
        if self.labels:
            metadata["labels"] = dict(self.labels)
        if self.expires:
            metadata["expires"] = self.expires
        if self.revision is not None:
            metadata["revision"] = self.revision
        return {
            "kind": self.kind,
            "version": VERSIONS[self.kind],
            "metadata": metadata,
            "spec": dict(self.spec),
        }


def check_kind(kind: str) -> str:
    """``kind``, or BadRequest naming those that there are."""
    if kind in LATER:
        raise BadRequest(f"{LATER[kind]} come in a later version")
    if kind not in VERSIONS:
        raise BadRequest(f"there is no kind {kind[:64]!r}; there are {', '.join(KINDS)}")
    return kind


def check_name(kind: str, name: str) -> str:
    """``name``, or BadRequest saying which names a ``kind`` may have."""
    if kind == "db":
        if not _DNS_LABEL.match(name):
            raise BadRequest(
                f"a database service is named by a DNS label (a-z, 0-9 and -, at most 63): not {name[:64]!r}"
            )
    elif not _NAME.match(name):
        raise BadRequest(
            f"the name of a {kind} has 1 to 64 letters, digits or any of @ . _ + : - "
            f"and begins with a letter or digit: not {name[:64]!r}"
        )
    return name


def read(body: Mapping[str, Any], kind: str, name: str | None = None) -> Resource:
    """The resource in a call's body; BadRequest when it is no ``kind``, or not of ``name``."""
    check_kind(kind)
    if body.get("kind", kind) != kind:
        raise BadRequest(f"the body is not of kind {kind}")
    version = body.get("version", VERSIONS[kind])
    # Of a role the version says how it is to be understood; of the rest there was never more than one way.
    if version not in ({VERSIONS[kind]} if kind == "role" else {"v1", "v2", "v3"}):
        raise BadRequest(f"a {kind} is of version {VERSIONS[kind]}")
    metadata, spec = body.get("metadata"), body.get("spec") or {}
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        raise BadRequest("metadata and spec must be objects")
    unknown = sorted([*(set(body) - _KEYS), *(f"metadata.{key}" for key in set(metadata) - _METADATA)])
    if unknown:
        raise BadRequest(f"unknown key {unknown[0][:64]}")
    given = metadata.get("name", PREFERENCE_NAME if kind == "cluster_auth_preference" else name)
    if not isinstance(given, str):
        raise BadRequest("metadata.name must be a text")
    if name is not None and given != name:
        raise BadRequest("metadata.name is not the name in the address")
    revision, expires, labels = metadata.get("revision"), metadata.get("expires") or "", metadata.get("labels") or {}
    if revision is not None and (isinstance(revision, bool) or not isinstance(revision, int)):
        raise BadRequest("metadata.revision must be a whole number")
    if not isinstance(expires, str) or not isinstance(labels, dict):
        raise BadRequest("metadata.expires must be a text, metadata.labels an object")
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in labels.items()):
        raise BadRequest("metadata.labels must be texts")
    description = metadata.get("description") or ""
    if not isinstance(description, str):
        raise BadRequest("metadata.description must be a text")
    return Resource(kind, check_name(kind, given), spec, revision, expires, labels, description)

"""Where the audit log is sent on to, as values: ``auth_service.audit.sinks``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from teleport_db.hostport import host_port

#: What the other side gets: the lines of the log as they are, chain and checkpoints included, or the events alone.
LOG, EVENTS = "log", "events"


def _frozen(values: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(values))


@attrs.frozen(kw_only=True)
class Sink:
    """What all kinds have.

    :param name: it is known by in ``tctl audit sinks``, and its cursor on the disk.
    :param events: globs of event names; empty for all.
    :param begin: ``oldest`` sends what the log has already, ``now`` what comes; for a sink without a cursor.
    :param format: :data:`LOG` or :data:`EVENTS`.
    """

    name: str
    events: tuple[str, ...] = ()
    begin: str = "oldest"
    format: str = LOG

    @property
    def kind(self) -> str:
        """The word for ``type``."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        """Where to, for people; nothing in it is secret."""
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class FileSink(Sink):
    """:param path: absolute."""

    path: str

    @property
    def kind(self) -> str:
        return "file"

    @property
    def target(self) -> str:
        return self.path


@attrs.frozen(kw_only=True)
class TrustedPeer(Sink):
    """What kinds have that speak TLS.

    :param ca_file: PEM; "" for the system's authorities.
    :param cert_file: a client certificate, PEM, with ``key_file``; "" for none.
    :param server_name: whom the other side's certificate must name; "" for the host that is connected to.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""


@attrs.frozen(kw_only=True)
class SyslogSink(TrustedPeer):
    """:param facility: RFC 5424's number.
    :param max_message: bytes of a message; the longest texts of a longer one are cut.
    """

    format: str = EVENTS
    host: str
    port: int
    facility: int = 13
    app_name: str = "teleport"
    max_message: int = 8192

    @property
    def kind(self) -> str:
        return "syslog"

    @property
    def target(self) -> str:
        return host_port(self.host, self.port)


@attrs.frozen(kw_only=True)
class HTTPSSink(TrustedPeer):
    """:param path: of the address, with the query; it may have a token in it.
    :param headers: sent with each request.
    :param header_files: by a header's name, the file with its value.
    :param batch_events: at most in a request, and ``batch_bytes``.
    :param compress: whether bodies are packed with gzip.
    :param timeout: seconds for a request.
    """

    format: str = EVENTS
    host: str
    port: int
    path: str = attrs.field(default="/", repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen, repr=False)
    header_files: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen)
    batch_events: int = 1000
    batch_bytes: int = 1 << 20
    compress: bool = False
    timeout: float = 30.0

    @property
    def kind(self) -> str:
        return "https"

    @property
    def target(self) -> str:
        return f"https://{host_port(self.host, self.port)}"


@attrs.frozen(kw_only=True)
class S3Sink(Sink):
    """:param prefix: what all keys begin with; "" or it ends with a slash.
    :param region: "" for that of the environment.
    :param endpoint_url: "" for Amazon's.
    :param encryption: ``AES256``, ``aws:kms`` or "" for the bucket's own; ``kms_key_id`` for the second.
    :param object_size: bytes of the log in an object, about.
    :param object_interval: seconds after which a smaller one is written.
    """

    bucket: str
    prefix: str = ""
    region: str = ""
    endpoint_url: str = ""
    encryption: str = ""
    kms_key_id: str = ""
    object_size: int = 16 << 20
    object_interval: float = 300.0

    @property
    def kind(self) -> str:
        return "s3"

    @property
    def target(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

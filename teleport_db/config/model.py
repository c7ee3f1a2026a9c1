"""What a process is to do, as values: one class a section of the file.

Paths are kept as they were written; whoever uses one reads it.  Two facts only the host knows, its
name and through it the cluster's, are filled in by :meth:`Config.on_host`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from teleport_db.amazon import Kind, parse_endpoint
from teleport_db.config.sinks import FileSink, Sink
from teleport_db.errors import ConfigError
from teleport_db.hostport import host_port

#: The ports of Teleport.
SSH_PROXY_PORT, TUNNEL_PORT, AUTH_PORT, WEB_PORT = 3023, 3024, 3025, 3080


def frozen_mapping(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy that nobody can write to."""
    return MappingProxyType(dict(values))


@attrs.frozen
class Address:
    """A host, by name or as an IP literal without brackets, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return host_port(self.host, self.port)


@attrs.frozen
class DynamicLabel:
    """A label whose value is what a command prints.

    :param command: the program and its arguments; no shell.
    :param period: seconds from one run to the next.
    """

    command: tuple[str, ...]
    period: float


@attrs.frozen
class Secret:
    """Where a secret is kept; it is never in the configuration itself.

    :param file: the absolute path of a file, or "".
    :param env: the name of an environment variable of the agent's process, or "".
    """

    file: str = ""
    env: str = ""

    def __str__(self) -> str:
        return self.file or f"environment variable {self.env}"


@attrs.frozen
class PasswordLogin:
    """How to log in to a database by passwords: ``databases[].credentials``.

    :param default: for every database user that has none of its own; None for nobody else.
    :param users: by database user.
    :param require_auth: what a server may ask for, in libpq's words; empty for anything that is known.
    """

    default: Secret | None = None
    users: Mapping[str, Secret] = attrs.field(factory=dict, converter=frozen_mapping)
    require_auth: tuple[str, ...] = ()

    def secret_for(self, user: str) -> Secret | None:
        """The secret of a database user, None when there is none."""
        return self.users.get(user, self.default)


@attrs.frozen
class Amazon:
    """A database of Amazon's, and the AWS identity to log in to it with: ``databases[].aws``.

    :param region: "" where the endpoint's name has it.
    :param assume_role_arn: a role to take before anything is asked of AWS.
    :param external_id: what that role's trust policy wants to hear.
    :param resource_id: ``db-...``, ``cluster-...`` or ``prx-...``, where it cannot be looked up.
    """

    region: str = ""
    assume_role_arn: str = ""
    external_id: str = attrs.field(default="", repr=False)
    instance_id: str = ""
    cluster_id: str = ""
    resource_id: str = ""


@attrs.frozen
class Database:
    """One database service.

    :param name: a DNS-1035 label.
    :param ca_cert_file: a PEM file that the server's certificate is verified with; "" for
        the cluster's own authority, or Amazon's for :attr:`amazon`.
    :param aws: what the configuration says of RDS and Aurora; :attr:`amazon` is what follows from it.
    :param credentials: set where database users have passwords; no certificate is shown then.
    :param ca_cert: the same as ``ca_cert_file`` as PEM itself, for what did not come out of a file.
    """

    name: str
    uri: Address
    description: str = ""
    protocol: str = "postgres"
    ca_cert_file: str = ""
    ca_cert: str = ""
    aws: Amazon = Amazon()
    credentials: PasswordLogin | None = None
    static_labels: Mapping[str, str] = attrs.field(factory=dict, converter=frozen_mapping)
    dynamic_labels: Mapping[str, DynamicLabel] = attrs.field(factory=dict, converter=frozen_mapping)

    @property
    def amazon(self) -> Amazon | None:
        """Set where the password is an IAM token: :attr:`aws`, completed by what the endpoint's name says."""
        endpoint = parse_endpoint(self.uri.host)
        if self.credentials is not None or (not self.aws.region and endpoint is None):
            return None
        if endpoint is None:
            return self.aws
        instance = endpoint.name if endpoint.kind is Kind.INSTANCE else ""
        cluster = endpoint.name if endpoint.kind in (Kind.CLUSTER, Kind.READER) else ""
        return attrs.evolve(
            self.aws,
            region=self.aws.region or endpoint.region,
            instance_id=self.aws.instance_id or instance,
            cluster_id=self.aws.cluster_id or cluster,
        )


@attrs.frozen
class AmazonDiscovery:
    """Databases to find by what AWS says of them: one entry of ``db_service.aws``.

    :param types: only ``rds`` so far.
    :param tags: by key, the values that are wanted; ``*`` stands for any, as a key too.
    :param period: seconds from one look to the next.
    """

    types: tuple[str, ...] = ("rds",)
    regions: tuple[str, ...] = ()
    tags: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=frozen_mapping)
    assume_role_arn: str = ""
    external_id: str = attrs.field(default="", repr=False)
    period: float = 300.0


@attrs.frozen
class Log:
    """:param severity: debug, info, warning or error.  :param format: text or json.
    :param output: stderr, stdout, syslog or a file's path.
    """

    output: str = "stderr"
    severity: str = "info"
    format: str = "text"


@attrs.frozen
class Storage:
    """Where auth keeps its state; ``sqlite`` is the only type so far."""

    type: str = "sqlite"


@attrs.frozen
class Teleport:
    """The section ``teleport``: what all services of a process share.

    :param nodename: "" until :meth:`Config.on_host`.
    :param auth_token: a token, or the absolute path of a file that holds one.
    :param auth_servers: for an agent, addresses of proxies.
    :param ca_pin: each ``sha256:`` and 64 hexadecimal digits.
    """

    nodename: str = ""
    data_dir: str = "/var/lib/teleport"
    auth_token: str = attrs.field(default="", repr=False)
    auth_servers: tuple[Address, ...] = ()
    ca_pin: tuple[str, ...] = ()
    log: Log = Log()
    storage: Storage = Storage()
    advertise_ip: str = ""
    pid_file: str = ""
    diag_addr: Address | None = None


@attrs.frozen
class StaticToken:
    """A join token of the file, which never expires.

    :param roles: among auth, proxy, node and db.
    :param token: the token, or the absolute path of a file that holds it.
    """

    roles: tuple[str, ...]
    token: str = attrs.field(repr=False)

    @property
    def is_path(self) -> bool:
        """Whether :attr:`token` names a file to read."""
        return self.token.startswith("/")


@attrs.frozen
class Authentication:
    """:param second_factor: off, otp, on or optional."""

    type: str = "local"
    second_factor: str = "otp"


@attrs.frozen
class AuditFiles:
    """How the files of the audit log are kept: ``auth_service.audit``.

    :param max_file: bytes from which on the next file is begun.
    :param retention: seconds after which a file is removed, counted from its last line; 0 for never.
    :param compress: whether files that are closed are packed.
    :param sinks: where the log is sent on to.
    """

    max_file: int = 64 << 20
    retention: float = 0.0
    compress: bool = True
    sinks: tuple[Sink, ...] = ()


@attrs.frozen
class AuthService:
    """The section ``auth_service``.

    :param cluster_name: "" until :meth:`Config.on_host`.
    :param client_idle_timeout: seconds; 0 for never.
    """

    enabled: bool = True
    listen_addr: Address = Address("0.0.0.0", AUTH_PORT)
    cluster_name: str = ""
    tokens: tuple[StaticToken, ...] = ()
    authentication: Authentication = Authentication()
    session_recording: str = "node"
    client_idle_timeout: float = 0.0
    disconnect_expired_cert: bool = False
    audit: AuditFiles = AuditFiles()


@attrs.frozen
class ProxyService:
    """The section ``proxy_service``.

    :param listen_addr: accepted and unused: it belongs to SSH.
    :param public_addresses: what clients and agents are told, the first one above all; may be empty.
    :param https_key_file: with ``https_cert_file``, the web certificate; "" for a self-signed one.
    """

    enabled: bool = True
    listen_addr: Address = Address("0.0.0.0", SSH_PROXY_PORT)
    web_listen_addr: Address = Address("0.0.0.0", WEB_PORT)
    tunnel_listen_addr: Address = Address("0.0.0.0", TUNNEL_PORT)
    public_addresses: tuple[Address, ...] = ()
    https_key_file: str = ""
    https_cert_file: str = ""

    def public_address(self, nodename: str) -> Address:
        """The address to print for people: the public one, else ``nodename`` at the web port."""
        return self.public_addresses[0] if self.public_addresses else Address(nodename, self.web_listen_addr.port)


@attrs.frozen
class AuditSettings:
    """What an agent records of statements, and how.

    :param durability: ``write`` has a record with the operating system before its statement runs, ``fsync`` on the
        disk.
    :param statement_messages: each Parse, Bind, Execute and Close gets an event of its own as well.
    """

    durability: str = "write"
    statement_messages: bool = False


@attrs.frozen
class DatabaseService:
    """The section ``db_service``.

    :param resources: by their labels, the databases registered in the cluster that are served too.
    :param resource_commands: whether commands of such databases' dynamic labels are run on this machine.
    :param auth_away: ``best_effort`` lets new sessions in while auth is away, ``strict`` none.
    :param auth_away_max_age: seconds that may have passed since auth was heard of.
    :param aws: where to look for more databases.
    :param audit: what is recorded of statements.
    :param rds_ca_url: what takes the place of Amazon's own for the bundles of its authorities.
    """

    enabled: bool = False
    databases: tuple[Database, ...] = ()
    resources: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    resource_commands: bool = False
    auth_away: str = "best_effort"
    auth_away_max_age: float = 3600.0
    aws: tuple[AmazonDiscovery, ...] = ()
    rds_ca_url: str = ""
    audit: AuditSettings = AuditSettings()


@attrs.frozen
class Config:
    """A whole file, with the flags merged over it.

    :param insecure: from ``--insecure``: the proxy's certificate is not verified on joining.
    :param debug: from ``--debug``.
    """

    teleport: Teleport = Teleport()
    auth: AuthService = AuthService()
    proxy: ProxyService = ProxyService()
    db: DatabaseService = DatabaseService()
    insecure: bool = False
    debug: bool = False

    def on_host(self, hostname: str) -> Config:
        """This with the names filled in: the node's from the host, the cluster's from the node."""
        nodename = self.teleport.nodename or hostname
        return attrs.evolve(
            self,
            teleport=attrs.evolve(self.teleport, nodename=nodename),
            auth=attrs.evolve(self.auth, cluster_name=self.auth.cluster_name or nodename),
        )


def check(config: Config, source: str = "") -> None:
    """Refuse what no single key is to blame for; call it after the flags were merged.

    :param source: the file's name, for the error's text.
    :raises ConfigError: with the path of the key that is missing.
    """
    if not (config.auth.enabled or config.proxy.enabled or config.db.enabled):
        raise ConfigError("no service is enabled: nothing to start", source=source)
    if config.db.enabled and not (config.db.databases or config.db.resources or config.db.aws):
        raise ConfigError(
            "list at least one database here, or give --db-name, --db-protocol and --db-uri;"
            " db_service.resources takes those that are registered in the cluster",
            source=source,
            path="db_service.databases",
        )
    if not config.auth.enabled and not config.teleport.auth_servers:
        raise ConfigError(
            "without an auth service in this process the address to join is needed"
            " (for a database service, the proxy's: host:3080)",
            source=source,
            path="teleport.auth_servers",
        )
    web, tunnel = config.proxy.web_listen_addr, config.proxy.tunnel_listen_addr
    listening = [("auth_service.listen_addr", config.auth.listen_addr)] if config.auth.enabled else []
    if config.proxy.enabled:
        listening += [("proxy_service.web_listen_addr", web), ("proxy_service.tunnel_listen_addr", tunnel)]
    if config.teleport.diag_addr:
        listening.append(("teleport.diag_addr", config.teleport.diag_addr))
    own = posixpath.normpath(config.teleport.data_dir)
    for number, sink in enumerate(config.auth.audit.sinks):
        if isinstance(sink, FileSink) and posixpath.normpath(sink.path).startswith(f"{own}/"):
            raise ConfigError(
                f"{own} has the cluster's own files: choose another directory",
                source=source,
                path=f"auth_service.audit.sinks[{number}].path",
            )
    taken: dict[Address, str] = {}
    for path, address in listening:
        other = taken.setdefault(address, path)
        # 3080 answers tunnels too, so web and tunnel may be one address: it is then listened on once.
        if other != path and {other, path} != {"proxy_service.web_listen_addr", "proxy_service.tunnel_listen_addr"}:
            raise ConfigError(f"{address} is {other} already", source=source, path=path)

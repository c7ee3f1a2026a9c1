"""The ALPN names (RFC 7301) by which a proxy's one port hears what a connection is for."""

from __future__ import annotations

from typing import Final

#: Pages and the web API; so is a ClientHello without ALPN.
ALPN_HTTP: Final = "http/1.1"
#: PostgreSQL with TLS from the first byte (``sslnegotiation=direct``, PostgreSQL 17).
ALPN_POSTGRESQL: Final = "postgresql"
#: A process that has nothing but a join token.
ALPN_JOIN: Final = "teleport-join"
#: An agent's tunnel.
ALPN_TUNNEL: Final = "teleport-tunnel"
#: The auth API: a proxy passes that TLS on without opening it.
ALPN_AUTH: Final = "teleport-auth"

"""Asking a database for TLS.

::

    agent                   database
    SSLRequest        ──▶
                      ◀──   S              TLS begins, and only now anything is believed
                      ◀──   N, E..., ...   the end: there is no fallback to plaintext

Source: protocol section "SSL Session Encryption".
"""

from __future__ import annotations

from teleport_db.errors import DatabaseUnreachable, LocalProtocolError
from teleport_db.pgwire.messages import SSL_REQUEST


class BackendTLS:
    """The exchange before TLS with one database server."""

    def __init__(self) -> None:
        self._started = False
        self._finished = False

    def start(self) -> bytes:
        """What to send."""
        self._started = True
        return SSL_REQUEST

    def feed(self, data: bytes) -> bool:
        """Take bytes from the server.

        :return: True when TLS is to be started; False when nothing has come yet.
        :raises DatabaseUnreachable: no TLS can be had, or somebody else spoke.
        """
        if not self._started or self._finished:
            raise LocalProtocolError("there is no answer to an SSLRequest to be had here")
        if not data:
            return False
        self._finished = True
        if data == b"S":
            return True
        if data[:1] == b"S":
            # CVE-2021-23222: bytes of before the handshake must not be read as if TLS had carried them.
            raise DatabaseUnreachable(
                "the database sent bytes ahead of TLS; the connection between agent and database may be tampered with"
            )
        if data[:1] == b"N":
            raise DatabaseUnreachable("the database does not offer TLS; set ssl = on in its postgresql.conf")
        if data[:1] == b"E":
            # CVE-2024-10977: this text came from anybody; nobody gets to read it.
            raise DatabaseUnreachable(
                "the database answered the request for TLS with an error; see the log of the database server"
            )
        raise DatabaseUnreachable("what answered is not PostgreSQL; check the uri of the database service")

"""A TLS handshake between two contexts, in memory."""

from __future__ import annotations

import ssl

import attrs


@attrs.frozen
class Ends:
    """Both ends of a connection that was made."""

    client: ssl.SSLObject
    server: ssl.SSLObject

    @property
    def client_certificate(self) -> bytes | None:
        """What the server was shown, DER."""
        return self.server.getpeercert(binary_form=True)

    @property
    def server_certificate(self) -> bytes | None:
        """What the client was shown, DER."""
        return self.client.getpeercert(binary_form=True)


def handshake(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
) -> Ends:
    """Run a handshake to its end on both sides and exchange a byte; raises what the first to fail raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=server_hostname, session=session)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            break
    else:
        raise AssertionError("the handshake does not end")
    near.write(b"?")
    assert far.read(1) == b"?"
    far.write(b"!")
    assert near.read(1) == b"!"  # a client of TLS 1.3 learns only here that its certificate was refused
    return Ends(near, far)

"""The credentials a command calls the API with: a login of ``tsh``, an identity file, or the auth host's own.

::

    tsh login   ~/.tsh  ──┐
    --identity FILE     ──┼─▶ Credentials ─▶ Client: mutual TLS to auth.CLUSTER
    DATA/admin          ──┘
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from teleport_db.api.http import Client, auth_context, show_address
from teleport_db.cli.certinfo import CertificateInfo, blocks, read_certificate
from teleport_db.cli.output import moment
from teleport_db.cli.profile import Profile, Store, read_text
from teleport_db.cli.values import proxy_address, split_address
from teleport_db.errors import AuthenticationFailed, ConnectionTrouble, UsageError


class Credentials(NamedTuple):
    """Who calls, and where.

    :param address: the proxy's, or the auth server's own.
    :param host_ca: PEM of the cluster's host authority.
    :param renewal: what to do when the certificate has expired.
    """

    address: tuple[str, int]
    info: CertificateInfo
    certificate_file: str
    key_file: str
    host_ca: str
    renewal: str

    def client(self, *, timeout: float = 30.0, clock: Callable[[], float] = time.time) -> Client:
        """A client that shows this certificate.

        :param timeout: seconds for a connection, and for each answer.
        :raises AuthenticationFailed: when it has expired.
        """
        if clock() >= self.info.not_after:
            raise AuthenticationFailed(self.expired)
        try:
            context = auth_context(self.host_ca, certificate_file=self.certificate_file, key_file=self.key_file)
        except AuthenticationFailed as error:
            raise AuthenticationFailed(f"{error}\n{self.renewal}") from error
        return Client(self.address, context, f"auth.{self.info.cluster}", timeout=timeout)

    @property
    def expired(self) -> str:
        """The one line for a certificate whose time has come."""
        what = "login" if self.info.identity.get("usage") == "login" else "certificate"
        return f"your {what} expired at {moment(self.info.not_after)}, {self.renewal}"


class Login(NamedTuple):
    """A user of ``tsh``: the credentials, and where their files are."""

    credentials: Credentials
    profile: Profile
    store: Store
    authority_file: str

    @property
    def live(self) -> bool:
        """Whether the certificate's time has not come."""
        return time.time() < self.credentials.info.not_after


def login_command(proxy: tuple[str, int], user: str = "") -> str:
    """What to type to log in again."""
    return f"tsh login --proxy={show_address(proxy)}" + (f" --user={user}" if user else "")


def profile_of(store: Store, proxy: str | None) -> Profile | None:
    """The profile that ``--proxy`` names, or the one in use."""
    return store.load(proxy_address("--proxy", proxy)[0] if proxy else None)


def tsh_login(*, proxy: str | None, identity: str | None, insecure: bool = False) -> Login:
    """The login that the flags of ``tsh`` choose; it may have expired.

    :raises AuthenticationFailed: when nobody is logged in.
    """
    store = Store.of_environment(identity=bool(identity))
    if identity:
        credentials = identity_file(identity, proxy)
        info = credentials.info
        profile = Profile(credentials.address, info.name, info.cluster, credentials.address, insecure)
        # The authority needs a file of its own for libpq, beside the databases' certificates.
        return Login(credentials, profile, store, os.path.join(store.databases_path(profile), "certs.pem"))
    found = profile_of(store, proxy)
    try:
        if found is None:
            raise FileNotFoundError
        info = read_certificate(read_text(store.certificate_path(found)), "the certificate of your login")
        host_ca = read_text(store.authority_path(found))
    except FileNotFoundError:
        where = proxy or (show_address(found.proxy) if found else "PROXY:3080")
        raise AuthenticationFailed(f"you are not logged in, run: tsh login --proxy={where}") from None
    renewal = f"run: {login_command(found.proxy, found.user)}"
    credentials = Credentials(found.proxy, info, store.certificate_path(found), store.key_path(found), host_ca, renewal)
    return Login(credentials, found, store, store.authority_path(found))


def live_login(**flags: object) -> Login:
    """As :func:`tsh_login`, and refused when it has expired."""
    login = tsh_login(**flags)  # type: ignore[arg-type]
    if not login.live:
        raise AuthenticationFailed(login.credentials.expired)
    return login


def identity_file(path: str, address: str | None) -> Credentials:
    """The credentials in one file of ``tctl auth sign --format=file``.

    It is PEM: the key, the certificate, the authorities; comments above name the proxy.

    :param address: where to connect to, over what the file says.
    """
    text = read_text(path)
    certificates = blocks(text, "CERTIFICATE")
    if len(certificates) < 2 or "PRIVATE KEY-----" not in text:
        raise UsageError(f"{path} is no identity file: it has a key, a certificate and the cluster's authority in it")
    info = read_certificate(certificates[0], path)
    if address:
        where = proxy_address("--proxy", address)
    else:
        named = [line.partition(":")[2] for line in text.splitlines() if line.startswith("# proxy:")]
        try:
            where = split_address(named[0])
        except (IndexError, ValueError):
            raise UsageError(f"{path} names no proxy; give --proxy=HOST:PORT") from None
    renewal = f"ask for a new one: tctl auth sign --format=file --user={info.name} --out=FILE"
    return Credentials(where, info, path, path, "".join(certificates[1:]), renewal)


def local_administrator(data_dir: str) -> Credentials:
    """The identity that the auth service leaves in its data directory for whoever may read it there."""
    folder = os.path.join(data_dir, "admin")
    key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "cert.pem")
    try:
        with open(key, "rb"):  # the one that only its owner can read: say so before TLS says something else
            pass
        info = read_certificate(read_text(certificate), certificate)
        host_ca = read_text(os.path.join(folder, "cas.pem"))
        host, port = split_address(read_text(os.path.join(folder, "address")).partition("\n")[0])
    except PermissionError as error:
        raise AuthenticationFailed(f"{error.filename}: only the user that runs teleport may read it") from None
    except FileNotFoundError as error:
        raise ConnectionTrouble(
            f"{error.filename} is missing: no auth service has run with this data directory\n"
            "give --data-dir or -c of the auth service here, or --identity or a tsh login elsewhere"
        ) from None
    except ValueError as error:
        raise ConnectionTrouble(f"{folder}/address: {error}") from None
    # An address to listen on is not always one to connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    renewal = "restart the auth service, which renews it"
    return Credentials((host, port), info, certificate, key, host_ca, renewal)

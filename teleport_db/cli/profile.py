"""What ``tsh`` keeps between two calls, in ``~/.tsh`` or ``TELEPORT_HOME``.

::

    current-profile                      the name of the profile in use
    PROXY.yaml                           which proxy, which user, which cluster
    keys/PROXY/USER                      the private key, 0600, PKCS#8 PEM
    keys/PROXY/USER-x509.pem             the certificate of the login
    keys/PROXY/certs.pem                 the cluster's host authority
    keys/PROXY/USER-db/CLUSTER/NAME-x509.pem     one database's certificate (USER-identity-db: of an identity file)

The profile's YAML is flat and its values are JSON, which is YAML too: it is read without a library.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from teleport_db.cli.values import file_name, split_address
from teleport_db.errors import AuthenticationFailed

_SUFFIX = "-x509.pem"


class Profile(NamedTuple):
    """One login.

    :param proxy: host and port of the proxy's web side.
    :param postgres: host and port by which PostgreSQL clients reach it; the certificate there has this name.
    :param insecure: the login did not verify the proxy's web certificate.
    """

    proxy: tuple[str, int]
    user: str
    cluster: str
    postgres: tuple[str, int]
    insecure: bool = False

    @property
    def name(self) -> str:
        """The profile's name: the proxy's host."""
        return self.proxy[0]


class Store:
    """The directory, by the names of what is in it."""

    def __init__(self, directory: str, *, databases: str = "-db") -> None:
        self.directory = directory
        self._databases = databases

    @classmethod
    def of_environment(cls, *, identity: bool = False) -> Store:
        """``TELEPORT_HOME``, else ``~/.tsh``.

        :param identity: for an identity file, whose databases are kept apart from those of a login.
        """
        home = os.environ.get("TELEPORT_HOME")
        directory = os.path.abspath(home) if home else os.path.join(os.path.expanduser("~"), ".tsh")
        return cls(directory, databases="-identity-db" if identity else "-db")

    def databases_path(self, profile: Profile) -> str:
        """The directory of what belongs to databases."""
        return self.key_path(profile) + self._databases

    def load(self, name: str | None = None) -> Profile | None:
        """The profile of a proxy, or the one in use; None when there is none."""
        if name is None:
            name = self._text("current-profile").strip()
        if not name:
            return None
        fields = _parse(self._text(f"{file_name('the proxy', name)}.yaml"))
        try:
            return Profile(
                split_address(fields["web_proxy_addr"]),
                file_name("the user", fields["user"]),
                file_name("the cluster", fields["cluster"]),
                split_address(fields.get("postgres_proxy_addr") or fields["web_proxy_addr"]),
                fields.get("insecure") == "true",
            )
        except (KeyError, ValueError):
            return None

    def save(self, profile: Profile) -> None:
        """Write a profile and make it the one in use."""
        from teleport_db.api.http import show_address

        fields = {
            "web_proxy_addr": show_address(profile.proxy),
            "postgres_proxy_addr": show_address(profile.postgres),
            "user": profile.user,
            "cluster": profile.cluster,
            "insecure": profile.insecure,
        }
        text = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())
        self.write(f"{file_name('the proxy', profile.name)}.yaml", text)
        self.write("current-profile", profile.name + "\n")

    def forget(self, profile: Profile) -> None:
        """Remove a profile with its keys and certificates."""
        for name in (*self.databases(profile),):
            self.remove(self.database_path(profile, name))
        folder = os.path.dirname(self.database_path(profile, "x"))
        for path in (self.key_path(profile), self.certificate_path(profile), self.authority_path(profile)):
            self.remove(path)
        self.remove(f"{profile.name}.yaml")
        if self._text("current-profile").strip() == profile.name:
            self.remove("current-profile")
        for directory in (folder, os.path.dirname(folder), os.path.dirname(self.key_path(profile))):
            with contextlib.suppress(OSError):  # another user's key may be in it
                os.rmdir(directory)

    def key_path(self, profile: Profile) -> str:
        """The private key."""
        return self._path("keys", file_name("the proxy", profile.name), file_name("the user", profile.user))

    def certificate_path(self, profile: Profile) -> str:
        """The certificate of the login."""
        return self.key_path(profile) + _SUFFIX

    def authority_path(self, profile: Profile) -> str:
        """The cluster's host authority, as libpq's ``sslrootcert``."""
        return self._path("keys", file_name("the proxy", profile.name), "certs.pem")

    def database_path(self, profile: Profile, service: str) -> str:
        """The certificate of one database service."""
        cluster, name = file_name("the cluster", profile.cluster), file_name("the database", service)
        return os.path.join(self.databases_path(profile), cluster, name + _SUFFIX)

    def databases(self, profile: Profile) -> list[str]:
        """The database services that have a certificate, by name."""
        try:
            names = os.listdir(os.path.dirname(self.database_path(profile, "x")))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(n.removesuffix(_SUFFIX) for n in names if n.endswith(_SUFFIX) and not n.startswith("."))

    def write(self, path: str, text: str) -> None:
        """Write a file that only its owner reads, with the directories above it."""
        from teleport_db.certs.files import write_secret

        full = self._path(path)
        os.makedirs(os.path.dirname(full), mode=0o700, exist_ok=True)
        write_secret(full, text.encode("utf-8"))

    def remove(self, path: str) -> bool:
        """Remove a file; False when there was none."""
        try:
            os.unlink(self._path(path))
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes these files, or the service file, meanwhile."""
        import fcntl

        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        descriptor = os.open(self._path(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, *parts: str) -> str:
        return os.path.join(self.directory, *parts)

    def _text(self, path: str) -> str:
        return read_text(self._path(path), missing="")


def read_text(path: str, *, missing: str | None = None) -> str:
    """A file's text.

    :param missing: what a file that is not there counts as; None raises FileNotFoundError.
    :raises AuthenticationFailed: when it is no text.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        if missing is None:
            raise
        return missing
    except UnicodeDecodeError as error:
        raise AuthenticationFailed(f"{path} is no text file") from error


def _parse(text: str) -> dict[str, str]:
    """``key: value`` lines, the value JSON or a bare word."""
    fields = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        bare = value.strip()
        if colon and bare and not line.startswith(("#", " ")):
            try:
                fields[key] = json.loads(bare) if bare.startswith('"') else bare
            except ValueError:
                continue
    return fields

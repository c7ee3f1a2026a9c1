"""The certificates of Amazon's authorities for databases, one file a region.

::

    DATA_DIR/aws/us-west-1-bundle.pem    there, and not too old ──▶ used
                                         there, and old         ──▶ used, and fetched again meanwhile
                                         not there              ──▶ fetched over HTTPS, verified by the system's roots

A file that somebody has put there by hand is as good as one that was fetched: an agent needs no way to the Internet.
"""

from __future__ import annotations

import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from teleport_db.amazon import ca_url
from teleport_db.certs.files import write_public
from teleport_db.certs.keys import load_certificates
from teleport_db.db.kept import Answer, Answers
from teleport_db.errors import ConfigError, DatabaseUnreachable

log = Logger()

#: The largest bundle, in bytes; the one of all regions together has some 170 KB.
MAX_BUNDLE = 1024 * 1024
#: Seconds for a fetch.
FETCH_SECONDS = 10.0
DAY = 86400.0
#: A file is fetched again after so many seconds ...
REFRESH_SECONDS = 30 * DAY
#: ... or when a certificate in it ends within so many; then once a day.
EXPIRY_SECONDS = 60 * DAY

#: Seconds until a fetch that failed is tried again, where there is an old file.
RETRY_SECONDS = 3600.0
#: Seconds that a file is not read again.
READ_SECONDS = 60.0

Fetch = Callable[[str], bytes]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """Nowhere: what verified is the address that was asked."""


def fetch_https(url: str) -> bytes:
    """A small file over verified HTTPS; OSError with a reason when that cannot be."""
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _NoRedirects()
    )
    try:
        with opener.open(url, timeout=FETCH_SECONDS) as answer:
            data: bytes = answer.read(MAX_BUNDLE + 1)
    except urllib.error.HTTPError as error:
        raise OSError(0, f"HTTP status {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError(0, str(getattr(error.reason, "strerror", "") or error.reason)) from error
    except (OSError, ValueError) as error:
        raise OSError(0, str(error) or type(error).__name__) from error
    if len(data) > MAX_BUNDLE:
        raise OSError(0, f"it is larger than {MAX_BUNDLE} bytes")
    return data


class BundleFiles:
    """The files; every method blocks.

    :param base: of a mirror's addresses, "" for Amazon's own.
    :param now: seconds since the epoch.
    """

    def __init__(
        self, directory: str, *, base: str = "", fetch: Fetch = fetch_https, now: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._base = base
        self._fetch = fetch
        self._now = now

    def path(self, region: str) -> str:
        """Where the bundle of a region is, or is to be put."""
        return os.path.join(self._directory, f"{region}-bundle.pem")

    def url(self, region: str) -> str:
        """Where it comes from; DatabaseUnreachable when that is not known."""
        try:
            return ca_url(region, self._base)
        except ValueError as error:
            raise DatabaseUnreachable(str(error)) from None

    def read(self, region: str) -> tuple[bytes, bool] | None:
        """The file and whether it is time for a new one; None when there is no usable one."""
        path = self.path(region)
        try:
            with open(path, "rb") as file:
                pem = file.read(MAX_BUNDLE + 1)
            age = self._now() - os.stat(path).st_mtime
            ends = self._ends(pem)
        except FileNotFoundError:
            return None
        except (OSError, ConfigError) as error:
            log.warn("{path} cannot be used: {error}", path=path, error=error)
            return None
        if not ends:
            return None
        return pem, age > REFRESH_SECONDS or (age > DAY and min(ends) < self._now() + EXPIRY_SECONDS)

    def _ends(self, pem: bytes) -> list[float]:
        """When the certificates end that have not; ConfigError for what is no certificate."""
        now = datetime.fromtimestamp(self._now(), UTC)
        ends = [certificate.not_valid_after_utc for certificate in load_certificates(pem)]
        return [end.timestamp() for end in ends if end > now]

    def fetch(self, region: str) -> bytes:
        """Fetch the bundle of a region and keep it; DatabaseUnreachable names the file to put there by hand."""
        url, path = self.url(region), self.path(region)
        try:
            pem = self._fetch(url)
            if not self._ends(pem):
                raise OSError(0, "there is no valid certificate in it")
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            write_public(path, pem)
        except (OSError, ConfigError) as error:
            reason = error.message if isinstance(error, ConfigError) else error.strerror or str(error)
            raise DatabaseUnreachable(
                f"the certificates of Amazon's databases in {region} could not be fetched from {url}: {reason}; "
                f"put that file to {path} at the agent, or set ca_cert_file"
            ) from error
        log.info("the certificates of Amazon's databases in {region} were fetched", region=region)
        return pem


class Bundles:
    """The bundles, for the reactor's thread: read in another, fetched once however many sessions wait.

    :param in_thread: as ``deferToThread``.
    """

    def __init__(self, files: BundleFiles, *, in_thread: Callable[..., Deferred[Any]], clock: IReactorTime) -> None:
        self._files = files
        self._in_thread = in_thread
        self._clock = clock
        self._kept: Answers[bytes] = Answers(clock=clock)
        self._tried: dict[str, float] = {}

    def pem(self, region: str) -> Deferred[bytes]:
        """The certificates of a region; DatabaseUnreachable when there are none and none can be had."""
        return self._kept.get(region, lambda: self._pem(region))

    async def _pem(self, region: str) -> Answer[bytes]:
        found: tuple[bytes, bool] | None = await self._in_thread(self._files.read, region)
        if found is None:
            pem = await self._in_thread(self._files.fetch, region)
        else:
            pem, old = found
            if old:
                self._refresh(region)
        return Answer(pem, self._clock.seconds() + READ_SECONDS)

    def _refresh(self, region: str) -> None:
        """Fetch a new bundle while the old one is used."""
        now = self._clock.seconds()
        if now < self._tried.get(region, 0.0) + RETRY_SECONDS:
            return
        self._tried[region] = now
        self._in_thread(self._files.fetch, region).addErrback(
            lambda reason: log.warn("{reason}; those of before are used", reason=reason.getErrorMessage())
        )

"""What this user's own certificates say, without a library that takes a tenth of a second to import.

::

    Certificate ── TBSCertificate ─┬─ validity ── notAfter
                                   ├─ subjectPublicKeyInfo
                                   └─ [3] extensions ── 1.3.9999.7.1 ── JSON        (RFC 5280, 4.1)

Nothing is verified here, and nothing is decided by it: these are files that the login wrote, and the
server looks at them with other eyes.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import json
from typing import Any, NamedTuple

from teleport_db.errors import AuthenticationFailed

# DER of the object identifier 1.3.9999.7.1, with its tag and length.
_IDENTITY_OID = bytes.fromhex("06052bce0f0701")

_SEQUENCE, _OCTETS, _BOOLEAN, _UTC_TIME, _GENERALIZED_TIME, _VERSION, _EXTENSIONS = (
    0x30, 0x04, 0x01, 0x17, 0x18, 0xA0, 0xA3,
)  # fmt: skip


class CertificateInfo(NamedTuple):
    """Facts of one certificate.

    :param not_after: seconds since the epoch.
    :param public_key: SubjectPublicKeyInfo in PEM, as the API wants it for another certificate of this key.
    :param identity: the fields of the identity's extension: name, cluster, roles, route and so on.
    """

    not_after: float
    public_key: str
    identity: dict[str, Any]

    @property
    def name(self) -> str:
        """Whom it was issued to."""
        return str(self.identity.get("name", ""))

    @property
    def cluster(self) -> str:
        """The cluster that issued it."""
        return str(self.identity.get("cluster", ""))

    @property
    def roles(self) -> list[str]:
        """Names of roles."""
        return [str(role) for role in self.identity.get("roles") or ()]

    @property
    def route(self) -> dict[str, Any]:
        """The route to a database service; empty when there is none."""
        route = self.identity.get("route")
        return route if isinstance(route, dict) else {}


def blocks(text: str, label: str) -> list[str]:
    """The PEM blocks of a kind in ``text``, each with its dashes."""
    begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
    found = []
    for part in text.split(begin)[1:]:
        body, closed, _ = part.partition(end)
        if closed:
            found.append(f"{begin}{body}{end}\n")
    return found


def der(block: str) -> bytes:
    """The bytes of one PEM block; ValueError when they are not base64."""
    try:
        return base64.b64decode("".join(block.split("-----")[2].split()), validate=True)
    except (IndexError, binascii.Error) as error:
        raise ValueError("this is not PEM") from error


def read_certificate(text: str, source: str) -> CertificateInfo:
    """The facts of the first certificate in PEM.

    :raises AuthenticationFailed: when there is none that can be read.
    """
    try:
        return _read(der(blocks(text, "CERTIFICATE")[0]))
    except (IndexError, ValueError, RecursionError) as error:
        raise AuthenticationFailed(f"{source} holds no certificate of a cluster") from error


def _read(data: bytes) -> CertificateInfo:
    tbs = _parts(_parts(data)[0][1])[0][1]
    fields = _parts(tbs)
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    # serial, signature, issuer, validity, subject, subjectPublicKeyInfo, then the optional ones
    not_after = _time(*_parts(fields[3][1])[1])
    public = base64.encodebytes(_wrap(_SEQUENCE, fields[5][1])).decode()
    lines = "".join(public.split())
    pem = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    extensions = next((content for tag, content in fields[6:] if tag == _EXTENSIONS), b"")
    identity: Any = {}
    for _, extension in _parts(_parts(extensions)[0][1]) if extensions else ():
        if extension.startswith(_IDENTITY_OID):
            tag, value = _parts(extension)[-1]
            identity = json.loads(value) if tag == _OCTETS else {}
    if not isinstance(identity, dict) or not identity:
        raise ValueError("no identity")
    return CertificateInfo(not_after, f"-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n", identity)


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The tag and content of each element of DER, one after the other."""
    found, at = [], 0
    while at < len(data):
        tag, length, start = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[start : start + count], "big")
            start += count
        if start + length > len(data):
            raise ValueError("cut short")
        found.append((tag, data[start : start + length]))
        at = start + length
    return found


def _wrap(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _time(tag: int, content: bytes) -> float:
    """UTCTime until 2049, GeneralizedTime after it (RFC 5280, 4.1.2.5)."""
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    if len(text) != 15 or text[14] != "Z":
        raise ValueError("no time")
    at = [int(text[:4]), *(int(text[index : index + 2]) for index in range(4, 14, 2))]
    return float(calendar.timegm((at[0], at[1], at[2], at[3], at[4], at[5], 0, 0, 0)))

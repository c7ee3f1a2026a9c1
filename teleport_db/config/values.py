"""The small languages inside the values: addresses, names, labels, tokens, roles.

Each reader takes text and answers with a value, or raises ValueError with a sentence that the caller
puts a file and a line to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import attrs

from teleport_db.config.durations import parse_duration
from teleport_db.config.model import Address, DynamicLabel, StaticToken, frozen_mapping

#: What a process can be, by every name it is called.
SYSTEM_ROLES = {"auth": "auth", "proxy": "proxy", "node": "node", "db": "db", "database": "db"}
_OTHER_ROLES = ("app", "kube", "kubernetes", "trusted_cluster", "windowsdesktop", "discovery", "bot", "admin")

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9._/:-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PORT = re.compile(r"[0-9]{1,5}")
_PIN = re.compile(r"sha256:[0-9a-fA-F]{64}")

#: The longest label value, in characters.
LABEL_VALUE_LIMIT = 1024


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` when ``known`` has a word near ``word``, else nothing."""
    near = get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def shown(text: str) -> str:
    """``text`` quoted for a message, one line of bounded length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def parse_host(text: str) -> str:
    """A host's name or an IP literal, the latter without its brackets and in its shortest form."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    last = text.rstrip(".").rpartition(".")[2]
    if not _HOST.fullmatch(text) or last.isdigit():
        raise ValueError(f"not a host's name or address: {shown(text)}")
    return text


def parse_name(text: str) -> str:
    """A node's or a cluster's name: a host's name, since it becomes part of one in certificates."""
    host = parse_host(text)
    if ":" in host or host.endswith(".") or host.replace(".", "").isdigit() or len(text) > 200:
        raise ValueError(f"not a name: {shown(text)} (an address or a name that ends in a dot cannot be one)")
    return host


def parse_port(text: str) -> int:
    """A TCP port, 1 to 65535."""
    port = int(text) if _PORT.fullmatch(text) and text.isascii() else 0
    if not 1 <= port <= 65535:
        raise ValueError(f"not a port between 1 and 65535: {shown(text)}")
    return port


def parse_address(text: str, default_port: int | None = None, *, listen: bool = False) -> Address:
    """``host:port``, ``[v6]:port``, and ``host`` alone where there is a default.

    :param listen: an empty host then stands for every address of the machine.
    """
    if "://" in text:
        raise ValueError(f"give host:port without a scheme, not {shown(text)}")
    try:  # a bare IPv6 address has colons and no port
        return Address(str(ipaddress.IPv6Address(text)), _default(default_port, text))
    except ipaddress.AddressValueError:
        pass
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return Address(parse_host(text), _default(default_port, text))
    if not host and listen:
        host = "0.0.0.0"
    if ":" in host and not host.startswith("["):
        raise ValueError(f"not host:port: {shown(text)}")
    return Address(parse_host(host), parse_port(port))


def _default(port: int | None, text: str) -> int:
    if port is None:
        raise ValueError(f"not host:port: {shown(text)} (the port is missing, as in {text[:60]}:5432)")
    return port


def parse_service_name(text: str) -> str:
    """A DNS-1035 label: it becomes part of names in certificates, files and commands."""
    if not _DNS_1035.fullmatch(text):
        raise ValueError(
            f"not a name for a database service: {shown(text)}"
            " (lower-case letters, digits and '-'; a letter first, no '-' last; 63 at most)"
        )
    return text


def parse_protocol(text: str) -> str:
    """A database protocol that is spoken here."""
    if text != "postgres":
        raise ValueError(f"protocol {shown(text)} is not supported by this version: only postgres is")
    return text


def parse_ca_pin(text: str) -> str:
    """``sha256:`` and 64 hexadecimal digits, as ``tctl status`` prints it; lower case."""
    if not _PIN.fullmatch(text):
        raise ValueError(f"not a CA pin: {shown(text)} (tctl status prints it: sha256:<64 hexadecimal digits>)")
    return text.lower()


def parse_token(text: str) -> str:
    """A join token or the path of a file with one.  The error does not repeat it."""
    if not text or _CONTROL.search(text) or " " in text or len(text) > 1024:
        raise ValueError("not a token: it is empty, too long, or has blanks in it")
    return text


def parse_system_roles(text: str) -> tuple[str, ...]:
    """``proxy,node,database`` as (``proxy``, ``node``, ``db``): order kept, none twice."""
    roles: list[str] = []
    for word in text.split(","):
        name = word.strip().lower()
        if name not in SYSTEM_ROLES:
            if name in _OTHER_ROLES:
                raise ValueError(f"role {name} is not supported by this version (auth, proxy, node, db are)")
            raise ValueError(f"unknown role {shown(name)}{did_you_mean(name, SYSTEM_ROLES)}: auth, proxy, node or db")
        if SYSTEM_ROLES[name] not in roles:
            roles.append(SYSTEM_ROLES[name])
    return tuple(roles)


def parse_static_token(text: str) -> StaticToken:
    """``proxy,node,database:TOKEN``, where TOKEN may be an absolute path."""
    roles, colon, token = text.partition(":")
    if not colon:
        # Only a token on its own would be repeated by a message about its roles.
        raise ValueError("not ROLES:TOKEN, as in proxy,node,database:cbdeeab9")
    return StaticToken(parse_system_roles(roles), parse_token(token.strip()))


def parse_label_key(text: str) -> str:
    """The key of a database's label."""
    if not _LABEL_KEY.fullmatch(text):
        raise ValueError(f"not a label's name: {shown(text)} (letters, digits and . _ / : -)")
    return text


def parse_label_value(text: str) -> str:
    """The value of a database's label: any text that cannot break a line."""
    if _CONTROL.search(text) or len(text) > LABEL_VALUE_LIMIT:
        raise ValueError(f"not a label's value: {shown(text)} (no control characters, {LABEL_VALUE_LIMIT} at most)")
    return text


_SIZE = re.compile(r"([0-9]{1,12}) ?(KiB|MiB|GiB)")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DAYS = re.compile(r"([0-9]{1,5})d")


def bytes_of(text: str) -> int | None:
    """``64MiB`` in bytes; None for what is no size."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def parse_size(text: str) -> int:
    """How large a file of the audit log grows, in bytes: ``64MiB``."""
    size = bytes_of(text)
    if size is None or not 64 << 10 <= size <= 4 << 30:
        raise ValueError(f"not a size between 64KiB and 4GiB: {shown(text)} (as in 64MiB)")
    return size


def parse_retention(text: str) -> float:
    """How long something is kept, in seconds: ``365d``, ``8760h``, or ``never`` removed, which is 0."""
    if text.lower() == "never":
        return 0.0
    days = _DAYS.fullmatch(text)
    kept = int(days[1]) * 86400.0 if days else parse_duration(text)
    if kept < 86400:
        raise ValueError(f"too short a time to keep an audit log: {shown(text)} (1d is the shortest, or never)")
    return kept


def parse_period(text: str) -> float:
    """How often a dynamic label's command runs, in seconds; once a second at most."""
    period = parse_duration(text)
    if period < 1:
        raise ValueError(f"too short a period: {shown(text)} (1s is the shortest)")
    return period


@attrs.frozen
class Labels:
    """The labels of one ``--labels``."""

    static: Mapping[str, str] = attrs.field(factory=dict, converter=frozen_mapping)
    dynamic: Mapping[str, DynamicLabel] = attrs.field(factory=dict, converter=frozen_mapping)


def parse_labels(text: str) -> Labels:
    r"""``k=v,k2="v 2",k3=[1m:/cmd arg]``.

    A value in double quotes may hold commas, and ``\"`` and ``\\`` stand for themselves.  One in square
    brackets is a dynamic label: a period, a colon, a command and its arguments, divided at blanks.

    :raises ValueError: for what does not read so, and for a name given twice.
    """
    static: dict[str, str] = {}
    dynamic: dict[str, DynamicLabel] = {}
    at = 0
    while at < len(text):
        key, equals, _ = text[at:].partition("=")
        if not equals:
            raise ValueError(f"not key=value: {shown(text[at:])}")
        at += len(key) + 1
        name = parse_label_key(key.strip())
        if name in static or name in dynamic:
            raise ValueError(f"label {name} is given twice")
        opened = text[at : at + 1]
        if opened == "[":
            end = text.find("]", at)
            if end < 0:
                raise ValueError(f"label {name}: the closing ] is missing")
            dynamic[name] = _command(name, text[at + 1 : end])
            end += 1
        elif opened == '"':
            value, end = _quoted(name, text, at + 1)
            static[name] = parse_label_value(value)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            static[name] = parse_label_value(text[at:end].strip())
        if end < len(text) and text[end] != ",":
            raise ValueError(f"label {name}: a comma belongs before {shown(text[end:])}")
        if end == len(text) - 1:
            raise ValueError("a label is missing after the last comma")
        at = end + 1
    return Labels(static, dynamic)


def _quoted(name: str, text: str, at: int) -> tuple[str, int]:
    value = ""
    while at < len(text):
        letter = text[at]
        if letter == '"':
            return value, at + 1
        if letter == "\\" and text[at + 1 : at + 2] in ("\\", '"'):
            at += 1
            letter = text[at]
        value += letter
        at += 1
    raise ValueError(f"label {name}: the closing quote is missing")


def _command(name: str, text: str) -> DynamicLabel:
    period, colon, command = text.partition(":")
    words = tuple(command.split())
    if not colon or not words:
        raise ValueError(f"label {name}: not [period:command], as in [1m:/usr/bin/uname -r]")
    return DynamicLabel(words, parse_period(period.strip()))

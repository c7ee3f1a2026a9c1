"""The section ``auth_service.audit.sinks``.

::

    sinks:
    - {name: copy, type: file, path: /var/log/teleport/audit.jsonl}
    - name: collector
      type: syslog
      address: logs.example.com:6514
      ca_file: /etc/teleport/logs.cas
    - name: siem
      type: https
      url: https://siem.example.com/ingest
      header_files: {Authorization: /etc/teleport/siem.authorization}
      events: [db.session.*, user.login]
    - {name: archive, type: s3, bucket: audit, prefix: teleport/}

As elsewhere the file says where secrets are, and never what they are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Any

from teleport_db.amazon import parse_region
from teleport_db.audit.codes import CODES, FAILURE_CODES
from teleport_db.config import values
from teleport_db.config.credentials import parse_secret_path
from teleport_db.config.durations import parse_duration
from teleport_db.config.readers import Reader, boolean, choice, many, same, scalar, section, text_of
from teleport_db.config.sinks import EVENTS, LOG, FileSink, HTTPSSink, S3Sink, Sink, SyslogSink
from teleport_db.config.yamltext import Node

#: RFC 5425, 4.1.
SYSLOG_PORT = 6514

#: RFC 5424, 6.2.1: the names are those of syslog.conf.
_NAMED = "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert"
FACILITIES = {
    **{name: number for number, name in enumerate(_NAMED.split())},
    **{f"local{number}": 16 + number for number in range(8)},
}

#: Headers that are secrets, and those that are this program's own to set.
SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie", "x-api-key", "dd-api-key", "api-key"}
OWN_HEADERS = {
    *("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "te", "trailer"),
    *("expect", "upgrade", "keep-alive", "x-audit-cluster", "x-audit-first", "x-audit-count"),
}

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_EVENT = re.compile(r"[a-z0-9_.*-]{1,64}")
_APP_NAME = re.compile(r"[!-~]{1,48}")
_URL = re.compile(r"(https?)://([^/?#@\s]+)(/[!-~]*|\?[!-~]*)?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[ -~]{1,4096}")
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]|arn:[!-~]{1,300}")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/=-]{1,512}")
_ENDPOINT = re.compile(r"https://[A-Za-z0-9.:\[\]_-]{1,255}/?|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?/?")
_KEY_ID = re.compile(r"[A-Za-z0-9:/_-]{1,2048}")


def _shaped(pattern: re.Pattern[str], what: str) -> Reader[str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"not {what}: {values.shown(text)}")
        return text

    return scalar(parse)


def _number(least: int, most: int, what: str) -> Reader[int]:
    def parse(text: str) -> int:
        number = int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
        if not least <= number <= most:
            raise ValueError(f"{what} between {least} and {most} belongs here, not {values.shown(text)}")
        return number

    return scalar(parse)


def _size(least: str, most: str) -> Reader[int]:
    """Bytes, between two sizes as people write them."""

    def parse(text: str) -> int:
        size = values.bytes_of(text)
        if size is None or not (values.bytes_of(least) or 0) <= size <= (values.bytes_of(most) or 0):
            raise ValueError(f"not a size between {least} and {most}: {values.shown(text)} (as in 1MiB)")
        return size

    return scalar(parse)


def _seconds(least: float, most: float) -> Reader[float]:
    def parse(text: str) -> float:
        found = parse_duration(text)
        if not least <= found <= most:
            raise ValueError(f"a time between {least:g}s and {most:g}s belongs here, not {values.shown(text)}")
        return found

    return scalar(parse)


def _url(node: Node) -> tuple[str, int, str]:
    """Host, port and the rest of an address; what it says beside the host is not repeated, it may be a token."""
    found = _URL.fullmatch(text_of(node))
    if found is None:
        raise node.error("not an address as https://siem.example.com/ingest (no user, no blanks, no # in it)")
    if found[1] != "https":
        raise node.error("the address begins with https://: nothing goes anywhere in the clear")
    address = scalar(lambda _: values.parse_address(found[2], 443))(node)
    path = found[3] or "/"
    return address.host, address.port, path if path.startswith("/") else f"/{path}"


def _endpoint(node: Node) -> str:
    text = text_of(node)
    if not _ENDPOINT.fullmatch(text):
        raise node.error("not an address as https://storage.example.com (http:// on this machine only)")
    return text


def _event(text: str) -> str:
    """The name of an event that there is, or a glob for some."""
    if not _EVENT.fullmatch(text):
        raise ValueError(f"not the name of an event, or a glob (as in db.session.*): {values.shown(text)}")
    known = CODES.keys() | FAILURE_CODES.keys()
    glob = re.compile(".*".join(map(re.escape, text.split("*"))))
    if not any(map(glob.fullmatch, known)):
        raise ValueError(f"no event has such a name: {values.shown(text)}{values.did_you_mean(text, sorted(known))}")
    return text


def _file_path(text: str) -> str:
    if parse_secret_path(text).endswith("/"):
        raise ValueError("this is a directory: the path of a file belongs here")
    return text


def _mapping(what: str, read: Callable[[str, Node], str]) -> Reader[dict[str, str]]:
    """A mapping of header names, none twice in another case."""

    def reader(node: Node) -> dict[str, str]:
        if node.kind != "mapping":
            raise node.error(f"{what} are a mapping of names")
        found: dict[str, str] = {}
        for name, (at, value) in node.entries.items():
            if not _TOKEN.fullmatch(name):
                raise at.error(f"not the name of a header: {values.shown(name)}")
            if name.lower() in OWN_HEADERS:
                raise at.error("this header is set by the program itself")
            if name.lower() in map(str.lower, found):
                raise at.error("given twice")
            found[name] = read(name, value)
        return found

    return reader


def _header(name: str, value: Node) -> str:
    if name.lower() in SECRET_HEADERS:
        raise value.error("a secret does not belong in this file: say where it is, in header_files")
    text = text_of(value)
    if not _HEADER_VALUE.fullmatch(text):
        raise value.error("not the value of a header")
    return text


_COMMON: dict[str, Reader[Any]] = {
    "name": _shaped(_NAME, "a name for a sink (lower-case letters, digits and '-'; 63 at most)"),
    "type": scalar(str),
    "events": many(scalar(_event)),
    "begin": scalar(choice(same("oldest", "now"))),
    "format": scalar(choice(same(LOG, EVENTS))),
}
_TLS: dict[str, Reader[Any]] = {
    "ca_file": scalar(parse_secret_path),
    "cert_file": scalar(parse_secret_path),
    "key_file": scalar(parse_secret_path),
    "server_name": scalar(values.parse_host),
}


def _syslog(address: Any, **found: Any) -> dict[str, Any]:
    return {"host": address.host, "port": address.port, **found}


def _https(url: tuple[str, int, str], **found: Any) -> dict[str, Any]:
    host, port, path = url
    return {"host": host, "port": port, "path": path, **found}


_KINDS: dict[str, tuple[type[Sink], Callable[..., dict[str, Any]], dict[str, Reader[Any]], tuple[str, ...]]] = {
    "file": (FileSink, dict, {"path": scalar(_file_path)}, ("path",)),
    "syslog": (
        SyslogSink,
        _syslog,
        {
            **_TLS,
            "address": scalar(lambda text: values.parse_address(text, SYSLOG_PORT)),
            "facility": scalar(lambda text: FACILITIES[choice(same(*FACILITIES))(text)]),
            "app_name": _shaped(_APP_NAME, "an APP-NAME of RFC 5424 (48 printable characters without blanks)"),
            "max_message": _size("2KiB", "1MiB"),
        },
        ("address",),
    ),
    "https": (
        HTTPSSink,
        _https,
        {
            **_TLS,
            "url": _url,
            "headers": _mapping("headers", _header),
            "header_files": _mapping("header_files", lambda _, value: scalar(parse_secret_path)(value)),
            "batch_events": _number(1, 100_000, "a number"),
            "batch_bytes": _size("1KiB", "16MiB"),
            "compress": scalar(boolean),
            "timeout": _seconds(1, 600),
        },
        ("url",),
    ),
    "s3": (
        S3Sink,
        dict,
        {
            "bucket": _shaped(_BUCKET, "the name of a bucket"),
            "prefix": _shaped(_PREFIX, "a prefix for keys"),
            "region": scalar(parse_region),
            "endpoint_url": _endpoint,
            "encryption": scalar(choice({"aes256": "AES256", "aws:kms": "aws:kms"})),
            "kms_key_id": _shaped(_KEY_ID, "the id of a key"),
            "object_size": _size("64KiB", "64MiB"),
            "object_interval": _seconds(1, 86400),
        },
        ("bucket",),
    ),
}


def _sink(node: Node) -> Sink:
    if node.kind != "mapping" or "type" not in node.entries:
        raise node.error(f"type is missing: one of {', '.join(_KINDS)}")
    kind = scalar(choice(same(*_KINDS)))(node.entries["type"][1])
    make, shaped, own, required = _KINDS[kind]
    found = section(shaped, {**_COMMON, **own}, required=("name", *required))(node)
    del found["type"]
    for key, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if key in found and other not in found:
            raise node.entries[key][0].error(f"{other} is missing: both or neither")
    if {name.lower() for name in found.get("headers", ())} & {name.lower() for name in found.get("header_files", ())}:
        raise node.entries["header_files"][0].error("a header is in headers as well")
    if found.get("prefix") and not found["prefix"].endswith("/"):
        found["prefix"] += "/"
    if "kms_key_id" in found and found.get("encryption") != "aws:kms":
        raise node.entries["kms_key_id"][0].error("a key belongs to encryption: aws:kms")
    return make(**found)


def audit_sinks(node: Node) -> tuple[Sink, ...]:
    """The reader of the section."""
    if node.kind != "sequence":
        raise node.error("a list belongs here")
    names: dict[str, int] = {}
    paths: dict[str, int] = {}
    sinks = []
    for item in node.items:
        sink = _sink(item)
        if sink.name in names:
            at = item.entries["name"][1]
            raise at.error(f"{sink.name} is the name of another sink (line {names[sink.name]})")
        if isinstance(sink, FileSink):
            path = "/" + posixpath.normpath(sink.path).lstrip("/")
            if path in paths:
                raise item.entries["path"][1].error(f"another sink writes to this file (line {paths[path]})")
            paths[path] = item.line
        names[sink.name] = item.line
        sinks.append(sink)
    return tuple(sinks)

"""libpq's connection service file, of which this program owns a few keys of a few sections.

::

    # a comment of somebody                       kept
    [metrics]                                     kept, whatever is in it
    host=10.0.0.1
    [root-aurora]                                 ours: CLUSTER-NAME
    host=teleport.example.com                     ours: written anew by each login
    connect_timeout=5                             a key that is not ours: kept while the section lives

libpq takes no blanks around ``=``, reads the first section of a name, and ignores leading blanks and
lines that begin with ``#`` (PostgreSQL documentation, 34.17).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from teleport_db.errors import UsageError

#: The keys that a login writes, in their order in the file.
KEYS = ("host", "port", "user", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "gssencmode")


def section_name(cluster: str, service: str) -> str:
    """The section of a database service."""
    return f"{cluster}-{service}"


def update(text: str, name: str, settings: Mapping[str, str]) -> str:
    """``text`` with section ``name`` holding ``settings``; empty settings are left out.

    :raises UsageError: when a value cannot stand in a line of this file.
    """
    for key, value in settings.items():
        if not value.isprintable() or value != value.strip():
            raise UsageError(f"{key} {value!r} cannot be written to a service file")
    ours = [f"{key}={settings[key]}" for key in KEYS if settings.get(key)]
    lines, found = [], False
    for section, part in _sections(text):
        if section != name:
            lines += part
        elif found:  # libpq would never have read it
            lines += [line for line in part[1:] if _is_comment(line)]
        else:
            found = True
            lines += [part[0], *ours, *(line for line in part[1:] if _key(line) not in KEYS)]
    if not found:
        while lines and not lines[-1].strip():
            lines.pop()
        lines += ([""] if lines else []) + [f"[{name}]", *ours, ""]
    return "\n".join(lines)


def remove(text: str, name: str) -> str:
    """``text`` without section ``name``; comments inside it stay, for nobody else knows what they say."""
    lines: list[str] = []
    for section, part in _sections(text):
        if section != name:
            lines += part
            continue
        rest = [line for line in part[1:] if _is_comment(line)]
        lines += rest
        if not rest and not part[-1].strip() and lines and not lines[-1].strip():
            continue  # of the empty lines before and behind the section one is enough
        if not part[-1].strip():
            lines.append("")
    return "\n".join(lines)


def read(text: str, name: str) -> dict[str, str] | None:
    """The settings of section ``name`` as libpq reads them; None when there is no such section."""
    for section, part in _sections(text):
        if section == name:
            pairs = (line.strip().partition("=") for line in part[1:] if not _is_comment(line))
            return {key: value for key, equals, value in pairs if equals}
    return None


def path() -> str:
    """Where libpq looks: ``PGSERVICEFILE``, else the one in the home directory."""
    return os.environ.get("PGSERVICEFILE") or os.path.join(os.path.expanduser("~"), ".pg_service.conf")


def load() -> str:
    """The file's text; empty when there is none.  Bytes that are no UTF-8 survive a round trip."""
    try:
        with open(path(), encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def change(function: Callable[[str], str]) -> None:
    """Put what ``function`` makes of the file's text in its place, whole or not at all.

    A symbolic link and the file's permissions stay; a new file is its owner's alone.
    """
    from teleport_db.certs.files import write_secret

    before = load()
    after = function(before)
    if after == before:
        return
    target = os.path.realpath(path())
    mode = os.stat(target).st_mode & 0o777 if os.path.exists(target) else 0o600
    write_secret(target, after.encode("utf-8", "surrogateescape"))
    if mode != 0o600:
        os.chmod(target, mode)


def _sections(text: str) -> list[tuple[str | None, list[str]]]:
    """The lines of each section with its header first; what stands before all sections has the name None.

    Comments and empty lines directly above a header belong to that header and not to the section before.
    """
    found: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in text.split("\n"):
        bare = line.strip()
        if bare.startswith("[") and "]" in bare:
            above = found[-1][1]
            at = len(above)
            while at and _is_comment(above[at - 1]):
                at -= 1
            comments, above[at:] = above[at:], []
            if comments:
                found.append((None, comments))
            found.append((bare[1 : bare.index("]")], [line]))
        else:
            found[-1][1].append(line)
    return found


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _key(line: str) -> str:
    return "" if _is_comment(line) else line.strip().partition("=")[0]

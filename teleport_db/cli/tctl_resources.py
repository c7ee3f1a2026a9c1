"""``tctl get``, ``create``, ``update``, ``rm``, ``edit``: resources as YAML."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from teleport_db.api.http import Client, resource_path
from teleport_db.cli.output import clean, emit, format_argument, labels, table, to_json, to_yaml
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.cli.values import items
from teleport_db.errors import BadRequest, ConfigError, NotFound, TeleportDBError, UsageError

#: Other words for a kind, as Teleport takes them.
KINDS = {
    "users": "user",
    "roles": "role",
    "tokens": "token",
    "dbs": "db",
    "database": "db",
    "databases": "db",
    "db_servers": "db_server",
    "agent": "db_server",
    "agents": "db_server",
    "locks": "lock",
    "tc": "trusted_cluster",
    "trusted_clusters": "trusted_cluster",
    "cap": "cluster_auth_preference",
}


def get_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl get``."""
    parser.add_argument(
        "what", metavar="KIND[/NAME]", help="user, role, token, db, db_server, lock, ...; several by commas"
    )
    format_argument(parser, default="yaml")


def get(arguments: Arguments) -> None:
    """Print resources: YAML documents, a JSON list, or their names."""
    found: list[dict[str, Any]] = []
    with client(arguments) as api:
        for what in items(arguments.what) or [""]:
            kind, name = _reference(what)
            if name:
                found.append(api.call("GET", resource_path(kind, name)))
            else:
                found += api.call("GET", resource_path(kind)).get("items", [])
    if arguments.format == "yaml":
        print("\n---\n".join(map(to_yaml, found)) if found else "", end="\n" if found else "")
    elif arguments.format == "json":
        print(to_json(found))
    else:
        rows = ([resource.get("kind", ""), _name(resource), _details(resource)] for resource in found)
        emit(found, "text", lambda: table(["Kind", "Name", "Details"], rows))


def _details(resource: dict[str, Any]) -> str:
    """What a resource is about, in a few words."""
    spec, metadata = resource.get("spec", {}), resource.get("metadata", {})
    match resource.get("kind"):
        case "user" | "token":
            words = ",".join(map(str, spec.get("roles") or ()))
        case "db":
            words = f"{spec.get('uri', '')} {labels(metadata.get('labels'))}"
        case "db_server":
            served = (str(database.get("name", "")) for database in spec.get("databases") or ())
            words = f"{spec.get('hostname', '')} {','.join(served)}"
        case "lock":
            target = " ".join(f"{kind} {name}" for kind, name in (spec.get("target") or {}).items())
            words = ": ".join(part for part in (target, str(spec.get("message") or "")) if part)
        case "cluster_auth_preference":
            words = f"second_factor {spec.get('second_factor', '')}"
        case _:
            words = str(metadata.get("description") or "")
    return " ".join([*words.split(), *([f"(until {metadata['expires']})"] if metadata.get("expires") else [])])


def create_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl create``."""
    _file_arguments(parser)
    parser.add_argument("--force", action="store_true", help="replace resources that are there")


def _file_arguments(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a file of YAML or JSON; - for standard input")
    parser.add_argument("-f", "--filename", metavar="FILE", help="the same")


def create(arguments: Arguments) -> None:
    """Create every resource of a file; nothing is created when one of them cannot be read."""
    resources = _file_resources(arguments, "create")
    with client(arguments) as api:
        for place, resource in resources:
            query = {"force": 1 if arguments.force else None}
            _placed(place, resource, partial(api.call, "POST", resource_path(resource["kind"]), resource, query))
            done = "written" if arguments.force else "created"
            print(f"{resource['kind']} {clean(repr(_name(resource)))} has been {done}.")


def update_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl update``."""
    _file_arguments(parser)


def update(arguments: Arguments) -> None:
    """Change every resource of a file; each must be there, and of the revision that the file has, if it has one."""
    resources = _file_resources(arguments, "update")
    with client(arguments) as api:
        for place, resource in resources:
            _placed(place, resource, partial(_put, api, resource))
            print(f"{resource['kind']} {clean(repr(_name(resource)))} has been updated.")


def _put(api: Client, resource: dict[str, Any]) -> None:
    path = resource_path(resource["kind"], _name(resource))
    if resource["metadata"].get("revision") is None:
        resource["metadata"]["revision"] = api.call("GET", path).get("metadata", {}).get("revision")
    api.call("PUT", path, resource)


def _file_resources(arguments: Arguments, command: str) -> list[tuple[tuple[str, int], dict[str, Any]]]:
    """The resources of the file that the flags name, each with its place."""
    path = arguments.filename or arguments.file
    if not path or (arguments.filename and arguments.file):
        raise UsageError(f"one file is needed: tctl {command} -f FILE")
    found = _read_resources(file_text(path), "standard input" if path == "-" else path)
    return [((source, line), resource) for source, line, resource in found]


def _placed(place: tuple[str, int], resource: dict[str, Any], send: Callable[[], Any]) -> None:
    """Send a resource; what is wrong with it is told with its place in the file."""
    try:
        send()
    except BadRequest as error:
        source, line = place
        path = f"{resource['kind']}/{_name(resource)}"
        raise ConfigError(error.public, source=source, line=line, path=path) from error


def rm_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl rm``."""
    parser.add_argument("what", metavar="KIND/NAME", help="the resource")


def rm(arguments: Arguments) -> None:
    """Delete a resource."""
    kind, name = _reference(arguments.what, named=True)
    with client(arguments) as api:
        api.call("DELETE", resource_path(kind, name))
    print(f"{kind} {clean(repr(name))} has been deleted.")


def edit_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl edit``."""
    parser.add_argument("what", metavar="KIND/NAME", help="the resource")


def edit(arguments: Arguments) -> None:
    """Open a resource in an editor and write what was saved, unless somebody else changed it meanwhile."""
    import tempfile

    kind, name = _reference(arguments.what, named=True)
    path = resource_path(kind, name)
    with client(arguments) as api:
        before = api.call("GET", path)
        api.close()
        descriptor, file = tempfile.mkstemp(prefix=f"{kind}-", suffix=".yaml")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(to_yaml(before) + "\n")
        try:
            _run_editor(file)
            _put_edited(api, path, before, file)
        except TeleportDBError as error:
            raise type(error)(f"{error.public.splitlines()[0]}\nwhat you wrote is in {file}") from error
        os.unlink(file)


def _put_edited(api: Client, path: str, before: dict[str, Any], file: str) -> None:
    resources = _read_resources(file_text(file), file)
    if len(resources) != 1:
        raise BadRequest("one resource belongs in the file")
    _, _, after = resources[0]
    if after == before:
        print("Nothing was changed.")
        return
    kind, name = before.get("kind"), _name(before)
    if (after["kind"], _name(after)) != (kind, name):
        raise BadRequest("the kind and the name of a resource cannot be changed")
    after["metadata"]["revision"] = before.get("metadata", {}).get("revision")
    api.call("PUT", path, after)
    print(f"{kind} {clean(repr(name))} has been updated.")


def _run_editor(file: str) -> None:
    import shlex
    import subprocess

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), file], check=False).returncode
    except FileNotFoundError:
        raise NotFound(f"the editor {editor!r} is not here; set EDITOR") from None
    if code:
        raise BadRequest(f"the editor ended with {code}; nothing was changed")


def _reference(text: str, *, named: bool = False) -> tuple[str, str]:
    """``KIND/NAME`` as the kind's own word and the name."""
    kind, slash, name = text.partition("/")
    if not kind or (slash and not name) or (named and not name):
        raise UsageError(f"not {'KIND/NAME' if named else 'KIND or KIND/NAME'}: {text!r}, as in role/developer")
    return KINDS.get(kind, kind), name


def _read_resources(text: str, source: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Every resource of a file with its place; all are looked at before the first is sent."""
    from teleport_db.access import parse_role
    from teleport_db.config import load_documents

    found = []
    for document in load_documents(text, source):
        value = document.value
        metadata = value.get("metadata") if isinstance(value, dict) else None
        if not isinstance(metadata, dict) or not isinstance(value.get("kind"), str):
            raise ConfigError("not a resource: kind and metadata are needed", source=source, line=document.line)
        if not isinstance(metadata.get("name"), str) or not metadata["name"]:
            raise ConfigError("the name is missing", source=source, line=document.line, path="metadata.name")
        if value["kind"] == "role":
            parse_role(document.node)  # auth would say what is wrong as well, but not where in the file
        value["kind"] = KINDS.get(value["kind"], value["kind"])
        found.append((source, document.line, value))
    if not found:
        raise ConfigError("there is no resource in it", source=source)
    return found


def file_text(path: str) -> str:
    """What is in a file, or in standard input for ``-``; ConfigError when it is no text."""
    try:
        if path == "-":
            return sys.stdin.read(1 << 21)
        with open(path, encoding="utf-8") as file:
            return file.read(1 << 21)
    except UnicodeDecodeError:
        raise ConfigError("not a text file", source=path) from None


def _name(resource: dict[str, Any]) -> str:
    return str(resource.get("metadata", {}).get("name", ""))

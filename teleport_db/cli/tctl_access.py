"""``tctl access explain``, ``ls`` and ``test``: why somebody may or may not, and whether roles do what they should."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from teleport_db.cli.output import clean, emit, format_argument, labels, table
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.errors import NotFound, TeleportDBError, UsageError

if TYPE_CHECKING:
    from teleport_db.access.expectations import Outcome, Suite


def explain_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl access explain``."""
    parser.add_argument("user", metavar="USER", help="the Teleport user")
    parser.add_argument("--db", required=True, metavar="SERVICE", help="the database service, as tctl db ls has it")
    parser.add_argument("--db-user", required=True, metavar="USER", help="the database user")
    parser.add_argument("--db-name", metavar="NAME", help="the database name (default: the database user's)")
    parser.add_argument(
        "--replication",
        nargs="?",
        const="true",
        choices=("true", "database"),
        help="a replication connection, to the server or to the one database",
    )
    parser.add_argument("--role", metavar="USER", help="the database user to which the connection's parameters change")
    parser.add_argument("--from", dest="address", metavar="ADDRESS", help="the client's address, for source_addresses")
    format_argument(parser)


def explain(arguments: Arguments) -> int:
    """Print what holds now; the exit code is 0 when the session is allowed and 1 when it is refused."""
    query = {
        "user": arguments.user,
        "db": arguments.db,
        "db_user": arguments.db_user,
        "db_name": arguments.db_name,
        "replication": arguments.replication,
        "role": arguments.role,
        "from": arguments.address,
    }
    with client(arguments) as api:
        said = api.call("GET", "/v1/access/explain", query=query)
    emit(said, arguments.format, lambda: _explained(said))
    return 0 if said.get("allowed") is True else 1


def _explained(said: Mapping[str, Any]) -> str:
    asked = f"database user {clean(repr(said.get('db_user')))}, database {clean(repr(said.get('db_name')))}"
    service = f"{clean(str(said.get('db_service')))} ({clean(labels(said.get('labels'))) or 'no labels'})"
    says = ([say.get("role", ""), str(say.get("text", "")).partition(" ")[2]] for say in said.get("says", ()))
    # The role's name stands in a column of its own.
    rows = [[role, text.removeprefix(f'"{role}"').lstrip(": ")] for role, text in says]
    verdict = "Allowed." if said.get("allowed") else f"Refused: {clean(str(said.get('message')))}"
    if said.get("agents_differ"):
        verdict += "\nIts agents have different labels, and one of them would decide otherwise."
    facts = [*_person(said), ("Database", service), ("Asked for", asked)]
    return "\n\n".join([_facts(facts), table(["Role", "Says"], rows), _in_force(said), verdict])


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl access ls``."""
    parser.add_argument("user", metavar="USER", help="the Teleport user")
    format_argument(parser)


def ls(arguments: Arguments) -> None:
    """List the database services that are open to a user, with database users and names."""
    with client(arguments) as api:
        said = api.call("GET", "/v1/access/list", query={"user": arguments.user})

    def text() -> str:
        rows = (
            [db.get("name", ""), labels(db.get("labels")), _words(db.get("users")), _words(db.get("names"))]
            for db in said.get("databases", ())
        )
        listing = table(["Database", "Labels", "Users", "Names"], rows)
        return "\n\n".join([_facts(_person(said)), listing, _in_force(said)])

    emit(said, arguments.format, text)


def _person(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    traits = said.get("traits") or {}
    facts = [("User", clean(str(said.get("user")))), ("Roles", _words(said.get("roles")))]
    facts += [("Traits", "; ".join(f"{clean(key)}: {_words(traits[key])}" for key in traits if traits[key]) or "none")]
    if said.get("missing_roles"):
        facts.append(("Not there", f"{_words(said['missing_roles'])} (nobody gets in with a role that is not there)"))
    return facts


def _in_force(said: Mapping[str, Any]) -> str:
    """Locks and limits."""
    locks = []
    for lock in said.get("locks", ()):
        until = f" until {clean(str(lock['expires']))}" if lock.get("expires") else ""
        locks.append(f"{clean(str(lock.get('text')))}{until} (lock/{clean(str(lock.get('name')))})")
    rows = ([one.get("option", ""), _words(one.get("value")), one.get("set_by", "")] for one in said.get("limits", ()))
    limits = table(["Limit", "Value", "Set by"], rows) if said.get("limits") else _facts([("Limits", "none")])
    return f"{limits}\n\n" + _facts([("Locks", "; ".join(locks) or "none")])


def _facts(lines: list[tuple[str, str]]) -> str:
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title.ljust(width)}  {value}" for title, value in lines)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def test_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl access test``."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="a file of roles, of expectations, or of both")
    parser.add_argument("-f", "--filename", action="append", default=[], metavar="FILE", help="the same")
    format_argument(parser)


def test(arguments: Arguments) -> int:
    """Run expectations; a line for each that does not hold, and exit code 1 when there is one."""
    from teleport_db.access.expectations import Suite, add_document
    from teleport_db.cli.tctl_resources import file_text
    from teleport_db.config import load_documents

    files = [*arguments.filename, *arguments.files]
    if not files:
        raise UsageError("a file is needed: tctl access test -f FILE")
    suite = Suite()
    for path in files:
        for document in load_documents(file_text(path), "standard input" if path == "-" else path):
            add_document(suite, document)
    if not suite.expectations:
        raise UsageError("no document of kind access_test says what is expected; see tctl access test --help")
    _look_up(suite, arguments)
    outcomes = list(suite.run())
    failed = [outcome for outcome in outcomes if not outcome.holds]
    emit([_outcome(one) for one in outcomes], arguments.format, lambda: _report(failed, len(outcomes)))
    return 1 if failed else 0


def _report(failed: list[Outcome], count: int) -> str:
    end = f"{len(failed)} of {count} expectations do not hold." if failed else f"All {count} expectations hold."
    return "\n".join([*(clean(str(outcome)) for outcome in failed), end])


def _outcome(outcome: Outcome) -> dict[str, Any]:
    one = outcome.expectation
    return {
        "place": one.place,
        "expected": "allow" if one.allow else "deny",
        **one.asked,
        "holds": outcome.holds,
        "message": outcome.said,
    }


def _look_up(suite: Suite, arguments: Arguments) -> None:
    """Take from the cluster what the files do not have; nobody is called when they have everything."""
    from teleport_db.access import parse_role
    from teleport_db.access.expectations import Person
    from teleport_db.api.http import resource_path

    with ExitStack() as stack:
        api: list[Any] = []

        def call(what: str, path: str) -> dict[str, Any]:
            try:
                if not api:
                    api.append(stack.enter_context(client(arguments)))
                found: dict[str, Any] = api[0].call("GET", path)
                return found
            except NotFound:
                raise
            except (TeleportDBError, OSError) as error:
                raise TeleportDBError(f"{what} is not in the file, and the cluster cannot be asked: {error}") from error

        for name in suite.unknown_users():
            spec = _need(call, "user", name, resource_path("user", name)).get("spec", {})
            traits = {key: tuple(values) for key, values in (spec.get("traits") or {}).items()}
            suite.users[name] = Person(tuple(spec.get("roles") or ()), traits)
        if unknown := suite.unknown_databases():
            served = call(f"database {unknown[0]!r}", "/v1/databases").get("items", [])
            suite.databases |= {db["name"]: db.get("labels") or {} for db in served if db["name"] in unknown}
            for name in suite.unknown_databases():
                raise NotFound(f"the database {name!r} is neither in the file nor served by an agent now")
        for name in suite.unknown_roles():
            try:
                suite.roles[name] = parse_role(call(f"role {name!r}", resource_path("role", name)), f"role/{name}")
            except NotFound:
                suite.absent.add(name)


def _need(call: Callable[[str, str], dict[str, Any]], kind: str, name: str, path: str) -> dict[str, Any]:
    try:
        return call(f"{kind} {name!r}", path)
    except NotFound:
        raise NotFound(f"the {kind} {name!r} is neither in the file nor in the cluster") from None

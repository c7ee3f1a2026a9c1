"""``tctl users``: people, by an invitation that lets each choose a password."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from teleport_db.api.http import Client, resource_path
from teleport_db.cli.output import clean, duration, emit, format_argument, table
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import client
from teleport_db.cli.values import items, seconds
from teleport_db.errors import UsageError

#: The longest life of a link, in seconds.
LONGEST_LINK = 48 * 3600


def add_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl users add``."""
    parser.add_argument("account", metavar="ACCOUNT", help="the user's name")
    parser.add_argument("logins", nargs="?", metavar="LOGINS", help="operating-system logins, kept as a trait")
    parser.add_argument("--roles", default="access", metavar="A,B", help="roles (default: access)")
    parser.add_argument("--db-names", metavar="A,B", help="database names the user may connect to; '*' for any")
    parser.add_argument("--db-users", metavar="A,B", help="database users to connect as (default: the account's name)")
    _trait_argument(parser, "--trait", "a trait of your own, for templates in roles; may be repeated")
    _link_arguments(parser)


def add(arguments: Arguments) -> None:
    """Create a user and print the link of the invitation."""
    roles = items(arguments.roles)
    if not roles:
        raise UsageError("--roles: at least one role is needed")
    db_users = items(arguments.db_users) if arguments.db_users is not None else [arguments.account]
    traits = {
        "logins": items(arguments.logins),
        "db_names": items(arguments.db_names),
        "db_users": db_users,
        **_traits("--trait", arguments.trait),
    }
    body = {"name": arguments.account, "roles": roles, "traits": traits, "ttl": _link_life(arguments.ttl)}
    with client(arguments) as api:
        answer = api.call("POST", "/v1/users", body)
        _print_link(api, answer, "invite", body["ttl"], arguments.format)


def reset_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl users reset``."""
    parser.add_argument("account", metavar="ACCOUNT", help="the user's name")
    _link_arguments(parser)


def reset(arguments: Arguments) -> None:
    """Print a link by which the user sets a new password and second factor."""
    body = {"ttl": _link_life(arguments.ttl)}
    with client(arguments) as api:
        answer = api.call("POST", f"/v1/users/{quote(arguments.account, safe='')}/reset", body)
        _print_link(api, answer, "reset", body["ttl"], arguments.format)


def ls_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl users ls``."""
    format_argument(parser)


def ls(arguments: Arguments) -> None:
    """List users."""
    with client(arguments) as api:
        users = api.call("GET", resource_path("user")).get("items", [])
    users.sort(key=_name)
    rows = ([_name(user), ",".join(map(str, user.get("spec", {}).get("roles") or []))] for user in users)
    emit(users, arguments.format, lambda: table(["User", "Roles"], rows))


def rm_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl users rm``."""
    parser.add_argument(
        "accounts", nargs="+", metavar="ACCOUNT", help="names of users; several may be joined by commas"
    )


def rm(arguments: Arguments) -> None:
    """Delete users."""
    with client(arguments) as api:
        for account in (name for given in arguments.accounts for name in items(given)):
            api.call("DELETE", resource_path("user", account))
            print(f'User "{clean(account)}" has been deleted.')


def update_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl users update``."""
    parser.add_argument("account", metavar="ACCOUNT", help="the user's name")
    parser.add_argument("--set-roles", metavar="A,B", help="the roles, in place of those there are")
    parser.add_argument("--set-db-names", metavar="A,B", help="the trait db_names, in place of what there is")
    parser.add_argument("--set-db-users", metavar="A,B", help="the trait db_users, in place of what there is")
    _trait_argument(parser, "--set-trait", "a trait, in place of what there is; NAME= removes it; may be repeated")


def update(arguments: Arguments) -> None:
    """Set roles or traits; auth and the agents go by them at once, whatever certificates that are out say."""
    traits = {
        name: items(value)
        for name, value in (("db_names", arguments.set_db_names), ("db_users", arguments.set_db_users))
        if value is not None
    }
    traits |= _traits("--set-trait", arguments.set_trait)
    if arguments.set_roles is None and not traits:
        raise UsageError("nothing to set: give --set-roles, --set-db-names, --set-db-users or --set-trait")
    if arguments.set_roles is not None and not items(arguments.set_roles):
        raise UsageError("--set-roles: at least one role is needed")
    path = resource_path("user", arguments.account)
    with client(arguments) as api:
        user = api.call("GET", path)
        spec = user.setdefault("spec", {})
        if arguments.set_roles is not None:
            spec["roles"] = items(arguments.set_roles)
        all_traits = {**(spec.get("traits") or {}), **traits}
        spec["traits"] = {name: values for name, values in all_traits.items() if values or name not in traits}
        api.call("PUT", path, user)
    print(f'User "{clean(arguments.account)}" has been updated; it counts at once.')


def unlock_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl users unlock``."""
    parser.add_argument("account", metavar="ACCOUNT", help="the user's name")


def unlock(arguments: Arguments) -> None:
    """Forget the failed logins of a user; locks of ``tctl lock`` stay."""
    with client(arguments) as api:
        answer = api.call("POST", f"/v1/users/{quote(arguments.account, safe='')}/unlock", {})
    sources = int(answer.get("sources") or 0)
    if sources:
        said = f"failed from {sources} address{'es' if sources > 1 else ''}; that is forgotten"
    else:
        said = "has failed nowhere in the last 20 minutes; a lock is removed with tctl rm lock/NAME"
    print(f'User "{clean(arguments.account)}" {said}.')


def _trait_argument(parser: Parser, flag: str, text: str) -> None:
    parser.add_argument(flag, action="append", default=[], metavar="NAME=A,B", help=text)


def _traits(flag: str, given: list[str]) -> dict[str, list[str]]:
    """Values by the trait's name."""
    found = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not name.strip() or not equals:
            raise UsageError(f"{flag}: write NAME=VALUE,VALUE, not {clean(text)!r}")
        found[name.strip()] = items(values)
    return found


def _link_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--ttl", default="1h", metavar="TIME", help="life of the link, as 8h (default: 1h, at most 48h)"
    )
    format_argument(parser)


def _link_life(text: str) -> int:
    life = seconds("--ttl", text)
    if life > LONGEST_LINK:
        raise UsageError(f"--ttl: a link lives 48h at most, not {text}")
    return life


def _print_link(api: Client, answer: dict[str, Any], purpose: str, life: int, form: str) -> None:
    proxy = api.call("GET", "/v1/status").get("proxy_address") or "PROXY:3080"
    user, url = str(answer.get("user", "")), f"https://{proxy}/web/{purpose}/{answer.get('token', '')}"
    said = (
        "has been created but has no password yet"
        if purpose == "invite"
        else "can be given a new password; the old one, devices and recovery codes open nothing any more"
    )
    emit(
        {"user": user, "url": url, "expires": answer.get("expires")},
        form,
        lambda: (
            clean(f'User "{user}" {said}.')
            + f" Share this link with them;\nit works once, for {duration(life)}:\n\n{clean(url)}"
        ),
    )


def _name(user: dict[str, Any]) -> str:
    return str(user.get("metadata", {}).get("name", ""))

"""``teleport db configure aws print-iam``, ``aws check`` and ``bootstrap``: the guide's steps in AWS.

They act with the credentials that boto3's default chain finds here: for ``check`` those should be the agent's own.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from teleport_db.cli.program import Arguments, Parser
from teleport_db.errors import ConfigError, ConnectionTrouble, TeleportDBError, UsageError

if TYPE_CHECKING:
    from teleport_db.config.model import Amazon, Config, Database
    from teleport_db.db.aws import Session, Source
    from teleport_db.db.awslookup import Identity

#: Read where there is one and neither ``--config`` nor ``--db-uri`` was given.
CONFIG_FILE = "/etc/teleport.yaml"


def _arguments(parser: Parser) -> None:
    """The flags that say which databases are meant."""
    for flags, metavar, text in (
        (("-c", "--config"), "FILE", f"the databases of this file (default: {CONFIG_FILE} if there)"),
        (("--name", "--db-name"), "NAME", "only the one of this name"),
        (("--uri", "--db-uri"), "HOST:PORT", "a database that is in no file: its address"),
        (("--aws-region", "--db-aws-region"), "REGION", "its region, where its address does not tell"),
        (("--resource-id",), "ID", "its resource id (db-..., cluster-...), which is looked up otherwise"),
        (("--assume-role-arn",), "ARN", "a role that its agent assumes"),
        (("--external-id",), "ID", "what that role's trust policy wants to hear"),
    ):
        parser.add_argument(*flags, default="", metavar=metavar, help=text)


def print_iam_arguments(parser: Parser) -> None:
    """Declare the arguments of ``teleport db configure aws print-iam``."""
    _arguments(parser)
    parser.add_argument("--db-user", action="append", default=[], metavar="USER", help="only this one; repeatable")
    parser.add_argument(
        "--account-id", default="", metavar="ID", help="the AWS account, with --resource-id: asks nobody"
    )


def print_iam(arguments: Arguments) -> None:
    """Print the IAM policy that logins need."""
    from teleport_db.amazon import connect_policy

    arns = [arn for database, amazon in chosen(arguments) for arn in _arns(arguments, database, amazon)]
    print(json.dumps(connect_policy(list(dict.fromkeys(arns))), indent=4))


def bootstrap_arguments(parser: Parser) -> None:
    """Declare the arguments of ``teleport db configure bootstrap``."""
    _arguments(parser)
    parser.add_argument("--db-user", action="append", default=[], metavar="USER", help="only this one; repeatable")
    parser.add_argument("--attach-to-user", default="", metavar="NAME", help="attach the policy to this IAM user")
    parser.add_argument("--attach-to-role", default="", metavar="NAME", help="attach the policy to this IAM role")
    parser.add_argument("--manual", action="store_true", help="change nothing: print what there is to do")
    parser.add_argument("--confirm", action="store_true", help="do not ask")
    parser.set_defaults(account_id="")


def bootstrap(arguments: Arguments) -> int:
    """Make the policy, and attach it to the identity of the agents."""
    from teleport_db.cli.program import confirmed
    from teleport_db.db.awslookup import POLICY_NAME, attach

    if arguments.attach_to_user and arguments.attach_to_role:
        raise UsageError("--attach-to-user or --attach-to-role, not both")
    wanted: dict[Identity, list[str]] = {}
    region = ""
    for database, amazon in chosen(arguments):
        region = region or amazon.region
        arns = wanted.setdefault(_target(arguments, amazon), [])
        arns += [arn for arn in _arns(arguments, database, amazon) if arn not in arns]
    for identity, arns in wanted.items():
        if arguments.manual:
            print(_by_hand(identity, arns, region))
            continue
        what = f"IAM policy {POLICY_NAME} for {len(arns)} database{'s' * (len(arns) != 1)}"
        print("\n".join([f"{what}, attached to the {identity.kind} {identity.name}:", *(f"  {arn}" for arn in arns)]))
        if not arguments.confirm and not confirmed("Make and attach it?"):
            raise UsageError("nothing was changed; --confirm does not ask, --manual prints what to do")
        with _asking(amazon_source(region)) as session:
            arn = attach(session, identity, arns)
        print(f"{arn} is attached to the {identity.kind} {identity.name}.")
    return 0


def check_arguments(parser: Parser) -> None:
    """Declare the arguments of ``teleport db configure aws check``."""
    from teleport_db.cli.output import format_argument

    _arguments(parser)
    parser.add_argument(
        "--data-dir", default="", metavar="DIR", help="the agent's, where Amazon's certificates are kept"
    )
    parser.add_argument("--db-user", default="", metavar="USER", help="try a login as this database user")
    parser.add_argument("--db-database", default="postgres", metavar="DB", help="to this database (default: postgres)")
    format_argument(parser)


def check(arguments: Arguments) -> int:
    """Walk the guide's steps and say which is missing; exit code 1 when one is."""
    from teleport_db.cli.output import emit, table
    from teleport_db.config.model import Config
    from teleport_db.db.aws import Sessions
    from teleport_db.db.awsbundle import BundleFiles
    from teleport_db.db.awscheck import MISSING, Check

    config = _config(arguments) or Config()
    directory = os.path.join(arguments.data_dir or config.teleport.data_dir, "aws")
    sessions, files = Sessions(), BundleFiles(directory, base=config.db.rds_ca_url)
    found = [
        {"database": database.name, "step": step.title, "state": step.state, "text": step.text}
        for database, amazon in chosen(arguments)
        for step in Check(
            database,
            amazon,
            sessions=sessions,
            files=files,
            read_file=lambda path: Path(path).read_bytes(),
            user=arguments.db_user,
            db_name=arguments.db_database,
        ).steps()
    ]
    rows = [list(one.values()) for one in found]
    emit(found, arguments.format, lambda: table(["Database", "Step", "State", "Found, or to do"], rows))
    return int(any(one["state"] == MISSING for one in found))


def _config(arguments: Arguments) -> Config | None:
    from teleport_db.config import parse

    path = arguments.config or (CONFIG_FILE if not arguments.uri and os.path.exists(CONFIG_FILE) else "")
    if not path:
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        return parse(file.read(2 * 1024 * 1024), path)


def chosen(arguments: Arguments) -> list[tuple[Database, Amazon]]:
    """The databases of Amazon's that are meant, at least one."""
    import attrs

    from teleport_db.config.flags import Flags, from_flags

    if arguments.uri:
        flags = Flags(db_name=arguments.name or "database", db_uri=arguments.uri, db_aws_region=arguments.aws_region)
        databases = from_flags(flags).db.databases
    else:
        config = _config(arguments)
        if config is None:
            raise UsageError("which database? give --config=FILE, or --uri=HOST:PORT")
        databases = tuple(one for one in config.db.databases if arguments.name in ("", one.name))
    given = {"resource_id": arguments.resource_id, "assume_role_arn": arguments.assume_role_arn}
    given["external_id"] = arguments.external_id
    found = [
        (one, attrs.evolve(one.amazon, **{key: value for key, value in given.items() if value}))
        for one in databases
        if one.amazon is not None
    ]
    if not found:
        raise ConfigError(
            f"no database of Amazon's {f'is called {arguments.name}' if arguments.name else 'is there'}: its uri is an "
            "endpoint of RDS, or it has aws.region",
            source=arguments.config or ("--uri" if arguments.uri else CONFIG_FILE),
        )
    return found


def amazon_source(region: str) -> Source:
    """Whose credentials the commands take: those found here, whatever an agent assumes."""
    from teleport_db.db.aws import Source

    return Source(region)


@contextmanager
def _asking(source: Source) -> Iterator[Session]:
    """A session of AWS; what fails in it becomes words."""
    from teleport_db.db.aws import Sessions, explain

    try:
        yield Sessions().get(source)
    except (TeleportDBError, OSError):
        raise
    except Exception as error:
        # botocore's errors have no common name that could be caught without importing it.
        raise ConnectionTrouble(explain(error, source, verbose=True).replace("this agent", "this command")) from error


def _arns(arguments: Arguments, database: Database, amazon: Amazon) -> list[str]:
    from teleport_db.amazon import connect_arn
    from teleport_db.db.awslookup import find_resource

    users = arguments.db_user or ["*"]
    if arguments.account_id and amazon.resource_id:
        return [connect_arn(amazon.region, arguments.account_id, amazon.resource_id, user) for user in users]
    with _asking(amazon_source(amazon.region)) as session:
        resource = find_resource(session, database, amazon)
    return [resource.arn(amazon.region, user) for user in users]


def _target(arguments: Arguments, amazon: Amazon) -> Identity:
    """Whom to attach the policy to: who was named, the role that the agent assumes, or who we are."""
    from teleport_db.amazon import partition
    from teleport_db.db.awslookup import identity_of, present_identity

    with _asking(amazon_source(amazon.region)) as session:
        for kind, name in (("user", arguments.attach_to_user), ("role", arguments.attach_to_role)):
            if name.startswith("arn:"):
                return identity_of(name)
            if name:
                account = present_account(session)
                return identity_of(f"arn:{partition(amazon.region)}:iam::{account}:{kind}/{name}")
        return identity_of(amazon.assume_role_arn) if amazon.assume_role_arn else present_identity(session)


def present_account(session: Session) -> str:
    """The AWS account of these credentials."""
    return str(session.client("sts").get_caller_identity()["Account"])


def _by_hand(identity: Identity, arns: list[str], region: str) -> str:
    from teleport_db.amazon import connect_policy, partition
    from teleport_db.db.awslookup import POLICY_NAME

    policy = f"arn:{partition(region)}:iam::{identity.account}:policy/{POLICY_NAME}"
    document = json.dumps(connect_policy(arns), indent=4)
    return f"""\
1. Write this policy into the file policy.json:

{document}

2. Make it an IAM policy:

   aws iam create-policy --policy-name {POLICY_NAME} --policy-document file://policy.json

3. Attach it to the {identity.kind} {identity.name}:

   aws iam attach-{identity.kind}-policy --{identity.kind}-name {shlex.quote(identity.name)} --policy-arn {policy}

4. In each database, as its administrator, for each database user:

   GRANT rds_iam TO alice;
"""

"""Commands made of words, each in a module that is imported when it is called.

::

    tsh --proxy=x db login --db-user=alice aurora
        └ global ┘ └ words ┘ └ the command's own ┘      flags and arguments in any order

The words are looked for first and one parser is made, that of the command; ``argparse``'s tree of
sub-parsers makes all of them and refuses an optional argument behind a flag.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from teleport_db import __version__
from teleport_db.errors import ConfigError, TeleportDBError, UsageError

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


class Command(NamedTuple):
    """One command.

    :param words: as they are typed, ``db login``.
    :param target: ``module:function`` in this package; ``function_arguments(parser)`` declares its arguments.
    :param example: lines that work when typed.
    """

    words: str
    target: str
    summary: str
    example: str

    def load(self) -> tuple[Callable[[Parser], None], Callable[[Arguments], int | None]]:
        """The function that declares the arguments, and the one that runs the command."""
        name, _, function = self.target.partition(":")
        module = import_module(f"teleport_db.cli.{name}")
        return getattr(module, f"{function}_arguments"), getattr(module, function)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is an exception of ours: one line and where to read more."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\nsee {self.prog} --help")


class Program:
    """A command line tool.

    :param global_arguments: declares the flags that every command takes, before or behind its words.
    :param later: words, or flags, that Teleport has and this version has not: each with what to say.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        commands: Sequence[Command],
        global_arguments: Callable[[Parser], None],
        *,
        later: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.name, self.summary, self.later = name, summary, dict(later)
        self.commands = {
            **{command.words: command for command in commands},
            "version": Command("version", "program:version", "print the version", f"{name} version"),
            "completion": Command(
                "completion",
                "completion:completion",
                "print a script that completes commands and flags in a shell",
                f'eval "$({name} completion bash)"',
            ),
        }
        self._global_arguments = global_arguments

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run a command line and return its exit code: 0, 1 for what went wrong, 2 for a wrong call."""
        words = list(sys.argv[1:] if argv is None else argv)
        try:
            code = self.run(words)
            sys.stdout.flush()
            return code
        except UsageError as error:
            return _complain(error, 2)
        except ConfigError as error:
            return _complain(error, 2 if error.source.startswith("-") else 1)
        except TeleportDBError as error:
            return _complain(error, 1)
        except KeyboardInterrupt:
            return _complain("interrupted", 1)
        except EOFError:
            return _complain("the input ended before it was complete", 1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
            return 1
        except OSError as error:
            return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
        except Exception as error:
            if {"-d", "--debug"} & set(words):
                raise
            # A fault of this program: its name helps whoever reports it, a traceback helps nobody at a terminal.
            return _complain(f"unexpected {type(error).__name__}; --debug shows where", 1)

    def run(self, argv: Sequence[str]) -> int:
        """Run a command line; what goes wrong is raised."""
        command, rest, group = self.find(argv)
        if command is None:
            print(self.overview(group))
            return 0
        declare, function = command.load()
        parser = self.parser(command, declare)
        # Only arguments that may be missing need the two passes, which import what parses nothing.
        optional = any(not action.option_strings and action.nargs in {"?", "*", "+"} for action in parser._actions)
        arguments = (parser.parse_intermixed_args if optional else parser.parse_args)(list(rest))
        arguments.program = self
        return function(arguments) or 0

    def find(self, argv: Sequence[str]) -> tuple[Command | None, list[str], str]:
        """The command in ``argv``, what is left of it, and the words found.

        The command is None when help on a group of commands, or on all, is wanted.
        """
        takes_value = self._flags_with_values()
        words, rest, at = "", [], 0
        while at < len(argv):
            word = argv[at]
            longer = f"{words} {word}".strip()
            if word.startswith("-") and word != "-":
                rest.append(word)
                if word in takes_value and at + 1 < len(argv):
                    at += 1
                    rest.append(argv[at])
            elif longer in self.commands or any(name.startswith(f"{longer} ") for name in self.commands):
                words = longer
            elif longer in self.later:
                raise UsageError(f"{self.name} {longer}: {self.later[longer]}")
            else:
                break
            at += 1
            if words in self.commands:
                return self.commands[words], [*rest, *argv[at:]], words
        if "--version" in rest:
            return self.commands["version"], [], "version"
        if {"-h", "--help"} & set(rest) or (at == len(argv) and not words) or argv[at : at + 1] == ["help"]:
            return None, [], words
        known = ", ".join(sorted({name.removeprefix(words).split()[0] for name in self._below(words)}))
        said = f"unknown command {argv[at]!r}" if at < len(argv) else "a command is missing"
        prefix = f"{self.name} {words}".strip()
        raise UsageError(f"{said}: {prefix} has {known}\nsee {prefix} --help")

    def parser(self, command: Command, declare: Callable[[Parser], None]) -> Parser:
        """The parser of one command."""
        parser = _Parser(
            prog=f"{self.name} {command.words}",
            description=command.summary[:1].upper() + command.summary[1:] + ".",
            epilog="example:\n" + "\n".join(f"  {line}" for line in command.example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        declare(parser)
        self._global_arguments(parser)
        return parser

    def overview(self, group: str = "") -> str:
        """The help on all commands, or on those that begin with ``group``."""
        names = self._below(group)
        width = max(map(len, names))
        lines = [f"usage: {' '.join(filter(None, [self.name, group, 'COMMAND']))} [--help] ...", ""]
        if not group:
            lines += [self.summary, ""]
        lines += ["commands:", *(f"  {name.ljust(width)}  {self.commands[name].summary}" for name in names), ""]
        lines += ["example:", *(f"  {line}" for line in self.commands[names[0]].example.splitlines())]
        return "\n".join(lines)

    def _below(self, group: str) -> list[str]:
        return [name for name in self.commands if not group or f"{name} ".startswith(f"{group} ")]

    def _flags_with_values(self) -> set[str]:
        parser = _Parser(add_help=False)
        self._global_arguments(parser)
        actions = parser._actions
        return {flag for action in actions if action.nargs is None for flag in action.option_strings}


def version_arguments(parser: Parser) -> None:
    """``version`` has no arguments of its own."""


def version(arguments: Arguments) -> None:
    """Print the version, in Teleport's form."""
    print(f"{arguments.program.name} v{__version__} (teleport_db, Python {sys.version.split()[0]})")


def confirmed(question: str) -> bool:
    """Ask at the terminal; False when there is none."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _complain(error: Any, code: int) -> int:
    from teleport_db.cli.output import clean

    lines = str(error).splitlines() or [type(error).__name__]
    for line in lines[:2]:
        print(f"{'ERROR: ' if line is lines[0] else '       '}{clean(line)}", file=sys.stderr)
    return code

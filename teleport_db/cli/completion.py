"""Scripts that complete words and flags in bash and zsh.

A script is a table made once: completing a word starts no interpreter.  Both shells walk the words typed
so far, note the longest command among them, and offer what may follow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport_db.cli.program import Arguments, Parser

if TYPE_CHECKING:
    from teleport_db.cli.program import Program

_BASH = """\
# bash completion of {name}; to load it: eval "$({name} completion bash)"
_{name}_complete() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} path="" word index
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        case "${{path:+$path }}$word" in
            {paths}) path="${{path:+$path }}$word" ;;
        esac
    done
    local words=""
    case "$path" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [[ ${{#COMPREPLY[@]}} -eq 0 && $current != -* ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o bashdefault -F _{name}_complete {name}
"""

_ZSH = """\
#compdef {name}
# zsh completion of {name}; to load it: eval "$({name} completion zsh)"
_{name}_complete() {{
    local cmdpath="" word
    for word in ${{words[2,CURRENT-1]}}; do
        case "${{cmdpath:+$cmdpath }}$word" in
            {paths}) cmdpath="${{cmdpath:+$cmdpath }}$word" ;;
        esac
    done
    local words_known=""
    case "$cmdpath" in
{cases}
    esac
    compadd -- ${{=words_known}} || _files
}}
compdef _{name}_complete {name}
"""


def completion_arguments(parser: Parser) -> None:
    """Declare the arguments of ``completion``."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to print a script for")


def completion(arguments: Arguments) -> None:
    """Print the script."""
    print(script(arguments.program, arguments.shell), end="")


def script(program: Program, shell: str) -> str:
    """The completion script of a program for ``bash`` or ``zsh``."""
    table = words(program)
    variable, template = ("words", _BASH) if shell == "bash" else ("words_known", _ZSH)
    cases = "\n".join(f'        "{path}") {variable}="{" ".join(found)}" ;;' for path, found in table.items())
    paths = "|".join(f'"{path}"' for path in table if path)
    return template.format(name=program.name, paths=paths, cases=cases)


def words(program: Program) -> dict[str, list[str]]:
    """What may follow each command and each group of commands; the empty one is the program itself."""
    table: dict[str, list[str]] = {}
    for name, command in program.commands.items():
        parts = name.split()
        for count in range(len(parts)):
            following = table.setdefault(" ".join(parts[:count]), [])
            if parts[count] not in following:
                following.append(parts[count])
        declare, _ = command.load()
        found = []
        for action in program.parser(command, declare)._actions:
            flags = [flag for flag in action.option_strings if flag.startswith("--")]
            choices = [str(choice) for choice in action.choices or ()]
            found += [f"{flag}={choice}" for flag in flags for choice in choices] or flags or choices
        table[name] = sorted(set(found))
    return {name: table[name] for name in sorted(table)}

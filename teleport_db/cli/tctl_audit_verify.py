"""``tctl audit verify``, ``checkpoint``: whether the audit log is what was written."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from teleport_db.cli.output import emit, format_argument
from teleport_db.cli.program import Arguments, Parser
from teleport_db.cli.tctl_session import CONFIG_FILE, DATA_DIR, client, data_dir
from teleport_db.errors import AuditTampered, NotFound

#: Seconds between two lines of progress where there is no terminal to write over.
PROGRESS_SECONDS = 5.0


def verify_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit verify``."""
    parser.add_argument("--checkpoint", metavar="FILE", help="compare with checkpoints that were kept elsewhere")
    format_argument(parser)


def verify(arguments: Arguments) -> int:
    """Read the whole log on the auth host and say what is the first thing wrong with it."""
    import attrs

    from teleport_db.audit import verifying
    from teleport_db.audit.checkpoints import read_kept

    kept = []
    if arguments.checkpoint:
        with open(arguments.checkpoint, "rb") as file:
            kept = read_kept(file.read(), arguments.checkpoint)
    directory = os.path.join(_data_dir(arguments), "audit")
    if not os.path.isdir(directory):
        raise NotFound(f"there is no audit log in {directory}\ngive --data-dir or -c of the auth service on this host")
    progress = _Progress()
    report = verifying.verify(directory, kept=kept, progress=progress.show)
    progress.end()
    if arguments.format == "text" and report.finding is not None:
        raise AuditTampered(f"the audit log was changed\n{report.finding}")
    shown: dict[str, Any] = {
        "ok": report.finding is None,
        **{name: getattr(report, name) for name in ("files", "events", "checkpoints", "begins", "unsigned")},
        "compared": len(kept),
        "newest_checkpoint": None if report.newest is None else report.newest.line.decode().rstrip(),
        "finding": None if report.finding is None else attrs.asdict(report.finding),
    }
    emit(shown, arguments.format, lambda: _text(report, len(kept)))
    return 0 if report.finding is None else 1


def _text(report: Any, compared: int) -> str:
    lines = [f"The audit log is whole: {report.events} events in {report.files} files."]
    if report.begins:
        lines.append(f"Retention has removed the {report.begins} lines before them.")
    if report.newest is not None:
        lines.append(
            f"{report.checkpoints} checkpoints are signed, the newest (number {report.newest.number}) at"
            f" {report.newest.time}; {report.unsigned} events came after it."
        )
    if compared:
        lines.append(f"{compared} checkpoints that were kept elsewhere are in it.")
    else:
        lines.append("No checkpoint that was kept elsewhere was compared: see tctl audit checkpoint.")
    return "\n".join(lines)


def _data_dir(arguments: Arguments) -> str:
    if arguments.data_dir:
        return str(arguments.data_dir)
    if arguments.config:
        return data_dir(arguments.config)
    return data_dir(CONFIG_FILE) if os.path.exists(CONFIG_FILE) else DATA_DIR


class _Progress:
    """How far it is, on the terminal, or now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + (0.5 if self._terminal else PROGRESS_SECONDS)
        self._said = False

    def show(self, done: int, total: int) -> None:
        """So many bytes of all."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.2 if self._terminal else PROGRESS_SECONDS)
        self._said = True
        text = f"verified {done >> 20} of {total >> 20} MiB ({100 * done // max(total, 1)} %)"
        print(f"\r{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._said:
            print(file=sys.stderr)


def checkpoint_arguments(parser: Parser) -> None:
    """Declare the arguments of ``tctl audit checkpoint``."""
    parser.add_argument("--out", metavar="FILE", help="add it to this file instead of printing it")


def checkpoint(arguments: Arguments) -> None:
    """Have all that the log has signed now, and print the checkpoint to keep elsewhere."""
    with client(arguments) as api:
        line = str(api.call("POST", "/v1/audit/checkpoint", {})["checkpoint"])
    if not arguments.out:
        print(line)
        return
    with open(arguments.out, "a", encoding="ascii") as file:
        file.write(f"{line}\n")
    print(f"Added to {arguments.out}; keep it where nobody of the auth host can change it.")

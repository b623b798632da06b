"""The command: arguments, opening the log without touching it, output, exit status.

`answer` works on any log and writes whole lines, so tests need no directory and no terminal.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import lmdb

from adapters.log.reading import LogReader
from adapters.log.readonly import open_copy, open_live
from domain.errors import DaybookError
from domain.node import AGGREGATES
from tools.replay import check, listing, state, story, telling
from tools.replay.listing import Filter
from tools.replay.names import Names, Unresolved
from tools.replay.text import as_json, line
from tools.replay.walk import Log, walk

DEFAULT_LOG = "/var/lib/daybook/log"
OK, PROBLEMS, UNREADABLE = 0, 1, 2
"""Exit status. 1: `check` found something, or what was asked for is not in the log. 2: the log could not be read."""

Write = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """`daybook replay ARGS`. Argument errors leave through argparse, with status 2."""
    args = parser().parse_args(argv)
    try:
        with _open(args) as log:
            return answer(args, log, _write)
    except Unresolved as unresolved:
        _complain(str(unresolved))
        return PROBLEMS
    except BrokenPipeError:
        # `| head` has seen enough; what Python would flush at its end must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (DaybookError, OSError, lmdb.Error) as error:
        _complain(str(error))
        return UNREADABLE


def parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--log", default=DEFAULT_LOG, metavar="DIR", help=f"the log's directory ({DEFAULT_LOG})")
    shared.add_argument("--copy", action="store_true", help="DIR is a copy that nobody writes to")
    shared.add_argument("--json", action="store_true", help="JSON: lines for `log`, one document else")
    made = argparse.ArgumentParser(prog="daybook replay", description="What the event log says. Never writes to it.")
    commands = made.add_subparsers(dest="command", required=True)
    _log_arguments(commands.add_parser("log", parents=[shared], help="one line per event"))
    at = commands.add_parser("state", parents=[shared], help="the node as it was at a record")
    at.add_argument("--at", type=_sequence, metavar="SEQ", help="after this record (the newest one)")
    at.add_argument("id", nargs="?", default="", help="one aggregate in full: id, the beginning of one, or name")
    why = commands.add_parser("why", parents=[shared], help="the story of one aggregate, and why it ended")
    why.add_argument("id", help="id, the beginning of one, or name (NAMESPACE/POD/CONTAINER)")
    commands.add_parser("check", parents=[shared], help="is the log whole, lawful and consistent")
    return made


def _log_arguments(log: argparse.ArgumentParser) -> None:
    log.add_argument("--since", type=_sequence, default=0, metavar="SEQ", help="from this record on")
    log.add_argument("--until", type=_sequence, metavar="SEQ", help="up to this record")
    log.add_argument("--id", default="", metavar="PREFIX", help="aggregates whose id begins so")
    log.add_argument("--kind", default="", choices=("sandbox", "container", "image", "node"))
    log.add_argument("--wire", default="", metavar="NAME", help="events of this name, container.exited")
    log.add_argument("--limit", type=_sequence, default=0, metavar="N", help="the first N of them")


def _sequence(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError
    return number


def answer(args: argparse.Namespace, log: Log, write: Write) -> int:
    """Writes the lines of the answer and returns the exit status. Raises Unresolved."""
    return {"log": _log, "state": _state, "why": _why, "check": _check}[args.command](args, log, write)


def _log(args: argparse.Namespace, log: Log, write: Write) -> int:
    wanted = Filter(args.since, args.until, args.id, args.kind, args.wire, args.limit)
    names, width = Names(), len(str(log.head().seq))
    for record in listing.select(log.read(), wanted, names):
        write(as_json(listing.value_of(record, names)) if args.json else listing.text_of(record, names, width))
    return OK


def _state(args: argparse.Namespace, log: Log, write: Write) -> int:
    newest = log.head().seq
    if args.at is not None and args.at > newest:
        raise Unresolved(f"the log ends at record {newest}")
    found = walk(log.read(), args.at)
    if args.id:
        key = found.names.resolve(args.id)
        one = state.aggregate_value(found, key)
        return _tell(args, write, {"log": log.log_id, "seq": found.done.seq} | one, state.aggregate_text(found, key))
    return _tell(args, write, state.value_of(found, log.log_id), state.text_of(found, log.log_id))


def _why(args: argparse.Namespace, log: Log, write: Write) -> int:
    names = Names()
    for record in log.read():
        names.learn(record)
    told = story.tell(log.read(), names.resolve(args.id), names)
    return _tell(args, write, telling.value_of(told), telling.text_of(told))


def _check(args: argparse.Namespace, log: Log, write: Write) -> int:
    report = check.check(log)
    _tell(args, write, check.value_of(report), check.text_of(report))
    return OK if report.sound else PROBLEMS


def _tell(args: argparse.Namespace, write: Write, value: object, text: Iterator[str]) -> int:
    if args.json:
        write(as_json(value))
    else:
        for each in text:
            write(each)
    return OK


def _open(args: argparse.Namespace) -> AbstractContextManager[LogReader]:
    return (open_copy if args.copy else open_live)(args.log, AGGREGATES)


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _complain(text: str) -> None:
    for each in text.splitlines():
        sys.stderr.write(f"daybook replay: {line(each)}\n")

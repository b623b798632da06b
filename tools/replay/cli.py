"""The command: arguments, opening the log without touching it, output, exit status.

`answer` works on any log and writes whole lines, so tests need no directory and no terminal.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import lmdb

from adapters.log.reading import LogReader
from adapters.log.readonly import open_copy, open_live
from domain.errors import DaybookError
from domain.node import AGGREGATES
from tools.replay import check, listing, state, story, telling
from tools.replay.listing import Filter, Moment
from tools.replay.names import Names, Unresolved
from tools.replay.text import as_json, line
from tools.replay.walk import Log, walk

DEFAULT_LOG = "/var/lib/daybook/log"
OK, PROBLEMS, UNREADABLE = 0, 1, 2
"""Exit status. 1: `check` found something, or what was asked for is not in the log. 2: the log could not be read."""

ENDINGS_MAX = 20
TIMES = "2026-11-22T17:09, -10m (s, m, h, d); without a zone it is UTC, as the log's times are"
AGO = re.compile(r"-(\d{1,6})([smhd])")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Write = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """`daybook replay ARGS`. Argument errors leave through argparse, with status 2."""
    args = parser().parse_args(joined(sys.argv[1:] if argv is None else argv))
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


def joined(words: Sequence[str]) -> list[str]:
    """`--since -10m` as one word: argparse would take the second for an option."""
    made: list[str] = []
    for word in words:
        if made and made[-1] in ("--since", "--until") and AGO.fullmatch(word):
            made[-1] = f"{made[-1]}={word}"
        else:
            made.append(word)
    return made


def parser() -> argparse.ArgumentParser:
    shared = _shared(argparse.SUPPRESS, argparse.SUPPRESS)
    made = argparse.ArgumentParser(
        prog="daybook replay",
        description="What the event log says. Never writes to it.",
        parents=[_shared(DEFAULT_LOG, False)],
    )
    commands = made.add_subparsers(dest="command", required=True)
    _log_arguments(commands.add_parser("log", parents=[shared], help="one line per event"))
    at = commands.add_parser("state", parents=[shared], help="the node as it was at a record")
    at.add_argument("--at", type=_sequence, metavar="SEQ", help="after this record (the newest one)")
    at.add_argument("id", nargs="?", default="", help="one aggregate in full: id, the beginning of one, or name")
    why = commands.add_parser("why", parents=[shared], help="the story of one aggregate, and why it ended")
    why.add_argument(
        "id",
        nargs="?",
        default="",
        help="id, the beginning of one, name (the newest) or name/attempt; without: what ended or failed last",
    )
    commands.add_parser("check", parents=[shared], help="is the log whole, lawful and consistent")
    return made


def _shared(log: str, unset: object) -> argparse.ArgumentParser:
    """Options that stand before or after the command; where both have one, the later counts."""
    made = argparse.ArgumentParser(add_help=False)
    made.add_argument("--log", default=log, metavar="DIR", help=f"the log's directory ({DEFAULT_LOG})")
    made.add_argument("--copy", action="store_true", default=unset, help="DIR is a copy that nobody writes to")
    made.add_argument("--json", action="store_true", default=unset, help="JSON: lines for lists, one document else")
    return made


def _log_arguments(log: argparse.ArgumentParser) -> None:
    log.add_argument(
        "--since", type=_bound, default=0, metavar="SEQ|TIME", help=f"from this record or time on: {TIMES}"
    )
    log.add_argument("--until", type=_bound, metavar="SEQ|TIME", help="up to this record or time")
    log.add_argument("--id", default="", metavar="PREFIX", help="aggregates whose id begins so")
    log.add_argument("--kind", default="", choices=("sandbox", "container", "image", "node"))
    log.add_argument("--wire", default="", metavar="NAME", help="events of this name, container.exited")
    log.add_argument("--limit", type=_sequence, default=0, metavar="N", help="the first N of them")


def _sequence(text: str) -> int:
    """Raises ArgumentTypeError, which argparse tells as it is."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number from 0 to 2**63 - 1, like 42")
    return int(text)


def _bound(text: str) -> int | Moment:
    """A record's number, a time, or how long ago. Raises ArgumentTypeError naming the forms."""
    try:
        return _bound_of(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is no record's number and no time; write 42, {TIMES}"
        ) from None


def _bound_of(text: str) -> int | Moment:
    if found := AGO.fullmatch(text):
        return Moment(time.time_ns() - int(found[1]) * UNITS_S[found[2]] * 10**9)
    if text.isdecimal():
        return _sequence(text)
    at = datetime.fromisoformat(text)
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Moment(round(at.timestamp() * 10**6) * 1000)


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
    if not args.id:
        return _endings(args, log, write)
    names = Names()
    for record in log.read():
        names.learn(record)
    key, others = names.newest(args.id)
    told = story.tell(log.read(), key, names)
    if others and not args.json:
        write(line(others))
    return _tell(args, write, telling.value_of(told), telling.text_of(told))


def _endings(args: argparse.Namespace, log: Log, write: Write) -> int:
    """The last ENDINGS_MAX, oldest first, as `log` tells them."""
    names, width = Names(), len(str(log.head().seq))
    for record in listing.endings(log.read(), names, ENDINGS_MAX):
        write(as_json(listing.value_of(record, names)) if args.json else listing.text_of(record, names, width))
    return OK


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

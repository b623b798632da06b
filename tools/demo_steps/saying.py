"""Lines for a person: at most WIDTH columns, colour only on a terminal, each finding with the time that it took."""

import os
import shutil
import sys
import textwrap
import time

WIDTH = 100
SHORT_ID = 12
TIME_WIDTH = 9
MARK = "     ✓ "
MARGIN = "     │ "


class Wrong(Exception):
    """Something is not as the demo says it is."""


class Pace:
    """The time since the line before."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> str:
        last, self._last = self._last, time.monotonic()
        seconds = self._last - last
        return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


PACE = Pace()


def colour(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def say(text: str = "") -> None:
    print(text, flush=True)


def title(number: int, text: str) -> None:
    say(f"\n {number:2}  {colour('1', text)}")
    PACE.lap()


def note(text: str) -> None:
    """What is said beside the findings."""
    for part in wrapped(text, width() - len(MARK)):
        say(" " * len(MARK) + part)


def check(holds: bool, what: str, instead: object = "") -> None:
    """Says what was found to be so, and how long it took. Raises Wrong where it is not."""
    if not holds:
        raise Wrong(f"not so: {what}" + (f" (but: {instead})" if instead != "" else ""))
    room = width() - len(MARK)
    *first, last = wrapped(what, room - TIME_WIDTH - 1) or [""]
    for number, part in enumerate([*first, last]):
        mark = MARK.replace("✓", colour("32", "✓")) if number == 0 else " " * len(MARK)
        took = colour("2", f"{PACE.lap():>{room - len(last)}}") if number == len(first) else ""
        say(f"{mark}{part}{took}")


def quote(text: str) -> None:
    """Somebody else's words, indented."""
    for line in text.rstrip().splitlines():
        for part in wrapped(line, width() - len(MARGIN)):
            say(colour("2", f"{MARGIN}{part}".rstrip()))


def sorry(text: str) -> None:
    """What went wrong; nothing of it is left out."""
    parts = [part for line in text.splitlines() for part in wrapped(line, width() - len(MARK))]
    for number, line in enumerate(parts):
        say(f"     {colour('31', '✗') if number == 0 else ' '} {line}")


def width() -> int:
    """Columns: WIDTH, or what a narrower terminal has."""
    return min(WIDTH, max(60, shutil.get_terminal_size((WIDTH, 24)).columns)) if sys.stdout.isatty() else WIDTH


def wrapped(line: str, room: int) -> list[str]:
    """The line; what does not fit goes on below, with the line's own indent and a little more."""
    if len(line) <= room:
        return [line]
    indent = " " * (min(len(line) - len(line.lstrip()), room // 2) + 2)
    return textwrap.wrap(line, room, subsequent_indent=indent, replace_whitespace=False, break_on_hyphens=False)


def cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 2]}.."


def short(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:SHORT_ID]


def clock(ns: int) -> str:
    """UTC, as the log has it."""
    return time.strftime("%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9 // 10**6:03d}"


def listed(words: list[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))

"""Text that is safe to print: nothing in it that a terminal obeys, bounded; times, durations, tables, plain values.

The log is hostile input: ids, labels and messages were chosen by others. Rule: what is printed went through
`printable`, by its cell or, at the latest, by its line. JSON is ASCII and bounded the same way.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

LINE_MAX = 400
TEXT_MAX = 200
JSON_TEXT_MAX = 4096
JSON_ITEMS_MAX = 256
SHORT_ID = 12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEX = frozenset("0123456789abcdef")


def printable(text: str, limit: int = TEXT_MAX) -> str:
    """The text with every control, format and unassigned character as an escape sequence of ASCII, and no longer."""
    shown = "".join(map(_visible, text[:limit]))
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"


def _visible(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def line(text: str) -> str:
    """One line of output: whatever was missed before is escaped here, and it has an end."""
    shown = "".join(map(_visible, text[: LINE_MAX + 1]))
    return shown if len(shown) <= LINE_MAX else shown[: LINE_MAX - 3] + "..."


def fit(text: str, width: int) -> str:
    """At most `width` characters; what is longer loses its middle."""
    shown = "".join(map(_visible, text if len(text) <= 4 * width else text[: 2 * width] + text[-2 * width :]))
    if len(shown) <= width:
        return shown
    head = (width - 2) // 2
    return shown[:head] + ".." + shown[len(shown) - (width - 2 - head) :]


def short(name: str) -> str:
    """The beginning of an id; what is no id stays as it is."""
    return name[:SHORT_ID] if len(name) > SHORT_ID and _HEX.issuperset(name[:64]) else name


def instant(wall_ns: int) -> str:
    """UTC, ISO 8601, milliseconds; `-` for a time that was not recorded."""
    if not wall_ns:
        return "-"
    try:
        return (_EPOCH + timedelta(microseconds=wall_ns // 1000)).isoformat(timespec="milliseconds")[:-6] + "Z"
    except OverflowError:
        return f"{wall_ns} ns"


def span(ns: int) -> str:
    """A duration in the units a person would use; negative where a clock was set back."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    seconds = ns // 10**9
    if seconds < 1:
        return f"{sign}{ns // 10**6} ms"
    if seconds < 60:
        return f"{sign}{ns / 10**9:.3f} s"
    if seconds < 3600:
        return f"{sign}{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{sign}{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{sign}{seconds // 86400} d {seconds % 86400 // 3600} h"


def size(count: int) -> str:
    return f"{count} B" if abs(count) < 10**6 else f"{count / 10**6:.1f} MB"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width_max: int = 60) -> list[str]:
    """Aligned columns, each as wide as it must be."""
    cells = [[fit(cell, width_max) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [line("  ".join(map(str.ljust, row, widths)).rstrip()) for row in cells]


def plain(value: Any) -> Any:
    """Any value of the domain as JSON has it: long texts and collections are cut, and say so."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return value if len(value) <= JSON_TEXT_MAX else f"{value[:JSON_TEXT_MAX]}... ({len(value)} characters)"
    if isinstance(value, bytes):
        return value[:JSON_TEXT_MAX].hex()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        kept = {str(plain(name)): plain(each) for name, each in list(value.items())[:JSON_ITEMS_MAX]}
        return kept if len(value) <= JSON_ITEMS_MAX else {**kept, "...": f"{len(value)} in all"}
    if isinstance(value, tuple | list | frozenset):
        items = [plain(each) for each in list(value)[:JSON_ITEMS_MAX]]
        return items if len(value) <= JSON_ITEMS_MAX else [*items, f"... {len(value)} in all"]
    return value


def as_json(value: Any) -> str:
    """One line. ASCII only, so that no terminal obeys it."""
    # JSON leaves DEL as it is; a terminal need not.
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")

"""Nothing that a terminal obeys leaves replay, whatever the codec accepts; everything has an end."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.log.memory import MemoryLog
from domain.events import WIRE
from domain.node import AGGREGATES
from domain.records import Cause, Draft, Now
from tests.support import histories
from tools.replay.cli import answer, parser
from tools.replay.names import Unresolved
from tools.replay.text import LINE_MAX, as_json, fit, instant, line, plain, printable, short, size, span
from tools.replay.words import EVENT, ROWS, cause_words, event_words

INT64 = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["", "\x1b[2J", "\x7f", "a\nb", "\u202ex", "remove", "@K", "none", "sha256:" + "a" * 64]
)


@functools.cache
def of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type, as far as the codec takes them."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.none() | of(args[0])
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(of(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(TEXT, of(args[1]), max_size=2)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{field.name: of(hints[field.name]) for field in dataclasses.fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    return {str: TEXT, int: INT64, bool: st.booleans(), bytes: st.binary(max_size=4)}[kind]


IDS = ("a" * 64, "b" * 64, "\x1b[31m", "")
KEYS = st.sampled_from(["node", *(f"{kind}/{name}" for kind in ("sandbox", "container", "image", "x") for name in IDS)])
CAUSES = st.builds(
    Cause,
    st.sampled_from(["rpc", "due", "effect", "watch", "recovery", "reconcile", "admin", "\x1b"]),
    TEXT,
    TEXT,
    INT64,
    TEXT,
    TEXT,
    st.integers(0, 12),
)
NOWS = st.builds(Now, INT64, INT64, st.sampled_from(["boot", "other", "\x9b"]))
KINDS = sorted(WIRE)
RECORDS = st.tuples(KEYS, st.sampled_from(KINDS).flatmap(lambda wire: of(WIRE[wire])), CAUSES, NOWS)
ASKED = (["log"], ["state"], ["check"], *([name, IDS[0]] for name in ("why", "state")), ["why", IDS[2]], ["why", "x/"])


def said(log: Any, arguments: list[str], *more: str) -> list[str]:
    """Lines of an answer, or of what asks back whom was meant: that one is for a person, with --json too."""
    lines: list[str] = []
    try:
        answer(parser().parse_args([arguments[0], *more, *arguments[1:]]), log, lines.append)
    except Unresolved as unresolved:
        return [line(each) for each in str(unresolved).splitlines()]
    return lines


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RECORDS, min_size=1, max_size=8))
def test_no_record_that_the_codec_accepts_breaks_it(records: list[tuple[Any, ...]]) -> None:
    log = MemoryLog(aggregates=AGGREGATES)
    for version, (key, event, cause, now) in enumerate(records, 1):
        log.append_sync([Draft(key, version, event)], cause, now)
    for arguments in ASKED:
        for text in said(log, arguments):
            assert text.isprintable() and len(text) <= LINE_MAX, text
        for text in said(log, arguments, "--json"):
            assert text.isprintable() and (text.isascii() or text in said(log, arguments)), text


LIFE = (
    *("sandbox.run_requested", "sandbox.ready", "container.create_requested", "container.created"),
    *("container.start_requested", "container.started", "container.oom", "container.stop_requested"),
    *("container.stop_moved", "container.exited", "container.remove_requested", "container.removed", "sandbox.died"),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_lives_with_hostile_values(data: st.DataObject) -> None:
    """As above, but along the tables: the events of a whole life, each with arbitrary values."""
    log = MemoryLog(aggregates=AGGREGATES)
    for version, wire in enumerate(LIFE[: data.draw(st.integers(3, len(LIFE)))], 1):
        event = data.draw(of(WIRE[f"{wire}/1"]))
        key = f"{wire.split('.')[0]}/{IDS[0]}"
        log.append_sync([Draft(key, version, event)], data.draw(CAUSES), data.draw(NOWS))
    for arguments in (["why", f"container/{IDS[0]}"], ["why", f"sandbox/{IDS[0]}"], ["check"], ["state"]):
        for text in said(log, arguments):
            assert text.isprintable() and len(text) <= LINE_MAX, text
        for text in said(log, arguments, "--json"):
            json.loads(text)


@pytest.mark.parametrize("arguments", [["log"], ["state"], ["why", histories.CONTAINER], ["why", histories.SANDBOX]])
def test_a_hostile_history_stays_small(arguments: list[str]) -> None:
    log = histories.hostile().log
    lines = said(log, arguments)
    assert all(each.isprintable() and len(each) <= LINE_MAX for each in lines)
    assert sum(map(len, said(log, arguments, "--json"))) < 100_000


def test_every_event_has_words() -> None:
    assert set(EVENT) == set(WIRE.values())


def test_a_class_without_words_has_none() -> None:
    assert event_words(object()) == ""


def test_every_row_is_explained() -> None:
    assert {"@D", "@J", "@K", "@U", "@SI", "@IC"} <= set(ROWS)
    assert cause_words(Cause("recovery", "@K")).startswith("recovery @K EXIT: gone")
    assert cause_words(Cause("recovery", "@ZZ")) == "recovery @ZZ"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("\x1b[31m\x00\x7f", r"\x1b[31m\x00\x7f"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202e\u2028\u200b", r"\u202e\u2028\u200b"),
        ("\U000e0001\ud800", r"\U000e0001\ud800"),
        ("x" * 300, "x" * 200 + "... (300 characters)"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert line(shown) == shown


def test_bounds() -> None:
    assert len(line("\x1b" * 10**6)) == LINE_MAX
    assert fit("abcdefghij", 6) == "ab..ij"
    assert len(fit("\x1b" * 10**6, 20)) == 20
    assert plain("x" * 5000).endswith("... (5000 characters)")
    assert plain(tuple(range(1000)))[-1] == "... 1000 in all"
    assert plain({str(n): n for n in range(1000)})["..."] == "1000 in all"
    assert plain(b"\xff") == "ff"


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "0 ms"),
        (999 * 10**6, "999 ms"),
        (-2 * 10**9, "-2.000 s"),
        (61 * 10**9, "1 min 1 s"),
        (3700 * 10**9, "1 h 1 min"),
        (90_000 * 10**9, "1 d 1 h"),
    ],
)
def test_spans(ns: int, shown: str) -> None:
    assert span(ns) == shown


def test_times_and_sizes() -> None:
    assert instant(0) == "-"
    assert instant(1_790_000_000_123_456_789) == "2026-09-21T14:13:20.123Z"
    assert instant(-(2**63)).startswith("1677-")
    assert instant(10**30) == f"{10**30} ns"
    assert (size(5), size(2_500_000)) == ("5 B", "2.5 MB")
    assert (short("a" * 64), short("web"), short("sha256:" + "a" * 64)) == ("a" * 12, "web", "sha256:" + "a" * 64)


def test_a_delete_character_does_not_leave_in_json() -> None:
    assert as_json({"a\x7f": "\x7fb"}) == '{"a\\u007f": "\\u007fb"}'
    assert json.loads(as_json("\x7f")) == "\x7f"

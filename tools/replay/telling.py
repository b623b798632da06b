"""How a story looks: as text with a timeline and a conclusion, and as JSON."""

from collections.abc import Iterator
from typing import Any

from domain import events as e
from domain.container import Container
from domain.records import Record
from domain.sandbox import Sandbox
from tools.replay.conclude import conclusion, headline
from tools.replay.listing import EVENT_WIDTH
from tools.replay.listing import value_of as record_value
from tools.replay.story import STEPS_MAX, Story, gaps
from tools.replay.text import fit, instant, line, plain, printable, short, span
from tools.replay.walk import Step
from tools.replay.words import cause_words, event_words, row_words

CHANGE_WIDTH = 24


def text_of(story: Story) -> Iterator[str]:
    kind, name = e.split_key(story.key)
    yield line(f"{kind} {printable(name)}")
    for field, value in facts(story).items():
        yield line(f"  {field:<9} {printable(value)}")
    yield ""
    yield f"timeline, up to record {story.head}"
    yield from _timeline(story)
    yield ""
    if members := _members(story):
        yield "containers"
        for key in members:
            yield line(f"  {short(e.split_key(key)[1])} {printable(story.names.of(key))}: {headline(story, key)}")
        yield ""
    yield "conclusion"
    for sentence in conclusion(story):
        yield line(f"  {sentence}")


def facts(story: Story) -> dict[str, str]:
    """What a person wants to know of it besides its story; what is not on record is left out."""
    known = story.last.get(story.key)
    found = {"name": story.names.of(story.key), "state": _state(story)}
    if isinstance(known, Container):
        found |= {
            "attempt": str(known.config.attempt),
            "sandbox": known.sandbox_id,
            "image": known.image_ref,
            "image id": known.image_id,
            "log": known.log_path,
        }
    elif isinstance(known, Sandbox):
        found |= {"attempt": str(known.config.attempt), "uid": known.config.uid, "addresses": ", ".join(known.ips)}
    elif known is not None and known.held is not None:
        found |= {"image id": known.held.image_id, "digest": known.held.digest}
    return {field: value for field, value in found.items() if value}


def _state(story: Story) -> str:
    last = next((s for s in reversed(story.of(story.key)) if s.transition), None)
    if any(step.problem or not isinstance(step.record, Record) for step in story.of(story.key)):
        return f"quarantined, before that {last.transition[1] if last and last.transition else 'nothing'}"
    return last.transition[1] if last and last.transition else "unknown"


def _timeline(story: Story) -> Iterator[str]:
    width = len(str(story.head))
    for number, (step, gap) in enumerate(zip(story.steps, gaps(story.steps), strict=True)):
        if story.left_out and number == STEPS_MAX // 2:
            yield f"  ... {story.left_out} steps left out, `replay log --id` shows them"
        yield from _step(story, step, gap, width)


def _step(story: Story, step: Step, gap: int, width: int) -> Iterator[str]:
    record, whose = step.record, _whose(story, step.record.key)
    seq = str(record.seq).rjust(width)
    indent = " " * (2 + width + 2 + 24 + 2 + 11 + 2)
    if not isinstance(record, Record):
        yield line(f"  {seq}  {'-':<24}  {'-':>11}  {whose}UNREADABLE: {printable(record.why)}")
        return
    change = " -> ".join(step.transition) if step.transition else ""
    event = fit(record.wire.rsplit("/", 1)[0], EVENT_WIDTH)
    after = ("" if record is story.steps[0].record else "+" + span(gap)) if gap >= 0 else span(gap)
    when = f"{instant(record.at.wall_ns):<24}  {after:>11}"
    words = f"{event:<{EVENT_WIDTH}}  {change:<{CHANGE_WIDTH}}  {whose}{event_words(record.event)}"
    yield line(f"  {seq}  {when}  {words}".rstrip())
    yield line(f"{indent}cause: {cause_words(record.cause)}")
    if step.problem:
        yield line(f"{indent}NOT USED: {printable(step.problem)}")


def _whose(story: Story, key: str) -> str:
    if key == story.key or key == e.NODE_KEY:
        return ""
    return f"({printable(story.names.of(key), 60)}) "


def _members(story: Story) -> list[str]:
    kind, _ = e.split_key(story.key)
    if kind != "sandbox":
        return []
    return list(dict.fromkeys(s.record.key for s in story.steps if s.record.key.startswith("container/")))


def value_of(story: Story) -> dict[str, Any]:
    kind, name = e.split_key(story.key)
    return {
        "key": plain(story.key),
        "kind": kind,
        "id": plain(name),
        "facts": plain(facts(story)),
        "head": story.head,
        "timeline": [_step_value(story, step, gap) for step, gap in zip(story.steps, gaps(story.steps), strict=True)],
        "left_out": story.left_out,
        "containers": [
            {"key": plain(key), "name": plain(story.names.of(key)), "conclusion": headline(story, key)}
            for key in _members(story)
        ],
        "conclusion": conclusion(story),
    }


def _step_value(story: Story, step: Step, gap: int) -> dict[str, Any]:
    """The record as `replay log --json` has it, and what it did."""
    record, change = step.record, step.transition
    row = record.cause.what if isinstance(record, Record) and record.cause.what.startswith("@") else ""
    return record_value(record, story.names) | {
        "after_ns": gap,
        "from": change[0] if change else None,
        "to": change[1] if change else None,
        "row": row_words(row) if row else None,
        "problem": plain(step.problem) or None,
    }

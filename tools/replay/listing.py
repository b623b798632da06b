"""`replay log`: one line per event. A record that cannot be read stands in its place and says why."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from domain import events as e
from domain.records import Record
from tools.replay.names import Names
from tools.replay.text import fit, instant, line, plain, printable, short
from tools.replay.walk import Found
from tools.replay.words import cause_words, event_words

KEY_WIDTH = 22
NAME_WIDTH = 36
EVENT_WIDTH = 28
TIME_WIDTH = 24
WORDS_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Moment:
    """A time of the wall clock."""

    wall_ns: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are shown; `until` is included, `wire` may lack its version, `limit` 0 means all.

    Of times each record's own counts, as a clock may have been set back between two; one that cannot be read has none
    and is shown.
    """

    since: int | Moment = 0
    until: int | Moment | None = None
    id: str = ""
    kind: str = ""
    wire: str = ""
    limit: int = 0

    def past(self, record: Found) -> bool:
        """Nothing that follows can be meant."""
        return isinstance(self.until, int) and record.seq > self.until

    def _in_time(self, record: Found) -> bool:
        if isinstance(self.since, int) and record.seq < self.since:
            return False
        if not isinstance(record, Record):
            return True
        at = record.at.wall_ns
        early = isinstance(self.since, Moment) and at < self.since.wall_ns
        late = isinstance(self.until, Moment) and at > self.until.wall_ns
        return not early and not late

    def takes(self, record: Found) -> bool:
        if not self._in_time(record):
            return False
        kind, name = e.split_key(record.key)
        if self.kind and kind != self.kind:
            return False
        if self.id and not (name.startswith(self.id) or record.key.startswith(self.id)):
            return False
        if not self.wire:
            return True
        return isinstance(record, Record) and self.wire in (record.wire, record.wire.rsplit("/", 1)[0])


def select(records: Iterable[Found], wanted: Filter, names: Names) -> Iterator[Found]:
    """The records that the filter takes. `names` learns from all, also from those before the first one shown."""
    shown = 0
    for record in records:
        if wanted.past(record):
            return
        names.learn(record)
        if not wanted.takes(record):
            continue
        yield record
        shown += 1
        if shown == wanted.limit:
            return


ENDINGS = (
    e.ContainerExited,
    e.ContainerStartFailed,
    e.ContainerCreateFailed,
    e.SandboxRunFailed,
    e.ImagePullFailed,
)
"""What somebody may ask the reason of."""


def endings(records: Iterable[Found], names: Names, most: int) -> Iterator[Found]:
    """The last that ended or failed. `names` learns from all."""
    last: deque[Found] = deque(maxlen=most)
    for record in records:
        names.learn(record)
        if isinstance(record, Record) and isinstance(record.event, ENDINGS):
            last.append(record)
    yield from last


def text_of(record: Found, names: Names, seq_width: int) -> str:
    seq, who = str(record.seq).rjust(seq_width), _who(record.key, names)
    if not isinstance(record, Record):
        return line(f"{seq}  {'-':<{TIME_WIDTH}}  {who}  {'UNREADABLE':<{EVENT_WIDTH}}  {printable(record.why)}")
    event = record.wire.rsplit("/", 1)[0]
    words = fit(event_words(record.event), WORDS_WIDTH)
    told = f"{words}  | " if words else "| "
    return line(
        f"{seq}  {instant(record.at.wall_ns):<{TIME_WIDTH}}  {who}  {fit(event, EVENT_WIDTH):<{EVENT_WIDTH}}"
        f"  {told}{cause_words(record.cause)}"
    )


def _who(key: str, names: Names) -> str:
    kind, name = e.split_key(key)
    aggregate = kind if kind == "image" or not name else f"{kind}/{short(name)}"
    return f"{fit(aggregate or '?', KEY_WIDTH):<{KEY_WIDTH}}  {fit(names.of(key) or '-', NAME_WIDTH):<{NAME_WIDTH}}"


def value_of(record: Found, names: Names) -> dict[str, Any]:
    """The record as JSON has it."""
    kind, name = e.split_key(record.key)
    about = {"key": record.key, "kind": kind, "id": name, "name": names.of(record.key), "version": record.version}
    if not isinstance(record, Record):
        return dict(plain({"seq": record.seq, **about, "unreadable": record.why}))
    value = {
        "seq": record.seq,
        "time": instant(record.at.wall_ns),
        **about,
        "event": record.wire,
        "words": event_words(record.event),
        "payload": record.event,
        "cause": record.cause,
        "cause_words": cause_words(record.cause),
        "at": record.at,
        "hash": record.hash.hex(),
        "size": record.size,
    }
    return dict(plain(value))

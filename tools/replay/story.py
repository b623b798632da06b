"""`replay why`: the story of one aggregate, as values. What it comes to is `conclude`'s; how it looks, `telling`'s."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from domain import events as e
from domain.records import Cause, Record
from tools.replay.names import Names
from tools.replay.walk import Aggregate, Found, Step, Walk
from tools.replay.words import asker_words

STEPS_MAX = 2000
"""Steps kept of one story; the oldest and the newest half stay."""
LED_BY_MAX = 16


@dataclass(frozen=True, slots=True)
class Daemon:
    """One start of the daemon. `since`: the last record before it; `left`: the one before left by its own will."""

    started: Record
    since: Record | None
    left: bool

    @property
    def rebooted(self) -> bool:
        return self.since is not None and self.since.at.boot_id != self.started.at.boot_id


@dataclass(slots=True)
class Story:
    """`steps`: those of the aggregate itself, of a sandbox's containers, and what explains them. `last`: the newest
    state that is known, also of what is gone. `head`: the newest record's sequence."""

    key: str
    names: Names
    steps: list[Step] = field(default_factory=list)
    last: dict[str, Aggregate] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)
    causes: dict[int, tuple[str, str, Cause]] = field(default_factory=dict)
    left_out: int = 0
    gone: set[str] = field(default_factory=set)
    head: int = 0

    def of(self, key: str) -> list[Step]:
        return [step for step in self.steps if step.record.key == key]

    def events(self, key: str, *kinds: type) -> list[Record]:
        """The records of an aggregate that were applied and are of one of these kinds."""
        found = [s.record for s in self.of(key) if not s.problem and isinstance(s.event, kinds)]
        return [record for record in found if isinstance(record, Record)]

    def origin(self, cause: Cause) -> tuple[Cause, int]:
        """What stands at the beginning: the cause that led to the cause, as far as the log tells; and its sequence."""
        seq = 0
        for _ in range(LED_BY_MAX):
            if cause.kind not in ("due", "effect", "watch") or cause.led_by not in self.causes:
                break
            seq, cause = cause.led_by, self.causes[cause.led_by][2]
        return cause, seq

    def asker(self, record: Record) -> str:
        """Who asked for what a record says."""
        first, seq = self.origin(record.cause)
        if not seq:
            return asker_words(first)
        key, wire, _ = self.causes[seq]
        what = wire.rsplit("/", 1)[0]
        whose = f" of {self.names.of(key) or key}" if key != record.key else ""
        return f"{asker_words(first)} at record {seq}: {what}{whose}"


def tell(records: Iterable[Found], key: str, names: Names) -> Story:
    """The story of an aggregate. `names` knows the whole log."""
    story, walk, kept = Story(key, names), Walk(), _kept(key, names)
    newest: Record | None = None
    for record in records:
        step = walk.take(record)
        story.head = max(story.head, record.seq)
        if isinstance(record, Record):
            story.causes[record.seq] = (record.key, record.wire, record.cause)
            _learn_daemon(story, record, newest)
            newest = record
        if record.key in kept and _belongs(step, key):
            _keep(story, step)
    return story


def _kept(key: str, names: Names) -> set[str]:
    kind, name = e.split_key(key)
    near = names.members(name) if kind == "sandbox" else {names.sandbox_of(key)} - {""}
    return {key, e.NODE_KEY, *near}


EXPLAINS = (e.SandboxStopRequested, e.SandboxDied, e.NodeStarted, e.NodeStopped)
"""Events of other aggregates that belong to the story of a container."""


def _belongs(step: Step, key: str) -> bool:
    if step.record.key == key:
        return True
    if isinstance(step.event, e.QuarantineReleased):
        return step.event.key == key
    kind, _ = e.split_key(key)
    return (kind == "sandbox" and step.record.key != e.NODE_KEY) or isinstance(step.event, EXPLAINS)


def _keep(story: Story, step: Step) -> None:
    key = step.record.key
    other = key == e.NODE_KEY or key == story.names.sandbox_of(story.key)
    if other and (not story.steps or story.key in story.gone):
        return
    found = step.after or step.before
    if found is not None:
        story.last[key] = found
    if step.before is not None and step.after is None:
        story.gone.add(key)
    elif step.after is not None:
        story.gone.discard(key)
    story.steps.append(step)
    if len(story.steps) > STEPS_MAX:
        del story.steps[STEPS_MAX // 2]
        story.left_out += 1


def _learn_daemon(story: Story, record: Record, newest: Record | None) -> None:
    if isinstance(record.event, e.NodeStarted):
        left = newest is not None and isinstance(newest.event, e.NodeStopped)
        story.daemons.append(Daemon(record, newest, left))


def gaps(steps: Iterable[Step]) -> Iterator[int]:
    """Nanoseconds between each step and the one before, by boot time where both are of one boot."""
    before: Record | None = None
    for step in steps:
        record = step.record
        if not isinstance(record, Record):
            yield 0
            continue
        yield elapsed(before, record) if before else 0
        before = record


def elapsed(first: Record, then: Record) -> int:
    if first.at.boot_id == then.at.boot_id:
        return then.at.boot_ns - first.at.boot_ns
    return then.at.wall_ns - first.at.wall_ns

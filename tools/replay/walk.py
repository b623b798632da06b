"""The fold, one record at a time, with what each record changed: the way all of `replay` goes through a log."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from domain import events as e
from domain.container import Container
from domain.fold import Replayed, step
from domain.image import Image
from domain.lifecycle import CONTAINER_NEXT, SANDBOX_NEXT
from domain.node import Node
from domain.records import Head, Record, Unreadable
from domain.sandbox import Sandbox
from tools.replay.names import Names

Found = Record | Unreadable
Aggregate = Sandbox | Container | Image


class Log(Protocol):
    """What replay needs of a log: `LogReader`, and `MemoryLog` in tests."""

    log_id: str

    def head(self) -> Head: ...

    def read(self, after: int = 0) -> Iterator[Found]: ...

    def verify(self) -> Sequence[Unreadable]: ...

    def load_checkpoint(self, schema: int) -> tuple[int, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One record and what it did. `problem`: why it changed nothing."""

    record: Found
    before: Aggregate | None
    after: Aggregate | None
    problem: str = ""

    @property
    def event(self) -> Any:
        return self.record.event if isinstance(self.record, Record) else None

    @property
    def transition(self) -> tuple[str, str] | None:
        """From and to, by the tables; None where the record changed no aggregate."""
        if self.problem or not isinstance(self.record, Record) or self.record.key == e.NODE_KEY:
            return None
        state = self.before.state if self.before else None
        if self.after is not None:
            return str(state or "-"), str(self.after.state)
        kind, _ = e.split_key(self.record.key)
        table = {"container": CONTAINER_NEXT, "sandbox": SANDBOX_NEXT}.get(kind, {})
        gone = table.get((state, type(self.record.event)))
        return (str(state or "-"), str(gone)) if gone else None


@dataclass(slots=True)
class Walk:
    """`take` the records in their order."""

    done: Replayed = field(default_factory=lambda: Replayed(Node()))
    names: Names = field(default_factory=Names)

    @property
    def node(self) -> Node:
        return self.done.node

    def take(self, record: Found) -> Step:
        self.names.learn(record)
        before, broken = find(self.node, record.key), len(self.done.broken)
        problem = self._objection(record)
        step(self.done, record)
        if len(self.done.broken) > broken:
            problem = self.done.broken[-1].why
        return Step(record, before, find(self.node, record.key), problem)

    def _objection(self, record: Found) -> str:
        held = self.node.quarantined.get(record.key)
        if held is not None:
            return f"not applied: record {held.seq} of the same aggregate cannot be used"
        return misplaced(record) if isinstance(record, Record) else ""


def misplaced(record: Record) -> str:
    """Why an event cannot stand under the key that it stands under. (The node takes what it does not know.)"""
    kind, name = e.split_key(record.key)
    if record.wire.split(".", 1)[0] != kind or bool(name) == (kind == e.NODE_KEY):
        return f"{record.wire} does not belong to the aggregate {record.key}"
    return ""


def find(node: Node, key: str) -> Aggregate | None:
    kind, name = e.split_key(key)
    match kind:
        case "sandbox":
            return node.sandboxes.get(name)
        case "container":
            return node.containers.get(name)
        case "image":
            return node.images.get(name)
    return None


def walk(records: Iterable[Found], upto: int | None = None) -> Walk:
    """The node and the names at a sequence, or at the end."""
    taken = Walk()
    for record in records:
        if upto is not None and record.seq > upto:
            break
        taken.take(record)
    return taken

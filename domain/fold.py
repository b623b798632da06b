"""Replay: the node that a log describes. No effects, no clock; the same log always gives the same node."""

from collections.abc import Iterable
from dataclasses import dataclass

from domain.events import NODE_KEY, QuarantineReleased
from domain.node import Node
from domain.records import Record, Unreadable


@dataclass(slots=True)
class Replayed:
    """`broken`: every place that does not decode or does not fit, until a person gave that aggregate up."""

    node: Node
    seq: int = 0
    broken: tuple[Unreadable, ...] = ()

    @property
    def whole(self) -> bool:
        return not self.broken


def fold(records: Iterable[Record | Unreadable], replayed: Replayed | None = None) -> Replayed:
    """Folds records onto a node (a new one, or one restored from a checkpoint)."""
    done = replayed or Replayed(Node())
    for record in records:
        step(done, record)
    return done


def step(done: Replayed, record: Record | Unreadable) -> None:
    """One record. One that does not decode, or that the tables do not permit, quarantines its aggregate alone."""
    done.seq = max(done.seq, record.seq)
    if isinstance(record, Unreadable):
        _quarantine(done, record)
        return
    try:
        done.node.apply(record.key, record.version, record.event)
        if isinstance(record.event, QuarantineReleased):
            done.broken = tuple(b for b in done.broken if b.key != record.event.key)
    except (KeyError, AssertionError, AttributeError):
        why = f"{record.wire} does not fit what is recorded before it"
        _quarantine(done, Unreadable(record.seq, record.key, record.version, why))


def _quarantine(done: Replayed, broken: Unreadable) -> None:
    """The node's own records only tell what happened: one that is lost shuts out none of the later ones."""
    done.broken += (broken,)
    if broken.key and broken.key != NODE_KEY:
        done.node.quarantine(broken.key, broken.version, broken.seq, broken.why)

"""Replay: the node that a log describes. No effects, no clock; the same log always gives the same node."""

from collections.abc import Iterable
from dataclasses import dataclass

from domain.events import NODE_KEY, Event, NodeAdopted
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
        held = set(done.node.quarantined)
        done.node.apply(record.key, record.version, record.event)
        _forget_broken(done, record.event, held - set(done.node.quarantined))
    except (KeyError, AssertionError, AttributeError):
        why = f"{record.wire} does not fit what is recorded before it"
        _quarantine(done, Unreadable(record.seq, record.key, record.version, why))


def _forget_broken(done: Replayed, event: Event, given_up: set[str]) -> None:
    """What a person gave up, or declared to be of no matter, is no longer held against the log."""
    if isinstance(event, NodeAdopted):
        given_up |= {NODE_KEY, ""}
    if given_up:
        done.broken = tuple(b for b in done.broken if b.key not in given_up)


def _quarantine(done: Replayed, broken: Unreadable) -> None:
    """The node's own records only tell what happened: one that is lost shuts out none of the later ones."""
    done.broken += (broken,)
    if broken.key == NODE_KEY:
        done.node.skip(NODE_KEY, broken.version)
    elif broken.key:
        done.node.quarantine(broken.key, broken.version, broken.seq, broken.why)

"""The invariants at every prefix of a log, without looking at the whole node each time.

An event can break an invariant only for its own aggregate or between that and a neighbour: its sandbox, the members of
its pod, who bears the same name, who has the same image id. So after each event the invariants judge a node of these
alone. Because a later invariant may not keep to that, the whole node is judged as well: after every event while it is
small, every `WHOLE_EVERY` records else, and at the end. Quarantined aggregates and their pods are beyond judgement.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from domain import events as e
from domain.container import Container
from domain.invariants import violations
from domain.names import sandbox_name
from domain.node import Node
from tools.replay.walk import Aggregate, Step, find

WHOLE_UP_TO = 24
WHOLE_EVERY = 1000

Tie = tuple[str, Any]


@dataclass(slots=True)
class Neighbours:
    """Who can be found under which tie. `ties`: those of each aggregate."""

    ties: dict[str, tuple[Tie, ...]] = field(default_factory=dict)
    by_tie: dict[Tie, set[str]] = field(default_factory=dict)

    def update(self, key: str, found: Aggregate | None) -> None:
        for tie in self.ties.pop(key, ()):
            held = self.by_tie[tie]
            held.discard(key)
            if not held:
                del self.by_tie[tie]
        if found is not None:
            self.ties[key] = _is(key, found)
            for tie in self.ties[key]:
                self.by_tie.setdefault(tie, set()).add(key)

    def of(self, key: str, *found: Aggregate | None) -> set[str]:
        """Who is a neighbour of an aggregate as it is or was."""
        asked = {tie for each in found if each is not None for tie in _asks(key, each)}
        return {other for tie in asked for other in self.by_tie.get(tie, ())}


def _is(key: str, found: Any) -> tuple[Tie, ...]:
    """The ties under which an aggregate is found."""
    kind, name = e.split_key(key)
    match kind:
        case "sandbox":
            return ("pod", name), ("name", sandbox_name(found.config))
        case "container":
            return ("pod", found.sandbox_id), ("user", found.image_id)
        case _:
            return (("image", found.held.image_id),) if found.held else ()


def _asks(key: str, found: Any) -> tuple[Tie, ...]:
    """The ties under which its neighbours are found: users and images of an id concern each other, not themselves."""
    other = {"user": "image", "image": "user"}
    return tuple((other.get(kind, kind), value) for kind, value in _is(key, found))


@dataclass(slots=True)
class Judge:
    """`after` each step: the violations that were not there before it."""

    neighbours: Neighbours = field(default_factory=Neighbours)
    open: set[str] = field(default_factory=set)
    steps: int = 0

    def after(self, node: Node, step: Step) -> list[str]:
        self.steps += 1
        key = step.record.key
        touched = self.neighbours.of(key, step.before, step.after) | {key}
        self.neighbours.update(key, find(node, key))
        if (
            self.steps % WHOLE_EVERY == 0
            or len(node.sandboxes) + len(node.containers) + len(node.images) <= WHOLE_UP_TO
        ):
            return self.whole(node)
        return self._new(judged(node, touched | _context(node, touched)), complete=False)

    def whole(self, node: Node) -> list[str]:
        keys = [e.sandbox_key(i) for i in node.sandboxes] + [e.container_key(i) for i in node.containers]
        return self._new(judged(node, [*keys, *(e.image_key(i) for i in node.images)]), complete=True)

    def _new(self, found: list[str], complete: bool) -> list[str]:
        """What was not open before; what a complete look no longer finds may come again and is then new."""
        new = [text for text in found if text not in self.open]
        self.open = set(found) if complete else self.open | set(found)
        return new


def judged(node: Node, keys: Iterable[str]) -> list[str]:
    """The violations among these aggregates alone."""
    part = Node()
    for key in sorted(keys):
        kind, name = e.split_key(key)
        if not _beyond(node, key) and find(node, key) is not None:
            group: Mapping[str, Any] = getattr(node, _GROUPS[kind])
            getattr(part, _GROUPS[kind])[name] = group[name]
    return violations(part)


def _context(node: Node, keys: Iterable[str]) -> set[str]:
    """The sandboxes of containers that are judged: without them they would seem to have lost theirs."""
    found = (find(node, key) for key in keys)
    return {e.sandbox_key(each.sandbox_id) for each in found if isinstance(each, Container)}


_GROUPS = {"sandbox": "sandboxes", "container": "containers", "image": "images"}


def _beyond(node: Node, key: str) -> bool:
    if key in node.quarantined:
        return True
    kind, name = e.split_key(key)
    held = node.containers.get(name) if kind == "container" else None
    return held is not None and e.sandbox_key(held.sandbox_id) in node.quarantined

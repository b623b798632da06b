"""Who is who: the human name of each aggregate, learned from the records, and the aggregate that a person means.

Names outlive their aggregates: an incident is mostly about what is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from domain import events as e
from domain.records import Record, Unreadable
from tools.replay.text import instant, short

NAME_MAX = 256
OTHERS_MAX = 10


class Unresolved(Exception):
    """No aggregate, or more than one, is meant by what the person wrote; the text lists them."""


@dataclass(slots=True)
class Names:
    """`pods`: sandbox id -> namespace/name. `containers`: container id -> (name, sandbox id). `asked`: key -> which
    attempt of its name it is, and when it was asked for (wall clock, ns)."""

    pods: dict[str, str] = field(default_factory=dict)
    containers: dict[str, tuple[str, str]] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)
    image_ids: dict[str, str] = field(default_factory=dict)
    asked: dict[str, tuple[int, int]] = field(default_factory=dict)

    def learn(self, record: Record | Unreadable) -> None:
        if record.key:
            self.keys[record.key] = None
        if isinstance(record, Unreadable):
            return
        kind, name = e.split_key(record.key)
        match kind, record.event:
            case "sandbox", e.SandboxRunRequested(config=config):
                self.pods[name] = f"{config.namespace}/{config.name}"[:NAME_MAX]
                self.asked[record.key] = (config.attempt, record.at.wall_ns)
            case "container", e.ContainerCreateRequested(config=config, sandbox_id=sandbox_id):
                self.containers[name] = (config.name[:NAME_MAX], sandbox_id)
                self.asked[record.key] = (config.attempt, record.at.wall_ns)
            case "image", e.ImagePulled(image_id=image_id):
                self.image_ids[record.key] = image_id

    def of(self, key: str) -> str:
        """The human name; empty where none is on record."""
        kind, name = e.split_key(key)
        if kind == "sandbox":
            return self.pods.get(name, "")
        if kind == "container" and name in self.containers:
            own, sandbox_id = self.containers[name]
            return f"{self.pods.get(sandbox_id, '?')}/{own}"
        return name if kind == "image" else ""

    def sandbox_of(self, key: str) -> str:
        """Key of the sandbox that a container is in, or an empty string."""
        kind, name = e.split_key(key)
        held = self.containers.get(name) if kind == "container" else None
        return e.sandbox_key(held[1]) if held else ""

    def members(self, sandbox_id: str) -> set[str]:
        return {e.container_key(name) for name, (_, held) in self.containers.items() if held == sandbox_id}

    def resolve(self, wanted: str) -> str:
        """The key that is meant: a key, an id, a name, name/attempt, or the beginning of one. Raises Unresolved."""
        found = self._meant(wanted)
        if len(found) == 1:
            return found[0]
        shown = "".join(f"\n  {key}  {self.of(key)}" for key in found[:20])
        left = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
        raise Unresolved(f"{wanted} may mean {len(found)} aggregates, give an id:{shown}{left}")

    def newest(self, wanted: str) -> tuple[str, str]:
        """As `resolve`, but of attempts at one and the same thing the newest, and which others there are.

        The second is empty where there is no other. A pod that is replaced, or a container that is started again, has
        the name of the one before it: a person who asks by name means what is there now.
        """
        found = self._meant(wanted)
        whose = {(e.split_key(key)[0], self.of(key)) for key in found}
        if len(found) == 1 or len(whose) != 1 or not all(key in self.asked for key in found):
            return self.resolve(wanted), ""
        # The log's order is the order in which they were asked for, whatever the clock did.
        *others, taken = found
        shown = ", ".join(self._attempt(key) for key in others[: -OTHERS_MAX - 1 : -1])
        left = f" and {len(others) - OTHERS_MAX} more" if len(others) > OTHERS_MAX else ""
        return taken, f"{wanted}: the newest of {len(found)}, {self._attempt(taken)}; there are also {shown}{left}"

    def _attempt(self, key: str) -> str:
        attempt, wall_ns = self.asked[key]
        return f"attempt {attempt} ({short(e.split_key(key)[1])}, asked for {instant(wall_ns)})"

    def _meant(self, wanted: str) -> list[str]:
        """At least one. Raises Unresolved."""
        for candidates in (self._exact, self._called, self._of_attempt, self._beginning):
            if found := list(dict.fromkeys(candidates(wanted))):
                return found
        raise Unresolved(f"the log knows no sandbox, container or image {wanted}")

    def _exact(self, wanted: str) -> Iterator[str]:
        return (key for key in self.keys if wanted in (key, e.split_key(key)[1]))

    def _called(self, wanted: str) -> Iterator[str]:
        """Names: of a pod with or without namespace, of a container alone or below its pod, of an image."""
        for key in self.keys:
            parts = self.of(key).split("/")
            if wanted in ("/".join(parts[i:]) for i in range(len(parts))) or self.image_ids.get(key) == wanted:
                yield key

    def _of_attempt(self, wanted: str) -> Iterator[str]:
        """NAME/ATTEMPT: the kubelet counts the attempts from 0."""
        name, _, attempt = wanted.rpartition("/")
        return (key for key in self._called(name) if key in self.asked and str(self.asked[key][0]) == attempt)

    def _beginning(self, wanted: str) -> Iterator[str]:
        return (key for key in self.keys if wanted and _begins(key, wanted))


def _begins(key: str, wanted: str) -> bool:
    return key.startswith(wanted) or e.split_key(key)[1].startswith(wanted)

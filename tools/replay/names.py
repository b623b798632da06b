"""Who is who: the human name of each aggregate, learned from the records, and the aggregate that a person means.

Names outlive their aggregates: an incident is mostly about what is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from domain import events as e
from domain.records import Record, Unreadable

NAME_MAX = 256


class Unresolved(Exception):
    """No aggregate, or more than one, is meant by what the person wrote; the text lists them."""


@dataclass(slots=True)
class Names:
    """`pods`: sandbox id -> namespace/name. `containers`: container id -> (name, sandbox id)."""

    pods: dict[str, str] = field(default_factory=dict)
    containers: dict[str, tuple[str, str]] = field(default_factory=dict)
    keys: dict[str, None] = field(default_factory=dict)
    image_ids: dict[str, str] = field(default_factory=dict)

    def learn(self, record: Record | Unreadable) -> None:
        if record.key:
            self.keys[record.key] = None
        if isinstance(record, Unreadable):
            return
        kind, name = e.split_key(record.key)
        match kind, record.event:
            case "sandbox", e.SandboxRunRequested(config=config):
                self.pods[name] = f"{config.namespace}/{config.name}"[:NAME_MAX]
            case "container", e.ContainerCreateRequested(config=config, sandbox_id=sandbox_id):
                self.containers[name] = (config.name[:NAME_MAX], sandbox_id)
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
        """The key that is meant: a key, an id, a name, or the beginning of one. Raises Unresolved."""
        for candidates in (self._exact(wanted), self._called(wanted), self._beginning(wanted)):
            found = list(dict.fromkeys(candidates))
            if len(found) == 1:
                return found[0]
            if found:
                shown = "".join(f"\n  {key}  {self.of(key)}" for key in found[:20])
                left = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
                raise Unresolved(f"{wanted} may mean {len(found)} aggregates, give an id:{shown}{left}")
        raise Unresolved(f"the log knows no sandbox, container or image {wanted}")

    def _exact(self, wanted: str) -> Iterator[str]:
        return (key for key in self.keys if wanted in (key, e.split_key(key)[1]))

    def _called(self, wanted: str) -> Iterator[str]:
        """Names: of a pod with or without namespace, of a container alone or below its pod, of an image."""
        for key in self.keys:
            parts = self.of(key).split("/")
            if wanted in ("/".join(parts[i:]) for i in range(len(parts))) or self.image_ids.get(key) == wanted:
                yield key

    def _beginning(self, wanted: str) -> Iterator[str]:
        return (key for key in self.keys if wanted and _begins(key, wanted))


def _begins(key: str, wanted: str) -> bool:
    return key.startswith(wanted) or e.split_key(key)[1].startswith(wanted)

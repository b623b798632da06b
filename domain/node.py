"""All aggregates of one machine: the fold of the whole log, the index of names and images.

The node is the only mutable thing in the domain; only `apply` and the claims change it. A decision's
claims (names, image ids) count from `claim` on, before its events are durable; `release` gives them back if the append
failed. Queries are for List and Status: plain look-ups, no locks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from domain import commands as c
from domain import container as containers
from domain import deciding
from domain import events as e
from domain import image as images
from domain import sandbox as sandboxes
from domain.container import Container
from domain.decision import Accept, Decision
from domain.image import Image, PulledImage
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.names import ContainerName, SandboxName, sandbox_name
from domain.records import Now
from domain.sandbox import Sandbox

SCHEMA = 3
"""Number of the fold. A checkpoint of another number is discarded and the log replayed."""

Claim = tuple[tuple[str, e.Event], ...]


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node's own aggregate: the newest daemon that opened the log, and whether it left by its own will."""

    started: e.NodeStarted | None = None
    stopped: bool = True


@dataclass(frozen=True, slots=True)
class Versions:
    """Version of each aggregate that may still get events; part of a checkpoint."""

    of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why nothing is done to an aggregate: the first record that does not decode."""

    seq: int
    why: str


AGGREGATES: Mapping[str, type] = {
    "sandbox": Sandbox,
    "container": Container,
    "image": Image,
    "node": NodeState,
    "versions": Versions,
}
"""What a checkpoint holds, by kind of key."""


class Node:
    def __init__(self) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        self.containers: dict[str, Container] = {}
        self.images: dict[str, Image] = {}
        self.state = NodeState()
        self.versions: dict[str, int] = {}
        self.quarantined: dict[str, Quarantine] = {}
        self._sandbox_names: dict[SandboxName, str] = {}
        self._container_names: dict[ContainerName, str] = {}
        self._pods: dict[str, dict[str, None]] = {}
        self._claims: list[Claim] = []

    def decide(self, command: c.Command, now: Now) -> Decision:
        """What a command leads to; see `deciding`."""
        return deciding.decide(self, command, now)

    # --- claims ------------------------------------------------------------------------------------------------------

    def claim(self, accepted: Accept) -> None:
        """From here on the names and images of these events count, though they are not durable yet."""
        self._claims.append(accepted.events)
        for key, event in accepted.events:
            self._index_names(key, event)

    def release(self, accepted: Accept) -> None:
        """The append failed: nothing happened."""
        self.settle(accepted)
        for key, event in accepted.events:
            if key not in self.versions:
                self._forget_names(key, event)

    def settle(self, accepted: Accept) -> None:
        """The events are durable and applied: the claim has become state."""
        self._claims.remove(accepted.events)

    def _index_names(self, key: str, event: e.Event) -> None:
        _, name = e.split_key(key)
        if isinstance(event, e.SandboxRunRequested):
            self._sandbox_names[sandbox_name(event.config)] = name
        elif isinstance(event, e.ContainerCreateRequested):
            self._container_names[event.sandbox_id, event.config.name, event.config.attempt] = name

    def _forget_names(self, key: str, event: e.Event) -> None:
        if isinstance(event, e.SandboxRunRequested):
            self._sandbox_names.pop(sandbox_name(event.config), None)
        elif isinstance(event, e.ContainerCreateRequested):
            self._container_names.pop((event.sandbox_id, event.config.name, event.config.attempt), None)

    # --- evolve ------------------------------------------------------------------------------------------------------

    def apply(self, key: str, version: int, event: e.Event) -> None:
        """Folds one durable event. Raises KeyError where the tables have no such row: the log is not ours."""
        kind, name = e.split_key(key)
        if key in self.quarantined:
            self.versions[key] = version
            return
        match kind:
            case "container":
                self._apply_container(name, event)
            case "sandbox":
                self._apply_sandbox(name, event)
            case "image":
                self.images[name] = images.evolve(self.images.get(name), event, name)
            case e.NODE_KEY:
                self._apply_node(event)
            case _:
                raise KeyError(key)
        self.versions[key] = version
        self._index_names(key, event)
        if kind in ("container", "sandbox") and name not in self.containers and name not in self.sandboxes:
            del self.versions[key]

    def _apply_container(self, name: str, event: e.Event) -> None:
        before = self.containers.get(name)
        after = containers.evolve(before, event, name)
        if before is not None and before.sandbox_id != after.sandbox_id:
            raise KeyError(f"container {name} in another sandbox")
        if after.state is ContainerState.REMOVED:
            self._drop_container(after)
            return
        self.containers[name] = after
        self._pods.setdefault(after.sandbox_id, {})[name] = None

    def _drop_container(self, gone: Container) -> None:
        self.containers.pop(gone.id, None)
        self._container_names.pop((gone.sandbox_id, gone.config.name, gone.config.attempt), None)
        pod = self._pods.get(gone.sandbox_id, {})
        pod.pop(gone.id, None)
        if not pod:
            self._pods.pop(gone.sandbox_id, None)

    def _apply_sandbox(self, name: str, event: e.Event) -> None:
        after = sandboxes.evolve(self.sandboxes.get(name), event, name)
        if after.state is SandboxState.REMOVED:
            self._drop_sandbox(after)
            return
        self.sandboxes[name] = after

    def _drop_sandbox(self, gone: Sandbox) -> None:
        self.sandboxes.pop(gone.id, None)
        self._sandbox_names.pop(sandbox_name(gone.config), None)

    def _apply_node(self, event: e.Event) -> None:
        match event:
            case e.NodeStarted():
                self.state = NodeState(event, stopped=False)
            case e.NodeStopped():
                self.state = replace(self.state, stopped=True)
            case e.QuarantineReleased():
                self._release_quarantine(event.key)
            case e.NodeAdopted():
                pass
            case _:
                raise KeyError(type(event))

    def _release_quarantine(self, key: str) -> None:
        kind, name = e.split_key(key)
        self.quarantined.pop(key, None)
        if kind == "container" and name in self.containers:
            self._drop_container(self.containers[name])
        elif kind == "sandbox":
            for held in self.of_sandbox(name):
                self.quarantined.pop(e.container_key(held.id), None)
                self._drop_container(held)
            if name in self.sandboxes:
                self._drop_sandbox(self.sandboxes[name])
        elif kind == "image":
            self.images[name] = Image(name, ImageState.ABSENT)

    def quarantine(self, key: str, version: int, seq: int, why: str) -> None:
        """A record of this aggregate does not decode: from here on it stays as it is, name held, untouched."""
        self.quarantined.setdefault(key, Quarantine(seq, why))
        self.skip(key, version)

    def skip(self, key: str, version: int) -> None:
        """The aggregate has an event with this version, whatever it says."""
        self.versions[key] = max(version, self.versions.get(key, 0))

    # --- checkpoint --------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Everything that `restore` needs, by key. Not to be taken while anything is quarantined."""
        kept: dict[str, Any] = {e.sandbox_key(i): s for i, s in self.sandboxes.items()}
        kept.update((e.container_key(i), k) for i, k in self.containers.items())
        kept.update((e.image_key(r), i) for r, i in self.images.items())
        kept[e.NODE_KEY] = self.state
        kept["versions"] = Versions(dict(self.versions))
        return kept

    @classmethod
    def restore(cls, kept: Mapping[str, Any]) -> "Node":
        node = cls()
        for key, value in kept.items():
            kind, name = e.split_key(key)
            match kind:
                case "sandbox":
                    node.sandboxes[name] = value
                    node._sandbox_names[sandbox_name(value.config)] = name
                case "container":
                    node.containers[name] = value
                    node._container_names[value.sandbox_id, value.config.name, value.config.attempt] = name
                case "image":
                    node.images[name] = value
                case "versions":
                    node.versions = dict(value.of)
                case _:
                    node.state = value
        for known in node.containers.values():
            node._pods.setdefault(known.sandbox_id, {})[known.id] = None
        return node

    # --- queries -----------------------------------------------------------------------------------------------------

    def of_sandbox(self, sandbox_id: str) -> list[Container]:
        """Its containers, oldest first."""
        held = (self.containers[i] for i in self._pods.get(sandbox_id, ()))
        return sorted(held, key=lambda k: (k.created_at, k.id))

    def sandbox_named(self, name: SandboxName) -> str | None:
        """Id of the sandbox that holds a name, on record or decided."""
        return self._sandbox_names.get(name)

    def container_named(self, name: ContainerName) -> str | None:
        """Id of the container that holds (sandbox id, name, attempt), on record or decided."""
        return self._container_names.get(name)

    def next_version(self, key: str) -> int:
        return self.versions.get(key, 0) + 1

    def find_image(self, image: str) -> Image | None:
        """The present image that a normalised reference or an image id names. Of several references, the first."""
        known = self.images.get(image)
        if known is not None and known.held is not None:
            return known
        return next(iter(self.references(image)), None)

    def references(self, image_id: str) -> list[Image]:
        """All references that mean this id now, in the order of their names."""
        held = (i for i in self.images.values() if i.held is not None and i.held.image_id == image_id)
        return sorted(held, key=lambda i: i.reference)

    def present(self) -> Iterator[tuple[PulledImage, Sequence[Image]]]:
        """Each image id once, with its references."""
        grouped: dict[str, list[Image]] = {}
        for image in self.images.values():
            if image.held is not None:
                grouped.setdefault(image.held.image_id, []).append(image)
        for found in grouped.values():
            held = found[0].held
            assert held is not None
            yield held, found

    def image_users(self, image_id: str) -> list[str]:
        """Ids of the containers that claim an image, on record or decided."""
        on_record = [k.id for k in self.containers.values() if k.image_id == image_id]
        decided = [
            e.split_key(key)[1]
            for claim in self._claims
            for key, ev in claim
            if isinstance(ev, e.ContainerCreateRequested) and ev.image_id == image_id
        ]
        return on_record + decided

    def is_going(self, image_id: str) -> bool:
        """Whether a removal of the image is on record or decided."""
        claimed = {key for claim in self._claims for key, ev in claim if isinstance(ev, e.ImageRemoveRequested)}
        return any(
            i.state is ImageState.REMOVING or e.image_key(i.reference) in claimed for i in self.references(image_id)
        )

    def related(self, key: str) -> Iterable[str]:
        """Keys whose `due` may change when this aggregate does, itself first."""
        kind, name = e.split_key(key)
        yield key
        if kind == "container" and name in self.containers:
            yield e.sandbox_key(self.containers[name].sandbox_id)
        elif kind == "sandbox":
            yield from (e.container_key(i) for i in self._pods.get(name, ()))

    def lane_of(self, command: c.Command) -> str:
        """One lane per pod uid, one for all images (a removal touches several references), one for the node."""
        if isinstance(command, c.RunSandbox):
            return f"pod/{command.config.uid}"
        if isinstance(command, c.RecordNode):
            return "node"
        sandbox_id = getattr(command, "sandbox_id", None)
        if isinstance(container_id := getattr(command, "container_id", None), str) and sandbox_id is None:
            known = self.containers.get(container_id)
            sandbox_id = known.sandbox_id if known else ""
        if sandbox_id is None:
            return "images"
        sandbox = self.sandboxes.get(sandbox_id)
        return f"pod/{sandbox.config.uid}" if sandbox else f"unknown/{sandbox_id}"

"""What a state owes, from the state alone: the effect that must run, the process to watch, commands that follow.

Live code and recovery run the same `due`, so a crash anywhere is continued by looking at the state again. At most one
effect per aggregate is due; where another one was running, the running one has become pointless and is cancelled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from domain import commands as c
from domain import effects as f
from domain import events as e
from domain.container import Container
from domain.image import Image
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
from domain.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Due:
    """`at`: a command that becomes due at a deadline."""

    effect: f.Effect | None = None
    watch: f.Watch | None = None
    commands: tuple[c.Command, ...] = ()
    at: tuple[e.Deadline, c.Command] | None = None


NOTHING = Due()


def due(node: Node, key: str) -> Due:
    """What the aggregate under this key owes now; nothing where it is unknown or quarantined."""
    if key in node.quarantined:
        return NOTHING
    kind, name = e.split_key(key)
    if kind == "container" and name in node.containers:
        return _of_container(node.containers[name])
    if kind == "sandbox" and name in node.sandboxes:
        return _of_sandbox(node, node.sandboxes[name])
    if kind == "image" and name in node.images:
        return Due(effect=_of_image(node.images[name]))
    return NOTHING


S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741  (table shorthand)

# fmt: off
CONTAINER_EFFECT: Mapping[ContainerState, Callable[[Container], f.Effect]] = {
    S.CREATING:    lambda k: f.CreateTask(k.id),
    S.INTERRUPTED: lambda k: f.UndoTask(k.id),
    S.STARTING:    lambda k: f.StartTask(k.id),
    S.STOPPING:    lambda k: f.StopTask(k.id, k.stop.deadline),  # type: ignore[union-attr]
    S.EXITED:      lambda k: f.TidyTask(k.id),
    S.REMOVING:    lambda k: f.RemoveTask(k.id),
}
WATCHED = frozenset({S.CREATED, S.STARTING, S.RUNNING, S.STOPPING})
# fmt: on


def _of_container(container: Container) -> Due:
    make = CONTAINER_EFFECT.get(container.state)
    watch = None
    if container.state in WATCHED:
        watch = f.WatchTask(container.id, container.init, bool(container.monitor_lost_at))
    remove = c.RemoveContainer(container.id)
    wanted = container.state is S.EXITED and container.stop is not None and container.stop.then == "remove"
    at = (container.give_up, remove) if container.state is S.INTERRUPTED and container.give_up else None
    return Due(make(container) if make else None, watch, (remove,) if wanted else (), at)


def _of_sandbox(node: Node, sandbox: Sandbox) -> Due:
    held = node.of_sandbox(sandbox.id)
    askable = [k for k in held if e.container_key(k.id) not in node.quarantined]
    match sandbox.state:
        case B.SETTING_UP:
            return Due(effect=f.SetUpSandbox(sandbox.id))
        case B.READY:
            return Due(watch=f.WatchInfra(sandbox.id, sandbox.infra) if sandbox.infra else None)
        case B.STOPPED:
            removal = sandbox.then == "remove" and len(askable) == len(held)
            release = f.ReleaseNetwork(sandbox.id, leaked=True) if sandbox.held and not removal else None
            return Due(release, commands=(c.RemoveSandbox(sandbox.id),) if removal else ())
        case B.STOPPING:
            ended = all(_ended(k) for k in held)
            return Due(_release_or(sandbox, f.TearDownSandbox(sandbox.id)) if ended else None, commands=_stops(askable))
        case B.REMOVING:
            removals = tuple(c.RemoveContainer(k.id) for k in askable if k.state is not S.REMOVING)
            return Due(None if held else _release_or(sandbox, f.RemoveSandbox(sandbox.id)), commands=removals)
    return NOTHING


def _release_or(sandbox: Sandbox, then: f.Effect) -> f.Effect:
    """The network goes first: DEL wants the namespace that the next step takes away. A leak holds up nothing."""
    return f.ReleaseNetwork(sandbox.id) if sandbox.held and not sandbox.leak else then


def _ended(container: Container) -> bool:
    """Whether nothing of it can run in the pod's namespaces. What a broken create left is gone with its record."""
    return container.state is S.EXITED or (container.state is S.REMOVING and container.finished_at > 0)


def _stops(containers: list[Container]) -> tuple[c.Command, ...]:
    """An interrupted create has nothing to stop: it is removed. A stop that already kills at once is not repeated."""
    live = [k for k in containers if k.state in WATCHED or k.state is S.CREATING]
    stops = [c.StopContainer(k.id, 0) for k in live if k.stop is None or k.stop.grace_s > 0]
    return (*stops, *(c.RemoveContainer(k.id) for k in containers if k.state is S.INTERRUPTED))


def _of_image(image: Image) -> f.Effect | None:
    match image.state:
        case I.PULLING:
            return f.PullImage(image.reference, image.source, image.access)
        case I.REMOVING:
            assert image.held is not None
            return f.RemoveImage(image.reference, image.held.image_id)
    return None

"""When a client's command is settled, and as what. Looked up after every event of the aggregates it depends on.

A retry and a first attempt share these answers: the caller does not own the work.
"""

from dataclasses import dataclass

from domain import commands as c
from domain import errors
from domain import events as e
from domain.container import Container
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
from domain.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class Done:
    """`value`: the id that the reply carries, empty where it carries none."""

    value: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    error: errors.DaybookError


Outcome = Done | Failed | None
"""None: still open."""

S, B = ContainerState, SandboxState


def outcome(node: Node, command: c.Command, key: str) -> Outcome:
    """What the state says of a client's command that concerns the aggregate `key`."""
    _, name = e.split_key(key)
    match command:
        case c.CreateContainer():
            return _create(node.containers.get(name), name)
        case c.StartContainer():
            return _start(node.containers.get(name), name)
        case c.StopContainer():
            known = node.containers.get(name)
            return None if known and known.state is S.STOPPING else Done()
        case c.RemoveContainer():
            return None if name in node.containers else Done()
        case c.RunSandbox():
            return _run(node.sandboxes.get(name), name)
        case c.StopSandbox():
            held = node.sandboxes.get(name)
            return None if held and held.state is B.STOPPING else Done()
        case c.RemoveSandbox():
            return None if name in node.sandboxes else Done()
        case c.PullImage():
            return _pull(node, name)
        case c.RemoveImage():
            image = node.images.get(name)
            return None if image and image.state is ImageState.REMOVING else Done()
    return Done()


def _create(container: Container | None, name: str) -> Outcome:
    if container is not None and container.state is S.INTERRUPTED:
        return Failed(errors.Cancelled(f"cannot create container {name}: its creation was interrupted, ask again"))
    if container is None:
        return Failed(errors.RuntimeFailed(f"cannot create container {name}: it was removed meanwhile"))
    if container.state is S.CREATING:
        return None
    if container.ever_created:
        return Done(name)
    return Failed(errors.failure(container.error, container.text))


def _start(container: Container | None, name: str) -> Outcome:
    if container is None:
        return Failed(errors.NotFound(f"cannot start container {name}: it was removed meanwhile"))
    if container.state is S.STARTING:
        return None
    if container.reason == "StartError":
        return Failed(errors.failure(container.error, container.text))
    if container.started_at:
        return Done()
    return Failed(errors.Cancelled(f"cannot start container {name}: it was stopped meanwhile"))


def _run(sandbox: Sandbox | None, name: str) -> Outcome:
    if sandbox is None:
        return Failed(errors.RuntimeFailed(f"cannot run sandbox {name}: it was removed meanwhile"))
    if sandbox.state is B.SETTING_UP:
        return None
    if sandbox.ready:
        return Done(name)
    if sandbox.error:
        return Failed(errors.failure(sandbox.error, sandbox.text))
    return Failed(errors.Cancelled(f"cannot run sandbox {name}: it was stopped meanwhile"))


def _pull(node: Node, name: str) -> Outcome:
    image = node.images[name]
    if image.state is ImageState.PULLING:
        return None
    if image.error:
        return Failed(errors.failure(image.error, image.text))
    if image.held is None:
        return Failed(errors.PullFailed(f"cannot pull image {name}: it was removed meanwhile"))
    return Done(image.held.image_id)

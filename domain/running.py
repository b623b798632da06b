"""Whom a call means that works with a container's program while it runs, and is not on record: exec, log rotation."""

from domain import container as containers
from domain import events as e
from domain.container import Container
from domain.errors import NotFound, Quarantined, WrongState
from domain.node import Node

RUNNING = "CONTAINER_RUNNING"


def is_hook(timeout_s: float) -> bool:
    """Whether a command may leave helpers in the background. The kubelet gives hooks no limit (0) and probes at least
    1 s; what a hook starts is meant to stay, what a probe leaves would add up.
    """
    return timeout_s == 0


def running(node: Node, container_id: str, verb: str) -> Container:
    """The container, where the CRI shows it as running: one that is being stopped still answers its probes.

    `verb` begins the text: `cannot <verb> container <id>: <why>`. Raises NotFound, WrongState, Quarantined.
    """
    what = f"cannot {verb} container {container_id}"
    held = node.quarantined.get(e.container_key(container_id))
    if held is not None:
        raise Quarantined(f"{what}: record {held.seq} of the log does not decode ({held.why})")
    known = node.containers.get(container_id)
    if known is None:
        raise NotFound(f"{what}: there is no such container")
    if containers.view(known) != RUNNING or known.init is None:
        raise WrongState(f"{what}: it is not running (state {known.state})")
    return known

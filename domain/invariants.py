"""What must hold of a node after every event. Named predicates; each yields a sentence per violation.

Used by the property and crash tests and by `tools/replay check`, which runs them at every prefix of a log.
"""

from collections.abc import Callable, Iterator

from domain.container import Container
from domain.events import container_key, image_key, sandbox_key
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.names import sandbox_name
from domain.node import Node

S, B = ContainerState, SandboxState


def judged(node: Node) -> list[Container]:
    """Containers that the log tells whole, in a sandbox that it tells whole. Of the rest nothing can be said."""
    return [
        k
        for k in node.containers.values()
        if container_key(k.id) not in node.quarantined and sandbox_key(k.sandbox_id) not in node.quarantined
    ]


def container_has_its_sandbox(node: Node) -> Iterator[str]:
    for k in judged(node):
        if k.sandbox_id not in node.sandboxes:
            yield f"container {k.id} is in state {k.state}, but its sandbox {k.sandbox_id} is gone"


def names_are_unique(node: Node) -> Iterator[str]:
    seen: dict[object, str] = {}
    for k in judged(node):
        name = (k.sandbox_id, k.config.name, k.config.attempt)
        if name in seen:
            yield f"containers {seen[name]} and {k.id} share the name {name}"
        seen[name] = k.id
    for s in node.sandboxes.values():
        if sandbox_name(s.config) in seen:
            yield f"sandboxes {seen[sandbox_name(s.config)]} and {s.id} share the name {sandbox_name(s.config)}"
        seen[sandbox_name(s.config)] = s.id


def stopped_sandbox_has_no_live_container(node: Node) -> Iterator[str]:
    for k in judged(node):
        sandbox = node.sandboxes.get(k.sandbox_id)
        if k.live and sandbox is not None and sandbox.state in (B.STOPPED, B.REMOVING):
            yield f"container {k.id} is in state {k.state}, but its sandbox is {sandbox.state}"


def live_container_has_a_process(node: Node) -> Iterator[str]:
    for k in judged(node):
        if k.live and (k.init is None or k.monitor is None):
            yield f"container {k.id} is in state {k.state} without a recorded init or monitor"


def stopping_has_a_deadline(node: Node) -> Iterator[str]:
    for k in judged(node):
        if k.state is S.STOPPING and k.stop is None:
            yield f"container {k.id} is stopping without a deadline"


def times_are_in_order(node: Node) -> Iterator[str]:
    for k in judged(node):
        if k.state is S.EXITED and not k.finished_at:
            yield f"container {k.id} has exited at no time"
        if k.started_at and k.finished_at and k.started_at > k.finished_at:
            yield f"container {k.id} finished before it started"
        sandbox = node.sandboxes.get(k.sandbox_id)
        if sandbox is not None and k.created_at < sandbox.created_at:
            yield f"container {k.id} is older than its sandbox"


def exit_codes_rest_on_evidence(node: Node) -> Iterator[str]:
    for k in judged(node):
        if k.state is not S.EXITED:
            continue
        if k.evidence.source == "none" and (k.exit_code != 255 or k.reason != "Unknown"):
            yield f"container {k.id} has exit code {k.exit_code} ({k.reason}) without evidence"
        if k.reason == "OOMKilled" and k.exit_code != 137:
            yield f"container {k.id} was OOMKilled, yet it has exit code {k.exit_code}"
        if k.evidence.source == "exit-file" and k.reason == "Unknown":
            yield f"container {k.id} has an exit file, yet its reason is unknown"


def used_image_is_held(node: Node) -> Iterator[str]:
    going = {i.held.image_id for i in node.images.values() if i.held and i.state is ImageState.REMOVING}
    for k in judged(node):
        if k.image_id in going:
            yield f"image {k.image_id} is being removed while container {k.id} uses it"


def present_image_is_known(node: Node) -> Iterator[str]:
    for i in node.images.values():
        if (
            image_key(i.reference) not in node.quarantined
            and i.state in (ImageState.PRESENT, ImageState.REMOVING)
            and i.held is None
        ):
            yield f"image {i.reference} is {i.state} with nothing held"


INVARIANTS: tuple[Callable[[Node], Iterator[str]], ...] = (
    container_has_its_sandbox,
    names_are_unique,
    stopped_sandbox_has_no_live_container,
    live_container_has_a_process,
    stopping_has_a_deadline,
    times_are_in_order,
    exit_codes_rest_on_evidence,
    used_image_is_held,
    present_image_is_known,
)


def violations(node: Node) -> list[str]:
    """Every violation, each with the name of its invariant. Quarantined aggregates are beyond judgement."""
    return [f"{check.__name__}: {text}" for check in INVARIANTS for text in check(node)]

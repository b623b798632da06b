"""What a command leads to, where more than one aggregate has a say: names, images in use, sandboxes that must be ready.

Reads the node and changes nothing: the same node, command and reading of the clocks give the same decision. What one
aggregate decides alone stands in its own module, over the tables of `lifecycle`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from domain import commands as c
from domain import container as containers
from domain import errors
from domain import events as e
from domain import image as images
from domain import sandbox as sandboxes
from domain.config import ContainerConfig, NamespaceMode
from domain.container import Container
from domain.decision import ALREADY, WAIT, Accept, Already, Decision, Join, Refused, Wait
from domain.image import Image
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.names import repo_digest, sandbox_name
from domain.records import Now
from domain.sandbox import Sandbox

if TYPE_CHECKING:
    from domain.node import Node

PULLS_MAX = 256
"""Pulls that are open at once, those that wait for their turn among them; one more is refused as Busy."""


def decide(node: "Node", command: c.Command, now: Now) -> Decision:
    """What a command leads to. Pure: the same node, command and reading of the clocks give the same answer."""
    match command:
        case c.RunSandbox():
            return _run(node, command, now)
        case c.CreateContainer():
            return _create(node, command, now)
        case c.PullImage() | c.RecordPulled() | c.RecordPullFailed() | c.RecordImageLost():
            return _image(node, command, now)
        case c.RecordImageRemoved():
            return _image_removed(node, command, now)
        case c.RemoveImage():
            return _remove_image(node, command, now)
        case c.RecordNode():
            return Accept(((e.NODE_KEY, command.event),))
        case _ if hasattr(command, "container_id"):
            return _container(node, command, now)
        case _:
            return _sandbox(node, command, now)


def _run(node: "Node", command: c.RunSandbox, now: Now) -> Decision:
    held = node.sandbox_named(sandbox_name(command.config))
    if held is None:
        at = _uid_time(node, command.config.uid, now)
        event = e.SandboxRunRequested(command.request_hash, at, now.boot_id, command.config)
        return Accept(((e.sandbox_key(command.sandbox_id), event),))
    if refusal := _quarantine_refusal(node, e.sandbox_key(held)):
        return refusal
    known = node.sandboxes.get(held)
    if known is None:
        return _undecided("sandbox", command.config.name)
    decision = sandboxes.decide(known, command, now)
    if isinstance(decision, Already | Join) and known.request_hash != command.request_hash:
        return sandboxes.refused(known, command, sandboxes.TAKEN)
    return decision


def _create(node: "Node", command: c.CreateContainer, now: Now) -> Decision:
    if refusal := _quarantine_refusal(node, e.sandbox_key(command.sandbox_id)):
        return refusal
    sandbox = node.sandboxes.get(command.sandbox_id)
    if sandbox is None:
        return _missing("sandbox", command.sandbox_id, "create a container in")
    held = node.container_named((command.sandbox_id, command.config.name, command.config.attempt))
    if held is not None:
        known = node.containers.get(held)
        if known is None:
            return _undecided("container", command.config.name)
        return _recreate(node, known, command, sandbox, now)
    return _first_create(node, command.container_id, command, sandbox, now)


def _recreate(node: "Node", known: Container, command: c.CreateContainer, sandbox: Sandbox, now: Now) -> Decision:
    if refusal := _quarantine_refusal(node, e.container_key(known.id)):
        return refusal
    if known.state is ContainerState.INTERRUPTED:
        return _first_create(node, known.id, command, sandbox, now)
    decision = containers.decide(known, command, now)
    if isinstance(decision, Already | Join) and known.request_hash != command.request_hash:
        return containers.refused(known, command, containers.TAKEN)
    return decision


def _first_create(node: "Node", id_: str, command: c.CreateContainer, sandbox: Sandbox, now: Now) -> Decision:
    if sandbox.state is not SandboxState.READY:
        return _not_ready(f"cannot create container {command.config.name}", sandbox.id, sandbox)
    if refusal := _target_refusal(node, f"cannot create container {command.config.name}", command.config, sandbox.id):
        return refusal
    image = node.find_image(command.image)
    if image is None or image.held is None or node.is_going(image.held.image_id):
        text = f"cannot create container {command.config.name}: image {command.image} is not present, pull it first"
        return Refused(errors.NotFound(text))
    held = image.held
    shown = (held.image_id, repo_digest(image.reference, held.digest), held.stop_signal)
    log_path = absolute_log_path(sandbox.config.log_directory, command.config.log_path)
    event = containers.requested(command, shown, log_path, _pod_time(node, sandbox, now))
    return Accept(((e.container_key(id_), event),))


def _container(node: "Node", command: c.Command, now: Now) -> Decision:
    if refusal := _quarantine_refusal(node, e.container_key(command.container_id)):
        return refusal
    known = node.containers.get(command.container_id)
    if known is None:
        if isinstance(command, c.StartContainer):
            return _missing("container", command.container_id, "start")
        return ALREADY
    sandbox = node.sandboxes.get(known.sandbox_id)
    doing = f"cannot start container {known.id}"
    if isinstance(command, c.StartContainer) and (sandbox is None or sandbox.state is not SandboxState.READY):
        return _not_ready(doing, known.sandbox_id, sandbox)
    decision = containers.decide(known, command, now)
    if isinstance(command, c.StartContainer) and isinstance(decision, Accept):
        return _target_refusal(node, doing, known.config, known.sandbox_id) or decision
    return decision


def _target_refusal(node: "Node", doing: str, config: ContainerConfig, sandbox_id: str) -> Refused | None:
    """Pid mode TARGET joins the pid namespace of a container of the same pod, and only while that runs."""
    if config.namespaces.pid is not NamespaceMode.TARGET:
        return None
    target = node.containers.get(config.namespaces.target_id)
    if target is None or target.sandbox_id != sandbox_id:
        shown = ascii(config.namespaces.target_id[:80])
        return Refused(errors.InvalidRequest(f"{doing}: target container {shown} is not in sandbox {sandbox_id}"))
    if target.state is not ContainerState.RUNNING:
        text = f"{doing}: target container {target.id} is not running (state {target.state})"
        return Refused(errors.WrongState(text))
    return None


def _sandbox(node: "Node", command: c.Command, now: Now) -> Decision:
    """A quarantined container cannot be stopped, so neither can its sandbox."""
    held = node.of_sandbox(command.sandbox_id)
    keys = [e.sandbox_key(command.sandbox_id), *(e.container_key(k.id) for k in held)]
    stops = isinstance(command, c.StopSandbox | c.RemoveSandbox)
    for key in keys if stops else keys[:1]:
        if refusal := _quarantine_refusal(node, key):
            return refusal
    known = node.sandboxes.get(command.sandbox_id)
    if known is None:
        return ALREADY
    return sandboxes.decide(known, command, now)


def _image(node: "Node", command: c.Command, now: Now) -> Decision:
    key = e.image_key(command.reference)
    if refusal := _quarantine_refusal(node, key):
        return refusal
    known = node.images.get(command.reference) or Image(command.reference, ImageState.ABSENT)
    if isinstance(command, c.RecordPulled) and node.is_going(command.image.image_id):
        text = f"cannot pull image {command.reference}: the same image is being removed"
        command = c.RecordPullFailed(command.reference, "PullFailed", text, command.access)
    if isinstance(command, c.PullImage):
        return _pull(node, known, command, now)
    if isinstance(command, c.RecordPulled | c.RecordPullFailed) and command.access != known.access:
        return ALREADY
    return images.decide(known, command, now)


def _pull(node: "Node", known: Image, command: c.PullImage, now: Now) -> Decision:
    """Joins only a pull with the same credentials and source.

    Whoever has others waits and pulls again: only the registry can tell whether they suffice. So the outcome of a pull
    goes to none but those who share its credentials (see also the reports in `_image`).
    """
    decision = images.decide(known, command, now)
    if isinstance(decision, Join) and (known.access, known.source) != (command.access, command.source):
        return WAIT
    if isinstance(decision, Accept):
        going = sum(image.state is ImageState.PULLING for image in node.images.values())
        if going >= PULLS_MAX:
            return Refused(errors.Busy(f"cannot pull image {command.reference}: {going} pulls are open already"))
    return decision


def given_up(node: "Node", command: c.Command) -> c.Command | None:
    """What follows when the last client that waited for a command has gone; None: the work goes on without it.

    A caller does not own what it asked for: a pod or a container goes on, and a retry finds it. A pull is different: it
    has no name that a retry must find and no result that must be undone, only cost (network, disk, one of few places),
    and a client that set a deadline or hung up has no other way to say that it no longer wants it. So containerd does
    it as well. Another client that waits for the same pull keeps it alive.
    """
    if not isinstance(command, c.PullImage):
        return None
    known = node.images.get(command.reference)
    if known is None or known.state is not ImageState.PULLING or known.access != command.access:
        return None
    text = f"cannot pull image {command.reference}: cancelled, the last client that waited for it has gone"
    return c.RecordPullFailed(command.reference, "Cancelled", text, command.access)


def _remove_image(node: "Node", command: c.RemoveImage, now: Now) -> Decision:
    """All references of the image go in one transaction; one of them that must wait makes all wait."""
    if refusal := _quarantine_refusal(node, e.image_key(command.image)) or _unreadable_user(node):
        return refusal
    image = node.find_image(command.image)
    if image is None or image.held is None:
        pulling = node.images.get(command.image)
        return images.decide(pulling, command, now) if pulling else ALREADY
    image_id = image.held.image_id
    if users := node.image_users(image_id):
        text = f"cannot remove image {command.image}: container {users[0]} uses it"
        return Refused(errors.InUse(text))
    accepted: list[tuple[str, e.Event]] = []
    for reference in node.references(image_id):
        if refusal := _quarantine_refusal(node, e.image_key(reference.reference)):
            return refusal
        decision = images.decide(reference, command, now)
        if isinstance(decision, Join | Wait):
            return replace(decision, key=e.image_key(reference.reference))
        if isinstance(decision, Accept):
            accepted += decision.events
    return Accept(tuple(accepted))


def _image_removed(node: "Node", command: c.RecordImageRemoved, now: Now) -> Decision:
    """The store has dropped the image, so all its references are gone at once."""
    going = [i for i in node.references(command.image_id) if i.state is ImageState.REMOVING]
    decided = [images.decide(i, command, now) for i in going]
    events = [event for decision in decided if isinstance(decision, Accept) for event in decision.events]
    return Accept(tuple(events)) if events else ALREADY


def _quarantine_refusal(node: "Node", key: str) -> Refused | None:
    held = node.quarantined.get(key)
    if held is None:
        return None
    kind, name = e.split_key(key)
    text = (
        f"cannot touch {kind} {name}: record {held.seq} of the log does not decode ({held.why}); "
        f"`daybook replay why {name}` shows what is known, `daybook purge --quarantined {key}` gives it up"
    )
    return Refused(errors.Quarantined(text))


def _unreadable_user(node: "Node") -> Refused | None:
    """A container whose creation does not decode may use any image."""
    kinds = ((key, *e.split_key(key)) for key in node.quarantined)
    unknown = (key for key, kind, name in kinds if kind == "container" and name not in node.containers)
    return next((_quarantine_refusal(node, key) for key in unknown), None)


def _uid_time(node: "Node", uid: str, now: Now) -> int:
    """A pod's next sandbox is not older than its last: the kubelet takes the newest for the current one."""
    mine = (s for s in node.sandboxes.values() if s.config.uid == uid)
    return max([now.wall_ns, *(_pod_time(node, s, now) for s in mine)])


def _pod_time(node: "Node", sandbox: Sandbox, now: Now) -> int:
    """Within one pod created_at never decreases, whatever the wall clock does."""
    return max([now.wall_ns, sandbox.created_at, *(k.created_at for k in node.of_sandbox(sandbox.id))])


def _missing(kind: str, name: str, verb: str) -> Refused:
    return Refused(errors.NotFound(f"cannot {verb} {kind} {name}: there is no such {kind}"))


def _not_ready(what: str, sandbox_id: str, sandbox: Sandbox | None) -> Refused:
    state = sandbox.state if sandbox else "unknown"
    return Refused(errors.WrongState(f"{what}: sandbox {sandbox_id} is not ready (state {state})"))


def _undecided(kind: str, name: str) -> Refused:
    """The name is claimed by an intent that is not durable yet. In one lane this is not met."""
    return Refused(errors.Busy(f"cannot create {kind} {name}: the same name is being claimed at this moment"))


def absolute_log_path(directory: str, path: str) -> str:
    """Log directory and path joined; empty where either is missing: then there is no log."""
    return f"{directory.rstrip('/')}/{path.lstrip('/')}" if directory and path else ""

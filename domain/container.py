"""The container aggregate: `decide` (state, command -> decision) and `evolve` (state, event -> state).

What may happen is in `lifecycle`; here are only the values that events carry and what a state remembers of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from domain import commands as c
from domain import events as e
from domain.config import ContainerConfig
from domain.decision import JOIN, Accept, Already, Decision, Join, Refused, Wait
from domain.errors import NameTaken
from domain.lifecycle import CONTAINER_NEXT, CONTAINER_PERMITTED, CONTAINER_VIEW, ContainerState, Refuse
from domain.records import Digest, Evidence, Now, Process

UNKNOWN_CODE = 255
KILLED_CODE = 128 + 9
START_ERROR_CODE = 128
INTERRUPTED_NAME_KEPT_NS = 600 * 10**9
"""How long an interrupted create keeps its name for a retry."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop under way. `then`: "remove" where a removal waits for it."""

    signal: str
    grace_s: int
    deadline: e.Deadline
    then: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """Everything the log says about one container. Times are wall ns, 0 where it has not happened."""

    id: str
    sandbox_id: str
    state: ContainerState
    config: ContainerConfig
    request_hash: str
    image_id: str
    image_ref: str
    log_path: str
    stop_signal: str
    created_at: int
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    text: str = ""
    evidence: Evidence = Evidence()
    init: Process | None = None
    monitor: Process | None = None
    monitor_lost_at: int = 0
    user: e.User | None = None
    runtime: e.Binary | None = None
    oom_kills_at_start: int = 0
    oom_kills: int = 0
    stop: Stop | None = None
    give_up: e.Deadline | None = None
    error: str = ""
    adjusted: tuple[Digest, ...] = ()

    @property
    def ever_created(self) -> bool:
        return self.init is not None

    @property
    def live(self) -> bool:
        """Whether a process of ours may be there, by the log."""
        return self.state in LIVE


LIVE = frozenset({ContainerState.CREATED, ContainerState.STARTING, ContainerState.RUNNING, ContainerState.STOPPING})


def view(container: Container) -> str | None:
    """The CRI state's name, or None where the container is not listed."""
    if container.state is ContainerState.REMOVING and not container.ever_created:
        return None
    return CONTAINER_VIEW[container.state]


TAKEN = CONTAINER_PERMITTED[ContainerState.RUNNING, c.CreateContainer]
"""The refusal of a name that another request holds."""


# --- decide ----------------------------------------------------------------------------------------------------------


def decide(container: Container, command: c.Command, now: Now) -> Decision:
    """The decision on a command to an existing container."""
    cell = CONTAINER_PERMITTED[container.state, type(command)]
    if isinstance(cell, Refuse):
        return refused(container, command, cell)
    if isinstance(cell, Already | Join | Wait):
        return cell
    event = BUILD[cell](container, command, now)
    if evolve(container, event) == container:
        return JOIN
    return Accept(((e.container_key(container.id), event),))


def refused(container: Container, command: c.Command, cell: Refuse) -> Refused:
    verb = c.COMMAND_NAME.get(type(command), "record")
    text = f"cannot {verb} container {container.id}: {cell.why} (state {container.state})"
    if cell.error is NameTaken:
        text = (
            f"cannot create container {container.config.name} (attempt {container.config.attempt}): "
            f"the name belongs to {container.id} (state {container.state})"
        )
    return Refused(cell.error(text))


def requested(command: c.CreateContainer, image: tuple[str, str, str], log_path: str, at: int) -> e.Event:
    """The intent of a create. `image`: id, reference to show, the image's own stop signal."""
    image_id, image_ref, image_signal = image
    return e.ContainerCreateRequested(
        sandbox_id=command.sandbox_id,
        request_hash=command.request_hash,
        image_id=image_id,
        image_ref=image_ref,
        at=at,
        log_path=log_path,
        stop_signal=command.config.stop_signal or image_signal or "SIGTERM",
        config=command.config,
    )


def _stop(container: Container, command: c.Command, now: Now) -> e.Event:
    grace_s = command.grace_s if isinstance(command, c.StopContainer) else 0
    then = "remove" if isinstance(command, c.RemoveContainer) else ""
    return e.ContainerStopRequested(container.stop_signal, grace_s, _deadline(now, grace_s), then)


def _move_stop(container: Container, command: c.Command, now: Now) -> e.Event:
    asked = _stop(container, command, now)
    held = container.stop
    assert held is not None, "STOPPING without a stop"
    then = asked.then or held.then
    if passes_before(held.deadline, asked.deadline):
        return e.ContainerStopMoved(held.grace_s, held.deadline, then)
    return e.ContainerStopMoved(asked.grace_s, asked.deadline, then)


def passes_before(held: e.Deadline, asked: e.Deadline) -> bool:
    """Whether the held deadline stands: it is of an earlier boot (passed) or not later than the one asked for."""
    return held.boot_id != asked.boot_id or held.boot_ns <= asked.boot_ns


def _deadline(now: Now, seconds: int) -> e.Deadline:
    return e.Deadline(now.boot_ns + seconds * 10**9, now.boot_id)


def _create_failed(container: Container, command: c.Command, now: Now) -> e.Event:
    if isinstance(command, c.RecordCreateFailed):
        return e.ContainerCreateFailed(command.error, command.text)
    verb = c.COMMAND_NAME[type(command)]
    return e.ContainerCreateFailed("Cancelled", f"cannot create container {container.id}: a {verb} came meanwhile")


def _exited(container: Container, command: c.RecordExit, now: Now) -> e.Event:
    at = max(command.at_ns or now.wall_ns, container.started_at, container.created_at)
    evidence = command.evidence
    if command.code is None and evidence.source != "contradiction":
        evidence = Evidence("none", evidence.quote)
    code = UNKNOWN_CODE if command.code is None else command.code
    # A code of its own says that the program ended by itself, whatever became of its children.
    oom = command.oom and command.code in (None, KILLED_CODE)
    counted = container.oom_kills > container.oom_kills_at_start
    seen = "it was killed for want of memory" if oom and not counted else ""
    text = "; ".join(part for part in (command.text, seen) if part)
    return e.ContainerExited(code, at, evidence, oom, text)


Builder = Callable[[Container, Any, Now], e.Event]

BUILD: Mapping[type, Builder] = {
    e.ContainerAdjusted: lambda _, cmd, now: e.ContainerAdjusted(cmd.by, cmd.changes),
    e.ContainerCreated: lambda _, cmd, now: e.ContainerCreated(cmd.init, cmd.monitor, cmd.user, cmd.runtime),
    e.ContainerCreateFailed: _create_failed,
    e.ContainerCreateInterrupted: lambda _, cmd, now: e.ContainerCreateInterrupted(
        e.Deadline(now.boot_ns + INTERRUPTED_NAME_KEPT_NS, now.boot_id)
    ),
    e.ContainerStartRequested: lambda _, cmd, now: e.ContainerStartRequested(),
    e.ContainerStarted: lambda con, cmd, now: e.ContainerStarted(max(now.wall_ns, con.created_at), cmd.oom_kills),
    e.ContainerStartFailed: lambda con, cmd, now: e.ContainerStartFailed(
        max(now.wall_ns, con.created_at), cmd.error, cmd.text
    ),
    e.ContainerStopRequested: _stop,
    e.ContainerStopMoved: _move_stop,
    e.ContainerExited: _exited,
    e.ContainerOom: lambda con, cmd, now: e.ContainerOom(con.oom_kills_at_start, max(cmd.kills, con.oom_kills)),
    e.ContainerMonitorLost: lambda con, cmd, now: e.ContainerMonitorLost(con.monitor_lost_at or now.wall_ns),
    e.ContainerRemoveRequested: lambda _, cmd, now: e.ContainerRemoveRequested(),
    e.ContainerRemoved: lambda _, cmd, now: e.ContainerRemoved(),
}
"""How each event that a command may lead to gets its values. (The node builds the intent of a create.)"""


# --- evolve ----------------------------------------------------------------------------------------------------------


def evolve(container: Container | None, event: e.Event, container_id: str = "") -> Container:
    """The container after the event. Raises KeyError where the table has no such row: the log is not ours."""
    state = CONTAINER_NEXT[container.state if container else None, type(event)]
    if isinstance(event, e.ContainerCreateRequested):
        return _requested(container_id or (container.id if container else ""), event, state)
    assert container is not None
    changed = CHANGES[type(event)](container, event) if type(event) in CHANGES else {}
    return replace(container, state=state, **changed)


def _requested(container_id: str, event: e.ContainerCreateRequested, state: ContainerState) -> Container:
    return Container(
        id=container_id,
        sandbox_id=event.sandbox_id,
        state=state,
        config=event.config,
        request_hash=event.request_hash,
        image_id=event.image_id,
        image_ref=event.image_ref,
        log_path=event.log_path,
        stop_signal=event.stop_signal,
        created_at=event.at,
    )


def reason_of(code: int, evidence: Evidence, oom: bool) -> str:
    """The CRI's reason of an exit, which never contradicts its code: whose code is not SIGKILL's was not killed, though
    the kernel may have killed a child (`message` tells). Without evidence nobody knows: neither Completed nor Error.
    """
    if evidence.source == "none":
        return "Unknown"
    if evidence.source == "contradiction":
        return "Contradiction"
    if oom and code == KILLED_CODE:
        return "OOMKilled"
    return "Completed" if code == 0 else "Error"


def oom_at_end(at_start: int, kills: int, noted: bool, outlived: int) -> bool:
    """Whether the kernel killed for want of memory when a container ended, and not before.

    `kills`: its counter then, `at_start` and `outlived`: at the start and at a kill that the container has outlived.
    `noted`: where the counter has gone with the cgroup, whether there is other evidence that its init was killed so.
    """
    return noted or kills > max(at_start, outlived)


def message(container: Container) -> str:
    """What a person should read besides state, code and reason."""
    killed = container.oom_kills - container.oom_kills_at_start
    oom = f"the kernel killed {killed} of its processes for want of memory" if killed > 0 else ""
    return "; ".join(part for part in (container.text, oom) if part)


def _after_exit(container: Container, event: e.ContainerExited) -> dict[str, Any]:
    return {
        "finished_at": event.at,
        "exit_code": event.code,
        "evidence": event.evidence,
        "reason": reason_of(event.code, event.evidence, event.oom),
        "text": event.text,
    }


def _after_start_failed(_: Container, event: e.ContainerStartFailed) -> dict[str, Any]:
    return {
        "started_at": event.at,
        "finished_at": event.at,
        "exit_code": START_ERROR_CODE,
        "reason": "StartError",
        "evidence": Evidence("start-error"),
        "error": event.error,
        "text": event.text,
    }


def _after_stop_moved(container: Container, event: e.ContainerStopMoved) -> dict[str, Any]:
    assert container.stop is not None
    return {"stop": Stop(container.stop.signal, event.grace_s, event.deadline, event.then)}


Change = Callable[[Container, Any], dict[str, Any]]

CHANGES: Mapping[type, Change] = {
    e.ContainerAdjusted: lambda con, ev: {"adjusted": con.adjusted + ev.changes},
    e.ContainerCreated: lambda _, ev: {
        "init": ev.init,
        "monitor": ev.monitor,
        "user": ev.user,
        "runtime": ev.runtime,
    },
    e.ContainerCreateFailed: lambda _, ev: {"error": ev.error, "text": ev.text},
    e.ContainerCreateInterrupted: lambda _, ev: {"give_up": ev.give_up},
    e.ContainerStarted: lambda _, ev: {
        "started_at": ev.at,
        "oom_kills_at_start": ev.oom_kills,
        "oom_kills": ev.oom_kills,
    },
    e.ContainerStartFailed: _after_start_failed,
    e.ContainerStopRequested: lambda _, ev: {"stop": Stop(ev.signal, ev.grace_s, ev.deadline, ev.then)},
    e.ContainerStopMoved: _after_stop_moved,
    e.ContainerExited: _after_exit,
    e.ContainerOom: lambda _, ev: {"oom_kills": ev.kills},
    e.ContainerMonitorLost: lambda _, ev: {"monitor_lost_at": ev.at},
    e.ContainerResourcesUpdated: lambda con, ev: {"config": replace(con.config, resources=ev.resources)},
}
"""What a state remembers of each event, besides the state itself."""

"""What the world must do, as values. All that an effect touches is a function of its aggregate's id and state."""

from dataclasses import dataclass

from domain.events import Deadline
from domain.records import Process


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Root file system, spec, conmon, runc create. Begins by removing what an earlier attempt left."""

    container_id: str


@dataclass(frozen=True, slots=True)
class UndoTask:
    """Removes what an interrupted create left; the record stays."""

    container_id: str


@dataclass(frozen=True, slots=True)
class StartTask:
    container_id: str


@dataclass(frozen=True, slots=True)
class StopTask:
    """Stop signal, the rest of the grace, SIGKILL."""

    container_id: str
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class TidyTask:
    """After the exit: leftover processes and the runtime's task. The record and the files stay."""

    container_id: str


@dataclass(frozen=True, slots=True)
class RemoveTask:
    container_id: str


@dataclass(frozen=True, slots=True)
class SetUpSandbox:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class ReleaseNetwork:
    """CNI DEL, bounded. `leaked`: it failed to its bound before, and is now tried in the background."""

    sandbox_id: str
    leaked: bool = False


@dataclass(frozen=True, slots=True)
class TearDownSandbox:
    """Infra process, namespaces, /dev/shm. The record stays."""

    sandbox_id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class PullImage:
    """`access` names the credentials by their keyed hash; the credentials themselves are no part of a state."""

    reference: str
    source: str
    access: str = ""


@dataclass(frozen=True, slots=True)
class RemoveImage:
    reference: str
    image_id: str


@dataclass(frozen=True, slots=True)
class WatchTask:
    """Waits for the end of init and of its monitor."""

    container_id: str
    init: Process | None
    monitor_lost: bool


@dataclass(frozen=True, slots=True)
class WatchInfra:
    """Waits for the end of a pod's infra process."""

    sandbox_id: str
    infra: Process


Effect = (
    CreateTask
    | UndoTask
    | StartTask
    | StopTask
    | TidyTask
    | RemoveTask
    | SetUpSandbox
    | ReleaseNetwork
    | TearDownSandbox
    | RemoveSandbox
    | PullImage
    | RemoveImage
)
Watch = WatchTask | WatchInfra

QUIET = (UndoTask, TidyTask)
"""Effects without an outcome event: owed once by each daemon that finds the state, and harmless when repeated."""

"""What may be asked of an aggregate, imperative. Frozen. Clients ask; effects and watchers report (`Record...`).

A command that makes an aggregate carries the fresh id it will have; where the name is known already, that id is unused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.config import ContainerConfig, SandboxConfig
from domain.events import Binary, User
from domain.records import Evidence, Process

Command = Any
"""Any class below."""


@dataclass(frozen=True, slots=True)
class RunSandbox:
    sandbox_id: str
    config: SandboxConfig
    request_hash: str


@dataclass(frozen=True, slots=True)
class StopSandbox:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """`image` is a normalised reference or an image id, as the client gave it."""

    container_id: str
    sandbox_id: str
    image: str
    config: ContainerConfig
    request_hash: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    container_id: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """`grace_s` seconds between the stop signal and SIGKILL; 0 kills at once."""

    container_id: str
    grace_s: int


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    container_id: str


@dataclass(frozen=True, slots=True)
class PullImage:
    """`source` and `access` as in `ImagePullRequested`."""

    reference: str
    source: str = ""
    access: str = ""


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """`image` is a normalised reference or an image id; all references of the image go."""

    image: str


@dataclass(frozen=True, slots=True)
class RecordAdjusted:
    container_id: str
    by: str
    changes: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RecordCreated:
    container_id: str
    init: Process
    monitor: Process
    user: User
    runtime: Binary


@dataclass(frozen=True, slots=True)
class RecordCreateFailed:
    container_id: str
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordCreateInterrupted:
    container_id: str


@dataclass(frozen=True, slots=True)
class RecordStarted:
    container_id: str
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class RecordStartFailed:
    container_id: str
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordExit:
    """`code` None: nobody can tell. `at_ns`: wall time of the end, 0 where it is not known better than now."""

    container_id: str
    code: int | None
    at_ns: int
    evidence: Evidence
    oom: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class RecordOom:
    container_id: str
    kills: int


@dataclass(frozen=True, slots=True)
class RecordMonitorLost:
    container_id: str


@dataclass(frozen=True, slots=True)
class RecordContainerRemoved:
    container_id: str


@dataclass(frozen=True, slots=True)
class RecordNetworkSet:
    sandbox_id: str
    ips: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class RecordSandboxReady:
    sandbox_id: str
    infra: Process | None


@dataclass(frozen=True, slots=True)
class RecordRunFailed:
    sandbox_id: str
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordSandboxDied:
    sandbox_id: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordNetworkReleased:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class RecordNetworkLeaked:
    sandbox_id: str
    attempts: int
    text: str


@dataclass(frozen=True, slots=True)
class RecordSandboxStopped:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class RecordSandboxRemoved:
    sandbox_id: str


@dataclass(frozen=True, slots=True)
class RecordPulled:
    """`access`: of the pull that this is the outcome of."""

    reference: str
    image: Any
    access: str = ""


@dataclass(frozen=True, slots=True)
class RecordPullFailed:
    """`access`: of the pull that this is the outcome of."""

    reference: str
    error: str
    text: str
    access: str = ""


@dataclass(frozen=True, slots=True)
class RecordImageRemoved:
    """Concerns every reference of the image."""

    image_id: str


@dataclass(frozen=True, slots=True)
class RecordImageLost:
    reference: str
    text: str


@dataclass(frozen=True, slots=True)
class RecordNode:
    """Appends an event of the node itself (started, stopped, adopted)."""

    event: Any


COMMAND_NAME: Mapping[type, str] = {
    RunSandbox: "run",
    StopSandbox: "stop",
    RemoveSandbox: "remove",
    CreateContainer: "create",
    StartContainer: "start",
    StopContainer: "stop",
    RemoveContainer: "remove",
    PullImage: "pull",
    RemoveImage: "remove",
}
"""The verb that a refusal's text uses for a client's command."""

"""What happened, in the past tense. Frozen: a changed event is a new class with the next number and an upcaster.

`WIRE` is the one table from wire names to classes; a wire name is a literal, never a class path, because it outlives
the code. Fields: `at` is wall time in ns (as the CRI shows it), `error`/`text` name a failure of `domain.errors`.
Keys of aggregates: `sandbox/<id>`, `container/<id>`, `image/<normalised reference>`, `node`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.config import ContainerConfig, Resources, SandboxConfig
from domain.records import Digest, Evidence, Process

Event = Any
"""Any class of `WIRE`."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of CLOCK_BOOTTIME (ns) in one boot; in a later boot it has passed."""

    boot_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Binary:
    """An external program as found when it was used: path, version it tells, Debian package version."""

    path: str = ""
    version: str = ""
    package: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """The effective user of a container's init: uid, gid and all supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


# --- container -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContainerCreateRequested:
    """Claims the name and the image. `log_path` is absolute or empty; `stop_signal` a name, SIGTERM by default."""

    sandbox_id: str
    request_hash: str
    image_id: str
    image_ref: str
    at: int
    log_path: str
    stop_signal: str
    config: ContainerConfig


@dataclass(frozen=True, slots=True)
class ContainerAdjusted:
    """What a hook (NRI, CDI) changed in the spec before anything is listed, and who."""

    by: str
    changes: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class ContainerCreated:
    """runc's init and its conmon exist; `runtime` made them."""

    init: Process
    monitor: Process
    user: User
    runtime: Binary


@dataclass(frozen=True, slots=True)
class ContainerCreateFailed:
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class ContainerCreateInterrupted:
    """The daemon died inside a create. The name waits for a retry until `give_up`."""

    give_up: Deadline


@dataclass(frozen=True, slots=True)
class ContainerStartRequested:
    pass


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """`oom_kills`: the kernel's counter for the container's cgroup at the start."""

    at: int
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class ContainerStartFailed:
    at: int
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class ContainerStopRequested:
    """`then`: "remove" where a removal waits for the stop, else empty."""

    signal: str
    grace_s: int
    deadline: Deadline
    then: str = ""


@dataclass(frozen=True, slots=True)
class ContainerStopMoved:
    """An earlier deadline, or a removal that now waits for the stop."""

    grace_s: int
    deadline: Deadline
    then: str = ""


@dataclass(frozen=True, slots=True)
class ContainerExited:
    """`code` is 255 where the evidence is none. `at` is when it was seen, or the exit file's time."""

    code: int
    at: int
    evidence: Evidence
    oom: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class ContainerOom:
    """The kernel killed a process of the container: its counter at the start and now."""

    kills_at_start: int
    kills: int


@dataclass(frozen=True, slots=True)
class ContainerMonitorLost:
    """conmon died before the container: the exit code will be unknown, the log gets no more lines."""

    at: int


@dataclass(frozen=True, slots=True)
class ContainerResourcesUpdated:
    resources: Resources


@dataclass(frozen=True, slots=True)
class ContainerRemoveRequested:
    pass


@dataclass(frozen=True, slots=True)
class ContainerRemoved:
    pass


# --- sandbox ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SandboxRunRequested:
    """Claims the name. `boot_id`: after a reboot none of its namespaces can be there."""

    request_hash: str
    at: int
    boot_id: str
    config: SandboxConfig


@dataclass(frozen=True, slots=True)
class SandboxNetworkSet:
    """The CNI result: it cannot be derived, so it is on record before the next step."""

    ips: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """`infra`: the process that holds the pod's pid namespace, where the pod has one."""

    infra: Process | None = None


@dataclass(frozen=True, slots=True)
class SandboxRunFailed:
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class SandboxDied:
    """Seen from outside: the infra process ended, a namespace is gone, or the machine was booted anew."""

    at: int
    text: str


@dataclass(frozen=True, slots=True)
class SandboxStopRequested:
    """`then`: "remove" where a removal waits for the stop, else empty."""

    then: str = ""


@dataclass(frozen=True, slots=True)
class SandboxNetworkReleased:
    pass


@dataclass(frozen=True, slots=True)
class SandboxNetworkLeaked:
    """CNI DEL did not succeed within its bounds; it goes on in the background."""

    attempts: int
    text: str


@dataclass(frozen=True, slots=True)
class SandboxStopped:
    pass


@dataclass(frozen=True, slots=True)
class SandboxResourcesUpdated:
    overhead: Resources | None
    resources: Resources | None


@dataclass(frozen=True, slots=True)
class SandboxRemoveRequested:
    pass


@dataclass(frozen=True, slots=True)
class SandboxRemoved:
    pass


# --- image -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImagePullRequested:
    """`source`: empty for a registry, else `oci:PATH` or `docker-archive:PATH` (an image loaded from a file).

    `access`: keyed hash of the credentials that the request brought, empty where it brought none. Since /2.
    """

    source: str = ""
    access: str = ""


@dataclass(frozen=True, slots=True)
class ImagePulled:
    """`image_id`: `sha256:<hex>` of the config blob. `digest`: of the manifest that the reference named.

    `size` in bytes, layers uncompressed. `user`: the image config's User. The data was synced before.
    """

    image_id: str
    digest: str
    layers: tuple[str, ...]
    size: int
    user: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ImagePullFailed:
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class ImageRemoveRequested:
    pass


@dataclass(frozen=True, slots=True)
class ImageRemoved:
    pass


@dataclass(frozen=True, slots=True)
class ImageLost:
    text: str


# --- node ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A daemon opened this log: its version and the programs it will use."""

    version: str
    pid: int
    runtime: Binary
    monitor: Binary


@dataclass(frozen=True, slots=True)
class NodeStopped:
    """A daemon left by its own will; a start without this before it followed a crash."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class NodeAdopted:
    """A person declared this log to be the truth for the state directory."""

    text: str


@dataclass(frozen=True, slots=True)
class QuarantineReleased:
    """A person gave up an aggregate with an unreadable record; what it held was removed."""

    key: str


# fmt: off
WIRE: Mapping[str, type] = {
    "container.create_requested/1":   ContainerCreateRequested,
    "container.adjusted/1":           ContainerAdjusted,
    "container.created/1":            ContainerCreated,
    "container.create_failed/1":      ContainerCreateFailed,
    "container.create_interrupted/1": ContainerCreateInterrupted,
    "container.start_requested/1":    ContainerStartRequested,
    "container.started/1":            ContainerStarted,
    "container.start_failed/1":       ContainerStartFailed,
    "container.stop_requested/1":     ContainerStopRequested,
    "container.stop_moved/1":         ContainerStopMoved,
    "container.exited/1":             ContainerExited,
    "container.oom/1":                ContainerOom,
    "container.monitor_lost/1":       ContainerMonitorLost,
    "container.resources_updated/1":  ContainerResourcesUpdated,
    "container.remove_requested/1":   ContainerRemoveRequested,
    "container.removed/1":            ContainerRemoved,
    "sandbox.run_requested/1":        SandboxRunRequested,
    "sandbox.network_set/1":          SandboxNetworkSet,
    "sandbox.ready/1":                SandboxReady,
    "sandbox.run_failed/1":           SandboxRunFailed,
    "sandbox.died/1":                 SandboxDied,
    "sandbox.stop_requested/1":       SandboxStopRequested,
    "sandbox.network_released/1":     SandboxNetworkReleased,
    "sandbox.network_leaked/1":       SandboxNetworkLeaked,
    "sandbox.stopped/1":              SandboxStopped,
    "sandbox.resources_updated/1":    SandboxResourcesUpdated,
    "sandbox.remove_requested/1":     SandboxRemoveRequested,
    "sandbox.removed/1":              SandboxRemoved,
    "image.pull_requested/2":         ImagePullRequested,
    "image.pulled/1":                 ImagePulled,
    "image.pull_failed/1":            ImagePullFailed,
    "image.remove_requested/1":       ImageRemoveRequested,
    "image.removed/1":                ImageRemoved,
    "image.lost/1":                   ImageLost,
    "node.started/1":                 NodeStarted,
    "node.stopped/1":                 NodeStopped,
    "node.adopted/1":                 NodeAdopted,
    "node.quarantine_released/1":     QuarantineReleased,
}
# fmt: on

UPCASTERS: Mapping[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "image.pull_requested/1": ("image.pull_requested/2", lambda before: before),  # `access` came: none was possible
}
"""Old wire name -> (next wire name, function from the old payload to the next one's)."""

WIRE_NAME: Mapping[type, str] = {kind: name for name, kind in WIRE.items()}


def short_name(event_type: type) -> str:
    """The wire name without its version, as the lifecycle tables print it: `container.exited`."""
    return WIRE_NAME[event_type].rsplit("/", 1)[0]


def container_key(container_id: str) -> str:
    return f"container/{container_id}"


def sandbox_key(sandbox_id: str) -> str:
    return f"sandbox/{sandbox_id}"


def image_key(reference: str) -> str:
    return f"image/{reference}"


NODE_KEY = "node"


def split_key(key: str) -> tuple[str, str]:
    """`container/<id>` -> ("container", id); the node's own key has an empty name."""
    kind, _, name = key.partition("/")
    return kind, name

"""What one read-only look at the world can say. Values only; `recovery` holds what follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class TaskState(StrEnum):
    """The OCI runtime's side of a container, told apart by evidence.

    OTHER_PID: a process has the recorded pid but another start time, and the runtime knows no living init.
    UNREADABLE: neither /proc nor the runtime settled it.
    """

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    OTHER_PID = "other_pid"
    UNREADABLE = "unreadable"


class MonitorState(StrEnum):
    ALIVE = "alive"
    DEAD = "dead"


class NamespaceState(StrEnum):
    """The file under which a pod's namespaces are pinned: a namespace, a plain file (nothing pinned), nothing."""

    NSFS = "nsfs"
    PLAIN = "plain"
    ABSENT = "absent"


class InfraState(StrEnum):
    NONE = "none"
    ALIVE = "alive"
    DEAD = "dead"


class ImageState(StrEnum):
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Mark:
    """The owner mark beside a bundle: which log made it, and that log's sequence at the time."""

    log_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class ExitFile:
    """conmon's word. `code` None: garbage, quoted (at most 200 characters) in `quote`. `at_ns`: the file's time."""

    code: int | None
    at_ns: int
    quote: str = ""


@dataclass(frozen=True, slots=True)
class TaskObservation:
    """One container id. `started`: the runtime let its program run. `mark` None: no readable owner mark.

    `oom`: its init was killed for want of memory, where the kernel's counter is gone; else `oom_kills` is that.

    `text`: what a person should read besides.
    """

    task: TaskState = TaskState.ABSENT
    monitor: MonitorState = MonitorState.DEAD
    exit: ExitFile | None = None
    oom: bool = False
    oom_kills: int = 0
    started: bool = False
    leftovers: bool = False
    mark: Mark | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class SandboxObservation:
    """One sandbox id. `cached`: a CNI result lies in libcni's cache. `leftovers`: a directory or mount exists."""

    namespace: NamespaceState = NamespaceState.ABSENT
    infra: InfraState = InfraState.NONE
    cached: bool = False
    leftovers: bool = False
    readable: bool = True
    mark: Mark | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class ImageObservation:
    """The store's index. `images`: id -> whole or not. `stray`: entries, directories and processes of broken pulls.

    `names`: what a reference means in the store, as a `PulledImage`, where the index can tell it completely.
    """

    images: Mapping[str, ImageState] = field(default_factory=dict)
    names: Mapping[str, Any] = field(default_factory=dict)
    stray: tuple[str, ...] = ()
    readable: bool = True
    text: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """One sweep over everything, at one sequence of the log."""

    boot_id: str
    tasks: Mapping[str, TaskObservation] = field(default_factory=dict)
    sandboxes: Mapping[str, SandboxObservation] = field(default_factory=dict)
    images: ImageObservation = ImageObservation()

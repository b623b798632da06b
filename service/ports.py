"""What the service needs from the world, as structural types: adapters never import this module.

Every call may be cancelled; a cancelled or timed-out effect leaves the world in some state that the next observation
tells. All effects are idempotent: doing one twice ends as doing it once.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from domain.config import ContainerSecrets, PullCredentials, SandboxSecrets
from domain.container import Container
from domain.events import Binary, Deadline, User
from domain.image import PulledImage
from domain.observations import ImageObservation, Mark, SandboxObservation, TaskObservation
from domain.records import Cause, Draft, Head, Now, Process, Record, TaskUsage, Unreadable, Usage
from domain.sandbox import Sandbox


class Clock(Protocol):
    """Wall and boot time. `sleep_until` returns at or after a moment of CLOCK_BOOTTIME (ns)."""

    def now(self) -> Now: ...

    async def sleep_until(self, boot_ns: int) -> None: ...


class Ids(Protocol):
    """Fresh ids: 64 lower-case hex digits, never handed out twice."""

    def new(self) -> str: ...


class EventLog(Protocol):
    """The only memory. One writer; `append` returns when its records are durable."""

    log_id: str

    def head(self) -> Head: ...

    def read(self, after: int = 0) -> Iterator[Record | Unreadable]: ...

    async def append(
        self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False
    ) -> Sequence[Record]:
        """All drafts in one transaction or none; durable on return. `urgent` may use the room kept for a full disk.

        Raises Busy (also where a version exists), LimitReached (no space), NotReady (closed or broken).
        """
        ...

    @property
    def broken(self) -> str:
        """Why nothing more can be appended by this process; empty while all is well."""
        ...

    def save_checkpoint(self, seq: int, schema: int, aggregates: Mapping[str, Any]) -> None: ...

    def load_checkpoint(self, schema: int) -> tuple[int, Mapping[str, Any]] | None: ...

    def close(self) -> None: ...


class Tasks(Protocol):
    """Containers as the OCI runtime and the monitor run them. Ids are container ids; no state is kept here."""

    def binaries(self) -> tuple[Binary, Binary]: ...

    def protection(self) -> Mapping[str, str]:
        """What seccomp's and AppArmor's RuntimeDefault are here, for people; from memory."""
        ...

    async def create(
        self, container: Container, sandbox: Sandbox, secrets: ContainerSecrets, mark: Mapping[str, Any]
    ) -> "TaskCreated":
        """Root file system, spec, conmon, runc create; stops where the process waits for start.

        First removes whatever an earlier attempt with this id left. Raises RuntimeFailed, StorageFailed, TimedOut.
        """
        ...

    async def start(self, container: Container) -> int:
        """runc start. Returns the cgroup's OOM-kill counter just before."""
        ...

    async def stop(
        self, container: Container, deadline: Deadline, sleep_until: Callable[[int], Awaitable[None]]
    ) -> None:
        """Stop signal (once, also across daemons), the rest of the grace, SIGKILL; returns when init is gone."""
        ...

    async def tidy(self, container: Container) -> None:
        """After the exit: kills what is left in the cgroup, deletes the runtime's task. Files and rootfs stay."""
        ...

    async def remove(self, container_id: str) -> None:
        """Everything that may exist under this id: processes, task, cgroup, mounts, directories; never the log."""
        ...

    async def wait_exit(self, container: Container) -> "TaskExit":
        """Returns when init has ended and its monitor has told, or can no longer tell, the code."""
        ...

    async def wait_oom(self, container: Container, above: int, outlived_s: float) -> int:
        """The OOM-kill counter of its cgroup, once it is above a value and init has outlived that for some seconds.

        Does not return where init ends first, nor where the kernel cannot tell: then the exit does.
        """
        ...

    async def wait_monitor(self, container: Container) -> None:
        """Returns when the monitor has ended."""
        ...

    async def exec_sync(
        self, container: Container, argv: Sequence[str], timeout_s: float, *, keep: bool = False
    ) -> "ExecResult":
        """Runs a command inside a running container; `timeout_s` 0: no limit. Whatever happens, none of it is left.

        `keep`: what a command that came to its own end has left in the background, and what has let go of its output,
        lives on until its container ends, also under the next daemon.
        Raises TimedOut after the limit, ExecFailed (cannot be started; the container ended first), RuntimeFailed.
        """
        ...

    async def clean_execs(self) -> None:
        """Ends and removes the commands that earlier daemons left inside containers."""
        ...

    async def reopen_log(self, container: Container, sandbox: Sandbox) -> None:
        """The renamed log grows no more, a new one is at its path. Nothing where it was not renamed.

        Raises WrongState (no log, no monitor), InvalidRequest, RuntimeFailed, StorageFailed, TimedOut.
        """
        ...

    def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskUsage]:
        """Of those that have cgroups. Blocking: a few reads of kernel files each."""
        ...

    def observe(self, containers: Sequence[Container], boot_id: str) -> Mapping[str, TaskObservation]:
        """One read-only sweep: every container asked for, and every id that the disk or the runtime knows besides."""
        ...


class TaskCreated(Protocol):
    @property
    def init(self) -> Process: ...

    @property
    def monitor(self) -> Process: ...

    @property
    def user(self) -> User: ...

    @property
    def runtime(self) -> Binary: ...


class ExecResult(Protocol):
    """The first 16 MiB of each stream; what came after was read and thrown away. `code`: 128 + a signal's number."""

    @property
    def stdout(self) -> bytes: ...

    @property
    def stderr(self) -> bytes: ...

    @property
    def code(self) -> int: ...


class TaskExit(Protocol):
    """`code` None: unknown. `at_ns`: wall time. `source`, `quote` as in Evidence. `oom_kills`: 0 where unknown.

    `oom`: the counter is gone, and there is other evidence that init was killed for want of memory.
    """

    @property
    def code(self) -> int | None: ...

    @property
    def at_ns(self) -> int: ...

    @property
    def source(self) -> str: ...

    @property
    def quote(self) -> str: ...

    @property
    def oom(self) -> bool: ...

    @property
    def oom_kills(self) -> int: ...


class Sandboxes(Protocol):
    """Pinned namespaces, /dev/shm and the infra process of pods."""

    async def set_up(self, sandbox_id: str, sandbox: Sandbox, mark: Mapping[str, Any]) -> Process | None: ...

    async def set_sysctls(self, sandbox_id: str, sandbox: Sandbox) -> None:
        """Those of the pod's own interfaces, once its network was added; `set_up` has set all others.

        Raises InvalidRequest for an interface or a parameter that there is not, and for a value that is not taken;
        NetworkFailed where the network is gone.
        """
        ...

    async def tear_down(self, sandbox_id: str, *, keep_network: bool = False) -> None:
        """`keep_network`: the network namespace stays pinned, for a DEL that is still to come."""
        ...

    async def remove(self, sandbox_id: str) -> None: ...

    async def wait_infra(self, sandbox: Sandbox) -> None: ...

    def netns(self, sandbox_id: str) -> str:
        """The path under which the pod's own network namespace is pinned; empty where there is none (any more).

        `set_up` leaves it as the kernel makes it: loopback down, no other interface.
        """
        ...

    def observe(self, sandboxes: Sequence[Sandbox], boot_id: str) -> Mapping[str, SandboxObservation]: ...


class Attached(Protocol):
    @property
    def ips(self) -> tuple[str, ...]:
        """Without prefix length, the preferred one first; of the pod's eth0 only."""
        ...

    @property
    def result(self) -> str:
        """The CNI result as JSON text, bounded (64 KiB)."""
        ...


class Network(Protocol):
    """Pod networks through CNI. What was attached is known by sandbox id from the adapter's cache, which is written
    before ADD."""

    def ready(self) -> str:
        """Empty: pods can be attached; else why not, for a person. Never blocks: a value kept by the watcher."""
        ...

    async def add(
        self, sandbox: Sandbox, netns: str, annotations: Mapping[str, str], mark: Mapping[str, Any]
    ) -> Attached:
        """First releases what an earlier attempt with this id left. Raises NetworkFailed, TimedOut, InvalidRequest."""
        ...

    async def check(self, sandbox_id: str, netns: str) -> None:
        """Raises NetworkFailed when CHECK says so; nothing where the configuration is older than 0.4 or
        disableCheck."""
        ...

    async def delete(self, sandbox_id: str, netns: str) -> None:
        """DEL in reverse from the cache entry alone (its config, args, capability args, prevResult); netns "": gone.

        No cache entry: nothing to do; idempotent; removes the entry at success. Raises NetworkFailed, TimedOut.
        """
        ...

    async def gc(self, valid: Collection[str]) -> None:
        """From spec 1.1 on: GC with cni.dev/valid-attachments; nothing for older, or where others use the network."""
        ...

    def observe(self) -> Mapping[str, Mark | None]:
        """Sandbox ids with a cache entry, and the mark in it; blocking, for threads; never raises for garbage (an
        unreadable entry: None)."""
        ...

    async def start(self) -> None:
        """Loads, begins to watch the configuration directory."""
        ...

    async def close(self) -> None: ...


class Images(Protocol):
    """The image store. References are normalised; ids are `sha256:<hex>`."""

    async def pull(self, reference: str, source: str, *, credentials: PullCredentials | None = None) -> PulledImage:
        """Cancelled, it ends within a second and leaves nothing."""
        ...

    async def remove(self, image_id: str) -> None: ...

    def present(self, image_id: str) -> bool: ...

    async def clean(self) -> None:
        """Removes what broken pulls left: temporary directories, nameless entries, stray mounts and processes."""
        ...

    def observe(self) -> ImageObservation: ...

    async def usage(self) -> Usage: ...


class Secrets(Protocol):
    """The private side files (0600), one per aggregate, written before the intent and removed with the aggregate."""

    def write(self, name: str, secrets: ContainerSecrets | SandboxSecrets) -> None: ...

    def read(self, name: str) -> ContainerSecrets | SandboxSecrets | None: ...

    def remove(self, name: str) -> None: ...

    def names(self) -> Sequence[str]: ...


class StateMark(Protocol):
    """The state directory's own mark: which log it belongs to, and how far that log was when last told."""

    def read(self) -> Mark | None: ...

    def write(self, log_id: str, seq: int) -> None: ...

"""Values and a small log for the tests of `domain`. Everything is made through events, as a replay would make it."""

from typing import Any

from domain import commands as c
from domain import events as e
from domain.config import ContainerConfig, NamespaceMode, NamespaceOptions, SandboxConfig
from domain.decision import Accept, Decision
from domain.fold import Replayed, fold
from domain.image import PulledImage
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
from domain.records import Cause, Evidence, Now, Process, Record, Unreadable

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741

WALL, BOOT, BOOT_ID = 1_800_000_000 * 10**9, 50 * 10**9, "boot-1"
NOW = Now(WALL, BOOT, BOOT_ID)
INIT, MONITOR = Process(11, 100, BOOT_ID), Process(10, 90, BOOT_ID)
INFRA = Process(9, 80, BOOT_ID)
USER, RUNTIME = e.User(0, 0), e.Binary("/usr/sbin/runc", "1.1")
ID_A, ID_B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
REF, REF_2 = "docker.io/library/a:1", "docker.io/library/a:2"
BOX, BOX_KEY = "box", e.sandbox_key("box")
CON, CON_KEY = "con", e.container_key("con")
LATER = e.Deadline(BOOT + 10 * 10**9, BOOT_ID)


def at(seconds: float = 0, wall_s: float | None = None, boot_id: str = BOOT_ID) -> Now:
    """A reading `seconds` after NOW on the boot clock; the wall clock goes along unless told otherwise."""
    return Now(WALL + int((seconds if wall_s is None else wall_s) * 10**9), BOOT + int(seconds * 10**9), boot_id)


def modes(network: bool = True, pid: bool = False) -> NamespaceOptions:
    """What the pod needs: `network` (and IPC) namespaces of its own, `pid` namespace held by an infra process."""
    pod, node = NamespaceMode.POD, NamespaceMode.NODE
    return NamespaceOptions(pod if network else node, pod if pid else NamespaceMode.CONTAINER, pod if network else node)


def box_config(name: str = "p", uid: str = "u", attempt: int = 0, **more: Any) -> SandboxConfig:
    more.setdefault("namespaces", modes())
    return SandboxConfig(name, uid, "default", attempt, log_directory=f"/var/log/pods/{uid}", **more)


def con_config(name: str = "k", attempt: int = 0, **more: Any) -> ContainerConfig:
    return ContainerConfig(name, attempt, log_path=f"{name}/{attempt}.log", **more)


def pulled(image_id: str = ID_A, **more: Any) -> PulledImage:
    return PulledImage(image_id, "sha256:" + "d" * 64, ("l1",), 100, **more)


def run(id_: str = BOX, hash_: str = "h", **config: Any) -> c.RunSandbox:
    return c.RunSandbox(id_, box_config(**config), hash_)


def create(id_: str = CON, hash_: str = "h", box: str = BOX, image: str = REF, **config: Any) -> c.CreateContainer:
    return c.CreateContainer(id_, box, image, con_config(**config), hash_)


def run_requested(hash_: str = "h", **config: Any) -> e.Event:
    return e.SandboxRunRequested(hash_, WALL, BOOT_ID, box_config(**config))


def create_requested(
    hash_: str = "h", image_id: str = ID_A, at_ns: int = WALL, box: str = BOX, **config: Any
) -> e.Event:
    log_path = "/var/log/pods/u/k/0.log"
    return e.ContainerCreateRequested(box, hash_, image_id, REF, at_ns, log_path, "SIGTERM", con_config(**config))


IMAGE_PULLED = e.ImagePulled(ID_A, "sha256:" + "d" * 64, ("l1",), 100)
CREATED = e.ContainerCreated(INIT, MONITOR, USER, RUNTIME)
STARTED = e.ContainerStarted(WALL)
STOP = e.ContainerStopRequested("SIGTERM", 10, LATER)
EXITED = e.ContainerExited(0, WALL, Evidence("exit-file"))
INTERRUPTED = e.ContainerCreateInterrupted(e.Deadline(BOOT + 600 * 10**9, BOOT_ID))

# fmt: off
CONTAINER_PATH: dict[ContainerState, tuple[e.Event, ...]] = {
    S.CREATING:    (create_requested(),),
    S.INTERRUPTED: (create_requested(), INTERRUPTED),
    S.CREATED:     (create_requested(), CREATED),
    S.STARTING:    (create_requested(), CREATED, e.ContainerStartRequested()),
    S.RUNNING:     (create_requested(), CREATED, e.ContainerStartRequested(), STARTED),
    S.STOPPING:    (create_requested(), CREATED, e.ContainerStartRequested(), STARTED, STOP),
    S.EXITED:      (create_requested(), CREATED, e.ContainerStartRequested(), STARTED, EXITED),
    S.REMOVING:    (create_requested(), CREATED, e.ContainerStartRequested(), STARTED, EXITED, e.ContainerRemoveRequested()),
    S.REMOVED:     (create_requested(), CREATED, EXITED, e.ContainerRemoveRequested(), e.ContainerRemoved()),
}
"""One way into every state."""


def sandbox_path(state: SandboxState, network: bool = True, pid: bool = False) -> tuple[e.Event, ...]:
    """One way into every state, for a pod with the given needs."""
    asked = (run_requested(namespaces=modes(network, pid)),)
    ready = (*asked, e.SandboxNetworkSet(("10.0.0.2",), "{}"), e.SandboxReady(INFRA if pid else None))
    stopping = (*ready, e.SandboxStopRequested())
    return {
        B.SETTING_UP: asked,
        B.READY:      ready,
        B.NOTREADY:   (*ready, e.SandboxDied(WALL, "gone")),
        B.STOPPING:   stopping,
        B.STOPPED:    (*stopping, e.SandboxNetworkReleased(), e.SandboxStopped()),
        B.REMOVING:   (*stopping, e.SandboxNetworkReleased(), e.SandboxStopped(), e.SandboxRemoveRequested()),
        B.REMOVED:    (*stopping, e.SandboxNetworkReleased(), e.SandboxStopped(), e.SandboxRemoveRequested(), e.SandboxRemoved()),
    }[state]


IMAGE_PATH: dict[ImageState, tuple[e.Event, ...]] = {
    I.ABSENT:   (e.ImagePullRequested(), e.ImagePullFailed("PullFailed", "no")),
    I.PULLING:  (e.ImagePullRequested(),),
    I.PRESENT:  (e.ImagePullRequested(), IMAGE_PULLED),
    I.REMOVING: (e.ImagePullRequested(), IMAGE_PULLED, e.ImageRemoveRequested()),
}
# fmt: on


class Book:
    """A node and the log it was folded from."""

    def __init__(self) -> None:
        self.node = Node()
        self.records: list[Record | Unreadable] = []
        self._replayed = Replayed(self.node)

    def put(self, key: str, *events: e.Event, now: Now = NOW) -> "Book":
        for event in events:
            version = self.node.next_version(key)
            self._add(Record(self.seq + 1, now, key, version, e.WIRE_NAME[type(event)], event, Cause("rpc"), b"", 0))
        return self

    def spoil(self, key: str, why: str = "cut short") -> "Book":
        """A record that does not decode."""
        self._add(Unreadable(self.seq + 1, key, self.node.next_version(key) if key else 0, why))
        return self

    def _add(self, record: Record | Unreadable) -> None:
        self.records.append(record)
        fold([record], self._replayed)

    @property
    def seq(self) -> int:
        return len(self.records)

    @property
    def broken(self) -> tuple[Unreadable, ...]:
        return self._replayed.broken

    def ask(self, command: c.Command, now: Now = NOW) -> Decision:
        """Decides and, where accepted, claims, appends, folds and settles."""
        decision = self.node.decide(command, now)
        if isinstance(decision, Accept):
            self.node.claim(decision)
            for key, event in decision.events:
                self.put(key, event, now=now)
            self.node.settle(decision)
        return decision

    def copy(self) -> "Book":
        other = Book()
        for record in self.records:
            other._add(record)
        return other


def with_image(state: ImageState = I.PRESENT) -> Book:
    return Book().put(e.image_key(REF), *IMAGE_PATH[state])


def with_sandbox(state: SandboxState = B.READY, network: bool = True, pid: bool = False) -> Book:
    return with_image().put(BOX_KEY, *sandbox_path(state, network, pid))


def with_container(state: ContainerState = S.RUNNING) -> Book:
    return with_sandbox().put(CON_KEY, *CONTAINER_PATH[state])


def fingerprint(node: Node) -> tuple[Any, ...]:
    """All that a node knows, indices and claims included; of the order of containers in a pod, nothing."""
    return (
        node.snapshot(),
        dict(node._sandbox_names),
        dict(node._container_names),
        {pod: set(held) for pod, held in node._pods.items()},
        dict(node.quarantined),
        list(node._claims),
    )


def shown(decision: Decision) -> str:
    """A decision as one word and what belongs to it; equal texts are equal decisions."""
    if isinstance(decision, Accept):
        return " ".join(e.short_name(type(event)) for _, event in decision.events)
    error = getattr(decision, "error", None)
    return type(decision).__name__.lower() + (f" {type(error).__name__}: {error.text}" if error else "")

"""Lives of pods as log entries, fast: what does not differ between two lives is encoded once."""

from collections.abc import Iterator
from typing import Any

from adapters.log.codec import EventCodec
from adapters.log.lmdb_log import LmdbLog
from adapters.log.record import Entry
from domain import events as e
from domain.config import ContainerConfig, SandboxConfig
from domain.records import Cause, Digest, Evidence, Now, Process

NOW = Now(1_790_000_000 * 10**9, 86_400 * 10**9, "11111111-1111-4111-8111-111111111111")
CAUSE = Cause("rpc", "RuntimeService/StartContainer", "0123456789ab", NOW.wall_ns, "kubelet/v1.36.0", "kubelet")
IMAGE_ID = "sha256:" + "1a" * 32
IMAGE_REF = "registry.example/team/app@sha256:" + "2b" * 32
BATCH = 2000
LABELS = {
    "io.kubernetes.pod.name": "app-7d4b9c6f5-x2x9z",
    "io.kubernetes.pod.namespace": "default",
    "io.kubernetes.pod.uid": "0f3a2b1c-5d6e-4f70-8a9b-0c1d2e3f4a5b",
    "io.kubernetes.container.name": "app",
}
_CODEC = EventCodec()


def life(number: int) -> Iterator[Entry]:
    """One pod with one container, from its request to its removal: 13 events."""
    sandbox, container = f"{number:064x}", f"{number + 2**128:064x}"
    at = NOW.wall_ns + number
    pod = SandboxConfig("app", f"uid-{number}", "default", log_directory="/var/log/pods/x", labels=LABELS)
    config = ContainerConfig(
        "app", image=IMAGE_REF, envs=tuple(Digest(f"VARIABLE_{i}", 12, "0" * 32) for i in range(8)), labels=LABELS
    )
    init = Process(4242, 99, NOW.boot_id)
    requested = e.ContainerCreateRequested(sandbox, "h", IMAGE_ID, IMAGE_REF, at, "/var/log/x/0.log", "SIGTERM", config)
    of_container = (
        requested,
        e.ContainerCreated(init, init, e.User(0, 0, (0,)), e.Binary("/usr/sbin/runc", "1.1.5", "1.1.5+ds1")),
        e.ContainerStartRequested(),
        e.ContainerStarted(at),
        e.ContainerExited(0, at, Evidence("exit-file")),
        e.ContainerRemoveRequested(),
        e.ContainerRemoved(),
    )
    begin = (e.SandboxRunRequested("h", at, NOW.boot_id, pod), e.SandboxReady())
    end = (e.SandboxStopRequested(), e.SandboxStopped(), e.SandboxRemoveRequested(), e.SandboxRemoved())
    yield from _entries(e.sandbox_key(sandbox), begin, 1)
    yield from _entries(e.container_key(container), of_container, 1)
    yield from _entries(e.sandbox_key(sandbox), end, 3)


PER_LIFE = 13
_FIXED: dict[Any, tuple[str, bytes]] = {}


def _entries(key: str, events: tuple[Any, ...], version: int) -> Iterator[Entry]:
    for number, event in enumerate(events):
        yield Entry(key, version + number, *_encoded(event))


def _encoded(event: Any) -> tuple[str, bytes]:
    if type(event).__slots__:
        return _CODEC.encode(event)
    return _FIXED.setdefault(type(event), _CODEC.encode(event))


def fill(log: LmdbLog, count: int) -> None:
    """At least `count` records, all of whole lives, in large transactions."""
    batch: list[Entry] = []
    for number in range(-(-count // PER_LIFE)):
        batch += life(number)
        if len(batch) >= BATCH:
            log.write(batch, CAUSE, NOW)
            batch = []
    if batch:
        log.write(batch, CAUSE, NOW)

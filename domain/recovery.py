"""What follows from (folded state x observation): the recovery tables and `reconcile`.

Rule 1: every combination meets exactly one row; a test enumerates the product against a golden copy and a naive model.
Rule 2: an unknown stays unknown. No exit code is invented: without an exit file it is 255 with evidence none.
Rule 3: what is not ours is never touched; what nobody knows is deleted only where its owner mark names this log, a
sequence not beyond our head, and the log is whole.
The letters are cited in the events' cause, in the daemon's log and by `tools/replay`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum

from domain import commands as c
from domain import container as containers
from domain import events as e
from domain import image as images
from domain import sandbox as sandboxes
from domain.container import Container
from domain.image import Image
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
from domain.observations import (
    ImageObservation,
    InfraState,
    Mark,
    MonitorState,
    NamespaceState,
    SandboxObservation,
    TaskObservation,
    TaskState,
    World,
)
from domain.observations import ImageState as StoreState
from domain.records import Evidence, Now
from domain.sandbox import Sandbox


class Verdict(StrEnum):
    """MATCH: as recorded. HOLD: ask again. RESUME: `due` continues. ORPHAN: nobody knows it. The rest append events."""

    MATCH = "MATCH"
    HOLD = "HOLD"
    RESUME = "RESUME"
    ORPHAN = "ORPHAN"
    INTERRUPT = "INTERRUPT"
    UNDO = "UNDO"
    ADVANCE = "ADVANCE"
    EXIT = "EXIT"
    MONITOR_LOST = "MONITOR_LOST"
    CONTRADICTION = "CONTRADICTION"
    DIED = "DIED"
    RUN_FAILED = "RUN_FAILED"
    PULL_FAILED = "PULL_FAILED"
    LOST = "LOST"


class Folded(StrEnum):
    """States that no aggregate has: the log knows nothing, or a record of it does not decode."""

    NO_RECORD = "NO_RECORD"
    QUARANTINED = "QUARANTINED"


class SandboxEvidence(StrEnum):
    """What a sandbox needs (namespaces, infra process) held against what is there.

    WHOLE: all it needs. BROKEN: something of it. GONE: nothing at all. UNREADABLE: it could not be looked at.
    """

    WHOLE = "whole"
    BROKEN = "broken"
    GONE = "gone"
    UNREADABLE = "unreadable"


class Boot(StrEnum):
    SAME = "same"
    OTHER = "other"


S, B, I, T, M, E, V = ContainerState, SandboxState, ImageState, TaskState, MonitorState, SandboxEvidence, Verdict  # noqa: E741
NO_RECORD, QUARANTINED = Folded.NO_RECORD, Folded.QUARANTINED
STORE = StoreState

MEANT_BEFORE = "the store no longer has what it meant before"

_KNOWN = (NO_RECORD, *S)
_ANY_TASK = tuple(T)
_READABLE = tuple(t for t in T if t is not T.UNREADABLE)
_THERE = tuple(t for t in _READABLE if t is not T.ABSENT)
_ANY_MONITOR = tuple(M)
_ALIVE, _DEAD = (M.ALIVE,), (M.DEAD,)
_BEFORE_EXIT = (S.CREATED, S.STARTING, S.RUNNING, S.STOPPING)
_ANY_EVIDENCE = tuple(E)
_SEEN = (E.WHOLE, E.BROKEN, E.GONE)
_ANY_BOOT = tuple(Boot)

# fmt: off
# row, folded state, task, monitor, verdict, what crashed and what is done
CONTAINER_ROWS = (
    ("@A", _KNOWN,                     (T.UNREADABLE,),                        _ANY_MONITOR, V.HOLD,          "nothing is known of the task: ask again, decide nothing"),
    ("@T", (QUARANTINED,),             _ANY_TASK,                              _ANY_MONITOR, V.HOLD,          "a record does not decode: never an effect, name held, explained"),
    ("@B", (NO_RECORD,),               (T.ABSENT,),                            _ANY_MONITOR, V.MATCH,         ""),
    ("@C", (NO_RECORD,),               _THERE,                                 _ANY_MONITOR, V.ORPHAN,        "deleted only where its mark proves it ours; else left and reported"),
    ("@D", (S.CREATING, S.INTERRUPTED), _READABLE,                             _ANY_MONITOR, V.INTERRUPT,     "the daemon died inside a create: undo, keep id and name for a retry"),
    ("@E", (S.CREATED,),               (T.CREATED,),                           _ALIVE,       V.MATCH,         ""),
    ("@F", (S.STARTING,),              (T.CREATED,),                           _ANY_MONITOR, V.UNDO,          "the start never reached the runtime"),
    ("@G", (S.STARTING,),              (T.RUNNING,),                           _ANY_MONITOR, V.ADVANCE,       "the start was done, only its record is missing"),
    ("@H", (S.RUNNING,),               (T.RUNNING,),                           _ALIVE,       V.MATCH,         ""),
    ("@U", (S.CREATED,),               (T.CREATED,),                           _DEAD,        V.MONITOR_LOST,  "conmon died: the code will be unknown"),
    ("@U", (S.RUNNING,),               (T.RUNNING,),                           _DEAD,        V.MONITOR_LOST,  "conmon died: the code will be unknown"),
    ("@I", (S.STOPPING,),              (T.CREATED, T.RUNNING),                 _ANY_MONITOR, V.RESUME,        "the stop goes on with the rest of its deadline"),
    ("@J", _BEFORE_EXIT,               (T.STOPPED,),                           _ANY_MONITOR, V.EXIT,          "ended meanwhile: the exit file's code, else unknown"),
    ("@K", _BEFORE_EXIT,               (T.ABSENT, T.OTHER_PID),                _ANY_MONITOR, V.EXIT,          "gone (reboot, pid reused): the exit file's code, else unknown"),
    ("@L", (S.EXITED,),                (T.ABSENT, T.STOPPED, T.OTHER_PID),     _ANY_MONITOR, V.MATCH,         "cleaned up without a signal"),
    ("@R", (S.EXITED,),                (T.CREATED,),                           _ANY_MONITOR, V.RESUME,        "a failed start was not cleaned up yet"),
    ("@S", (S.EXITED,),                (T.RUNNING,),                           _ANY_MONITOR, V.CONTRADICTION, "recorded as ended, yet it runs: kill, alarm"),
    ("@P", (S.CREATED,),               (T.RUNNING,),                           _ANY_MONITOR, V.CONTRADICTION, "someone else started it"),
    ("@Q", (S.RUNNING,),               (T.CREATED,),                           _ANY_MONITOR, V.CONTRADICTION, "recorded as started, yet it never was"),
    ("@M", (S.REMOVING,),              _READABLE,                              _ANY_MONITOR, V.RESUME,        "removal is idempotent"),
    ("@N", (S.REMOVED,),               (T.ABSENT,),                            _ANY_MONITOR, V.MATCH,         ""),
    ("@O", (S.REMOVED,),               _THERE,                                 _ANY_MONITOR, V.ORPHAN,        "as @C"),
)

# row, folded state, evidence, boot, verdict, what crashed and what is done
SANDBOX_ROWS = (
    ("@SA", (NO_RECORD, *B),           (E.UNREADABLE,),                        _ANY_BOOT,     V.HOLD,         "nothing is known: ask again"),
    ("@SB", (QUARANTINED,),            _ANY_EVIDENCE,                          _ANY_BOOT,     V.HOLD,         "a record does not decode"),
    ("@SC", (NO_RECORD, B.REMOVED),    (E.GONE,),                              _ANY_BOOT,     V.MATCH,        ""),
    ("@SD", (NO_RECORD, B.REMOVED),    (E.WHOLE, E.BROKEN),                    _ANY_BOOT,     V.ORPHAN,       "deleted only where its mark proves it ours"),
    ("@SE", (B.SETTING_UP,),           _SEEN,                                  (Boot.SAME,),  V.RESUME,       "goes forward with the same id"),
    ("@SF", (B.SETTING_UP,),           _SEEN,                                  (Boot.OTHER,), V.RUN_FAILED,   "the machine was booted anew: nobody waits for it"),
    ("@SG", (B.READY,),                (E.WHOLE,),                             (Boot.SAME,),  V.MATCH,        ""),
    ("@SH", (B.READY,),                (E.BROKEN, E.GONE),                     (Boot.SAME,),  V.DIED,         "infra process or namespace gone"),
    ("@SI", (B.READY,),                _SEEN,                                  (Boot.OTHER,), V.DIED,         "the machine was booted anew"),
    ("@SJ", (B.NOTREADY, B.STOPPED),   _SEEN,                                  _ANY_BOOT,     V.MATCH,        "a stop or a removal is the client's to ask for"),
    ("@SK", (B.STOPPING, B.REMOVING),  _SEEN,                                  _ANY_BOOT,     V.RESUME,       "stop and removal are idempotent"),
)

# row, folded state, store, verdict, what crashed and what is done
IMAGE_ROWS = (
    ("@IA", (QUARANTINED,),            tuple(STORE),                           V.HOLD,        "a record does not decode"),
    ("@IB", (I.PULLING,),              (STORE.COMPLETE,),                      V.ADVANCE,     "the pull was done, only its record is missing"),
    ("@IC", (I.PULLING,),              (STORE.INCOMPLETE, STORE.ABSENT),       V.PULL_FAILED, "the daemon died inside a pull"),
    ("@ID", (I.PRESENT,),              (STORE.COMPLETE,),                      V.MATCH,       ""),
    ("@IE", (I.PRESENT,),              (STORE.INCOMPLETE, STORE.ABSENT),       V.LOST,        "the store no longer has it whole"),
    ("@IF", (I.REMOVING,),             tuple(STORE),                           V.RESUME,      "removal is idempotent"),
    ("@IG", (I.ABSENT,),               tuple(STORE),                           V.MATCH,       "another reference may mean it"),
    ("@IH", (NO_RECORD,),              (STORE.COMPLETE, STORE.INCOMPLETE),     V.ORPHAN,      "no reference means it: deleted"),
    ("@II", (NO_RECORD,),              (STORE.ABSENT,),                        V.MATCH,       ""),
)
# fmt: on

TWICE = frozenset({V.UNDO, V.INTERRUPT, V.CONTRADICTION})
"""While the daemon is up these need two observations, five seconds apart, at the same version."""


def container_row(folded: ContainerState | Folded, task: TaskState, monitor: MonitorState) -> tuple[str, Verdict, str]:
    """The one row of a combination: letter, verdict, explanation."""
    found = [(r[0], r[4], r[5]) for r in CONTAINER_ROWS if folded in r[1] and task in r[2] and monitor in r[3]]
    assert len(found) == 1, (folded, task, monitor, found)
    return found[0]


def sandbox_row(folded: SandboxState | Folded, evidence: SandboxEvidence, boot: Boot) -> tuple[str, Verdict, str]:
    found = [(r[0], r[4], r[5]) for r in SANDBOX_ROWS if folded in r[1] and evidence in r[2] and boot in r[3]]
    assert len(found) == 1, (folded, evidence, boot, found)
    return found[0]


def image_row(folded: ImageState | Folded, store: StoreState) -> tuple[str, Verdict, str]:
    found = [(r[0], r[3], r[4]) for r in IMAGE_ROWS if folded in r[1] and store in r[2]]
    assert len(found) == 1, (folded, store, found)
    return found[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row applied to one aggregate. `ours`: an orphan that may be deleted. `text`: for a person."""

    key: str
    row: str
    verdict: Verdict
    events: tuple[e.Event, ...] = ()
    ours: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What an orphan's owner mark is held against."""

    log_id: str
    head: int
    whole: bool


def reconcile(node: Node, world: World, log: LogFacts, now: Now) -> list[Finding]:
    """All findings of one sweep, in a stable order. Pure; the caller decides when to append and what is in flight."""
    findings = list(_containers(node, world, log, now))
    findings += _sandboxes(node, world, log, now)
    findings += _images(node, world.images, log, now)
    return findings


# --- containers ------------------------------------------------------------------------------------------------------


def _containers(node: Node, world: World, log: LogFacts, now: Now) -> Iterator[Finding]:
    for name in _names(node, "container", node.containers, world.tasks):
        key = e.container_key(name)
        known = node.containers.get(name)
        seen = world.tasks.get(name, TaskObservation())
        folded = QUARANTINED if key in node.quarantined else known.state if known else NO_RECORD
        row, verdict, why = container_row(folded, task_state(seen), seen.monitor)
        events = _container_events(known, verdict, seen, now) if known else ()
        yield Finding(key, row, verdict, events, _provably_ours(seen.mark, log), seen.text or why)


def task_state(seen: TaskObservation) -> TaskState:
    """A bundle or mount without a process is not nothing: it counts as stopped."""
    return T.STOPPED if seen.task is T.ABSENT and seen.leftovers else seen.task


def _container_events(known: Container, verdict: Verdict, seen: TaskObservation, now: Now) -> tuple[e.Event, ...]:
    match verdict:
        case V.INTERRUPT if known.state is S.CREATING:
            return (containers.BUILD[e.ContainerCreateInterrupted](known, c.RecordCreateInterrupted(known.id), now),)
        case V.UNDO:
            text = f"cannot start container {known.id}: the daemon died before the runtime was told"
            return (
                containers.BUILD[e.ContainerStartFailed](known, c.RecordStartFailed(known.id, "Cancelled", text), now),
            )
        case V.ADVANCE:
            started = containers.BUILD[e.ContainerStarted](known, c.RecordStarted(known.id, seen.oom_kills), now)
            return (started, *_monitor_lost(known, seen, now))
        case V.EXIT:
            before = (*_start_before_exit(known, seen, now), *_oom(known, seen, now))
            return (*before, _exit(known, before, seen, now))
        case V.MONITOR_LOST:
            return _monitor_lost(known, seen, now)
        case V.RESUME if known.state is S.STOPPING:
            return _monitor_lost(known, seen, now)
        case V.CONTRADICTION if known.state is not S.EXITED:
            record = c.RecordExit(known.id, None, 0, Evidence("contradiction"), text="the runtime contradicts the log")
            return (containers.BUILD[e.ContainerExited](known, record, now),)
    return ()


def _monitor_lost(known: Container, seen: TaskObservation, now: Now) -> tuple[e.Event, ...]:
    lost = seen.monitor is M.DEAD and not known.monitor_lost_at
    return (e.ContainerMonitorLost(now.wall_ns),) if lost else ()


def _start_before_exit(known: Container, seen: TaskObservation, now: Now) -> tuple[e.Event, ...]:
    """A start whose record is missing. When it was is not known better than: not after the end."""
    if known.state is not S.STARTING or not seen.started:
        return ()
    at = seen.exit.at_ns if seen.exit else now.wall_ns
    return (e.ContainerStarted(max(at, known.created_at)),)


def _oom(known: Container, seen: TaskObservation, now: Now) -> tuple[e.Event, ...]:
    """The kernel's own counter, where its cgroup is still there: as the watch would have told it before the exit."""
    ran = known.state in (S.RUNNING, S.STOPPING) or (known.state is S.STARTING and seen.started)
    if not ran or seen.oom_kills <= max(known.oom_kills_at_start, known.oom_kills):
        return ()
    return (containers.BUILD[e.ContainerOom](known, c.RecordOom(known.id, seen.oom_kills), now),)


def _exit(known: Container, before: Sequence[e.Event], seen: TaskObservation, now: Now) -> e.Event:
    """The exit file's code; garbage counts as none and is quoted. Made of the state that the events `before` lead to."""
    file, oom = seen.exit, containers.oom_at_end(known.oom_kills_at_start, seen.oom_kills, seen.oom, known.oom_kills)
    if file is None or file.code is None:
        evidence = Evidence("none", file.quote if file else "")
        record = c.RecordExit(known.id, None, 0, evidence, oom, "it ended while nobody watched, no exit code was left")
    else:
        record = c.RecordExit(known.id, file.code, file.at_ns, Evidence("exit-file"), oom)
    for event in before:
        known = containers.evolve(known, event, known.id)
    return containers.BUILD[e.ContainerExited](known, record, now)


# --- sandboxes -------------------------------------------------------------------------------------------------------


def _sandboxes(node: Node, world: World, log: LogFacts, now: Now) -> Iterator[Finding]:
    for name in _names(node, "sandbox", node.sandboxes, world.sandboxes):
        key = e.sandbox_key(name)
        known = node.sandboxes.get(name)
        seen = world.sandboxes.get(name, SandboxObservation())
        folded = QUARANTINED if key in node.quarantined else known.state if known else NO_RECORD
        boot = Boot.SAME if known is None or known.boot_id == world.boot_id else Boot.OTHER
        row, verdict, why = sandbox_row(folded, sandbox_evidence(known, seen), boot)
        events = _sandbox_events(known, verdict, why, now) if known else ()
        yield Finding(key, row, verdict, events, _provably_ours(seen.mark, log), seen.text or why)


def sandbox_evidence(known: Sandbox | None, seen: SandboxObservation) -> SandboxEvidence:
    """What the pod needs held against what is there."""
    if not seen.readable:
        return E.UNREADABLE
    if known is not None and not known.own_namespaces and known.infra is None:
        return E.WHOLE
    namespaces = known is None or not known.own_namespaces or seen.namespace is NamespaceState.NSFS
    infra = known is None or known.infra is None or seen.infra is InfraState.ALIVE
    anything = seen.leftovers or seen.namespace is not NamespaceState.ABSENT or seen.infra is InfraState.ALIVE
    if not (anything or seen.cached):
        return E.GONE
    return E.WHOLE if namespaces and infra else E.BROKEN


def _sandbox_events(known: Sandbox, verdict: Verdict, why: str, now: Now) -> tuple[e.Event, ...]:
    match verdict:
        case V.DIED:
            return (sandboxes.BUILD[e.SandboxDied](known, c.RecordSandboxDied(known.id, why), now),)
        case V.RUN_FAILED:
            record = c.RecordRunFailed(known.id, "Cancelled", f"cannot run sandbox {known.id}: {why}")
            return (sandboxes.BUILD[e.SandboxRunFailed](known, record, now),)
    return ()


# --- images ----------------------------------------------------------------------------------------------------------


def _images(node: Node, seen: ImageObservation, log: LogFacts, now: Now) -> Iterator[Finding]:
    """Nothing is said of images while the store cannot be read."""
    if not seen.readable:
        return
    going = {i.held.image_id for i in node.images.values() if i.held and i.state is I.REMOVING}
    for reference in sorted({*node.images, *_quarantined(node, "image")}):
        key = e.image_key(reference)
        known = node.images.get(reference) or Image(reference, I.ABSENT)
        store = _store_state(known, seen, going)
        row, verdict, why = image_row(QUARANTINED if key in node.quarantined else known.state, store)
        yield Finding(key, row, verdict, _image_events(known, verdict, why, seen, now), text=why)
    yield from _unclaimed_images(node, seen, log.whole)


def _store_state(known: Image, seen: ImageObservation, going: Set[str]) -> StoreState:
    if known.state is I.PULLING:
        named = seen.names.get(known.reference)
        if named is None or named.image_id in going:
            return STORE.ABSENT
        return seen.images.get(named.image_id, STORE.ABSENT)
    return seen.images.get(known.held.image_id, STORE.ABSENT) if known.held else STORE.ABSENT


def _image_events(known: Image, verdict: Verdict, why: str, seen: ImageObservation, now: Now) -> tuple[e.Event, ...]:
    match verdict:
        case V.ADVANCE:
            record = c.RecordPulled(known.reference, seen.names[known.reference], known.access)
            pulled = images.BUILD[e.ImagePulled](known, record, now)
            before = known.held if known.held and known.held.image_id != record.image.image_id else None
            gone = before is not None and seen.images.get(before.image_id) is not STORE.COMPLETE
            return (e.ImageLost(MEANT_BEFORE), pulled) if gone else (pulled,)
        case V.PULL_FAILED:
            failed = e.ImagePullFailed("Cancelled", f"cannot pull image {known.reference}: {why}")
            held = known.held
            if held is None or seen.images.get(held.image_id) is STORE.COMPLETE:
                return (failed,)
            return failed, e.ImageLost(MEANT_BEFORE)
        case V.LOST:
            return (e.ImageLost(why),)
    return ()


def _unclaimed_images(node: Node, seen: ImageObservation, whole: bool) -> Iterator[Finding]:
    """Ids in the store that no reference and no container means. While a pull is open, its image may be one of them."""
    if any(i.state is I.PULLING for i in node.images.values()) or _quarantined(node, "image"):
        return
    claimed = {i.held.image_id for i in node.images.values() if i.held}
    claimed |= {k.image_id for k in node.containers.values()}
    for image_id in sorted(set(seen.images) - claimed):
        row, verdict, why = image_row(NO_RECORD, seen.images[image_id])
        yield Finding(f"image-id/{image_id}", row, verdict, ours=whole, text=why)


# --- shared ----------------------------------------------------------------------------------------------------------


def _names(node: Node, kind: str, known: Mapping[str, object], seen: Mapping[str, object]) -> Iterable[str]:
    return sorted({*known, *seen, *_quarantined(node, kind)})


def _quarantined(node: Node, kind: str) -> set[str]:
    return {name for k, name in map(e.split_key, node.quarantined) if k == kind}


def _provably_ours(mark: Mark | None, log: LogFacts) -> bool:
    return log.whole and mark is not None and mark.log_id == log.log_id and mark.seq <= log.head


def readable(findings: Iterable[Finding]) -> Iterator[str]:
    """One line per finding that is more than a match, for the daemon's log and `tools/replay`."""
    for finding in findings:
        if finding.verdict is not V.MATCH:
            yield f"{finding.row} {finding.verdict} {finding.key}: {finding.text}"

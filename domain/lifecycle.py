"""The lifecycle tables: what may happen (TRANSITIONS), what may be asked (PERMITTED), what the CRI shows (VIEW).

Rule 1: everything that changes a state is a row here; the aggregates look rows up and hold no transition of their own.
Rule 2: an operation in progress is a state; there are no flags beside it.
Rule 3: every state x command has a cell. An event: it is appended. `Already`: done before, nothing is appended. `Join`:
share the open intent's outcome. `Wait`: let the open intent end, then decide again. `Refuse`: nothing is appended, the text says why. Reports of effects and watchers
that come too late meet `Already`: the state has moved on and tells the truth.
Rule 4: an event that would change nothing is not appended; the command joins. (A stop with a later deadline, a second
removal of a sandbox that is being stopped.)
Rule 5: the cells of RunSandbox and CreateContainer hold for the name asked for with the same request hash. With another
one, what would be Join or Already is refused as taken (INTERRUPTED and REMOVING excepted: nobody was told that id).
Rule 6: the cell of PullImage holds for a pull with the same source and the same credentials. With others, Join is Wait.

README and the golden copies of the tests are generated from these tables; they are written nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from domain import commands as c
from domain import errors
from domain import events as e


class ContainerState(StrEnum):
    CREATING = "CREATING"
    INTERRUPTED = "INTERRUPTED"
    CREATED = "CREATED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    REMOVING = "REMOVING"
    REMOVED = "REMOVED"


class SandboxState(StrEnum):
    SETTING_UP = "SETTING_UP"
    READY = "READY"
    NOTREADY = "NOTREADY"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    REMOVING = "REMOVING"
    REMOVED = "REMOVED"


class ImageState(StrEnum):
    ABSENT = "ABSENT"
    PULLING = "PULLING"
    PRESENT = "PRESENT"
    REMOVING = "REMOVING"


@dataclass(frozen=True, slots=True)
class Already:
    """Idempotent: nothing is appended, the answer is yes."""


@dataclass(frozen=True, slots=True)
class Join:
    """The same intent is open already: its outcome is this command's outcome too. Any number join, one effect runs."""

    key: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Another intent is open that must end first: wait until the state is left, then decide again.

    `key`: whose state, where it is not the aggregate that the command names.
    """

    key: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    error: type[errors.Refusal]
    why: str


ALREADY, JOIN, WAIT = Already(), Join(), Wait()


def _refuse(why: str, error: type[errors.Refusal] = errors.WrongState) -> Refuse:
    return Refuse(error, why)


S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741  (table shorthand)

# fmt: off
# --- container: from, event, to, remark --------------------------------------------------------------------------------
CONTAINER_TRANSITIONS = (
    (None,                                      e.ContainerCreateRequested,   S.CREATING,    "claims the name and the image; not listed"),
    (S.INTERRUPTED,                             e.ContainerCreateRequested,   S.CREATING,    "the retry: same name, same request, same id; the retry's own config"),
    (S.CREATING,                                e.ContainerAdjusted,          S.CREATING,    "what hooks changed in the spec, and who"),
    (S.CREATING,                                e.ContainerCreated,           S.CREATED,     "init and monitor, each with its start time"),
    (S.CREATING,                                e.ContainerCreateFailed,      S.REMOVING,    "undo is the ordinary removal; never listed"),
    (S.CREATING,                                e.ContainerCreateInterrupted, S.INTERRUPTED, "by recovery: effects undone, id and name kept for a retry; not listed"),
    (S.CREATED,                                 e.ContainerStartRequested,    S.STARTING,    ""),
    (S.STARTING,                                e.ContainerStarted,           S.RUNNING,     ""),
    (S.STARTING,                                e.ContainerStartFailed,       S.EXITED,      "code 128, reason StartError"),
    ((S.CREATED, S.STARTING, S.RUNNING),        e.ContainerStopRequested,     S.STOPPING,    "signal, grace, deadline in boot time; a running start is cancelled"),
    (S.STOPPING,                                e.ContainerStopMoved,         S.STOPPING,    "an earlier deadline, or a removal that waits for the stop"),
    ((S.CREATED, S.RUNNING, S.STOPPING),        e.ContainerExited,            S.EXITED,      "code and evidence, or unknown"),
    (S.STARTING,                                e.ContainerExited,            S.EXITED,      "by recovery only: live, an exit waits for the start's outcome"),
    (S.RUNNING,                                 e.ContainerOom,               S.RUNNING,     "the kernel's counter at start and now"),
    (S.STOPPING,                                e.ContainerOom,               S.STOPPING,    ""),
    (S.CREATED,                                 e.ContainerMonitorLost,       S.CREATED,     "the code will be unknown; init is watched by pidfd"),
    (S.RUNNING,                                 e.ContainerMonitorLost,       S.RUNNING,     ""),
    (S.STOPPING,                                e.ContainerMonitorLost,       S.STOPPING,    ""),
    (S.CREATED,                                 e.ContainerResourcesUpdated,  S.CREATED,     "effective values"),
    (S.RUNNING,                                 e.ContainerResourcesUpdated,  S.RUNNING,     ""),
    ((S.CREATED, S.INTERRUPTED, S.EXITED),      e.ContainerRemoveRequested,   S.REMOVING,    "in other states a stop comes first (`due`)"),
    (S.REMOVING,                                e.ContainerRemoved,           S.REMOVED,     "never the log file: that is the kubelet's"),
)

# --- sandbox -----------------------------------------------------------------------------------------------------------
SANDBOX_TRANSITIONS = (
    (None,                                      e.SandboxRunRequested,        B.SETTING_UP,  "claims the name"),
    (B.SETTING_UP,                              e.SandboxNetworkSet,          B.SETTING_UP,  "the CNI result, on record before the next step"),
    (B.SETTING_UP,                              e.SandboxReady,               B.READY,       "the infra process where there is one"),
    (B.SETTING_UP,                              e.SandboxRunFailed,           B.REMOVING,    "undo is the ordinary removal"),
    (B.READY,                                   e.SandboxDied,                B.NOTREADY,    "infra dead, namespace gone, other boot"),
    ((B.SETTING_UP, B.READY, B.NOTREADY),       e.SandboxStopRequested,       B.STOPPING,    "the stop of each live container is due, then the release of what the pod held"),
    (B.STOPPING,                                e.SandboxStopRequested,       B.STOPPING,    "a removal that now waits for the stop"),
    (B.STOPPING,                                e.SandboxNetworkReleased,     B.STOPPING,    ""),
    (B.STOPPED,                                 e.SandboxNetworkReleased,     B.STOPPED,     "the DEL that went on in the background"),
    (B.REMOVING,                                e.SandboxNetworkReleased,     B.REMOVING,    "after a run that failed"),
    (B.STOPPING,                                e.SandboxNetworkLeaked,       B.STOPPING,    "DEL failed to its bound: stop answers OK, DEL goes on in the background"),
    (B.REMOVING,                                e.SandboxNetworkLeaked,       B.REMOVING,    "the removal goes on; what is left in the CNI cache is an orphan then"),
    (B.STOPPING,                                e.SandboxStopped,             B.STOPPED,     "NOTREADY died and still holds things, STOPPED at most an address that leaked"),
    (B.READY,                                   e.SandboxResourcesUpdated,    B.READY,       ""),
    (B.NOTREADY,                                e.SandboxResourcesUpdated,    B.NOTREADY,    ""),
    (B.STOPPED,                                 e.SandboxRemoveRequested,     B.REMOVING,    "in other states a stop comes first (`due`)"),
    (B.REMOVING,                                e.SandboxRemoved,             B.REMOVED,     ""),
)

# --- image (keyed by normalised reference) -----------------------------------------------------------------------------
IMAGE_TRANSITIONS = (
    ((I.ABSENT, I.PRESENT),                     e.ImagePullRequested,         I.PULLING,     "what was present before stays visible until the outcome"),
    (I.PULLING,                                 e.ImagePulled,                I.PRESENT,     "the data was synced before"),
    (I.PULLING,                                 e.ImagePullFailed,            "as before",   "ABSENT or PRESENT, as before the pull"),
    (I.PRESENT,                                 e.ImageRemoveRequested,       I.REMOVING,    "refused while a container claims the id"),
    (I.REMOVING,                                e.ImageRemoved,               I.ABSENT,      ""),
    (I.PRESENT,                                 e.ImageLost,                  I.ABSENT,      "the store no longer has it whole"),
    (I.PULLING,                                 e.ImageLost,                  I.PULLING,     "what it meant before the pull is gone"),
)

# --- permitted: one row per command, one column per state --------------------------------------------------------------
NO = _refuse
GONE = _refuse("it is being removed")
NEVER = _refuse("it was never created: its creation failed", errors.NotFound)
HELD = _refuse("its creation was interrupted: ask for it again with the same name", errors.NotFound)
OPEN = _refuse("its creation is still going on")
ENDED = _refuse("it has ended; only a container in state CREATED can be started")
STOPS = _refuse("it is being stopped")
RUNS = _refuse("it is already started")
TAKEN = _refuse("the name is taken", errors.NameTaken)

_CONTAINER_COLUMNS =                (S.CREATING,                    S.INTERRUPTED,                 S.CREATED,                     S.STARTING,                    S.RUNNING,                     S.STOPPING,                    S.EXITED,                      S.REMOVING)
_CONTAINER_PERMITTED = {
    c.CreateContainer:              (JOIN,                          e.ContainerCreateRequested,    ALREADY,                       TAKEN,                         TAKEN,                         TAKEN,                         TAKEN,                         WAIT),
    c.StartContainer:               (OPEN,                          HELD,                          e.ContainerStartRequested,     JOIN,                          RUNS,                          STOPS,                         ENDED,                         GONE),
    c.StopContainer:                (e.ContainerCreateFailed,       ALREADY,                       e.ContainerStopRequested,      e.ContainerStopRequested,      e.ContainerStopRequested,      e.ContainerStopMoved,          ALREADY,                       ALREADY),
    c.RemoveContainer:              (e.ContainerCreateFailed,       e.ContainerRemoveRequested,    e.ContainerRemoveRequested,    e.ContainerStopRequested,      e.ContainerStopRequested,      e.ContainerStopMoved,          e.ContainerRemoveRequested,    JOIN),
    c.RecordAdjusted:               (e.ContainerAdjusted,           ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordCreated:                (e.ContainerCreated,            ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordCreateFailed:           (e.ContainerCreateFailed,       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordCreateInterrupted:      (e.ContainerCreateInterrupted,  ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordStarted:                (ALREADY,                       ALREADY,                       ALREADY,                       e.ContainerStarted,            ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordStartFailed:            (ALREADY,                       ALREADY,                       ALREADY,                       e.ContainerStartFailed,        ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordExit:                   (ALREADY,                       ALREADY,                       e.ContainerExited,             WAIT,                          e.ContainerExited,             e.ContainerExited,             ALREADY,                       ALREADY),
    c.RecordOom:                    (ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       e.ContainerOom,                e.ContainerOom,                ALREADY,                       ALREADY),
    c.RecordMonitorLost:            (ALREADY,                       ALREADY,                       e.ContainerMonitorLost,        WAIT,                          e.ContainerMonitorLost,        e.ContainerMonitorLost,        ALREADY,                       ALREADY),
    c.RecordContainerRemoved:       (ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       e.ContainerRemoved),
}

_SANDBOX_COLUMNS =                  (B.SETTING_UP,                  B.READY,                       B.NOTREADY,                    B.STOPPING,                    B.STOPPED,                     B.REMOVING)
_SANDBOX_PERMITTED = {
    c.RunSandbox:                   (JOIN,                          ALREADY,                       TAKEN,                         TAKEN,                         TAKEN,                         WAIT),
    c.StopSandbox:                  (e.SandboxStopRequested,        e.SandboxStopRequested,        e.SandboxStopRequested,        JOIN,                          ALREADY,                       ALREADY),
    c.RemoveSandbox:                (e.SandboxStopRequested,        e.SandboxStopRequested,        e.SandboxStopRequested,        e.SandboxStopRequested,        e.SandboxRemoveRequested,      JOIN),
    c.RecordNetworkSet:             (e.SandboxNetworkSet,           ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordSandboxReady:           (e.SandboxReady,                ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordRunFailed:              (e.SandboxRunFailed,            ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordSandboxDied:            (ALREADY,                       e.SandboxDied,                 ALREADY,                       ALREADY,                       ALREADY,                       ALREADY),
    c.RecordNetworkReleased:        (ALREADY,                       ALREADY,                       ALREADY,                       e.SandboxNetworkReleased,      e.SandboxNetworkReleased,      e.SandboxNetworkReleased),
    c.RecordNetworkLeaked:          (ALREADY,                       ALREADY,                       ALREADY,                       e.SandboxNetworkLeaked,        ALREADY,                       e.SandboxNetworkLeaked),
    c.RecordSandboxStopped:         (ALREADY,                       ALREADY,                       ALREADY,                       e.SandboxStopped,              ALREADY,                       ALREADY),
    c.RecordSandboxRemoved:         (ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       ALREADY,                       e.SandboxRemoved),
}

_IMAGE_COLUMNS =                    (I.ABSENT,                      I.PULLING,                     I.PRESENT,                     I.REMOVING)
_IMAGE_PERMITTED = {
    c.PullImage:                    (e.ImagePullRequested,          JOIN,                          e.ImagePullRequested,          WAIT),
    c.RemoveImage:                  (ALREADY,                       WAIT,                          e.ImageRemoveRequested,        JOIN),
    c.RecordPulled:                 (ALREADY,                       e.ImagePulled,                 ALREADY,                       ALREADY),
    c.RecordPullFailed:             (ALREADY,                       e.ImagePullFailed,             ALREADY,                       ALREADY),
    c.RecordImageRemoved:           (ALREADY,                       ALREADY,                       ALREADY,                       e.ImageRemoved),
    c.RecordImageLost:              (ALREADY,                       e.ImageLost,                   e.ImageLost,                   ALREADY),
}

# --- what the CRI shows; None: not listed ------------------------------------------------------------------------------
CONTAINER_VIEW: Mapping[ContainerState, str | None] = MappingProxyType({
    S.CREATING:    None,
    S.INTERRUPTED: None,
    S.CREATED:     "CONTAINER_CREATED",
    S.STARTING:    "CONTAINER_CREATED",
    S.RUNNING:     "CONTAINER_RUNNING",
    S.STOPPING:    "CONTAINER_RUNNING",
    S.EXITED:      "CONTAINER_EXITED",
    S.REMOVING:    "CONTAINER_EXITED",   # not listed where it was never created
    S.REMOVED:     None,
})
SANDBOX_VIEW: Mapping[SandboxState, str | None] = MappingProxyType({
    B.SETTING_UP:  None,
    B.READY:       "SANDBOX_READY",
    B.NOTREADY:    "SANDBOX_NOTREADY",
    B.STOPPING:    "SANDBOX_NOTREADY",
    B.STOPPED:     "SANDBOX_NOTREADY",
    B.REMOVING:    "SANDBOX_NOTREADY",   # not listed where it was never ready
    B.REMOVED:     None,
})
# fmt: on


Cell = type | Already | Join | Wait | Refuse
"""What a state answers to a command; a type is the event to append."""


def _by_cell(columns: tuple[Any, ...], rows: Mapping[type, tuple[Any, ...]]) -> Mapping[tuple[Any, type], Any]:
    return MappingProxyType(
        {(state, command): cell for command, cells in rows.items() for state, cell in zip(columns, cells, strict=True)}
    )


CONTAINER_PERMITTED = _by_cell(_CONTAINER_COLUMNS, _CONTAINER_PERMITTED)
SANDBOX_PERMITTED = _by_cell(_SANDBOX_COLUMNS, _SANDBOX_PERMITTED)
IMAGE_PERMITTED = _by_cell(_IMAGE_COLUMNS, _IMAGE_PERMITTED)


def _by_event(rows: tuple[tuple[Any, type, Any, str], ...]) -> Mapping[tuple[Any, type], Any]:
    table: dict[tuple[Any, type], Any] = {}
    for froms, event, to, _ in rows:
        for state in froms if isinstance(froms, tuple) else (froms,):
            table[state, event] = to
    return MappingProxyType(table)


CONTAINER_NEXT = _by_event(CONTAINER_TRANSITIONS)
SANDBOX_NEXT = _by_event(SANDBOX_TRANSITIONS)
IMAGE_NEXT = _by_event(IMAGE_TRANSITIONS)

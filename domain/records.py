"""What surrounds an event in the log: who caused it, when, and where it stands in the order."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of the clocks: wall time (ns since 1970), boot time (CLOCK_BOOTTIME, ns), boot id."""

    wall_ns: int
    boot_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an event was appended.

    `kind`: rpc (a client asked), due (the state owed it), watch (a process was seen to end), recovery or
    reconcile (`what` is then the row, `@G`), effect (the outcome of an effect), admin (a command of a person).
    `led_by`: the sequence of the record that led here, 0 where there is none.
    """

    kind: str
    what: str = ""
    request: str = ""
    arrived_ns: int = 0
    agent: str = ""
    socket: str = ""
    led_by: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """An event on its way into the log: the aggregate's key and the version that the event will have.

    `cause`: this event's own, where events of one transaction have different ones (recovery: a row each).
    """

    key: str
    version: int
    event: Any
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """An event in the log. `seq` begins at 1 without gaps; `hash` chains it to the record before."""

    seq: int
    at: Now
    key: str
    version: int
    wire: str
    event: Any
    cause: Cause
    hash: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A place in the log that does not decode. `key` is empty where not even the index names the aggregate."""

    seq: int
    key: str
    version: int
    why: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record: its sequence (0: the log is empty) and chain hash."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an exit code rests on. `source`: exit-file, wait-status, start-error, contradiction or none.

    `quote` holds, cut to 200 characters, what an unreadable exit file contained.
    """

    source: str = "none"
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one: pid, start time (clock ticks since boot), boot id."""

    pid: int
    start: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Digest:
    """Stands in the log for a value that must not: its length in bytes and keyed hash (hex)."""

    name: str
    length: int
    mac: str


@dataclass(frozen=True, slots=True)
class TaskUsage:
    """What a container uses, at a wall time: nanoseconds of CPU since its start, bytes, counts of page faults.

    `working_set`: what cannot be given up, the memory in use without inactive file pages. `limit`: 0 where none is set.
    """

    at_ns: int
    cpu_ns: int = 0
    memory: int = 0
    working_set: int = 0
    rss: int = 0
    limit: int = 0
    page_faults: int = 0
    major_page_faults: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes and inodes that something takes on disk, at a wall time."""

    at_ns: int = 0
    bytes: int = 0
    inodes: int = 0
    mountpoint: str = ""

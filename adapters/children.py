"""How a child of the daemon comes to be: `start` is the only function that starts one, and what a child inherits is
written here, once. Containers are children too: they inherit through conmon and runc whatever these did not change.

A child gets: umask 022, a session of its own, no descriptor but those named, no ignored or blocked signal, and the
machine's ordinary scheduling, CPUs, I/O class and OOM score, however the daemon itself was started. Limits are the
daemon's, so that a unit's `LimitMEMLOCK=` and the like reach containers; only of descriptors the soft limit is 1,024,
since programs close or allocate for as many as it says.

Nothing here forks for real (grpc's threads would not survive it): `subprocess.Popen` as used here is a vfork, in which
the child cannot run code of ours. So the calling thread takes on what the child shall have and goes back afterwards.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UMASK = 0o022
"""Whatever the shell or the unit has. With a stricter one skopeo, runc and the plugins make directories into which a
container's user cannot look. The daemon has it too; what is ours alone says so by its mode."""

DESCRIPTORS = 1024
"""The soft limit of open files, as the kernel gives it to the first process."""

OOM_SCORE = 0
"""skopeo unpacks hostile data and plugins are anybody's: nobody but the daemon and conmon, which lowers its own score
by itself, is kept from the OOM killer. runc gives a container the score in its spec."""

NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""What pidfd_open says of a pid that is no process: none at all; none any more, but still a group's or session's,
or a thread's by now (EINVAL, for which newer kernels say ESRCH and ENOENT)."""

SCORE_FILE = "/proc/self/oom_score_adj"
ISOLATED_CPUS = "/sys/devices/system/cpu/isolated"
POSSIBLE_CPUS = "/sys/devices/system/cpu/possible"
TIMER_SLACK_NS = 50_000
IOPRIO_CALLS = {"x86_64": (251, 252), "aarch64": (30, 31)}
"""Numbers of ioprio_set and ioprio_get: libc has no functions of these names."""

IOPRIO_CLASS_SHIFT = 13
IOPRIO_WHO_PROCESS, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 1, 29, 30
ASK_PERSONALITY = 0xFFFFFFFF
_libc = ctypes.CDLL(None, use_errno=True)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str = "/",
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a program. Raises OSError where it cannot be executed, ValueError for a NUL byte in an argument."""
    with _score.ordinary(), _ordinary_thread():
        child = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            umask=UMASK,
            close_fds=True,
            start_new_session=True,
            restore_signals=True,
        )
    _limit(child.pid)
    return child


def become_parent() -> None:
    """Once, in the daemon's main thread, before other threads: what it may have got from whoever started it.

    Its own soft limit of descriptors is raised to the hard one: a held container takes three. An ignored signal stays
    without effect here, but by a handler: what is ignored stays so through exec, in containers too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - RESTORED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _nothing)


RESTORED = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Python ignores these for itself; `restore_signals` gives them back to a child."""


def _nothing(number: int, frame: Any) -> None:
    """Has no effect."""


def _limit(pid: int) -> None:
    """The child runs already: what reads its limit at once (Go does) may still see the daemon's. No container depends
    on it: conmon waits for a word of ours before it goes on, and an OCI spec says its limit itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != (wanted := descriptors(hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (wanted, hard))


def descriptors(hard: int) -> int:
    """The soft limit of open files below a hard one."""
    return DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)


# --- what is the whole process's -------------------------------------------------------------------------------------


class _Score:
    """The daemon's OOM score, which is one for all its threads: ordinary while any of them starts a child.

    Setting the child's afterwards would be too late for what it starts itself in its first moment.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._starting = 0
        self._own = OOM_SCORE

    @contextlib.contextmanager
    def ordinary(self) -> Iterator[None]:
        with self._turn:
            if self._starting == 0:
                self._own = _read_score()
                _write_score(self._own, OOM_SCORE)
            self._starting += 1
        try:
            yield
        finally:
            with self._turn:
                self._starting -= 1
                if self._starting == 0:
                    _write_score(OOM_SCORE, self._own)


def score() -> int:
    """The OOM score that a child begins with."""
    with _score.ordinary():
        return _read_score()


def _read_score() -> int:
    with open(SCORE_FILE) as file:
        return int(file.read(16))


def _write_score(now: int, wanted: int) -> None:
    """Best effort: to go below what it was started with needs CAP_SYS_RESOURCE."""
    if now != wanted:
        with contextlib.suppress(OSError), open(SCORE_FILE, "w") as file:
            file.write(str(wanted))


_score = _Score()


# --- what is the calling thread's ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trait:
    """One thing that a thread has and its child inherits. `wanted`: what the child shall have, given what it is."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    wanted: Callable[[Any], Any]


@contextlib.contextmanager
def _ordinary_thread() -> Iterator[None]:
    changed: list[tuple[Trait, Any]] = []
    try:
        for trait in TRAITS:
            with contextlib.suppress(OSError):
                own = trait.read()
                if own != (wanted := trait.wanted(own)):
                    changed.append((trait, own))
                    trait.write(wanted)
        yield
    finally:
        for trait, own in reversed(changed):
            with contextlib.suppress(OSError):
                trait.write(own)


def _read_scheduler() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def _write_scheduler(value: tuple[int, int]) -> None:
    os.sched_setscheduler(0, value[0], os.sched_param(value[1]))


def _wanted_cpus(own: set[int]) -> set[int]:
    """All of the cpuset, unless the whole machine is narrowed like that: the first process tells.

    Only then is it touched at all: from Linux 6.2 on a mask once set is held against every later cpuset.
    """
    if own >= os.sched_getaffinity(1):
        return own
    return _cpus(POSSIBLE_CPUS) - _cpus(ISOLATED_CPUS) or own


def _cpus(path: str) -> set[int]:
    """The numbers in a list like `0-3,8`."""
    with open(path) as file:
        ranges = [part.partition("-") for part in file.read().strip().split(",") if part]
    return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _read_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _write_nice(value: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, value)


def _read_io_class() -> int:
    return _ioprio(1)


def _write_io_class(value: int) -> None:
    _ioprio(0, value)


def _ioprio(which: int, *values: int) -> int:
    calls = IOPRIO_CALLS.get(os.uname().machine)
    if calls is None:
        raise OSError("not known for this machine")
    return _checked(_libc.syscall(calls[which], IOPRIO_WHO_PROCESS, 0, *values))


def _wanted_io_class(own: int) -> int:
    """None: then it follows from nice. The level below the class says nothing there."""
    return own if own >> IOPRIO_CLASS_SHIFT == 0 else 0


def _read_cpus() -> set[int]:
    return os.sched_getaffinity(0)


def _write_cpus(value: set[int]) -> None:
    os.sched_setaffinity(0, value)


def _read_slack() -> int:
    return _checked(_libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0))


def _write_slack(value: int) -> None:
    _checked(_libc.prctl(PR_SET_TIMERSLACK, value, 0, 0, 0))


def _read_personality() -> int:
    return _checked(_libc.personality(ASK_PERSONALITY))


def _write_personality(value: int) -> None:
    _checked(_libc.personality(value))


TRAITS = (
    Trait("scheduler", _read_scheduler, _write_scheduler, lambda own: (os.SCHED_OTHER, 0)),
    Trait("nice", _read_nice, _write_nice, lambda own: 0),
    Trait("I/O class", _read_io_class, _write_io_class, _wanted_io_class),
    Trait("CPUs", _read_cpus, _write_cpus, _wanted_cpus),
    Trait("timer slack", _read_slack, _write_slack, lambda own: TIMER_SLACK_NS),
    Trait("personality", _read_personality, _write_personality, lambda own: 0),
)
"""In Linux all of these belong to a thread (sched(7), ioprio_set(2), prctl(2)): other threads do not notice."""

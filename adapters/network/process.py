"""The one place where this adapter spawns: a CNI plugin, in a session of its own, bounded in time and output.

How a child comes to be is `adapters.children`'s. `run` returns when the plugin has ended; where it
was cut (limit, cancellation) its whole group has been killed and is gone. What a plugin leaves running after it
ended well is the plugin's business, as with libcni: some start daemons.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters import children
from domain.errors import NetworkFailed, TimedOut

OUTPUT_MAX = 1 << 20
CHUNK = 64 * 1024
DRAIN_MAX = 64
REAP_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """`code` is negative for a signal. `out` and `err` are cut at OUTPUT_MAX; `cut` tells that `out` was."""

    code: int
    out: bytes
    err: bytes
    cut: bool = False

    @property
    def last_words(self) -> str:
        """The last line that it said; of a Go program that broke down, the one before the stack."""
        lines = [line.strip() for line in self.err.decode(errors="replace").splitlines() if line.strip()]
        broke = [line for line in lines if line.startswith(("panic: ", "fatal error: "))]
        return (broke[:1] or lines[-1:] or [""])[0]


async def run(argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes, limit_s: float) -> Finished:
    """Runs a program to its end. Raises TimedOut at the limit, NetworkFailed where it cannot be executed."""
    child = _Child(argv, env, stdin)
    try:
        async with asyncio.timeout(limit_s):
            await child.ended
    except TimeoutError:
        raise TimedOut(f"killed after {limit_s:.3g} s") from None
    finally:
        await uncancelled(child.close())
    return child.finished()


class _Child:
    def __init__(self, argv: Sequence[str], env: Mapping[str, str], stdin: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._process = _spawn(argv, env, stdin)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            self._give_up()
            raise NetworkFailed(f"cannot run {argv[0]}: {os.strerror(error.errno or 0)}") from error
        self._over = False
        self.ended: asyncio.Future[None] = loop.create_future()
        assert self._process.stdout is not None and self._process.stderr is not None
        self._out, self._err = _Pipe(self._process.stdout.fileno()), _Pipe(self._process.stderr.fileno())
        loop.add_reader(self._pidfd, self._note_end)

    def _give_up(self) -> None:
        """Out of descriptors: what cannot be watched must not run."""
        self._signal()
        self._process.wait()
        for file in (self._process.stdout, self._process.stderr):
            if file is not None:
                file.close()

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if not self.ended.done():
            self.ended.set_result(None)
        self._over = True

    async def close(self) -> None:
        """Kills the group unless the plugin has ended, reaps it, and gives every descriptor back."""
        if self._over:
            self._process.wait()
        else:
            await self._kill()
        for pipe in (self._out, self._err):
            pipe.drain()
            pipe.close()
        for file in (self._process.stdout, self._process.stderr):
            if file is not None:
                file.close()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)

    async def _kill(self) -> None:
        self._signal()
        if self.ended.cancelled():
            self.ended = asyncio.get_running_loop().create_future()
        await asyncio.wait([self.ended], timeout=REAP_S)
        if not self.ended.done():
            _log.error("process %d does not end after SIGKILL", self._process.pid)
            return
        self._signal()  # who was born meanwhile; the leader is a zombie: its group's number is still its own
        self._process.wait()
        await _emptied(self._process.pid)

    def _signal(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def finished(self) -> Finished:
        return Finished(self._process.wait(), bytes(self._out.data), bytes(self._err.data), self._out.cut)


class _Pipe:
    """Takes what comes, keeps the first OUTPUT_MAX bytes, throws the rest away: a writer is never held up."""

    def __init__(self, fd: int) -> None:
        self.data, self.cut, self._fd = bytearray(), False, fd
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        """False where there is nothing now, or nothing any more."""
        try:
            chunk = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.close()
            return False
        room = OUTPUT_MAX - len(self.data)
        self.data += chunk[:room]
        self.cut = self.cut or len(chunk) > room
        return True

    def drain(self) -> None:
        """What was written by now; bounded, as somebody may still write."""
        for _ in range(DRAIN_MAX):
            if not self._read():
                return

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)


def _spawn(argv: Sequence[str], env: Mapping[str, str], stdin: bytes) -> subprocess.Popen[bytes]:
    """The input is a file in memory: nobody has to feed a pipe, and a plugin that does not read blocks nobody."""
    try:
        fd = os.memfd_create("cni", os.MFD_CLOEXEC)
    except OSError as error:
        raise NetworkFailed(f"cannot run {argv[0]}: {os.strerror(error.errno or 0)}") from error
    try:
        os.write(fd, stdin)
        os.lseek(fd, 0, os.SEEK_SET)
        return children.start(argv, env=env, stdin=fd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise NetworkFailed(f"cannot run {argv[0]}: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise NetworkFailed(f"cannot run {argv[0]}: {error}") from error
    finally:
        os.close(fd)


async def _emptied(group: int) -> None:
    """No event tells when a group is empty: its last members are orphans. Zombies that init leaves do not count."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REAP_S
    while loop.time() < deadline:
        if not group_members(group):
            return
        await asyncio.sleep(0.002)
    _log.error("process group %d is not empty after SIGKILL", group)


def group_members(group: int) -> list[int]:
    """Living processes of a group."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return []
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, _, of_group = file.read(4096).rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of_group) == group and state not in (b"Z", b"X"):
            found.append(int(name))
    return found


# --- what a daemon that was killed left running ----------------------------------------------------------------------


OWNER = "DAYBOOK_CNI_CACHE"
"""In the environment of each plugin that we run: the cache directory, so that a later daemon knows its own."""
Words = frozenset[bytes]


def end_strays(container_id: str) -> None:
    """Ends every plugin that still runs an ADD for a container, and returns when they are gone. Blocking.

    A plugin outlives a killed daemon; told apart by its environment, as between its start and any note of its pid a
    daemon can die too. Raises TimedOut where one does not die.
    """
    _end_all({b"CNI_COMMAND=ADD", _named(container_id)})


class Late:
    """The DELs that an earlier daemon with this cache left running, by container: `ids`. Blocking.

    One that comes to its end late would free what its pod is given meanwhile. One that is cut may never be made good:
    bridge finds the addresses whose rules it must remove on the link, which it removes first.
    """

    def __init__(self, owner: str) -> None:
        self._ours = f"{OWNER}={owner}".encode()
        self.ids: set[str] = set()

    def find(self) -> None:
        """Once, before any plugin runs. Ends what may be cut: GC, CHECK and STATUS. Raises TimedOut."""
        # One look at all processes: the door is not open yet, and a node has many.
        left = [words for words in _environments() if self._ours in words]
        dels = [words for words in left if b"CNI_COMMAND=DEL" in words]
        self.ids = {word[len(ID) :].decode() for words in dels for word in words if word.startswith(ID)}
        for command in (b"CNI_COMMAND=GC", b"CNI_COMMAND=CHECK", b"CNI_COMMAND=STATUS"):
            if any(command in words for words in left):
                _end_all({self._ours, command})

    def settle(self, container_id: str, limit_s: float) -> None:
        """Returns when none runs for one of `ids` any more. What takes longer is ended. Raises TimedOut."""
        _log.info("container %s: waiting for the DEL of an earlier daemon", container_id)
        _end_all({self._ours, b"CNI_COMMAND=DEL", _named(container_id)}, limit_s)
        self.ids.discard(container_id)


ID = b"CNI_CONTAINERID="


def _named(container_id: str) -> bytes:
    return ID + container_id.encode()


def _end_all(wanted: set[bytes], patience_s: float = 0.0) -> None:
    """Until no process has these words in its environment; it is killed when the patience is over."""
    kill_from = time.monotonic() + patience_s
    # Again until none is seen: one that is killed may just have started another.
    while found := [fd for pid in _pids() if (fd := _stray(pid, wanted)) >= 0]:
        for fd in found:
            if not _ended(fd, kill_from):
                _end(fd, kill_from + REAP_S)
            os.close(fd)
        if time.monotonic() > kill_from + REAP_S:
            told = b" ".join(sorted(wanted)).decode(errors="replace")
            raise TimedOut(f"a plugin that an earlier daemon left does not die: {told}")


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _environments() -> Iterator[Words]:
    for pid in _pids():
        with contextlib.suppress(OSError):
            yield _environment(pid)


def _environment(pid: int) -> Words:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return frozenset(file.read(CHUNK).split(b"\0"))


def _stray(pid: int, wanted: set[bytes]) -> int:
    """A pidfd of a process with these words in its environment, else -1. Opened first: the pid cannot change hands."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    with contextlib.suppress(OSError):
        if wanted <= _environment(pid):
            return fd
    os.close(fd)
    return -1


def _end(pidfd: int, deadline: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _ended(pidfd, deadline)


def _ended(pidfd: int, deadline: float) -> bool:
    """Waits for the end of a process until the deadline, of the monotonic clock."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0, deadline - time.monotonic()) * 1000))


async def uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Runs the work to its end through cancellations, of which the last is raised again then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled

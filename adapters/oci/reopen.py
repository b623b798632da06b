"""Rotation of a container's log: whoever rotates has renamed the file, conmon must begin a new one at the old path.

conmon writes to `LOG.tmp`, renames that over LOG, and does not answer. What it does when something is in the way is
worse than an error: where LOG was not renamed its lines are lost, and where it cannot write it ends and the container
runs on unwatched. So all that could be in its way is tried before it is asked.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import struct
import termios
from dataclasses import dataclass

from adapters.oci import logpath, process
from adapters.oci.layout import ContainerPaths, Layout
from adapters.oci.threads import Threads
from domain.container import Container
from domain.errors import Busy, RuntimeFailed, StorageFailed, TimedOut, WrongState
from domain.records import Process
from domain.sandbox import Sandbox

REOPEN = b"2 0 0\n"
ANSWER_S = 10.0
"""How long conmon may take."""

FIRST_LOOK_S, LOOK_MAX_S = 0.0005, 0.02
WAITING_MAX = 8
"""Callers for one container at the same time."""

FileId = tuple[int, int]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock
    users: int = 0


class Logs:
    def __init__(self, layout: Layout, threads: Threads) -> None:
        self._layout, self._threads = layout, threads
        self._turns: dict[str, _Turn] = {}

    async def reopen(self, container: Container, sandbox: Sandbox) -> None:
        """On return conmon writes into a new file at the log's path, and the renamed one grows no more.

        Nothing is done where the file was not renamed. One at a time for each container. Raises WrongState (no log,
        no monitor, another file in the way), InvalidRequest (the path cannot be trusted), StorageFailed, TimedOut.
        """
        turn = self._turns.setdefault(container.id, _Turn(asyncio.Lock()))
        if turn.users >= WAITING_MAX:
            raise Busy(f"{turn.users} others wait for this log to be reopened")
        turn.users += 1
        try:
            async with turn.lock:
                await self._reopen(container, sandbox)
        finally:
            turn.users -= 1
            if not turn.users:
                self._turns.pop(container.id, None)

    async def _reopen(self, container: Container, sandbox: Sandbox) -> None:
        monitor = container.monitor
        if not container.log_path:
            raise WrongState("it has no log")
        if monitor is None or not process.alive(monitor):
            raise WrongState("its monitor is gone, nobody writes its log")
        made = await self._threads.call(_prepare, monitor, sandbox.config.log_directory, container.log_path)
        if made is None:
            return
        done = False
        try:
            await send(self._layout.container(container.id), monitor, REOPEN)
            await _until_there(container.log_path, made, monitor)
            done = True
        finally:
            if not done:
                await self._threads.call(_remove_if_same, f"{container.log_path}.tmp", made)


def _prepare(monitor: Process, log_directory: str, log_path: str) -> FileId | None:
    """Makes `LOG.tmp` as conmon will find it; None where conmon still has the very file that is at the path."""
    directory, name = logpath.enter(log_directory, log_path)
    try:
        there, held = _stat(directory, name), _open_files(monitor)
        if there is not None and _id(there) in held:
            return None
        if there is not None and there.st_size:
            raise WrongState(f"a file at {log_path[:200]!r} that its monitor does not write is in the way")
        return _make(directory, f"{name}.tmp", logpath.FILE_MODE)
    finally:
        os.close(directory)


def _make(directory: int, name: str, mode: int) -> FileId:
    """A new empty file. One of ours that an earlier attempt left is replaced, anything else refused."""
    left = _stat(directory, name)
    if left is not None:
        if not stat.S_ISREG(left.st_mode) or left.st_uid != os.geteuid() or left.st_nlink != 1:
            raise StorageFailed(f"{name!r} beside the log is in the way")
        os.unlink(name, dir_fd=directory)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)
    try:
        os.fchmod(fd, mode)
        return _id(os.fstat(fd))
    finally:
        os.close(fd)


def _stat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _id(found: os.stat_result) -> FileId:
    return found.st_dev, found.st_ino


def _open_files(monitor: Process) -> set[FileId]:
    """What a conmon has open. Raises WrongState where it has ended."""
    found: set[FileId] = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{monitor.pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(_id(os.stat(f"/proc/{monitor.pid}/fd/{name}")))
    if not process.alive(monitor):
        raise WrongState("its monitor is gone, nobody writes its log")
    return found


# --- conmon's control fifo -------------------------------------------------------------------------------------------


async def send(paths: ContainerPaths, monitor: Process, line: bytes) -> None:
    """One command to a conmon, which reads several that arrive together as the first one again and again.

    Returns when the line is written; it is written only when all earlier ones have been read.
    """
    try:
        fd = os.open(paths.control, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        why = "nobody reads it" if error.errno == errno.ENXIO else os.strerror(error.errno or 0)
        raise RuntimeFailed(f"its monitor's control fifo: {why}") from error
    try:
        async with asyncio.timeout(ANSWER_S):
            pause_s = FIRST_LOOK_S
            while _unread(fd):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LOOK_MAX_S)
        os.write(fd, line)
    except TimeoutError:
        raise TimedOut(f"its monitor {monitor.pid} reads no commands") from None
    except OSError as error:
        raise RuntimeFailed(f"its monitor's control fifo: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)


def _unread(fd: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    return count


async def _until_there(path: str, wanted: FileId, monitor: Process) -> None:
    """Until the file that was made is at the log's path: then conmon has closed the old one and opened this.

    Looked for instead of watched: it takes conmon less than a millisecond.
    """
    pause_s = FIRST_LOOK_S
    try:
        async with asyncio.timeout(ANSWER_S):
            while not _is_there(path, wanted):
                # With its container, as a rule. Its last act may have been to reopen.
                if not process.alive(monitor) and not _is_there(path, wanted):
                    raise WrongState("its monitor ended before it reopened the log")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LOOK_MAX_S)
    except TimeoutError:
        raise TimedOut(f"its monitor did not reopen the log within {ANSWER_S:g} s") from None


def _is_there(path: str, wanted: FileId) -> bool:
    try:
        return _id(os.lstat(path)) == wanted
    except OSError:
        return False


def _remove_if_same(path: str, made: FileId) -> None:
    with contextlib.suppress(FileNotFoundError):
        if _id(os.lstat(path)) == made:
            os.unlink(path)

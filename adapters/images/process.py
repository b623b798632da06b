"""The one place where this adapter spawns: skopeo, in a session of its own, bounded in time and output.

Rule 1: a child comes to be by `adapters.children`. Rule 2: `run` returns or raises only when the process is reaped and
its group is empty. Rule 3: the ledger is on disk before the process exists.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import children
from domain.errors import StorageFailed, TimedOut

OUTPUT_MAX = 4 * 2**20
TAIL_MAX = 64 * 1024
REAP_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """`code` is negative for a signal. `out` is cut at OUTPUT_MAX, `err` is the last 64 KiB."""

    code: int
    out: bytes
    err: str


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    ledger: "Ledger | None" = None,
    limit_s: float = 0,
    stall_s: float = 0,
) -> Finished:
    """Runs a command to its end. `limit_s`: all of it; `stall_s`: without a byte read or written; 0: no limit.

    Whatever ends the wait (also a cancellation), the whole group is killed and waited for before this returns.
    Raises TimedOut, StorageFailed (it could not be started).
    """
    child = _Child(argv, env)
    try:
        if ledger is not None:
            ledger.note_child(child.pid)
        await child.wait(argv, limit_s, stall_s)
    finally:
        await uncancelled(child.end())
    return Finished(child.code, bytes(child.out), child.err.decode("utf-8", "replace"))


class _Child:
    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.out, self.err, self.code = bytearray(), bytearray(), 0
        self._loop = asyncio.get_running_loop()
        try:
            self._process = children.start(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise StorageFailed(f"cannot run {argv[0]}: {error.strerror}") from error
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._note_end)
        assert self._process.stdout is not None and self._process.stderr is not None
        self._pipes = {self._process.stdout.fileno(): self.out, self._process.stderr.fileno(): self.err}
        for fd in self._pipes:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, fd)

    async def wait(self, argv: Sequence[str], limit_s: float, stall_s: float) -> None:
        started = moved = self._loop.time()
        seen = -1
        while not self._ended.done():
            now = self._loop.time()
            if limit_s and now - started >= limit_s:
                raise TimedOut(f"{Path(argv[0]).name} took longer than {limit_s:g} s")
            if stall_s:
                if (moves := _bytes_moved(self.pid)) != seen or _waits_for_lock(self.pid):
                    moved, seen = now, moves
                if now - moved >= stall_s:
                    raise TimedOut(f"{Path(argv[0]).name} made no progress for {stall_s:g} s")
            waits = [min(stall_s / 4, 5.0)] if stall_s else []
            waits += [limit_s - (now - started)] if limit_s else []
            await asyncio.wait([self._ended], timeout=min(waits) if waits else None)

    async def end(self) -> None:
        """Kills what is left of the group (children outlive skopeo for a moment), reaps, waits until it is empty."""
        self._kill()
        await asyncio.wait([self._ended], timeout=REAP_S)
        if self._ended.done():
            self._drain()
            self._kill()  # the leader is a zombie still: its group's number cannot have been given away
            self.code = self._process.wait()
            await self._emptied()
        else:
            _log.error("process %d does not end after SIGKILL", self.pid)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for fd in self._pipes:
            self._loop.remove_reader(fd)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _emptied(self) -> None:
        """No event tells when a group is empty: its last members are orphans. Zombies that init leaves do not count."""
        deadline = self._loop.time() + REAP_S
        while self._loop.time() < deadline:
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            if not group_members(self.pid):
                return
            await asyncio.sleep(0.002)
        _log.error("process group %d is not empty after SIGKILL", self.pid)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self._ended.done():
            self._ended.set_result(None)

    def _read(self, fd: int) -> bool:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(fd)
            return False
        buffer = self._pipes[fd]
        buffer += data
        if buffer is self.err and len(buffer) > TAIL_MAX:
            del buffer[:-TAIL_MAX]
        elif buffer is self.out and len(buffer) > OUTPUT_MAX:
            del buffer[OUTPUT_MAX:]
        return True

    def _drain(self) -> None:
        for fd in self._pipes:
            for _ in range(256):
                if not self._read(fd):
                    break


class Ledger:
    """The directory of one run and who runs in it. Written before the process exists.

    A killed daemon leaves it; `strays` then finds the process (pid and start time, or its --tmpdir) and ends it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tmp = directory / "tmp"
        self._facts = {"pid": 0, "start": 0}

    def make(self) -> None:
        for directory in (self.directory, self.tmp):
            directory.mkdir(mode=0o700, parents=True)
        self._write(sync=True)

    def note_child(self, pid: int) -> None:
        self._facts |= {"pid": pid, "start": start_time(pid)}
        self._write(sync=False)

    def _write(self, *, sync: bool) -> None:
        new = self.directory / "ledger.new"
        with open(new, "w") as file:
            json.dump(self._facts, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, self.directory / "ledger.json")
        if sync:
            for directory in (self.directory, self.directory.parent):
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def start_time(pid: int) -> int:
    """Clock ticks since boot, or 0 when there is no such process."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def group_members(group: int) -> tuple[int, ...]:
    """Living processes of a group."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat_fields(int(entry))
            if fields and fields[0] not in "ZX" and fields[2] == str(group):
                found.append(int(entry))
    return tuple(found)


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat after the command name: state, ppid, pgrp, session ... Empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def _bytes_moved(pid: int) -> int:
    """All bytes that skopeo read and wrote, sockets and pipes to its unpacking child included."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines[:2])


def _waits_for_lock(pid: int) -> bool:
    """Another skopeo unpacks a layer into the same store: waiting for it is no stall."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any((words := line.split())[1:2] == ["->"] and str(pid) in words[4:7] for line in lines)


async def uncancelled(work: Coroutine[object, object, object] | asyncio.Future[Any]) -> None:
    """Awaits to the end, however often the caller is cancelled meanwhile; then raises the cancellation."""
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

"""When the kernel kills in a cgroup for want of memory, told by the kernel: nobody polls.

v2: memory.events of all containers on one inotify descriptor. v1: an eventfd for each, registered in
cgroup.event_control; it rings before the kill is counted. Both ring for less, too (a limit that was reached, a cgroup
that goes), as often as a container likes: so each ring leads to a few looks at the counter, with pauses.
"""

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterator

from adapters.oci import cgroups, kernel
from domain.container import KILLED_CODE
from domain.records import Process

LOOKS_S = (0.0, 0.01, 0.05, 0.25, 1.0)
"""Pauses before the looks at the counter after a ring; what rings meanwhile leads to the next ones."""

REST_S = 0.1
"""How long the one inotify descriptor is left alone after it was read: what comes meanwhile is read at once."""

EVENT = struct.Struct("iIII")
READ_MAX = 64 * 1024

KERNEL_LOG_MAX = 256 * 1024

INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""The kernel's PROC_PID_INIT_INO: the same on every machine."""


class Ooms:
    """Has a descriptor only while somebody waits. `seen`: the counters that were read; they outlive their cgroups."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self._inotify = -1
        self._bells: dict[int, list[asyncio.Event]] = {}

    async def grown(self, cgroups_path: str, above: int) -> int:
        """The OOM-kill counter, once it is above a value. Does not return where it cannot be watched."""
        with contextlib.suppress(OSError), self._bell(cgroups_path) as bell:
            kills = self.seen[cgroups_path] = await _grown(cgroups_path, above, bell)
            return kills
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    def _bell(self, cgroups_path: str) -> "contextlib.AbstractContextManager[asyncio.Event]":
        found, below = cgroups.hierarchies(), cgroups.directory_for(cgroups_path)
        if not below.strip("/"):
            raise FileNotFoundError(cgroups_path)
        if found.v2:
            return self._notified(f"{found.unified}{below}/memory.events")
        return _registered(f"{found.v1.get('memory', '/nonexistent')}{below}")

    @contextlib.contextmanager
    def _notified(self, path: str) -> Iterator[asyncio.Event]:
        bell = asyncio.Event()
        if self._inotify < 0:
            self._inotify = kernel.inotify_init()
            self._listen()
        watch = -1
        try:
            watch = kernel.inotify_add_watch(self._inotify, path, kernel.IN_MODIFY)
            self._bells.setdefault(watch, []).append(bell)
            yield bell
        finally:
            self._remove(watch, bell)

    def _remove(self, watch: int, bell: asyncio.Event) -> None:
        left = [one for one in self._bells.pop(watch, []) if one is not bell]
        if left:
            self._bells[watch] = left
        elif watch >= 0:
            with contextlib.suppress(OSError):
                kernel.inotify_rm_watch(self._inotify, watch)
        if not self._bells:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1

    def _listen(self) -> None:
        if self._inotify >= 0:
            asyncio.get_running_loop().add_reader(self._inotify, self._rings)

    def _rings(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._inotify, READ_MAX)
            rung = _watches(data)
            # -1: the kernel has dropped some.
            for watch in self._bells if -1 in rung else rung & set(self._bells):
                for bell in self._bells[watch]:
                    bell.set()
        loop.remove_reader(self._inotify)
        loop.call_later(REST_S, self._listen)


def _watches(data: bytes) -> set[int]:
    found, at = set(), 0
    while at < len(data):
        watch, _, _, length = EVENT.unpack_from(data, at)
        found.add(watch)
        at += EVENT.size + length
    return found


@contextlib.contextmanager
def _registered(directory: str) -> Iterator[asyncio.Event]:
    loop, bell = asyncio.get_running_loop(), asyncio.Event()
    # Closing the eventfd ends the registration.
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def rings() -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        bell.set()

    try:
        counter = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with open(f"{directory}/cgroup.event_control", "w") as file:
                file.write(f"{fd} {counter}")
        finally:
            os.close(counter)
        loop.add_reader(fd, rings)
        yield bell
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def _grown(cgroups_path: str, above: int, bell: asyncio.Event) -> int:
    while (kills := cgroups.oom_kills(cgroups_path)) <= above:
        await bell.wait()
        bell.clear()
        for pause_s in LOOKS_S:
            await asyncio.sleep(pause_s)
            if (kills := cgroups.oom_kills(cgroups_path)) > above:
                return kills
    return kills


def at_end(init: Process | None, code: int | None, note: str) -> bool:
    """Whether the kernel killed a container's init for want of memory, where the counter has gone with its cgroup.

    systemd removes a scope the moment it is empty. The kernel's log names the pid of whom it killed. Where that log
    cannot be read, or tells pids of a namespace that is not ours, there is only conmon's note, which says no time.
    """
    if init is None or code != KILLED_CODE:
        return False
    try:
        if os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE:
            return os.path.isfile(note)
        return b"Killed process %d (" % init.pid in kernel.last_messages(KERNEL_LOG_MAX)
    except OSError:
        return os.path.isfile(note)

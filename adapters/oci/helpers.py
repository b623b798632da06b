"""What commands have left in the background and may live on: a hook's helpers.

Each such command keeps its cgroup and its directory, with a mark for daemons that come later, until the last of its
helpers has ended or the container goes. One pidfd each is all that waiting for that takes; how many there may be is
bounded, and what is beyond ends with its command.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from itertools import islice

from adapters.oci import cgroups, files, process
from adapters.oci.layout import ExecPaths
from domain.errors import DaybookError

IN_ONE_MAX = 16
"""Commands of one container that have left helpers."""

ALL_MAX = 512

REST_S = 0.2
"""Between two looks at who is left: helpers that follow each other quickly do not keep the daemon busy."""

DESCRIPTORS_MAX = 1024
"""Of one process; one that has more counts as a holder of whatever is asked for."""

Remove = Callable[[ExecPaths, str], Awaitable[None]]
"""Removes a cgroup that is empty, and the directory. Raises what it cannot."""


class Helpers:
    def __init__(self, remove: Remove) -> None:
        self._remove = remove
        self._kept: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def keep(self, paths: ExecPaths, cgroup: str) -> bool:
        """Whether what lives in the cgroup may live on. The mark is on disk before."""
        of = [container_id for container_id, _ in self._kept.values()]
        if not cgroup or len(of) >= ALL_MAX or of.count(paths.container_id) >= IN_ONE_MAX:
            return False
        try:
            files.write(paths.kept, cgroup.encode())
        except OSError:
            return False
        # The command's own line holds arguments, which nobody needs any more.
        for path in (paths.spec, paths.log, paths.pidfile):
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.adopt(paths)
        return True

    def adopt(self, paths: ExecPaths) -> bool:
        """Whether this is a command whose helpers live on by its mark; from now on their end is waited for."""
        cgroup = (files.read(paths.kept) or b"").decode(errors="replace")
        if not cgroup or os.path.basename(cgroup) != paths.cgroup:
            return False
        if paths.directory not in self._kept:
            task = asyncio.ensure_future(self._until_over(paths, cgroup))
            self._kept[paths.directory] = paths.container_id, task
            task.add_done_callback(lambda _: self._kept.pop(paths.directory, None))
        return True

    async def _until_over(self, paths: ExecPaths, cgroup: str) -> None:
        # What cannot be waited for or removed now is removed with its container.
        with contextlib.suppress(DaybookError, OSError):
            await _all_gone(cgroup)
            await self._remove(paths, cgroup)


async def _all_gone(cgroup: str) -> None:
    while pids := cgroups.members(cgroup):
        found = [one for pid in pids if (one := process.identity(pid))]
        if found:
            # The oldest is the one that stays, as a rule.
            await process.gone(min(found, key=lambda one: one.start))
        await asyncio.sleep(REST_S)


async def end_holders(runtime: int, cgroup: str) -> None:
    """Kills the members of a cgroup that have a pipe of the runtime open: nothing else keeps it from ending."""
    wanted = pipes(runtime) or set()
    for pid in cgroups.members(cgroup):
        found, held = process.identity(pid), pipes(pid)
        if found is not None and (held is None or held & wanted) and process.send_signal(found, signal.SIGKILL):
            await process.gone(found)


def pipes(pid: int) -> set[int] | None:
    """The inodes of the pipes that a process has open; None where it has too many descriptors to look at."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            names = [entry.path for entry in islice(entries, DESCRIPTORS_MAX + 1)]
    except OSError:
        return set()
    if len(names) > DESCRIPTORS_MAX:
        return None
    found = set()
    for name in names:
        with contextlib.suppress(OSError):
            kind, _, inode = os.readlink(name).partition(":")
            if kind == "pipe":
                found.add(int(inode.strip("[]")))
    return found

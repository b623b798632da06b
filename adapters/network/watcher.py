"""What network there is now: the configuration directory looked at after every change, and STATUS asked now and then.

inotify only wakes; each look reads everything anew, so nothing depends on what an event said. A look also comes every
`poll_s`, for what inotify does not tell (a directory behind a symlink, a network file system).
"""

import asyncio
import contextlib
import ctypes
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from adapters.network.conf import Loaded
from domain.errors import DaybookError

EVENTS_MAX = 64 * 1024
SETTLE_S = 0.02
"""Writers change several files at once: a look waits this long after the first event, once."""
WATCHES_MAX = 64

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO = 0x8, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
SELF = IN_DELETE_SELF | IN_MOVE_SELF
ENTRIES = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
ARRIVALS = IN_MOVED_TO | IN_CREATE

_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger(__name__)


class Inotify:
    """Watches on paths. `set_watches` replaces them all; `wake` is called once or more after anything happened."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._watches: set[int] = set()
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "inotify")
        asyncio.get_running_loop().add_reader(self.fd, self._drain)

    def set_watches(self, wanted: Iterable[tuple[str, int]]) -> None:
        """A path that is not there is passed over. Where one directory has two names, both masks hold."""
        now: dict[str, int] = {}
        for path, mask in wanted:
            with contextlib.suppress(OSError):
                real = os.path.realpath(path)
                now[real] = now.get(real, 0) | mask
        added = {_libc.inotify_add_watch(self.fd, os.fsencode(path), mask) for path, mask in now.items()}
        added.discard(-1)
        for old in self._watches - added:
            _libc.inotify_rm_watch(self.fd, old)
        self._watches = added

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, EVENTS_MAX)
        self._wake()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fd)
        os.close(self.fd)


def watches(directories: Iterable[str]) -> list[tuple[str, int]]:
    """What must be watched to learn of any change in these directories, also of their coming and going.

    Of a directory that is there: its entries, one level of directories in it, and the moving of those above it. Of
    one that is not: arrivals in the nearest one above.
    """
    wanted: list[tuple[str, int]] = []
    for directory in map(Path, directories):
        there = directory.is_dir()
        nearest = next(path for path in (directory, *directory.parents) if path.is_dir())
        wanted.append((str(nearest), ENTRIES | SELF if there else ARRIVALS | SELF))
        if there:
            wanted += [(str(path), ENTRIES | SELF) for path in _below(directory)]
        wanted += [(str(path), SELF) for path in nearest.parents]
    return wanted


def _below(directory: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in directory.iterdir() if path.is_dir()][:WATCHES_MAX]
    return []


class Watcher:
    """`look` reads the directory, `status` asks the plugins: what is wrong, or an empty text. Both may be slow."""

    def __init__(
        self,
        directories: Iterable[str],
        look: Callable[[], Awaitable[Loaded]],
        status: Callable[[Loaded], Awaitable[str]],
        poll_s: float,
    ) -> None:
        self.loaded = Loaded(problem="the CNI plugins have not been looked at yet")
        self.problem = self.loaded.problem
        self._directories = tuple(directories)
        self._look, self._status, self._poll_s = look, status, poll_s
        self._woken = asyncio.Event()
        self._looked = asyncio.Event()
        self._begun = self._told = 0
        self._task: asyncio.Task[None] | None = None
        self._inotify: Inotify | None = None

    async def start(self) -> None:
        """Returns after the first look; STATUS is asked in the background. Without inotify only the poll is left."""
        try:
            self._inotify = Inotify(self.wake)
        except OSError as error:
            _log.warning("cannot watch %s: %s", ", ".join(self._directories), error.strerror)
        await self._look_now()
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def wake(self) -> None:
        """A look as soon as may be."""
        self._woken.set()

    async def looked(self) -> None:
        """Returns when a look that begins after this call has told in `problem` what it saw."""
        wanted = self._begun + 1
        while self._told < wanted:
            await self._looked.wait()

    async def _run(self) -> None:
        while True:
            self._tell(self.loaded.problem or await self._asked())
            self._told = self._begun
            self._looked.set()
            self._looked = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._poll_s)
                await asyncio.sleep(SETTLE_S)
            await self._look_now()

    async def _look_now(self) -> None:
        self._woken.clear()
        self._begun += 1
        if self._inotify is not None:
            # Before the look: what changes after it wakes us again.
            with contextlib.suppress(OSError):
                self._inotify.set_watches(watches(self._directories))
        try:
            loaded = await self._look()
        except DaybookError as error:
            loaded = Loaded(problem=error.text)
        except Exception as error:
            loaded = Loaded(problem=unforeseen(error))
        if loaded.skipped != self.loaded.skipped:
            for each in loaded.skipped:
                _log.warning("CNI configuration %s", each)
        self.loaded = loaded
        if loaded.problem or not loaded.asks_status:
            self._tell(loaded.problem)

    async def _asked(self) -> str:
        try:
            return await self._status(self.loaded)
        except DaybookError as error:
            return error.text
        except Exception as error:
            return unforeseen(error)

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            _log.info("pod network: %s", problem or "ready")
        self.problem = problem


def unforeseen(error: Exception) -> str:
    """For the network's condition: no look may be the last one."""
    _log.error("the CNI configuration could not be looked at", exc_info=error)
    return f"the CNI configuration could not be looked at ({type(error).__name__}, see daybook's log)"

"""An event loop and a clock on which time passes only when everybody waits: hours of grace take no time.

`run(main)` runs a coroutine on such a loop. A program in which all wait and nothing will ever happen is an error.
`turn`, `settle` and `let_pass` drive a loop by hand, so that a test can act between any two steps of it.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from domain.records import Now

T = TypeVar("T")


TURNS_MAX = 100_000
"""Rounds without any time passing; more of them never end."""


class Stuck(AssertionError):
    """Everybody waits, and no timer is set."""


class _Selector(selectors.SelectSelector):
    """Never blocks: where the loop would wait, its time moves on by as much."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Stuck("everybody waits and no timer is set")
        if not ready and timeout:
            self.loop.passed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, start: float = 0.0) -> None:
        selector = _Selector()
        selector.loop = self
        self.passed = start
        self.halted = False
        super().__init__(selector)

    def time(self) -> float:
        return self.passed

    def turn(self) -> None:
        """One round of what is ready now; no time passes."""
        self.call_soon(self.stop)
        self.run_forever()

    @property
    def at_rest(self) -> bool:
        """Everybody waits for a timer or for somebody outside."""
        return not any(not handle.cancelled() for handle in self._ready)  # type: ignore[attr-defined]

    def settle(self) -> None:
        for _ in range(TURNS_MAX):
            if self.halted or self.at_rest:
                return
            self.turn()
        raise Stuck("something goes round and round without any time passing")

    def let_pass(self, seconds: float) -> None:
        """All that is due within this time happens, in order."""
        until = self.passed + seconds
        while True:
            self.settle()
            when = self.next_timer()
            if self.halted or when is None or when > until:
                break
            self.passed = max(self.passed, when)
            self.turn()
        if not self.halted:
            self.passed = max(self.passed, until)

    def next_timer(self) -> float | None:
        timers = (t.when() for t in self._scheduled if not t.cancelled())  # type: ignore[attr-defined]
        return min(timers, default=None)

    def halt(self) -> set["asyncio.Task[Any]"]:
        """SIGKILL: from within this very step on nothing of the loop runs, no handler and no `finally`.

        Whoever calls it from a coroutine must then wait for ever. The tasks are returned so that they stay as they
        are: a task that nobody holds is unwound, and its `finally` would run after all.
        """
        self.halted = True
        tasks = asyncio.all_tasks(self)
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            handle.cancel()
        self.stop()
        return tasks


class VirtualClock:
    """Boot time is the loop's; wall time may be set to step; another boot begins with `reboot`."""

    WALL_AT_START = 1_700_000_000 * 10**9

    def __init__(self) -> None:
        self.wall_offset_ns = 0
        self.boot = 1
        self.base_ns = 10**12

    def now(self) -> Now:
        boot_ns = self.base_ns + int(asyncio.get_running_loop().time() * 1e9)
        return Now(self.WALL_AT_START + boot_ns + self.wall_offset_ns, boot_ns, self.boot_id)

    @property
    def boot_id(self) -> str:
        return f"00000000-0000-0000-0000-{self.boot:012x}"

    async def sleep_until(self, boot_ns: int) -> None:
        while (left := boot_ns - self.now().boot_ns) > 0:
            await asyncio.sleep(left / 1e9)

    def reboot(self) -> None:
        self.boot += 1


def run(main: Coroutine[Any, Any, T], start: float = 0.0) -> T:
    """Runs to the end and closes the loop; tasks left over are cancelled."""
    loop = VirtualLoop(start)
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

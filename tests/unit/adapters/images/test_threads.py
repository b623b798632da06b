import asyncio
import threading

import pytest

from adapters.images.threads import Threads
from domain.errors import StorageFailed, TimedOut


def test_results_and_errors_come_back() -> None:
    async def body() -> None:
        threads = Threads()
        assert await threads.run("add", 5, lambda a, b: a + b, 1, 2) == 3
        with pytest.raises(ZeroDivisionError):
            await threads.run("divide", 5, lambda: 1 // 0)

    asyncio.run(body())


def test_at_most_so_many_at_once() -> None:
    async def body() -> None:
        threads, now, most, lock = Threads(2), 0, 0, threading.Lock()
        together = threading.Barrier(2)

        def call() -> None:
            nonlocal now, most
            with lock:
                now, most = now + 1, max(most, now + 1)
            together.wait(5)
            with lock:
                now -= 1

        await asyncio.gather(*(threads.run("count", 5, call) for _ in range(6)))
        assert most == 2

    asyncio.run(body())


def test_a_hung_call_gives_its_place_back_and_counts_until_it_ends() -> None:
    async def body() -> None:
        threads, release = Threads(1, lost_max=1), threading.Event()
        with pytest.raises(TimedOut, match="cannot hang"):
            await threads.run("hang", 0.05, release.wait)
        assert threads.abandoned == 1
        with pytest.raises(StorageFailed, match="still hang"):
            await threads.run("next", 5, int)
        release.set()
        while threads.abandoned:
            await asyncio.sleep(0.001)
        assert await threads.run("next", 5, int) == 0

    asyncio.run(body())


def test_a_cancelled_caller_waits_for_the_end() -> None:
    async def body() -> None:
        threads, begun, release, ended = Threads(), threading.Event(), threading.Event(), []

        def call() -> None:
            begun.set()
            release.wait(5)
            ended.append(1)

        task = asyncio.ensure_future(threads.run("work", 5, call))
        while not begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [1] and threads.abandoned == 0

    asyncio.run(body())

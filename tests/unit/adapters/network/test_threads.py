"""Blocking calls in threads that may be lost."""

import asyncio
import threading

import pytest

from adapters.network.threads import Threads
from domain.errors import Busy, TimedOut


def test_results_and_errors_come_back() -> None:
    async def body() -> None:
        threads = Threads()
        assert await threads.call(max, 3, 4) == 4
        assert await threads.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await threads.call(lambda: 1 // 0)

    asyncio.run(body())


def test_a_cancelled_caller_waits_for_the_end() -> None:
    async def body() -> None:
        go, done = threading.Event(), []
        task = asyncio.ensure_future(Threads().call(lambda: done.append(go.wait(10))))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]

    asyncio.run(body())


def test_a_hung_call_is_abandoned_and_its_place_is_taken() -> None:
    async def body() -> None:
        go, threads = threading.Event(), Threads(limit=1, limit_s=0.05)
        with pytest.raises(TimedOut):
            await threads.call(go.wait)
        with pytest.raises(Busy):
            await threads.call(max, 1, 2)
        go.set()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await threads.call(max, 1, 2) == 2
                    return
                except Busy:
                    await asyncio.sleep(0.001)

    asyncio.run(body())

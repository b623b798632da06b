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
        threads._limit_s = 10
        waiting = asyncio.ensure_future(threads.call(max, 1, 2))
        go.set()
        assert await waiting == 2

    asyncio.run(body())


def test_more_calls_than_places_wait_their_turn() -> None:
    """A burst of pods on a slow disk is no reason to refuse one, nor to call the network not ready."""

    async def body() -> None:
        go, threads = threading.Event(), Threads(limit=2)
        calls = [asyncio.ensure_future(threads.call(go.wait, 10)) for _ in range(20)]
        await asyncio.sleep(0)
        cancelled = calls.pop()
        cancelled.cancel()
        go.set()
        assert await asyncio.gather(*calls) == [True] * 19
        await asyncio.wait([cancelled])
        assert await asyncio.gather(*(threads.call(max, 3, n) for n in range(3))) == [3, 3, 3]

    asyncio.run(body())


def test_where_no_thread_can_be_started_no_place_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        threads = Threads(limit=1, limit_s=0.05)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", lambda _: _refuse())
            with pytest.raises(Busy):
                await threads.call(max, 1, 2)
        assert await threads.call(max, 1, 2) == 2

    asyncio.run(body())


def _refuse() -> None:
    raise RuntimeError("can't start new thread")

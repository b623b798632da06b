"""drains: what is kept, what is thrown away, and that a writer is never held up."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from adapters.oci import drains
from adapters.oci.drains import Drain, Pool


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def wrapper() -> None:
        before = os.listdir("/proc/self/fd")
        asyncio.run(asyncio.wait_for(test(), 20))
        assert len(os.listdir("/proc/self/fd")) == len(before)

    return wrapper


async def fed(drain: Drain, data: bytes) -> None:
    """Written by a thread, as a child would, to the end."""

    def write() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(drain.write, left) :]

    await asyncio.to_thread(write)
    drain.started()
    await drain.ended


@on_loop
async def test_everything_up_to_the_bound() -> None:
    drain = Drain(Pool(), 300_000)
    data = os.urandom(300_000)
    await fed(drain, data)
    assert drain.data == data
    drain.close()


@on_loop
async def test_beyond_the_bound_it_is_read_on() -> None:
    drain = Drain(Pool(), 100_000)
    data = os.urandom(1_000_000)
    await fed(drain, data)
    assert drain.data == data[:100_000]
    drain.close()


@on_loop
async def test_the_pool_is_shared_and_given_back() -> None:
    pool = Pool(drains.SURE)
    one, two = Drain(pool), Drain(pool)
    for drain in (one, two):
        await fed(drain, b"x" * (3 * drains.SURE))
    assert (len(one.data), len(two.data)) == (2 * drains.SURE, drains.SURE)
    one.close()
    two.close()
    two.close()
    assert pool.free == drains.SURE


@on_loop
async def test_a_closed_drain_ends_its_writer() -> None:
    drain = Drain(Pool())
    writer = os.dup(drain.write)
    drain.close()
    await drain.ended
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)

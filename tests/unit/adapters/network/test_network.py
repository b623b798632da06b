"""What of the network adapter needs no plugin: its gate, its options. The contract is in conformance/."""

import asyncio

import pytest

from adapters.network.network import CniNetwork, Gate
from domain.errors import InvalidRequest, TimedOut


def test_the_preference_is_one_of_three() -> None:
    with pytest.raises(InvalidRequest, match="cni, ipv4, ipv6"):
        CniNetwork("/nowhere", ip_preference="ipv5")


def test_one_alone_or_many_together() -> None:
    async def body() -> None:
        gate, order = Gate(), []

        async def enter(name: str, alone: bool, until: asyncio.Event) -> None:
            async with gate.exclusive(10) if alone else gate.shared():
                order.append(name)
                await until.wait()

        first, last = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.ensure_future(enter(name, alone, until)) for name, alone, until in (
            ("a", False, first), ("b", False, first), ("gc", True, last), ("c", False, last), ("gc2", True, last),
        )]  # fmt: skip
        await asyncio.sleep(0.01)
        assert order == ["a", "b"]
        first.set()
        await asyncio.sleep(0.01)
        assert order == ["a", "b", "gc"]
        last.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "gc", "gc2", "c"]

    asyncio.run(body())


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    async def body() -> None:
        gate = Gate()
        async with gate.shared():
            waiting = asyncio.ensure_future(gate.exclusive(10).__aenter__())
            later = asyncio.ensure_future(gate.shared().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            await asyncio.wait_for(later, 1)

    asyncio.run(body())


def test_one_that_waits_too_long_to_be_alone_gives_way() -> None:
    """An ADD that hangs holds up neither GC for ever nor, behind it, every stop."""

    async def body() -> None:
        gate = Gate()
        async with gate.shared():
            waiting = asyncio.ensure_future(gate.exclusive(0.05).__aenter__())
            await asyncio.sleep(0)
            later = asyncio.ensure_future(gate.shared().__aenter__())
            with pytest.raises(TimedOut, match="attached or released for more than"):
                await waiting
            await asyncio.wait_for(later, 1)

    asyncio.run(body())


def test_one_alone_is_counted_with_those_who_wait_to_be() -> None:
    async def body() -> None:
        gate = Gate()
        async with gate.exclusive(1):
            with pytest.raises(TimedOut):
                await gate.exclusive(0.01).__aenter__()
        async with gate.shared():
            pass

    asyncio.run(asyncio.wait_for(body(), 5))

"""What of the network adapter needs no plugin: its gate, its options. The contract is in conformance/."""

import asyncio

import pytest

from adapters.network.network import CniNetwork, Gate
from domain.errors import InvalidRequest


def test_the_preference_is_one_of_three() -> None:
    with pytest.raises(InvalidRequest, match="cni, ipv4, ipv6"):
        CniNetwork("/nowhere", ip_preference="ipv5")


def test_one_alone_or_many_together() -> None:
    async def body() -> None:
        gate, order = Gate(), []

        async def enter(name: str, alone: bool, until: asyncio.Event) -> None:
            async with gate.exclusive() if alone else gate.shared():
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
            waiting = asyncio.ensure_future(gate.exclusive().__aenter__())
            later = asyncio.ensure_future(gate.shared().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            await asyncio.wait_for(later, 1)

    asyncio.run(body())

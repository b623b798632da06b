"""What the fake alone can do: fail, hang or be cut at every step of every effect. The contract is in conformance/."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from adapters.network.fake import Act, FakeNetwork, Net
from domain.config import SandboxConfig
from domain.errors import NetworkFailed
from domain.lifecycle import SandboxState
from domain.sandbox import Sandbox

MARK = {"log_id": "log", "seq": 1}
SANDBOX = Sandbox("b" * 64, SandboxState.SETTING_UP, SandboxConfig("p", "u", "n"), "", 1, boot_id="boot-1")


async def whole_life(net: Net) -> None:
    network = FakeNetwork(net)
    await network.start()
    await network.add(SANDBOX, "/ns", {}, MARK)
    await network.check(SANDBOX.id, "/ns")
    await network.gc([])
    await network.delete(SANDBOX.id, "/ns")
    await network.close()


def steps() -> list[str]:
    net = Net()
    asyncio.run(whole_life(net))
    assert net.leftovers() == {}
    return list(dict.fromkeys(net.steps))


async def hang_and_kill(net: Net) -> None:
    work = asyncio.ensure_future(whole_life(net))
    while not any(name in net.steps for name in net.script):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not work.done()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def fail(net: Net) -> None:
    with pytest.raises(NetworkFailed):
        await whole_life(net)


def test_every_part_of_an_effect_is_a_step() -> None:
    assert len(steps()) == 11


@pytest.mark.parametrize("step", steps())
@pytest.mark.parametrize(("scripted", "live"), [(Act.HANG, hang_and_kill), (NetworkFailed("scripted"), fail)])
def test_delete_after_a_cut_at_every_step(step: str, scripted: Any, live: Callable[[Net], Awaitable[None]]) -> None:
    async def body() -> None:
        net = Net()
        net.at(step, scripted)
        await live(net)
        # Whatever exists is known by an entry of the cache.
        assert not {*net.held.values(), *net.links} - set(FakeNetwork(net).observe())
        await FakeNetwork(net).delete(SANDBOX.id, "")
        assert net.leftovers() == {}

    asyncio.run(body())


def test_steps_of_another_machine() -> None:
    reached: list[str] = []

    async def step(name: str) -> None:
        reached.append(name)

    asyncio.run(whole_life(Net(step=step)))
    assert reached[:2] == ["net.add.before", "net.add.intent"] and len(reached) == 11


def test_after_a_reboot_addresses_are_held_still() -> None:
    async def body() -> None:
        net = Net()
        network = FakeNetwork(net)
        await network.start()
        await network.add(SANDBOX, "/ns", {}, MARK)
        net.reboot()
        with pytest.raises(NetworkFailed, match="CHECK"):
            await network.check(SANDBOX.id, "/ns")
        assert set(net.leftovers()) == {"entries", "addresses"}

    asyncio.run(body())

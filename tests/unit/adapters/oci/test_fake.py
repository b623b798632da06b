"""What the fake alone can do: fail, hang or be cut at every step of every effect. The contract is in conformance/."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from adapters.oci.fake import Act, FakeSandboxes, FakeTasks, World
from domain.config import ContainerConfig, ContainerSecrets, NamespaceMode, NamespaceOptions, SandboxConfig
from domain.container import Container
from domain.errors import RuntimeFailed
from domain.events import Deadline
from domain.lifecycle import ContainerState, SandboxState
from domain.observations import MonitorState, TaskState
from domain.sandbox import Sandbox

MARK = {"log_id": "log", "seq": 1}
CONTAINER = Container("a" * 64, "b" * 64, ContainerState.CREATING, ContainerConfig("x"), "", "", "", "", "SIGTERM", 1)
POD = NamespaceOptions(NamespaceMode.NODE, NamespaceMode.POD, NamespaceMode.POD)
SANDBOX = Sandbox("b" * 64, SandboxState.READY, SandboxConfig("p", "u", "n", namespaces=POD), "", 1, boot_id="boot-1")


async def never(_: int) -> None:
    await asyncio.get_running_loop().create_future()


async def whole_life(world: World) -> None:
    tasks, sandboxes = FakeTasks(world), FakeSandboxes(world)
    infra = await sandboxes.set_up(SANDBOX.id, SANDBOX, MARK)
    assert infra is not None
    made = await tasks.create(CONTAINER, SANDBOX, ContainerSecrets(), MARK)
    container = replace(CONTAINER, init=made.init, monitor=made.monitor)
    await tasks.start(container)
    await tasks.stop(container, Deadline(10, "boot-1"), never)
    assert (await tasks.wait_exit(container)).code == 143
    await tasks.tidy(container)
    await tasks.remove(container.id)
    await sandboxes.remove(SANDBOX.id)


def steps() -> list[str]:
    world = World()
    asyncio.run(whole_life(world))
    assert not world.tasks and not world.pods
    return list(dict.fromkeys(world.steps))


async def hang_and_kill(world: World) -> None:
    """The daemon hangs at the step and is killed there."""
    work = asyncio.ensure_future(whole_life(world))
    while not work.done() and not any(name in world.steps for name in world.script):
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def fail(world: World) -> None:
    with pytest.raises(RuntimeFailed):
        await whole_life(world)


@pytest.mark.parametrize("step", steps())
@pytest.mark.parametrize(("scripted", "live"), [(Act.HANG, hang_and_kill), (RuntimeFailed("scripted"), fail)])
def test_removal_after_a_cut_at_every_step(step: str, scripted: Any, live: Callable[[World], Awaitable[None]]) -> None:
    async def body() -> None:
        world = World()
        world.at(step, scripted)
        await live(world)
        assert step in world.steps
        await FakeTasks(world).remove(CONTAINER.id)
        await FakeSandboxes(world).remove(SANDBOX.id)
        assert not world.tasks and not world.pods

    asyncio.run(body())


def test_the_world_goes_on_without_a_daemon() -> None:
    async def body() -> None:
        world = World()
        made = await FakeTasks(world).create(CONTAINER, SANDBOX, ContainerSecrets(), MARK)
        container = replace(CONTAINER, init=made.init, monitor=made.monitor)
        await FakeTasks(world).start(container)
        waiting = asyncio.ensure_future(FakeTasks(world).wait_exit(container))
        await asyncio.sleep(0)
        world.end(container.id, 137, oom=True)
        ended = await waiting
        assert (ended.code, ended.oom, ended.oom_kills) == (137, True, 1)
        seen = FakeTasks(world).observe([], world.boot_id)[container.id]
        assert (seen.task, seen.monitor) == (TaskState.STOPPED, MonitorState.DEAD)

    asyncio.run(body())


def test_reboot() -> None:
    async def body() -> None:
        world = World()
        made = await FakeTasks(world).create(CONTAINER, SANDBOX, ContainerSecrets(), MARK)
        container = replace(CONTAINER, init=made.init, monitor=made.monitor)
        world.reboot("boot-2")
        assert (await FakeTasks(world).wait_exit(container)).code is None
        assert FakeTasks(world).observe([container], "boot-2")[container.id].task is TaskState.STOPPED

    asyncio.run(body())

"""Kills for want of memory that a container outlives: on record at their time, not the reason of a later end, and few."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from domain import commands as c
from domain import effects as f
from domain import events as e
from domain.errors import LimitReached
from service.ooms import PAUSE_NS
from tests.unit.domain import builders as b
from tests.unit.service.desk import Bench, turns, virtual
from tests.unit.service.test_handlers import bench, watch

PAUSE_S = PAUSE_NS / 1e9


async def watched() -> tuple[Bench, "asyncio.Future[list[c.Command]]"]:
    table = await bench(b.S.RUNNING)
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    return table, watching


async def killed(table: Bench, times: int = 1) -> None:
    for _ in range(times):
        table.world.kill_child(b.CON)
        await turns()


@virtual
async def test_it_is_told_while_the_container_runs() -> None:
    table, watching = await watched()
    await killed(table)
    assert table.reported == [c.RecordOom(b.CON, 1)] and not watching.done()
    assert table.desk.node.containers[b.CON].oom_kills == 1
    table.world.end(b.CON, 0)
    assert (await watching)[-1].oom is False


@pytest.mark.parametrize("code", [0, 1, 137, 143])
@virtual
async def test_it_is_not_the_reason_of_a_later_end(code: int) -> None:
    table, watching = await watched()
    await killed(table, 3)
    table.world.end(b.CON, code)
    await watching
    ended = table.desk.node.containers[b.CON]
    assert (ended.exit_code, ended.reason) == (code, "Completed" if code == 0 else "Error")
    assert ended.oom_kills == 3, "those that the log was spared are told with the end"


@virtual
async def test_a_kill_that_ends_it_is_the_reason_also_after_others() -> None:
    table, watching = await watched()
    await killed(table, 2)
    table.world.end(b.CON, 137, oom=True)
    await watching
    ended = table.desk.node.containers[b.CON]
    assert (ended.reason, ended.oom_kills) == ("OOMKilled", 3)


@virtual
async def test_killed_again_and_again_it_is_told_once_a_minute_with_the_count() -> None:
    table, watching = await watched()
    for _ in range(600):
        await killed(table, 7)
        await asyncio.sleep(1)
    told = [command.kills for command in table.reported if isinstance(command, c.RecordOom)]
    assert told[0] == 1 and len(told) == 600 // PAUSE_S
    await asyncio.sleep(PAUSE_S)
    assert table.reported[-1] == c.RecordOom(b.CON, 4200)
    watching.cancel()
    await asyncio.wait([watching])


@virtual
async def test_what_was_not_taken_is_told_later() -> None:
    table, watching = await watched()
    folds, full = table.handlers, [LimitReached("the log is full")]
    report: Callable[[c.Command], Awaitable[None]] = table.report

    async def refused(command: c.Command) -> None:
        if full:
            raise full.pop()
        await report(command)

    watching.cancel()
    await asyncio.wait([watching])
    again = asyncio.ensure_future(folds.handle(watch(table), refused))
    await turns()
    await killed(table)
    assert table.reported == []
    await asyncio.sleep(PAUSE_S + 1)
    assert table.reported == [c.RecordOom(b.CON, 1)]
    again.cancel()
    await asyncio.wait([again])


@virtual
async def test_one_before_its_start_is_on_record_is_told_after_it() -> None:
    table = await bench(b.S.STARTING)
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    table.world.tasks[b.CON].started = True
    await killed(table)
    table.desk.put(b.CON_KEY, e.ContainerStarted(b.WALL))
    await asyncio.sleep(PAUSE_S + 1)
    assert table.desk.node.containers[b.CON].oom_kills == 1
    watching.cancel()
    await asyncio.wait([watching])


@virtual
async def test_a_daemon_that_starts_later_tells_what_it_missed() -> None:
    """And what was told before is neither told again nor the reason of the end."""
    table = await bench(b.S.RUNNING)
    table.desk.put(b.CON_KEY, e.ContainerOom(0, 2))
    table.world.tasks[b.CON].oom_kills = 3
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    assert table.reported == [c.RecordOom(b.CON, 3)]
    table.world.end(b.CON, 137)
    await watching
    assert table.desk.node.containers[b.CON].reason == "Error"


@virtual
async def test_a_stop_that_tells_the_end_first_knows_it_too() -> None:
    table, watching = await watched()
    await killed(table)
    table.desk.put(b.CON_KEY, e.ContainerStopRequested("SIGTERM", 0, e.Deadline(0, "boot-0")))
    stop = table.desk.node.containers[b.CON].stop
    assert stop is not None
    await table.do(f.StopTask(b.CON, stop.deadline))
    await watching
    ended = table.desk.node.containers[b.CON]
    assert (ended.exit_code, ended.reason, ended.oom_kills) == (137, "Error", 1)

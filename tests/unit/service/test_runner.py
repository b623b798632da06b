"""What runs is what is due: start, cancel, succeed, repeat, drain."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from domain import commands as c
from domain import effects as f
from domain import events as e
from domain.errors import Busy, RuntimeFailed, StorageFailed
from domain.records import Evidence
from service.rooms import PLACES
from service.runner import BACKOFF_MAX_S, Report
from tests.unit.domain import builders as b
from tests.unit.service.desk import Desk, Stand, turns, virtual

CREATED = c.RecordCreated(b.CON, b.INIT, b.MONITOR, b.USER, b.RUNTIME)
Handle = Callable[[Any, Report], Awaitable[None]]


class Effects:
    """A handler that notes when an effect or watch begins and how it ends; `act[type]` is what it does."""

    def __init__(self, **act: Handle) -> None:
        self.noted: list[str] = []
        self.act = act

    async def __call__(self, what: Any, report: Report) -> None:
        name = type(what).__name__
        self.noted.append(name)
        try:
            await self.act.get(name, forever)(what, report)
        except asyncio.CancelledError:
            self.noted.append(f"{name} cancelled")
            raise
        self.noted.append(f"{name} ended")


async def forever(what: Any, report: Report) -> None:
    await asyncio.Event().wait()


async def at_once(what: Any, report: Report) -> None: ...


def reporting(command: c.Command) -> Handle:
    async def act(what: Any, report: Report) -> None:
        await report(command)

    return act


class Failing:
    """Fails so often, then ends, or where `then` says so goes on for ever; notes the times."""

    def __init__(self, times: int, error: Exception | None = None, then: Handle = at_once) -> None:
        self.left = times
        self.then = then
        self.error = error or RuntimeFailed("scripted")
        self.at: list[float] = []

    async def __call__(self, what: Any, report: Report) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self.left -= 1
        if self.left >= 0:
            raise self.error
        await self.then(what, report)


@virtual
async def test_an_intent_starts_its_effect_and_the_outcome_is_on_record() -> None:
    desk = Desk().with_con(b.S.CREATING)
    effects = Effects(CreateTask=reporting(CREATED))
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY], seq=7)
    await turns()
    assert effects.noted == ["CreateTask", "WatchTask", "CreateTask ended"]
    assert desk.node.containers[b.CON].state == "CREATED"
    assert (stand.causes[0].kind, stand.causes[0].what, stand.causes[0].led_by) == ("effect", "CreateTask", 7)
    assert not stand.runner.busy(b.CON_KEY) and not stand.runner.in_flight()


@virtual
async def test_a_pointless_effect_is_cancelled_and_its_successor_waits_for_its_end() -> None:
    desk = Desk().with_con(b.S.CREATING)
    may_end = asyncio.Event()

    async def slow_to_end(what: Any, report: Report) -> None:
        try:
            await forever(what, report)
        finally:
            await may_end.wait()

    effects = Effects(CreateTask=slow_to_end)
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await turns()
    removal = desk.ask(c.RemoveContainer(b.CON))
    await turns()
    assert desk.node.containers[b.CON].state == "REMOVING"
    assert effects.noted == ["CreateTask"]
    may_end.set()
    await turns()
    assert effects.noted == ["CreateTask", "CreateTask cancelled", "RemoveTask"]
    removal.cancel()


@virtual
async def test_an_effect_whose_outcome_is_known_is_not_cancelled() -> None:
    desk = Desk().with_con(b.S.CREATING)
    held, gate = asyncio.Event(), asyncio.Event()

    async def hook(when: str) -> None:
        if when == "before" and not held.is_set():
            held.set()
            await gate.wait()

    effects = Effects(CreateTask=reporting(CREATED))
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    desk.log.hook = hook
    await held.wait()
    stop = desk.ask(c.StopContainer(b.CON, 0))
    stand.runner._slots[b.CON_KEY].effect.what = f.UndoTask(b.CON)  # type: ignore[union-attr]
    stand.runner.kick([b.CON_KEY])
    await turns()
    gate.set()
    await turns()
    assert "CreateTask cancelled" not in effects.noted and "container.created" in desk.events()
    assert desk.node.containers[b.CON].state == "STOPPING"
    stop.cancel()


@virtual
async def test_what_fails_is_repeated_later_and_later_up_to_a_bound() -> None:
    desk = Desk().with_con(b.S.REMOVING)
    failing = Failing(12)
    stand = Stand(desk, Effects(RemoveTask=failing))
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(0.1)
    assert stand.runner.busy(b.CON_KEY) and not stand.runner.in_flight()
    assert stand.runner.last_error[b.CON_KEY] == "scripted"
    await asyncio.sleep(400)
    gaps = [round(later - sooner, 6) for sooner, later in zip(failing.at, failing.at[1:], strict=False)]
    assert gaps[:5] == [0.2, 0.4, 0.8, 1.6, 3.2]
    assert max(gaps) == BACKOFF_MAX_S and gaps == sorted(gaps)
    assert stand.runner.failures == 12


@virtual
async def test_a_new_intent_does_not_wait_for_the_old_ones_back_off() -> None:
    desk = Desk().with_con(b.S.EXITED)
    effects = Effects(TidyTask=Failing(99))
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(20)
    call = desk.ask(c.RemoveContainer(b.CON))
    await turns()
    assert effects.noted[-1] == "RemoveTask"
    call.cancel()


@virtual
async def test_what_became_pointless_before_it_began_makes_room_for_what_is_due() -> None:
    """Two records of one transaction: the first makes an effect due, the second another one."""
    desk = Desk().with_con(b.S.CREATED)
    effects = Effects()
    stand = Stand(desk, effects)
    desk.put(b.CON_KEY, e.ContainerStartRequested())
    stand.runner.kick([b.CON_KEY])
    desk.put(b.CON_KEY, b.STOP)
    stand.runner.kick([b.CON_KEY])
    await turns()
    assert sorted(effects.noted) == ["StopTask", "WatchTask"]


@virtual
async def test_a_watch_that_became_pointless_before_it_began_makes_room_too() -> None:
    desk = Desk().with_con(b.S.RUNNING)
    effects = Effects()
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    desk.put(b.CON_KEY, e.ContainerMonitorLost(b.WALL))
    stand.runner.kick([b.CON_KEY])
    await turns()
    assert effects.noted == ["WatchTask"]
    assert not stand.runner.busy(b.CON_KEY)


@virtual
async def test_an_unforeseen_error_is_told_and_repeated() -> None:
    desk = Desk().with_con(b.S.REMOVING)
    failing = Failing(1, ValueError("a bug"))
    stand = Stand(desk, Effects(RemoveTask=failing))
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(1)
    assert len(failing.at) >= 2 and stand.runner.failures == 1


@virtual
async def test_a_quiet_effect_runs_once() -> None:
    desk = Desk().with_con(b.S.EXITED)
    effects = Effects(TidyTask=at_once)
    stand = Stand(desk, effects)
    for _ in range(3):
        stand.runner.kick([b.CON_KEY])
        await asyncio.sleep(60)
    assert effects.noted == ["TidyTask", "TidyTask ended"]
    stand.runner.repeat(b.CON_KEY)
    await turns()
    assert effects.noted.count("TidyTask") == 2


@virtual
async def test_a_quiet_effect_that_fails_is_repeated_until_it_is_done() -> None:
    desk = Desk().with_con(b.S.EXITED)
    failing = Failing(3)
    stand = Stand(desk, Effects(TidyTask=failing))
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(600)
    assert len(failing.at) == 4


@virtual
async def test_commands_follow_their_state_and_say_why() -> None:
    desk = Desk().with_con(b.S.STOPPING)
    desk.put(b.CON_KEY, e.ContainerStopMoved(10, b.LATER, "remove"))
    stand = Stand(desk, Effects())
    await desk.report(c.RecordExit(b.CON, 0, b.WALL, Evidence("exit-file")))
    await turns()
    assert stand.asked == [c.RemoveContainer(b.CON)]
    assert (stand.causes[-1].kind, stand.causes[-1].what) == ("due", "RemoveContainer")
    assert stand.causes[-1].led_by == desk.log.head().seq - 1
    assert desk.node.containers[b.CON].state == "REMOVING"


@virtual
async def test_a_command_that_was_refused_is_asked_again() -> None:
    desk = Desk().with_con(b.S.STOPPING)
    desk.put(b.CON_KEY, e.ContainerStopMoved(10, b.LATER, "remove"))
    stand = Stand(desk, Effects())
    stand.refuse = [Busy("later"), StorageFailed("later")]
    await desk.report(c.RecordExit(b.CON, 0, b.WALL, Evidence("exit-file")))
    await asyncio.sleep(5)
    assert stand.asked == [c.RemoveContainer(b.CON)] * 3
    assert desk.node.containers[b.CON].state == "REMOVING"


def interrupted(desk: Desk, seconds: float) -> Desk:
    desk.with_con(b.S.CREATING)
    give_up = e.Deadline(desk.clock.now().boot_ns + int(seconds * 1e9), desk.clock.boot_id)
    return desk.put(b.CON_KEY, e.ContainerCreateInterrupted(give_up))


@virtual
async def test_an_interrupted_create_is_given_up_at_its_deadline() -> None:
    desk = interrupted(Desk(), 600)
    stand = Stand(desk, Effects(UndoTask=at_once))
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(599)
    assert not stand.asked
    await asyncio.sleep(2)
    assert stand.asked == [c.RemoveContainer(b.CON)] and desk.node.containers[b.CON].state == "REMOVING"


@virtual
async def test_a_deadline_of_another_boot_has_passed() -> None:
    desk = Desk().with_con(b.S.CREATING)
    desk.put(b.CON_KEY, e.ContainerCreateInterrupted(e.Deadline(10**18, "another boot")))
    stand = Stand(desk, Effects(UndoTask=at_once))
    stand.runner.kick([b.CON_KEY])
    await turns()
    assert stand.asked == [c.RemoveContainer(b.CON)]


@virtual
async def test_giving_up_is_asked_again_where_it_was_refused() -> None:
    desk = interrupted(Desk(), 600)
    stand = Stand(desk, Effects(UndoTask=at_once))
    stand.refuse = [Busy("later")]
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(700)
    assert stand.asked == [c.RemoveContainer(b.CON)] * 2


@virtual
async def test_a_retry_in_time_ends_the_timer() -> None:
    desk = interrupted(Desk(), 600)
    stand = Stand(desk, Effects(UndoTask=at_once, CreateTask=reporting(CREATED)))
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(10)
    assert await desk.ask(b.create("another")) == b.CON
    await asyncio.sleep(700)
    assert not stand.asked


@virtual
async def test_a_watch_follows_its_parameters() -> None:
    desk = Desk().with_con()
    effects = Effects()
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await turns()
    await desk.report(c.RecordMonitorLost(b.CON))
    await turns()
    assert effects.noted == ["WatchTask", "WatchTask cancelled", "WatchTask"]
    assert not stand.runner.busy(b.CON_KEY)


@virtual
async def test_a_watch_that_fails_is_set_again() -> None:
    desk = Desk().with_con()
    failing = Failing(2, then=forever)
    stand = Stand(desk, Effects(WatchTask=failing))
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(5)
    assert len(failing.at) == 3 and stand.runner.failures == 2


@virtual
async def test_a_watch_replaced_in_its_pause_is_set_again() -> None:
    desk = Desk().with_con()
    failing = Failing(1, then=forever)
    effects = Effects(WatchTask=failing)
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(0.1)
    await desk.report(c.RecordMonitorLost(b.CON))
    await asyncio.sleep(10)
    assert len(failing.at) == 2


@virtual
async def test_effects_that_start_processes_are_bounded_and_others_are_not() -> None:
    desk = Desk().with_box()
    keys = []
    for number in range(PLACES["runtime"] + 3):
        keys.append(e.container_key(f"c{number}"))
        desk.put(keys[-1], b.create_requested(name=f"k{number}"))
    desk.put("image/pulled", e.ImagePullRequested())
    effects = Effects()
    stand = Stand(desk, effects)
    stand.runner.kick([*keys, "image/pulled"])
    await turns()
    assert effects.noted.count("CreateTask") == PLACES["runtime"]
    assert effects.noted.count("PullImage") == 1


@virtual
async def test_drain_waits_so_long_and_counts_what_it_cancels() -> None:
    desk = Desk().with_con(b.S.CREATING)
    effects = Effects()
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await turns()
    began = asyncio.get_running_loop().time()
    assert await stand.runner.drain(10.0) == 1
    assert asyncio.get_running_loop().time() - began == 10.0
    assert effects.noted == ["CreateTask", "CreateTask cancelled"]


@virtual
async def test_drain_does_not_wait_for_the_grace_of_a_stop() -> None:
    desk = Desk().with_con(b.S.STOPPING)
    effects = Effects()
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await turns()
    began = asyncio.get_running_loop().time()
    assert await stand.runner.drain(10.0) == 1
    assert asyncio.get_running_loop().time() == began
    assert {"StopTask cancelled", "WatchTask cancelled"} < set(effects.noted)


@virtual
async def test_drain_lets_effects_end_and_starts_nothing_new() -> None:
    desk = Desk().with_con(b.S.CREATING)

    async def soon(what: Any, report: Report) -> None:
        await asyncio.sleep(3)
        await report(CREATED)

    effects = Effects(CreateTask=soon)
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await turns()
    assert await stand.runner.drain(10.0) == 0
    await asyncio.sleep(60)
    assert desk.events()[-1] == "container.created" and "WatchTask" not in effects.noted


@virtual
async def test_what_owes_nothing_any_more_is_forgotten() -> None:
    desk = Desk().with_con(b.S.REMOVING)
    stand = Stand(desk, Effects(RemoveTask=reporting(c.RecordContainerRemoved(b.CON))))
    stand.runner.kick([b.CON_KEY], seq=3)
    await turns()
    assert b.CON not in desk.node.containers
    assert b.CON_KEY not in stand.runner._slots and not stand.runner.last_error


@pytest.mark.parametrize("state", [b.S.CREATING, b.S.STOPPING, b.S.REMOVING])
@virtual
async def test_an_effect_that_ends_without_changing_its_state_is_repeated(state: Any) -> None:
    desk = Desk().with_con(state)
    effects = Effects(CreateTask=at_once, StopTask=at_once, RemoveTask=at_once)
    stand = Stand(desk, effects)
    stand.runner.kick([b.CON_KEY])
    await asyncio.sleep(2)
    begun = [name for name in effects.noted if name in ("CreateTask", "StopTask", "RemoveTask")]
    assert 3 <= len(begun) <= 6

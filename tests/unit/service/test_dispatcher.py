"""Lanes, claims and answers: what a command meets between its arrival and its outcome."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from adapters.log.errors import LogBroken, LogFull
from domain import commands as c
from domain import events as e
from domain.config import PullCredentials
from domain.errors import Busy, LimitReached, NameTaken, NotReady, PullFailed, StorageFailed
from domain.names import sandbox_name
from domain.records import Cause, Draft, Evidence
from service.dispatcher import LANE_WAITERS_MAX
from tests.unit.domain import builders as b
from tests.unit.service.desk import HELD_BACK, Desk, turns, virtual

READY = c.RecordSandboxReady(b.BOX, None)


class Gate:
    """A hook that holds appends until they are let through; `waiting` counts them."""

    def __init__(self, desk: Desk) -> None:
        self.waiting = 0
        self.open = asyncio.Event()
        desk.log.hook = self

    async def __call__(self, when: str) -> None:
        if when == "before":
            self.waiting += 1
            await self.open.wait()


@virtual
async def test_commands_of_one_pod_wait_for_each_other_in_order() -> None:
    desk = Desk()
    gate = Gate(desk)
    first, second = desk.ask(b.run("one", uid="u")), desk.ask(b.run("two", uid="u", attempt=1))
    other = desk.ask(b.run("three", uid="v"))
    await turns()
    assert gate.waiting == 2
    gate.open.set()
    await turns()
    keys = [r.key for r in desk.log.read()]
    assert keys.index("sandbox/one") < keys.index("sandbox/two") and "sandbox/three" in keys
    for call in (first, second, other):
        call.cancel()


@virtual
async def test_a_lane_is_bounded() -> None:
    desk = Desk()
    gate = Gate(desk)
    calls = [desk.ask(b.run(f"s{n}", uid="u", attempt=n)) for n in range(LANE_WAITERS_MAX + 1)]
    await turns()
    with pytest.raises(Busy, match=f"{LANE_WAITERS_MAX} others wait for pod/u"):
        await calls[-1]
    gate.open.set()
    await turns(LANE_WAITERS_MAX * 10)
    assert len(desk.events()) == LANE_WAITERS_MAX
    assert not desk.dispatcher._lanes


@virtual
async def test_joining_shares_one_intent_and_its_outcome() -> None:
    desk = Desk()
    calls = [desk.ask(b.run(known)) for known in (b.BOX, "another", "third")]
    await turns()
    assert desk.events() == ["sandbox.run_requested"] and not any(call.done() for call in calls)
    await desk.report(READY)
    assert [await call for call in calls] == [b.BOX] * 3


@virtual
async def test_another_request_for_the_name_is_refused() -> None:
    desk = Desk()
    call = desk.ask(b.run())
    await turns()
    with pytest.raises(NameTaken, match=b.BOX):
        await desk.ask(b.run("another", "other hash"))
    call.cancel()


@virtual
async def test_waiting_means_deciding_again() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested(), e.SandboxRunFailed("RuntimeFailed", "no"))
    call = desk.ask(b.run("another"))
    await turns()
    assert desk.events() == ["sandbox.run_requested", "sandbox.run_failed"]
    await desk.report(c.RecordSandboxRemoved(b.BOX))
    await turns()
    assert desk.events("sandbox/another") == ["sandbox.run_requested"]
    await desk.report(c.RecordSandboxReady("another", None))
    assert await call == "another"


@virtual
async def test_a_failure_on_record_is_the_answer_of_all() -> None:
    desk = Desk()
    calls = [desk.ask(b.run()), desk.ask(b.run("another"))]
    await turns()
    await desk.report(c.RecordRunFailed(b.BOX, "StorageFailed", "no space"))
    for call in calls:
        with pytest.raises(StorageFailed, match="no space"):
            await call


@virtual
async def test_a_client_that_leaves_takes_nothing_with_it() -> None:
    desk = Desk()
    gate = Gate(desk)
    call = desk.ask(b.run())
    await turns()
    call.cancel()
    gate.open.set()
    await turns()
    assert call.cancelled() and desk.events() == ["sandbox.run_requested"]
    assert desk.node.sandboxes[b.BOX].state == "SETTING_UP"
    again = desk.ask(b.run("another"))
    await turns()
    await desk.report(READY)
    assert await again == b.BOX


@virtual
async def test_a_client_that_leaves_does_not_trouble_the_others() -> None:
    desk = Desk()
    first, second = desk.ask(b.run()), desk.ask(b.run("another"))
    await turns()
    first.cancel()
    await turns()
    await desk.report(READY)
    assert await second == b.BOX


@virtual
async def test_what_is_decided_counts_before_it_is_durable() -> None:
    desk = Desk().with_con(b.S.EXITED)
    gate = Gate(desk)
    removal = desk.ask(c.RemoveContainer(b.CON))
    create = desk.ask(b.create("new", name="k2"))
    await turns()
    assert gate.waiting == 1, "the second command of the pod waits for the first"
    image = desk.ask(c.RemoveImage(b.REF))
    await turns()
    assert image.done() and image.exception() is not None
    gate.open.set()
    removal.cancel()
    create.cancel()


@virtual
async def test_a_claim_on_an_image_counts_before_it_is_durable() -> None:
    desk = Desk().with_box()
    gate = Gate(desk)
    create = desk.ask(b.create())
    await turns()
    assert gate.waiting == 1 and desk.node.image_users(b.ID_A) == [b.CON]
    image = desk.ask(c.RemoveImage(b.REF))
    await turns()
    assert image.done() and "uses it" in str(image.exception())
    gate.open.set()
    create.cancel()


@virtual
async def test_a_failed_append_gives_back_name_and_side_file() -> None:
    desk = Desk()
    desk.log.fail_next(LogFull("no room"))
    with pytest.raises(LimitReached, match="no room"):
        await desk.ask(b.run(), HELD_BACK)
    assert not desk.files.files and not desk.events() and not desk.dispatcher.broken.is_set()
    call = desk.ask(b.run("another"), HELD_BACK)
    await turns()
    assert list(desk.files.files) == ["another"] and desk.events("sandbox/another") == ["sandbox.run_requested"]
    call.cancel()


@virtual
async def test_a_side_file_that_cannot_be_written_stops_the_intent() -> None:
    desk = Desk()
    desk.files.fail = StorageFailed("no room for a side file")
    with pytest.raises(StorageFailed):
        await desk.ask(b.run(), HELD_BACK)
    assert not desk.events() and desk.node.sandbox_named(sandbox_name(b.run().config)) is None


@virtual
async def test_the_side_file_is_there_before_the_intent() -> None:
    desk = Desk()
    seen: list[Any] = []

    async def hook(when: str) -> None:
        seen.append((when, sorted(desk.files.files), len(desk.events())))

    desk.log.hook = hook
    desk.ask(b.run(), HELD_BACK)
    await turns()
    assert seen == [("before", [b.BOX], 0), ("after", [b.BOX], 1)]


@virtual
async def test_nothing_is_answered_or_folded_before_it_is_durable() -> None:
    desk = Desk().with_con(b.S.CREATED)
    gate = Gate(desk)
    call = desk.ask(c.RemoveContainer(b.CON))
    await turns()
    assert desk.node.containers[b.CON].state == "CREATED" and not call.done()
    gate.open.set()
    await turns()
    assert desk.node.containers[b.CON].state == "REMOVING"
    call.cancel()


@virtual
async def test_a_broken_log_is_told() -> None:
    desk = Desk()
    desk.log.fail_next(LogBroken("input/output error"))
    with pytest.raises(NotReady, match="input/output"):
        await desk.ask(b.run(), HELD_BACK)
    assert desk.dispatcher.broken.is_set()


@virtual
async def test_a_log_that_breaks_under_a_reconcile_is_told() -> None:
    desk = Desk().with_con()
    desk.log.fail_next(LogBroken("input/output error"))
    draft = Draft(b.CON_KEY, desk.node.next_version(b.CON_KEY), e.ContainerMonitorLost(b.WALL))
    with pytest.raises(NotReady):
        await desk.dispatcher.append_if(desk.node.versions[b.CON_KEY], [draft], "pod/u", Cause("reconcile", "@U"))
    assert desk.dispatcher.broken.is_set()


@virtual
async def test_an_unknown_outcome_keeps_the_side_file() -> None:
    desk = Desk()
    desk.log.fail_next(LogBroken("input/output error"), written=True)
    with pytest.raises(NotReady):
        await desk.ask(b.run(), HELD_BACK)
    assert desk.events() == ["sandbox.run_requested"] and list(desk.files.files) == [b.BOX]


@virtual
async def test_append_if_appends_only_at_the_version_seen() -> None:
    desk = Desk().with_con()
    seen = desk.node.versions[b.CON_KEY]
    draft = Draft(b.CON_KEY, seen + 1, e.ContainerMonitorLost(b.WALL))
    await desk.report(c.RecordOom(b.CON, 1))
    assert not await desk.dispatcher.append_if(seen, [draft], "pod/u", Cause("reconcile", "@U"))
    assert "container.monitor_lost" not in desk.events()
    draft = Draft(b.CON_KEY, seen + 2, e.ContainerMonitorLost(b.WALL))
    assert await desk.dispatcher.append_if(seen + 1, [draft], "pod/u", Cause("reconcile", "@U"))
    assert desk.events()[-1] == "container.monitor_lost"


@virtual
async def test_append_if_waits_for_the_lane() -> None:
    desk = Desk().with_con()
    seen = desk.node.versions[b.CON_KEY]
    gate = Gate(desk)
    stop = desk.ask(c.StopContainer(b.CON, 10))
    await turns()
    draft = Draft(b.CON_KEY, seen + 1, e.ContainerMonitorLost(b.WALL))
    found = asyncio.ensure_future(desk.dispatcher.append_if(seen, [draft], "pod/u", Cause("reconcile", "@U")))
    await turns()
    assert gate.waiting == 1
    gate.open.set()
    assert not await found
    stop.cancel()


@virtual
async def test_a_report_that_comes_too_late_is_nothing() -> None:
    desk = Desk().with_con(b.S.EXITED)
    before = desk.log.head()
    await desk.report(c.RecordStarted(b.CON))
    await desk.report(c.RecordExit(b.CON, 1, b.WALL, Evidence("exit-file")))
    await desk.report(c.RecordContainerRemoved("unknown"))
    assert desk.log.head() == before


@virtual
async def test_an_exit_waits_for_the_outcome_of_the_start() -> None:
    desk = Desk().with_con(b.S.STARTING)
    told = asyncio.ensure_future(desk.report(c.RecordExit(b.CON, 3, b.WALL, Evidence("exit-file"))))
    await turns()
    assert not told.done()
    await desk.report(c.RecordStarted(b.CON))
    await told
    assert desk.events(b.CON_KEY)[-2:] == ["container.started", "container.exited"]


@virtual
async def test_listeners_hear_of_each_event_in_order_with_what_it_concerns() -> None:
    desk = Desk().with_con()
    call = desk.ask(c.StopSandbox(b.BOX))
    await turns()
    await desk.report(c.RecordExit(b.CON, 0, b.WALL, Evidence("exit-file")))
    assert [wire for wire, _ in desk.told] == ["sandbox.stop_requested/1", "container.exited/1"]
    assert b.CON_KEY in desk.told[0][1] and b.BOX_KEY in desk.told[1][1]
    call.cancel()


@pytest.mark.parametrize(
    ("command", "urgent"),
    [
        (b.run("new", name="n"), False),
        (b.create("new", name="n"), False),
        (c.PullImage("docker.io/library/z:1"), False),
        (c.StopContainer(b.CON, 0), True),
        (c.RemoveContainer(b.CON), True),
        (c.StopSandbox(b.BOX), True),
        (c.RecordMonitorLost(b.CON), True),
    ],
    ids=lambda given: type(given).__name__,
)
@virtual
async def test_only_what_grows_is_refused_on_a_full_disk(command: Any, urgent: bool) -> None:
    desk = Desk().with_con()
    seen: list[bool] = []
    write = desk.log.write

    def spy(*given: Any, **more: Any) -> Any:
        seen.append(more["urgent"])
        return write(*given, **more)

    desk.log.write = spy  # type: ignore[method-assign]
    call = desk.ask(command)
    await turns()
    assert seen == [urgent]
    call.cancel()


@virtual
async def test_the_removal_of_an_image_waits_for_a_reference_that_is_being_pulled() -> None:
    """The reference asked for is not the one to wait for."""
    desk = Desk().with_image()
    desk.put(f"image/{b.REF_2}", *b.IMAGE_PATH[b.I.PRESENT], e.ImagePullRequested())
    call = desk.ask(c.RemoveImage(b.REF))
    await turns()
    await desk.report(c.RecordPulled(b.REF_2, b.pulled()))
    await turns()
    assert desk.events(f"image/{b.REF}")[-1] == "image.remove_requested"
    call.cancel()


# --- clients that leave a pull ---------------------------------------------------------------------------------------

PULL = c.PullImage("q.io/z:1", access="h1")
KEY = "image/q.io/z:1"
MINE = PullCredentials("h1", "me", "pw")


@virtual
async def test_the_last_client_that_leaves_ends_the_pull() -> None:
    desk = Desk()
    calls = [desk.ask(PULL, MINE) for _ in range(3)]
    await turns()
    for call in calls[:2]:
        call.cancel()
        await turns()
    assert desk.events(KEY) == ["image.pull_requested"]
    assert desk.dispatcher.credentials.of(PULL.reference, "h1") == MINE
    calls[2].cancel()
    await turns()
    assert desk.events(KEY) == ["image.pull_requested", "image.pull_failed"]
    assert desk.node.images[PULL.reference].error == "Cancelled"
    assert len(desk.dispatcher.credentials) == 0
    assert desk.files.files == {}, "credentials are in no file"


@virtual
async def test_a_client_that_leaves_before_its_pull_is_on_record_ends_it_all_the_same() -> None:
    desk = Desk()
    call = desk.ask(PULL, MINE)
    await asyncio.sleep(0)
    call.cancel()
    await turns()
    assert desk.events(KEY) == ["image.pull_requested", "image.pull_failed"]


@virtual
async def test_who_waits_with_other_credentials_does_not_keep_a_pull_alive_and_then_has_his_own() -> None:
    desk = Desk()
    first = desk.ask(PULL, MINE)
    await turns()
    other = desk.ask(replace(PULL, access="h2"), PullCredentials("h2", "you", "pw"))
    await turns()
    first.cancel()
    await turns()
    assert desk.events(KEY) == ["image.pull_requested", "image.pull_failed", "image.pull_requested"]
    await desk.report(c.RecordPulled(PULL.reference, b.pulled(), "h2"))
    assert await other == b.ID_A


@virtual
async def test_who_waited_with_other_credentials_is_not_answered_by_the_first_pull() -> None:
    desk = Desk()
    first, other = desk.ask(PULL, MINE), desk.ask(replace(PULL, access="h2"), PullCredentials("h2", "you", "no"))
    await turns()
    await desk.report(c.RecordPulled(PULL.reference, b.pulled(), "h1"))
    assert await first == b.ID_A
    await turns()
    assert not other.done()
    await desk.report(c.RecordPullFailed(PULL.reference, "PullFailed", "unauthorized", "h2"))
    with pytest.raises(PullFailed, match="unauthorized"):
        await other


@virtual
async def test_a_client_that_leaves_while_it_waits_for_another_pull_ends_nothing() -> None:
    desk = Desk()
    first, other = desk.ask(PULL, MINE), desk.ask(replace(PULL, access=""))
    await turns()
    other.cancel()
    await turns()
    assert desk.events(KEY) == ["image.pull_requested"]
    first.cancel()
    await turns()


@virtual
async def test_a_daemon_that_stops_leaves_pulls_to_the_next_start() -> None:
    desk = Desk()
    call = desk.ask(PULL, MINE)
    await turns()
    desk.dispatcher.ending = True
    call.cancel()
    await turns()
    assert desk.events(KEY) == ["image.pull_requested"]

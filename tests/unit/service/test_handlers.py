"""Each effect over the fakes: what it reports when it succeeds, when it fails, when it does not end."""

import asyncio
from typing import Any

import pytest

from adapters.images.fake import fake_image
from adapters.oci.fake import Act, Program
from domain import commands as c
from domain import effects as f
from domain import events as e
from domain.config import ContainerSecrets, PullCredentials
from domain.errors import DaybookError, NetworkFailed, RegistryUnavailable, RuntimeFailed, StorageFailed, TimedOut
from domain.records import Evidence
from service.handlers import LIMIT_S, MONITOR_LAST_WORD_NS, RELEASE_TRIES
from tests.unit.domain import builders as b
from tests.unit.service.desk import HELD_BACK, Bench, Desk, turns, virtual

MADE = b.S.CREATING


async def bench(state: Any = MADE, **program: Any) -> Bench:
    """A container in a state, and a world that agrees with it."""
    desk = Desk().with_con(MADE)
    desk.files.write(b.CON, ContainerSecrets(args=("x",)))
    table = Bench(desk)
    table.world.boot_ns = lambda: desk.clock.now().boot_ns
    table.world.programs[b.CON] = Program(**program)
    if state is MADE:
        return table
    await table.do(f.CreateTask(b.CON))
    if state is b.S.CREATED:
        return table
    desk.put(b.CON_KEY, e.ContainerStartRequested())
    if state is b.S.STARTING:
        return table
    await table.do(f.StartTask(b.CON))
    assert desk.node.containers[b.CON].state == state
    table.reported.clear()
    return table


# --- create ----------------------------------------------------------------------------------------------------------


@virtual
async def test_a_create_reports_what_was_made_and_marks_it_as_ours() -> None:
    table = await bench()
    (told,) = await table.do(f.CreateTask(b.CON))
    task = table.world.tasks[b.CON]
    assert isinstance(told, c.RecordCreated) and (told.init, told.monitor) == (task.init, task.monitor)
    assert task.mark is not None and task.mark.log_id == table.desk.log.log_id
    assert task.mark.seq <= table.desk.log.head().seq


@pytest.mark.parametrize("step", ["create.bundle", "create.mount", "create.monitor", "create.runtime", "create.answer"])
@virtual
async def test_a_create_that_fails_is_a_failure_on_record(step: str) -> None:
    table = await bench()
    table.world.at(step, StorageFailed("no space"))
    assert await table.do(f.CreateTask(b.CON)) == [c.RecordCreateFailed(b.CON, "StorageFailed", "no space")]


@virtual
async def test_a_create_without_its_side_file_fails() -> None:
    table = await bench()
    table.desk.files.remove(b.CON)
    (told,) = await table.do(f.CreateTask(b.CON))
    assert told.error == "StorageFailed" and "side file is missing" in told.text and b.CON not in table.world.tasks


@virtual
async def test_a_create_with_a_damaged_side_file_fails() -> None:
    table = await bench()

    def damaged(name: str) -> None:
        raise StorageFailed("cannot read the private side file")

    table.desk.files.read = damaged  # type: ignore[method-assign]
    (told,) = await table.do(f.CreateTask(b.CON))
    assert told.error == "StorageFailed"


@virtual
async def test_a_create_that_does_not_end_is_killed_and_told() -> None:
    table = await bench()
    table.world.at("create.runtime", Act.HANG)
    (told,) = await table.do(f.CreateTask(b.CON))
    assert asyncio.get_running_loop().time() == LIMIT_S[f.CreateTask]
    assert told == c.RecordCreateFailed(b.CON, "TimedOut", "CreateTask did not end within 120 s and was killed")


# --- start -----------------------------------------------------------------------------------------------------------


@virtual
async def test_a_start_reports_the_counter_of_before() -> None:
    table = await bench(b.S.STARTING)
    table.world.tasks[b.CON].oom_kills = 4
    assert await table.do(f.StartTask(b.CON)) == [c.RecordStarted(b.CON, 4)]


@pytest.mark.parametrize("what", [RuntimeFailed("runc says no"), Act.HANG], ids=["fails", "hangs"])
@virtual
async def test_a_start_that_never_was_is_a_failure(what: Any) -> None:
    table = await bench(b.S.STARTING)
    table.world.at("start.before", what)
    (told,) = await table.do(f.StartTask(b.CON))
    assert isinstance(told, c.RecordStartFailed)
    assert told.error == ("TimedOut" if what is Act.HANG else "RuntimeFailed")
    assert told.text.startswith("StartTask did not end within 60 s" if what is Act.HANG else "runc says no")


@pytest.mark.parametrize("what", [RuntimeFailed("the answer was lost"), Act.HANG], ids=["fails", "hangs"])
@virtual
async def test_a_start_that_was_done_is_a_start(what: Any) -> None:
    """The error is not believed, the world is."""
    table = await bench(b.S.STARTING)
    table.world.at("start.after", what)
    assert await table.do(f.StartTask(b.CON)) == [c.RecordStarted(b.CON, 0)]


@virtual
async def test_a_start_that_was_done_and_is_over_keeps_its_exit_code() -> None:
    """The program ended before the runtime's answer was lost: 128 StartError would be invented."""
    table = await bench(b.S.STARTING, exits=3)
    table.world.at("start.after", RuntimeFailed("the answer was lost"))
    assert await table.do(f.StartTask(b.CON)) == [c.RecordStarted(b.CON, 0)]
    container = table.desk.node.containers[b.CON]
    (told,) = await table.do(f.WatchTask(b.CON, container.init, False))
    assert told.code == 3


@virtual
async def test_a_start_repeated_after_its_record_was_lost_is_a_start() -> None:
    table = await bench(b.S.STARTING)
    await table.tasks.start(table.desk.node.containers[b.CON])
    assert await table.do(f.StartTask(b.CON)) == [c.RecordStarted(b.CON, 0)]


# --- stop, tidy, remove ----------------------------------------------------------------------------------------------


def stopping(table: Bench, grace_s: int) -> f.StopTask:
    deadline = e.Deadline(table.desk.clock.now().boot_ns + grace_s * 10**9, table.desk.clock.boot_id)
    table.desk.put(b.CON_KEY, e.ContainerStopRequested("SIGTERM", grace_s, deadline))
    return f.StopTask(b.CON, deadline)


@virtual
async def test_a_stop_reports_the_exit() -> None:
    table = await bench(b.S.RUNNING, on_stop=7)
    (told,) = await table.do(stopping(table, 30))
    assert (told.code, told.evidence.source) == (7, "exit-file")
    assert asyncio.get_running_loop().time() == 0


@virtual
async def test_a_stop_kills_at_the_deadline() -> None:
    table = await bench(b.S.RUNNING, on_stop=None)
    (told,) = await table.do(stopping(table, 30))
    assert told.code == 137 and asyncio.get_running_loop().time() == 30


@virtual
async def test_a_stop_that_fails_is_no_outcome() -> None:
    table = await bench(b.S.RUNNING)
    table.world.at("stop.before", RuntimeFailed("no"))
    with pytest.raises(RuntimeFailed):
        await table.do(stopping(table, 30))
    assert not table.reported


@virtual
async def test_a_stop_that_hangs_past_its_deadline_ends() -> None:
    table = await bench(b.S.RUNNING, on_stop=None)
    table.world.at("stop.kill", Act.HANG)
    with pytest.raises(TimedOut):
        await asyncio.wait_for(table.do(stopping(table, 30)), 600)


@pytest.mark.parametrize("what", [f.TidyTask(b.CON), f.UndoTask(b.CON)], ids=lambda what: type(what).__name__)
@virtual
async def test_quiet_effects_report_nothing_and_clean_up(what: Any) -> None:
    table = await bench(b.S.RUNNING)
    table.world.end(b.CON, 0)
    assert await table.do(what) == []
    assert b.CON not in table.world.tasks or not table.world.tasks[b.CON].known_to_runtime


@virtual
async def test_a_removal_takes_the_side_file_along() -> None:
    table = await bench(b.S.RUNNING)
    assert await table.do(f.RemoveTask(b.CON)) == [c.RecordContainerRemoved(b.CON)]
    assert b.CON not in table.world.tasks and not table.desk.files.files


@pytest.mark.parametrize(
    ("what", "step"),
    [
        (f.TidyTask(b.CON), "tidy.kill"),
        (f.UndoTask(b.CON), "remove.kill"),
        (f.RemoveTask(b.CON), "remove.files"),
        (f.TearDownSandbox(b.BOX), "tear_down.kill"),
        (f.RemoveSandbox(b.BOX), "remove_sandbox.files"),
        (f.RemoveImage(b.REF, b.ID_A), "remove_image.step"),
    ],
    ids=lambda given: type(given).__name__,
)
@virtual
async def test_what_has_no_failure_event_raises(what: Any, step: str) -> None:
    """Also when it does not end; and nothing is reported, no side file removed."""
    for fault in (StorageFailed("no"), Act.HANG):
        table = await bench(b.S.RUNNING)
        await table.sandboxes.set_up(b.BOX, table.desk.node.sandboxes[b.BOX], {"log_id": "l", "seq": 1})
        table.world.at(step, fault)
        began = asyncio.get_running_loop().time()
        with pytest.raises(DaybookError) as told:
            await table.do(what)
        assert not table.reported and b.CON in table.desk.files.files
        if fault is Act.HANG:
            assert isinstance(told.value, TimedOut) and type(what).__name__ in told.value.text
            assert asyncio.get_running_loop().time() - began == LIMIT_S[type(what)]


# --- watches ---------------------------------------------------------------------------------------------------------


def watch(table: Bench) -> f.WatchTask:
    container = table.desk.node.containers[b.CON]
    return f.WatchTask(b.CON, container.init, bool(container.monitor_lost_at))


@virtual
async def test_a_watch_reports_the_exit_file() -> None:
    table = await bench(b.S.RUNNING)
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    table.world.end(b.CON, 9)
    (told,) = await watching
    assert (told.code, told.evidence, told.oom) == (9, Evidence("exit-file"), False)


@virtual
async def test_an_out_of_memory_kill_is_told_before_the_exit() -> None:
    table = await bench(b.S.RUNNING)
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    table.world.end(b.CON, 137, oom=True)
    first, second = await watching
    assert first == c.RecordOom(b.CON, 1) and second.oom and second.code == 137


@virtual
async def test_a_monitor_that_ends_first_is_lost_after_a_moment() -> None:
    table = await bench(b.S.RUNNING)
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    table.world.kill_monitor(b.CON)
    assert await watching == [c.RecordMonitorLost(b.CON)]
    assert asyncio.get_running_loop().time() == MONITOR_LAST_WORD_NS / 1e9


@virtual
async def test_a_monitor_that_ends_with_its_container_is_not_lost() -> None:
    table = await bench(b.S.RUNNING)
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    table.world.kill_monitor(b.CON)
    await asyncio.sleep(0.5)
    table.world.end(b.CON, 0)
    (told,) = await watching
    assert isinstance(told, c.RecordExit) and told.code is None


@virtual
async def test_without_a_monitor_the_code_is_unknown_and_says_why() -> None:
    table = await bench(b.S.RUNNING)
    table.world.kill_monitor(b.CON)
    table.desk.put(b.CON_KEY, e.ContainerMonitorLost(b.WALL))
    watching = asyncio.ensure_future(table.do(watch(table)))
    await turns()
    table.world.end(b.CON, 0)
    (told,) = await watching
    assert (told.code, told.evidence.source, told.text) == (None, "none", "its monitor left no exit code")


@virtual
async def test_an_infra_process_that_ends_is_the_death_of_its_sandbox() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested(namespaces=b.modes(pid=True)))
    table = Bench(desk)
    _, told = await table.do(f.SetUpSandbox(b.BOX))
    assert told.infra is not None
    watching = asyncio.ensure_future(table.do(f.WatchInfra(b.BOX, told.infra)))
    await turns()
    assert not watching.done()
    table.world.kill_infra(b.BOX)
    assert await watching == [c.RecordSandboxDied(b.BOX, "its infra process ended")]


# --- errors that nobody foresaw --------------------------------------------------------------------------------------

BUG = ValueError("hunter2")
"""Its text quotes a secret, as the text of a foreign error may."""


def a_bug_as(told: c.Command, record: type) -> None:
    assert type(told) is record
    assert told.error == "Unforeseen" and told.text.startswith("unforeseen ValueError at ")  # type: ignore[attr-defined]
    assert "hunter2" not in told.text  # type: ignore[attr-defined]


@virtual
async def test_a_bug_in_a_create_is_a_failed_create(caplog: pytest.LogCaptureFixture) -> None:
    table = await bench()
    table.world.at("create.runtime", BUG)
    (told,) = await table.do(f.CreateTask(b.CON))
    a_bug_as(told, c.RecordCreateFailed)
    assert "CreateTask: unforeseen ValueError at " in caplog.text and "hunter2" not in caplog.text


@virtual
async def test_a_bug_in_a_start_is_what_the_world_shows() -> None:
    table = await bench(b.S.STARTING)
    table.world.at("start.before", BUG)
    (told,) = await table.do(f.StartTask(b.CON))
    a_bug_as(told, c.RecordStartFailed)


@virtual
async def test_a_bug_after_a_start_is_a_start() -> None:
    table = await bench(b.S.STARTING)
    table.world.at("start.after", BUG)
    (told,) = await table.do(f.StartTask(b.CON))
    assert isinstance(told, c.RecordStarted)


@virtual
async def test_a_bug_in_a_set_up_is_a_failed_run_and_leaves_nothing() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    table.world.at("net.add.allocated", BUG)
    (told,) = await table.do(f.SetUpSandbox(b.BOX))
    a_bug_as(told, c.RecordRunFailed)
    await table.do(f.ReleaseNetwork(b.BOX))
    await table.do(f.RemoveSandbox(b.BOX))
    assert not table.net.leftovers() and not table.world.pods and not desk.node.sandboxes


@virtual
async def test_a_bug_in_a_pull_is_a_failed_pull() -> None:
    table = pulling()

    async def pull(*given: Any, **more: Any) -> Any:
        raise BUG

    table.images.pull = pull  # type: ignore[method-assign]
    (told,) = await table.do(f.PullImage(b.REF, ""))
    a_bug_as(told, c.RecordPullFailed)


@virtual
async def test_a_bug_in_del_is_a_leak_and_the_stop_goes_on() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    await table.do(f.SetUpSandbox(b.BOX))
    desk.put(b.BOX_KEY, e.SandboxStopRequested())
    table.world.at("net.del.before", *[BUG] * RELEASE_TRIES)
    (told,) = await table.do(f.ReleaseNetwork(b.BOX))
    assert isinstance(told, c.RecordNetworkLeaked) and told.text.startswith("unforeseen ValueError at ")


@virtual
async def test_a_bug_in_what_can_only_succeed_is_the_runners() -> None:
    table = await bench(b.S.RUNNING)
    table.world.at("remove.kill", BUG)
    with pytest.raises(ValueError, match="hunter2"):
        await table.do(f.UndoTask(b.CON))


# --- sandboxes -------------------------------------------------------------------------------------------------------


@virtual
async def test_a_sandbox_comes_up_goes_down_and_leaves_nothing() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    desk.files.write(b.BOX, ContainerSecrets())
    table = Bench(desk)
    attached, ready = await table.do(f.SetUpSandbox(b.BOX))
    assert attached.ips == ("10.200.0.2",) and b.BOX in attached.result and ready == c.RecordSandboxReady(b.BOX, None)
    assert table.world.pods[b.BOX].mark is not None and table.net.entries[b.BOX].mark == table.world.pods[b.BOX].mark
    desk.put(b.BOX_KEY, e.SandboxStopRequested())
    assert await table.do(f.ReleaseNetwork(b.BOX)) == [c.RecordNetworkReleased(b.BOX)]
    assert not table.net.leftovers()
    assert await table.do(f.TearDownSandbox(b.BOX)) == [c.RecordSandboxStopped(b.BOX)]
    desk.put(b.BOX_KEY, e.SandboxRemoveRequested())
    assert await table.do(f.RemoveSandbox(b.BOX)) == [c.RecordSandboxRemoved(b.BOX)]
    assert not table.world.pods and not desk.files.files and not desk.node.sandboxes


@pytest.mark.parametrize("what", [RuntimeFailed("no"), Act.HANG], ids=["fails", "hangs"])
@virtual
async def test_a_sandbox_that_cannot_be_set_up_has_failed(what: Any) -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    table.world.at("set_up.pin", what)
    text = "SetUpSandbox did not end within 180 s and was killed" if what is Act.HANG else "no"
    told = await table.do(f.SetUpSandbox(b.BOX))
    assert told == [c.RecordRunFailed(b.BOX, "TimedOut" if what is Act.HANG else "RuntimeFailed", text)]


@virtual
async def test_the_hosts_network_has_no_plugins() -> None:
    table = Bench(Desk().put(b.BOX_KEY, b.run_requested(namespaces=b.modes(network=False))))
    assert await table.do(f.SetUpSandbox(b.BOX)) == [c.RecordSandboxReady(b.BOX, None)]
    assert not table.net.steps


@pytest.mark.parametrize("step", ["net.add.before", "net.add.intent", "net.add.allocated", "net.add.answer"])
@virtual
async def test_an_attachment_that_fails_is_a_failed_run_and_released_by_its_removal(step: str) -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    table.world.at(step, NetworkFailed("no"))
    assert await table.do(f.SetUpSandbox(b.BOX)) == [c.RecordRunFailed(b.BOX, "NetworkFailed", "no")]
    assert await table.do(f.ReleaseNetwork(b.BOX)) == [c.RecordNetworkReleased(b.BOX)]
    assert not table.net.leftovers()


@virtual
async def test_a_second_attempt_releases_what_the_first_was_given() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    table.net.pool = ("10.200.0.2",)
    told: list[c.Command] = []

    async def unheard(command: c.Command) -> None:
        told.append(command)

    for _ in range(2):
        await table.handlers.handle(f.SetUpSandbox(b.BOX), unheard)
    assert [t.ips for t in told if isinstance(t, c.RecordNetworkSet)] == [("10.200.0.2",)] * 2


@virtual
async def test_annotations_that_are_held_back_reach_the_plugins() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested(annotations={"short": "1"}))
    desk.files.write(b.BOX, HELD_BACK)
    table, seen = Bench(desk), {}
    add = table.network.add

    async def spied(sandbox: Any, netns: str, annotations: Any, mark: Any) -> Any:
        seen.update(annotations)
        return await add(sandbox, netns, annotations, mark)

    table.network.add = spied  # type: ignore[method-assign]
    await table.do(f.SetUpSandbox(b.BOX))
    assert seen == {"short": "1", **HELD_BACK.annotations}


OF_ETH0 = "net.ipv4.conf.eth0.arp_ignore"


@virtual
async def test_sysctls_of_the_pods_interfaces_come_after_its_network() -> None:
    table = Bench(Desk().put(b.BOX_KEY, b.run_requested(sysctls={OF_ETH0: "1", "net.ipv4.conf.all.arp_ignore": "2"})))
    seen: list[dict[tuple[str, ...], str]] = []
    table.world.at("net.add.linked", lambda: seen.append(dict(table.world.pods[b.BOX].sysctls)))
    await table.do(f.SetUpSandbox(b.BOX))
    (before,), after = seen, table.world.pods[b.BOX].sysctls
    assert ("net", "ipv4", "conf", "all", "arp_ignore") in before
    assert set(after) - set(before) == {("net", "ipv4", "conf", "eth0", "arp_ignore")}


@virtual
async def test_a_sysctl_of_an_interface_that_never_came_fails_the_run_and_the_network_is_released() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested(sysctls={OF_ETH0.replace("eth0", "net1"): "1"}))
    table = Bench(desk)
    why = "sysctl net.ipv4.conf.net1.arp_ignore: the pod has no interface net1 after its network was added"
    assert await table.do(f.SetUpSandbox(b.BOX)) == [c.RecordRunFailed(b.BOX, "InvalidRequest", why)]
    assert await table.do(f.ReleaseNetwork(b.BOX)) == [c.RecordNetworkReleased(b.BOX)]
    assert not table.net.leftovers()


@pytest.mark.parametrize("fails", [RELEASE_TRIES - 1, RELEASE_TRIES])
@virtual
async def test_a_release_is_tried_to_its_bound_and_then_a_leak(fails: int) -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    await table.do(f.SetUpSandbox(b.BOX))
    desk.put(b.BOX_KEY, e.SandboxStopRequested())
    table.world.at("net.del.before", *(NetworkFailed(f"no {n}") for n in range(1, fails + 1)))
    leaked = c.RecordNetworkLeaked(b.BOX, RELEASE_TRIES, f"no {RELEASE_TRIES}")
    wanted = leaked if fails == RELEASE_TRIES else c.RecordNetworkReleased(b.BOX)
    assert await table.do(f.ReleaseNetwork(b.BOX)) == [wanted]
    assert bool(table.net.leftovers()) is (fails == RELEASE_TRIES)


@virtual
async def test_a_release_that_hangs_is_a_leak_within_the_kubelets_patience() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    await table.do(f.SetUpSandbox(b.BOX))
    desk.put(b.BOX_KEY, e.SandboxStopRequested())
    table.world.at("net.del.unlinked", Act.HANG)
    begun = desk.clock.now().boot_ns
    (told,) = await table.do(f.ReleaseNetwork(b.BOX))
    assert isinstance(told, c.RecordNetworkLeaked) and told.attempts == 1 and "110 s" in told.text
    assert desk.clock.now().boot_ns - begun < 120 * 10**9


@virtual
async def test_a_leak_is_tried_once_at_a_time_in_the_background() -> None:
    desk = Desk().put(b.BOX_KEY, b.run_requested())
    table = Bench(desk)
    await table.do(f.SetUpSandbox(b.BOX))
    desk.put(b.BOX_KEY, e.SandboxStopRequested(), e.SandboxNetworkLeaked(5, "no"))
    await table.do(f.TearDownSandbox(b.BOX))
    assert table.world.pods[b.BOX].pinned == {"net"}, "the DEL to come needs the namespace"
    table.world.at("net.del.before", NetworkFailed("still not"))
    with pytest.raises(NetworkFailed, match="still not"):
        await table.do(f.ReleaseNetwork(b.BOX, leaked=True))
    assert await table.do(f.ReleaseNetwork(b.BOX, leaked=True)) == [c.RecordNetworkReleased(b.BOX)]
    assert not table.net.leftovers() and not desk.node.sandboxes[b.BOX].leak
    assert not table.world.pods[b.BOX].pinned


# --- images ----------------------------------------------------------------------------------------------------------

REF = "q.io/a:1"
IMAGE = fake_image("a")


def pulling() -> Bench:
    desk = Desk().put(e.image_key(REF), e.ImagePullRequested())
    table = Bench(desk)
    table.images.offer(REF, IMAGE)
    return table


@virtual
async def test_a_pull_records_what_the_reference_meant() -> None:
    table = pulling()
    assert await table.do(f.PullImage(REF, "")) == [c.RecordPulled(REF, IMAGE)]


@virtual
async def test_a_pull_that_fails_says_how() -> None:
    table = pulling()
    table.world.at("pull.step", RegistryUnavailable("RegistryUnavailable: nobody there"))
    (told,) = await table.do(f.PullImage(REF, ""))
    assert told == c.RecordPullFailed(REF, "RegistryUnavailable", "RegistryUnavailable: nobody there")


def locked(*held: PullCredentials) -> Bench:
    """A registry that gives it to `me`; the credentials of those who wait for it."""
    known = {each.access: each for each in held}
    table = Bench(Desk().put(e.image_key(REF), e.ImagePullRequested("", "h1")), lambda _, access: known.get(access))
    table.images.offer(REF, IMAGE)
    table.images.logins[REF] = ("me", "pw")
    return table


@virtual
async def test_a_pull_has_the_credentials_that_its_state_names() -> None:
    table = locked(PullCredentials("h1", "me", "pw"), PullCredentials("h2", "you", "no"))
    assert await table.do(f.PullImage(REF, "", "h1")) == [c.RecordPulled(REF, IMAGE, "h1")]


@virtual
async def test_wrong_credentials_are_told_as_such() -> None:
    table = locked(PullCredentials("h1", "you", "no"))
    (told,) = await table.do(f.PullImage(REF, "", "h1"))
    assert (told.error, told.access) == ("PullFailed", "h1") and "unauthorized" in told.text


@virtual
async def test_a_pull_whose_credentials_are_gone_is_not_tried_without() -> None:
    table = locked()
    (told,) = await table.do(f.PullImage(REF, "", "h1"))
    assert (told.error, told.access, table.images.calls) == ("Cancelled", "h1", [])


@virtual
async def test_a_pull_never_records_what_was_removed_meanwhile() -> None:
    """A removal of the same image is under way: it holds the store until it is done and on record."""
    table = pulling()
    other = "q.io/other:1"
    await table.images.pull(REF)
    table.desk.put(e.image_key(other), e.ImagePullRequested(), e.ImagePulled(IMAGE.image_id, "d", (), 1))
    table.desk.put(e.image_key(other), e.ImageRemoveRequested())
    removal = asyncio.ensure_future(table.do(f.RemoveImage(other, IMAGE.image_id)))
    await table.do(f.PullImage(REF, ""))
    await removal
    held = table.desk.node.images[REF].held
    assert (held is not None) == table.images.present(IMAGE.image_id)


@virtual
async def test_a_removed_image_is_gone_from_the_store() -> None:
    table = pulling()
    await table.do(f.PullImage(REF, ""))
    table.desk.put(e.image_key(REF), e.ImageRemoveRequested())
    await table.do(f.RemoveImage(REF, IMAGE.image_id))
    assert not table.images.present(IMAGE.image_id)
    assert table.desk.node.images[REF].state == "ABSENT"

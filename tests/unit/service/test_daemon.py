"""The order of start and stop, the fence, side files, checkpoints, health: the daemon as one whole."""

from dataclasses import replace

import pytest

from adapters.log.errors import LogBroken, LogFull
from adapters.oci.fake import Act
from domain import commands as c
from domain import events as e
from domain.config import ContainerConfig, ContainerSecrets
from domain.errors import Cancelled, LimitReached, NotReady
from domain.observations import Mark
from domain.records import Draft
from service.daemon import Timing
from tests.support.service_world import ServiceWorld
from tests.unit.service.desk import RPC
from tests.unit.service.pod import HELD_BACK, IMAGE, REF, Pod


def wires(pod: Pod, last: int) -> list[str]:
    return pod.world.history()[-last:]


# --- start -----------------------------------------------------------------------------------------------------------


def test_a_start_is_on_record_with_its_programs(pod: Pod) -> None:
    pod.world.start()
    (record,) = pod.world.log.read()
    assert record.event.version == "0-test" and record.event.runtime.path == "/fake/runc"  # type: ignore[union-attr]
    assert pod.world.mark == Mark(pod.world.log.log_id, 1)


def test_side_files_without_an_aggregate_are_dropped_and_others_stay(pod: Pod) -> None:
    pod.with_box().with_con()
    pod.world.side_files["never-recorded"] = HELD_BACK
    pod.world.restart()
    assert sorted(pod.world.side_files) == sorted([pod.box, pod.con])


@pytest.mark.parametrize("where", ["secrets.write", "append.before"])
def test_a_kill_before_the_intent_is_durable_leaves_no_trace(pod: Pod, where: str) -> None:
    pod.with_box()
    pod.world.kill_at(where)
    call = pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    assert call.lost
    pod.world.restart()
    assert list(pod.world.side_files) == [pod.box] and not pod.world.node.containers


def test_a_damaged_log_keeps_every_side_file(pod: Pod) -> None:
    """What does not decode may be the aggregate of the file."""
    pod.with_box().with_con()
    pod.world.kill()
    records = list(pod.world.log.read())
    at = next(r.seq for r in records if r.key == e.container_key(pod.con))
    pod.world.log.store.records[at] = b"garbage"
    pod.world.side_files["unknown"] = HELD_BACK
    pod.world.start()
    assert {"unknown", pod.con, pod.box} == set(pod.world.side_files)
    assert e.container_key(pod.con) in pod.daemon.health().info["quarantined"]


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        (Mark("another log", 3), "belongs to log another log"),
        (Mark("0" * 32, 10**6), "knows of record 1000000"),
    ],
)
def test_the_fence_refuses_and_names_the_remedies(pod: Pod, mark: Mark, told: str) -> None:
    pod.running()
    pod.world.kill()
    pod.world.mark = mark
    head = pod.world.log.head()
    with pytest.raises(NotReady, match=told) as refused:
        pod.world.start()
    assert refused.value.text.startswith("cannot start: ")
    assert "`daybook adopt`" in refused.value.text and "`daybook purge`" in refused.value.text
    assert pod.world.log.head() == head and pod.world.mark == mark and pod.world.machine.tasks[pod.con].init_alive


def test_an_empty_log_beside_living_containers_is_refused(pod: Pod) -> None:
    pod.running()
    pod.world.kill()
    pod.world.mark = None
    pod.world.log = ServiceWorld().log
    with pytest.raises(NotReady, match="daybook adopt"):
        pod.world.start()


def test_a_refused_start_keeps_side_files(pod: Pod) -> None:
    pod.running()
    pod.world.kill()
    pod.world.mark = Mark("another log", 1)
    pod.world.side_files["unknown"] = HELD_BACK
    with pytest.raises(NotReady):
        pod.world.start()
    assert "unknown" in pod.world.side_files


def test_a_start_on_a_full_disk_uses_the_ballast(pod: Pod) -> None:
    pod.running()
    pod.world.kill()
    pod.world.machine.end(pod.con, 3)
    pod.world.room = 2
    assert pod.world.start() is not None and pod.container.exit_code == 3


# --- stop ------------------------------------------------------------------------------------------------------------


def test_a_stop_refuses_new_calls_and_leaves_containers_running(pod: Pod) -> None:
    pod.running()
    stop = pod.world.spawn(pod.daemon.stop())
    pod.world.turn()
    call = pod.world.call(c.StopContainer(pod.con, 0))
    pod.world.settle()
    assert stop.done() and isinstance(call.error, NotReady) and "stopping" in str(call.error)
    assert wires(pod, 1) == ["node.stopped"] and pod.world.machine.tasks[pod.con].init_alive
    assert pod.world.mark == Mark(pod.world.log.log_id, pod.world.log.head().seq)


def test_a_stop_lets_effects_end_first(pod: Pod) -> None:
    pod.with_box()
    pod.world.pace = lambda: 0.5
    call = pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.let_pass(2)
    pod.world.run(pod.daemon.stop())
    assert call.answered and wires(pod, 2) == ["container.created", "node.stopped"]


def test_a_stop_does_not_wait_for_ever_and_says_so(pod: Pod) -> None:
    pod.with_box()
    pod.world.machine.at("create.mount", Act.HANG)
    pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    began = pod.world.passed
    pod.world.run(pod.daemon.stop())
    assert pod.world.passed - began == 10.0
    *_, last = pod.world.log.read()
    assert last.event == e.NodeStopped("1 effects were left to the next start")  # type: ignore[union-attr]


def test_a_stop_of_a_stopping_container_goes_on_in_the_next_daemon(pod: Pod) -> None:
    pod.running(on_stop=None)
    pod.world.call(c.StopContainer(pod.con, 30))
    pod.world.let_pass(10)
    asked = pod.container.stop
    assert asked is not None
    pod.world.stop()
    pod.world.let_pass(5)
    pod.world.start()
    pod.world.let_pass(14.9)
    assert pod.container.state == "STOPPING"
    pod.world.let_pass(0.2)
    assert (pod.container.state, pod.container.exit_code) == ("EXITED", 137)
    assert pod.world.machine.times("stop.kill", pod.con) == [asked.deadline.boot_ns]
    assert len(pod.world.machine.times("stop.sent", pod.con)) == 1


def test_a_deadline_that_passed_while_nobody_was_there_is_kept_at_once(pod: Pod) -> None:
    pod.running(on_stop=None)
    pod.world.call(c.StopContainer(pod.con, 30))
    pod.world.let_pass(1)
    pod.world.kill()
    pod.world.let_pass(100)
    began = pod.world.clock.boot_ns
    pod.world.start()
    pod.world.let_pass(0.1)
    assert pod.world.machine.times("stop.kill", pod.con) == [began] and pod.container.exit_code == 137


def test_an_earlier_deadline_moves_the_kill_and_sends_no_second_signal(pod: Pod) -> None:
    pod.running(on_stop=None)
    pod.world.call(c.StopContainer(pod.con, 600))
    pod.world.let_pass(10)
    pod.world.call(c.StopContainer(pod.con, 5))
    pod.world.call(c.StopContainer(pod.con, 900))
    pod.world.let_pass(5.1)
    assert pod.container.state == "EXITED"
    assert len(pod.world.machine.times("stop.sent", pod.con)) == 1


# --- the log ---------------------------------------------------------------------------------------------------------


def test_a_broken_log_ends_the_daemon(pod: Pod) -> None:
    pod.with_box()
    pod.world.ends_where_broken = False
    told = pod.world.spawn(pod.daemon.until_broken())
    pod.world.settle()
    assert not told.done()
    pod.world.log.fail_next(LogBroken("input/output error"))
    call = pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    assert told.result() == "input/output error" and isinstance(call.error, NotReady)


def test_nothing_begins_after_the_log_broke(pod: Pod) -> None:
    """The process ends soon, but until then the world must stay as the record of unknown outcome tells it."""
    pod.with_box()
    pod.world.ends_where_broken = False
    request = pod.create_request()
    call = pod.world.call(request, ContainerSecrets())
    pod.world.turn(4)
    assert pod.world.history()[-1] == "container.create_requested"
    pod.world.log.fail_next(LogBroken("input/output error"), written=True)
    pod.world.let_pass(5)
    assert pod.world.history()[-1] == "container.created" and not call.answered
    assert len(pod.world.machine.times("create.bundle", request.container_id)) == 1


def test_a_full_disk_refuses_what_grows_and_takes_what_ends(pod: Pod) -> None:
    pod.running()
    pod.world.room = 10
    with pytest.raises(LimitReached, match="no space"):
        pod.world.ask(replace(pod.create_request(), config=ContainerConfig("another")), ContainerSecrets())
    assert list(pod.world.side_files) == [pod.box, pod.con]
    pod.world.ask(c.RemoveSandbox(pod.box))
    assert not pod.world.node.sandboxes and not pod.world.machine.tasks


def test_a_disk_without_even_the_ballast_delays_outcomes_and_loses_none(pod: Pod) -> None:
    pod.running(on_stop=7)
    pod.world.room = 1
    call = pod.world.call(c.StopContainer(pod.con, 30))
    pod.world.let_pass(100)
    assert not call.done and pod.container.state == "STOPPING"
    pod.world.room = None
    pod.world.let_pass(60)
    assert call.answered and pod.container.exit_code == 7


def known_after(rounds: int, every: int, stop: bool) -> list[str]:
    """Complaints of a start from the checkpoint of a daemon that ended in the midst of appends of several lanes."""
    world = ServiceWorld(Timing(checkpoint_every=every), checkpoints=True)
    pod = Pod()
    try:
        world.images.offer(REF, IMAGE)
        world.start()
        world.call(pod.run_request())
        world.call(c.PullImage(REF))
        world.turn(rounds)
        world.stop() if stop else world.kill()
        world.start()
        return world.unforeseen
    finally:
        pod.world.close()
        world.close()


def test_a_checkpoint_holds_exactly_what_was_folded() -> None:
    assert not [told for rounds in range(12) for told in known_after(rounds, every=1, stop=False)]


def test_the_checkpoint_of_a_stop_holds_exactly_what_was_folded() -> None:
    assert not [told for rounds in range(12) for told in known_after(rounds, every=10**6, stop=True)]


def test_nothing_quarantined_enters_a_checkpoint(pod: Pod) -> None:
    pod.with_box().with_con()
    pod.world.kill()
    at = next(r.seq for r in pod.world.log.read() if r.key == e.container_key(pod.con))
    pod.world.log.store.records[at] = b"garbage"
    pod.world.log.store.saved = None
    pod.world.start()
    pod.world.stop()
    assert pod.world.log.store.saved is None


# --- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["append.before", "append.after", "set_up.directory", "set_up.pin", "set_up.answer"])
def test_a_retry_of_a_run_gets_the_same_sandbox_across_a_kill(pod: Pod, where: str) -> None:
    pod.world.start()
    first = pod.run_request()
    pod.world.kill_at(where)
    assert pod.world.call(first, HELD_BACK).done is False
    pod.world.settle()
    on_record = bool(pod.world.folded().sandboxes)
    pod.world.start()
    pod.world.let_pass(1)
    answer = pod.world.ask(pod.run_request(), HELD_BACK)
    assert (answer == first.sandbox_id) == on_record == (where != "append.before")
    assert list(pod.world.machine.pods) == [answer]


@pytest.mark.parametrize(
    "where", ["append.after", "create.bundle", "create.mount", "create.monitor", "create.runtime", "create.answer"]
)
def test_a_retry_of_a_create_gets_the_same_container_across_a_kill(pod: Pod, where: str) -> None:
    pod.with_box()
    first = pod.create_request()
    pod.world.kill_at(where)
    pod.world.call(first, ContainerSecrets())
    pod.world.settle()
    pod.world.start()
    assert pod.world.ask(pod.create_request(), ContainerSecrets()) == first.container_id
    assert list(pod.world.machine.tasks) == [first.container_id]


def test_without_a_retry_the_name_is_free_after_ten_minutes(pod: Pod) -> None:
    pod.with_box()
    first = pod.create_request()
    pod.world.kill_at("create.mount")
    pod.world.call(first, ContainerSecrets())
    pod.world.settle()
    pod.world.start()
    pod.world.let_pass(599)
    assert first.container_id in pod.world.node.containers
    pod.world.let_pass(2)
    assert not pod.world.node.containers and first.container_id not in pod.world.side_files
    answer = pod.world.ask(request := pod.create_request(), ContainerSecrets())
    assert answer == request.container_id


def test_a_stop_cancels_a_running_creation_and_its_client_is_told(pod: Pod) -> None:
    pod.with_box()
    pod.world.machine.at("create.mount", Act.HANG)
    call = pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    pod.world.ask(c.StopSandbox(pod.box))
    assert isinstance(call.error, Cancelled) and not pod.world.machine.tasks


# --- asked at any time -----------------------------------------------------------------------------------------------


def test_health_tells_what_is_wrong_without_waiting(pod: Pod) -> None:
    pod.with_box()
    health = pod.daemon.health()
    assert health.runtime.ok and health.network.ok
    assert health.info["log"]["seq"] == pod.world.log.head().seq == pod.daemon.head().seq
    pod.world.machine.at("create.mount", Act.HANG)
    pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    assert pod.daemon.health().info["effects"] == {"inFlight": 1, "failures": 0}


def test_a_missing_program_is_told(pod: Pod) -> None:
    pod.world.start()
    pod.world.tasks.binaries = lambda: (e.Binary("/nowhere/runc"), e.Binary("/bin/conmon", "2"))  # type: ignore[method-assign]
    told = pod.daemon.health().runtime
    assert (told.ok, told.reason) == (False, "RuntimeMissing") and "/nowhere/runc" in told.message


def test_changes_are_told_after_they_are_folded(pod: Pod) -> None:
    pod.with_box()
    seen: list[tuple[str, bool]] = []
    pod.daemon.on_change(lambda key: seen.append((key, key.split("/")[1] in pod.daemon.node.containers)))
    pod.with_con()
    assert seen == [(e.container_key(pod.con), True)] * 2
    assert pod.daemon.secrets(pod.con) == ContainerSecrets(args=("x",)) and pod.daemon.secrets("unknown") is None
    assert pod.world.run(pod.daemon.image_usage()).inodes == 1


def test_the_routines_survive_what_fails(pod: Pod) -> None:
    pod.world.timing = Timing(reconcile_s=30.0, tell_head_s=100.0)
    pod.with_box()
    pod.world.log.fail_next(LogFull("no room"))
    pod.world.images.damage(IMAGE.image_id)
    pod.world.let_pass(31)
    assert "image.lost" not in pod.world.history()
    pod.world.let_pass(31)
    assert "image.lost" in pod.world.history()
    pod.world.let_pass(50)
    assert pod.world.mark == Mark(pod.world.log.log_id, pod.world.log.head().seq)


def test_a_version_conflict_is_nothing_to_lose(pod: Pod) -> None:
    """Should never be: another writer. The command is refused as busy and nothing is folded twice."""
    pod.with_box().with_con()
    key = e.container_key(pod.con)
    draft = Draft(key, pod.world.node.next_version(key), e.ContainerMonitorLost(1))
    pod.world.log.append_sync([draft], RPC, pod.world.clock.now())
    call = pod.world.call(c.RemoveContainer(pod.con))
    pod.world.settle()
    assert call.error is not None and pod.container.state == "CREATED"


def test_many_pods_at_once_all_come_up(pod: Pod) -> None:
    pod.with_box()
    pod.world.pace = lambda: 0.01
    requests = [pod.run_request() for _ in range(40)]
    configs = [replace(r.config, name=f"n{i}", uid=f"v{i}") for i, r in enumerate(requests)]
    calls = [pod.world.call(replace(r, config=k)) for r, k in zip(requests, configs, strict=True)]
    pod.world.let_pass(5)
    assert all(call.answered for call in calls) and len(pod.world.machine.pods) == 41


def test_usage_is_read_off_the_loop_of_what_has_cgroups(pod: Pod) -> None:
    pod.running()
    looks = pod.world.reached.count("look.before")
    used = pod.world.run(pod.world.daemon.usage([pod.con, "gone"]))
    assert list(used) == [pod.con]
    assert pod.world.reached.count("look.before") == looks + 1

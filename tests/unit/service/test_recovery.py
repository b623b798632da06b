"""From the log to an open door, and the second look: one append at the start, guards while the daemon is up."""

from typing import Any

import pytest

from adapters.network.fake import FakeEntry
from adapters.oci.fake import Act, FakePod, FakeTask
from domain import commands as c
from domain import events as e
from domain.config import ContainerSecrets
from domain.errors import NetworkFailed, StorageFailed
from domain.observations import Mark
from service import recovery
from service.daemon import Timing
from service.recovery import replay
from tests.unit.service.pod import IMAGE, OTHER, REF, Pod


def looked(pod: Pod) -> int:
    return pod.world.reached.count("look.before")


# --- at start --------------------------------------------------------------------------------------------------------


def test_everything_that_a_start_finds_is_one_append(pod: Pod) -> None:
    pod.with_box(pid=True).with_con().started()
    pod.world.kill()
    pod.world.machine.end(pod.con, 3)
    pod.world.machine.kill_infra(pod.box)
    before, appends = pod.world.log.head().seq, []
    write = pod.world.log.write

    def spy(entries: object, *given: object, **more: object) -> object:
        placed = write(entries, *given, **more)  # type: ignore[arg-type]
        appends.append((len(placed), more["urgent"]))
        return placed

    pod.world.log.write = spy  # type: ignore[method-assign, assignment]
    pod.world.start(resume=False)
    assert appends == [(3, True)]
    assert pod.world.history(after=before) == ["node.started", "container.exited", "sandbox.died"]
    causes = [(r.cause.kind, r.cause.what) for r in pod.world.log.read(before)]
    assert causes == [("recovery", "start"), ("recovery", "@J"), ("recovery", "@SH")]


@pytest.mark.parametrize("where", ["look.before", "look.after", "append.before", "append.after", "mark", "resume"])
def test_a_start_killed_anywhere_ends_as_one_that_was_not(pod: Pod, where: str) -> None:
    pod.running()
    pod.world.kill()
    pod.world.machine.end(pod.con, 3)
    pod.world.kill_at(where)
    assert pod.world.start() is None
    pod.world.restart()
    pod.world.let_pass(60)
    assert (pod.container.state, pod.container.exit_code) == ("EXITED", 3)
    assert pod.world.history(e.container_key(pod.con)).count("container.exited") == 1


def test_recovery_twice_is_recovery_once(pod: Pod) -> None:
    pod.running()
    pod.world.kill()
    pod.world.machine.end(pod.con, 3)
    pod.world.start(resume=False)
    pod.world.kill()
    before = pod.world.log.head().seq
    pod.world.start(resume=False)
    assert pod.world.history(after=before) == ["node.started"]


def test_nothing_is_done_before_the_door_is_open(pod: Pod) -> None:
    pod.running(on_stop=None)
    pod.world.call(c.StopContainer(pod.con, 0))
    pod.world.kill_at("stop.before")
    pod.world.settle()
    pod.world.start(resume=False)
    pod.world.let_pass(60)
    assert pod.world.machine.tasks[pod.con].init_alive
    pod.world.restart()
    pod.world.let_pass(1)
    assert not pod.world.machine.tasks[pod.con].init_alive


def test_a_long_log_begins_at_its_checkpoint(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.running()
    pod.world.stop()
    whole = replay(pod.world.log)
    monkeypatch.setattr(recovery, "READ_WHOLE_MAX", 0)
    reads: list[int] = []
    read = pod.world.log.read
    monkeypatch.setattr(pod.world.log, "read", lambda after=0: reads.append(after) or read(after))
    short = replay(pod.world.log)
    assert reads == [pod.world.log.head().seq] and short.seq == whole.seq
    assert short.node.snapshot() == whole.node.snapshot()


def test_strangers_stay_and_what_is_provably_ours_goes(pod: Pod) -> None:
    pod.with_box()
    machine, log_id = pod.world.machine, pod.world.log.log_id
    pod.world.kill()
    machine.tasks["ours"] = FakeTask(Mark(log_id, 1))
    machine.tasks["unmarked"] = FakeTask(None)
    machine.tasks["foreign"] = FakeTask(Mark("another log", 1))
    machine.pods["our-pod"] = FakePod(Mark(log_id, 1))
    machine.pods["unmarked-pod"] = FakePod(None)
    pod.world.images._stored[OTHER.image_id] = pod.world.images._offers["q.io/b:1"]
    pod.world.start()
    pod.world.let_pass(1)
    assert sorted(machine.tasks) == ["foreign", "unmarked"]
    assert sorted(machine.pods) == sorted([pod.box, "unmarked-pod"])
    assert list(pod.world.images.observe().images) == [IMAGE.image_id]


def test_a_clean_up_that_fails_is_tried_again(pod: Pod) -> None:
    pod.with_box()
    pod.world.kill()
    pod.world.machine.tasks["ours"] = FakeTask(Mark(pod.world.log.log_id, 1))
    pod.world.machine.at("remove.files", StorageFailed("busy"))
    pod.world.start()
    pod.world.let_pass(1)
    assert "ours" in pod.world.machine.tasks
    assert pod.reconcile() == 0 and "ours" not in pod.world.machine.tasks


# --- while the daemon is up ------------------------------------------------------------------------------------------


def test_a_reconcile_in_peace_says_nothing(pod: Pod) -> None:
    pod.running()
    head = pod.world.log.head()
    assert pod.reconcile() == 0 and pod.world.log.head() == head


def in_reconcile(pod: Pod) -> Any:
    """A reconcile that has looked and not judged yet; it goes on when the loop is driven."""
    pod.world.pace = lambda: 1.0
    task = pod.world.spawn(pod.daemon._recovery.reconcile())
    pod.world.let_pass(1.5)
    pod.world.pace = lambda: 0.0
    return task


def test_an_aggregate_that_moved_on_is_not_judged(pod: Pod) -> None:
    """It is seen without its image; while the sweep returns, the image is removed by a client."""
    pod.with_box()
    pod.world.images.damage(IMAGE.image_id)
    looking = in_reconcile(pod)
    pod.world.ask(c.RemoveImage(REF))
    pod.world.let_pass(60)
    assert looking.done() and "image.lost" not in pod.world.history()


def test_an_image_that_is_lost_is_told(pod: Pod) -> None:
    pod.with_box()
    pod.world.images.damage(IMAGE.image_id)
    assert pod.reconcile() == 1 and pod.world.history()[-1] == "image.lost"


def test_nothing_in_flight_is_judged(pod: Pod) -> None:
    """A create that hangs looks like one that a crash interrupted."""
    pod.with_box()
    pod.world.machine.at("create.monitor", Act.HANG)
    request = pod.create_request()
    call = pod.world.call(request, ContainerSecrets())
    pod.world.let_pass(1)
    assert pod.reconcile() == 0
    assert pod.world.node.containers[request.container_id].state == "CREATING" and not call.done


def test_a_pull_in_flight_keeps_every_image(pod: Pod) -> None:
    pod.with_box()
    pod.world.images._stored[OTHER.image_id] = pod.world.images._offers["q.io/b:1"]
    pod.world.machine.at("pull.step", Act.HANG)
    pod.world.call(c.PullImage("q.io/b:1"))
    pod.world.let_pass(1)
    assert pod.reconcile() == 0 and OTHER.image_id in pod.world.images.observe().images


def contradict(pod: Pod) -> None:
    """Somebody else has started it."""
    pod.world.machine.tasks[pod.con].started = True


def test_a_grave_verdict_needs_two_looks_five_seconds_apart(pod: Pod) -> None:
    pod.with_box().with_con()
    contradict(pod)
    began = pod.world.passed
    assert pod.reconcile() >= 1
    assert pod.world.passed - began == 5.0 and looked(pod) >= 2
    assert "container.exited" in pod.world.history(e.container_key(pod.con))
    assert pod.container.evidence.source == "contradiction"
    assert pod.daemon.health().info["alarms"] == 1


def test_what_is_over_at_the_second_look_was_nothing(pod: Pod) -> None:
    pod.with_box().with_con()
    contradict(pod)
    task = pod.world.spawn(pod.daemon._recovery.reconcile())
    pod.world.let_pass(2)
    pod.world.machine.tasks[pod.con].started = False
    pod.world.let_pass(60)
    assert task.result() == 0 and pod.container.state == "CREATED"
    assert pod.daemon.health().info["alarms"] == 0


def test_what_moved_on_before_the_second_look_is_left(pod: Pod) -> None:
    pod.with_box().with_con()
    contradict(pod)
    task = pod.world.spawn(pod.daemon._recovery.reconcile())
    pod.world.let_pass(2)
    pod.world.ask(c.StopContainer(pod.con, 0))
    pod.world.let_pass(60)
    assert task.result() == 0 and pod.container.evidence.source == "exit-file"


def test_a_second_look_does_not_hold_up_what_is_not_grave(pod: Pod) -> None:
    pod.with_box().with_con()
    contradict(pod)
    pod.world.images.damage(IMAGE.image_id)
    assert pod.reconcile() >= 2 and "image.lost" in pod.world.history()


def test_an_orphan_image_that_a_client_pulls_meanwhile_stays(pod: Pod) -> None:
    """Between the look and the clean-up lies the pause for the second look."""
    pod.with_box().with_con()
    contradict(pod)
    pod.world.images._stored[OTHER.image_id] = pod.world.images._offers["q.io/b:1"]
    pod.world.spawn(pod.daemon._recovery.reconcile())
    pod.world.let_pass(2)
    assert pod.world.ask(c.PullImage("q.io/b:1")) == OTHER.image_id
    pod.world.let_pass(60)
    assert pod.world.images.present(OTHER.image_id)


def test_a_reconcile_cut_off_by_the_stop_leaves_the_node_as_the_log(pod: Pod) -> None:
    pod.with_box()
    pod.world.images.damage(IMAGE.image_id)
    daemon = pod.daemon
    daemon._routines.append(pod.world.spawn(daemon._recovery.reconcile()))
    pod.world.pace = lambda: 1.0
    pod.world.let_pass(3.5)
    assert pod.world.history()[-1] == "image.lost", "durable, not answered yet"
    pod.world.run(daemon.stop())
    assert daemon.node.snapshot() == pod.world.folded().snapshot()


def test_an_orphan_image_whose_removal_hangs_does_not_hold_up_pulls_for_ever(pod: Pod) -> None:
    pod.with_box()
    pod.world.images._stored[OTHER.image_id] = pod.world.images._offers["q.io/b:1"]
    pod.world.machine.at("remove_image.step", Act.HANG)
    pod.world.spawn(pod.daemon._recovery.reconcile())
    pod.world.let_pass(1)
    call = pod.world.call(c.PullImage(REF))
    pod.world.let_pass(600)
    assert call.answered


@pytest.mark.parametrize("step", ["clean.step", "remove.kill"])
def test_a_clean_up_that_hangs_does_not_end_the_looking(pod: Pod, step: str) -> None:
    pod.world.timing = Timing(reconcile_s=30.0)
    pod.with_box()
    pod.world.let_pass(10)
    pod.world.machine.tasks["ours"] = FakeTask(Mark(pod.world.log.log_id, 1))
    pod.world.machine.at(step, Act.HANG)
    pod.world.let_pass(30)
    pod.world.images.damage(IMAGE.image_id)
    pod.world.let_pass(600)
    assert "image.lost" in pod.world.history() and "ours" not in pod.world.machine.tasks


# --- pod networks ----------------------------------------------------------------------------------------------------


def test_an_address_of_nobody_is_released_where_its_mark_is_ours(pod: Pod) -> None:
    world = pod.with_box().world
    for known, log_id in (("ours", world.log.log_id), ("stranger", "another")):
        world.net.entries[known] = FakeEntry(Mark(log_id, 1), "/gone", complete=True)
        world.net.hold(f"10.0.0.{len(known)}", known)
    world.run(world.daemon._recovery.reconcile())
    assert sorted(world.net.entries) == sorted([pod.box, "stranger"])
    assert set(world.net.held.values()) == {pod.box, "stranger"}


def test_an_address_that_cannot_be_released_does_not_keep_the_rest_of_an_orphan(pod: Pod) -> None:
    world = pod.with_box().world
    world.machine.pods["ours"] = FakePod(Mark(world.log.log_id, 1))
    world.net.entries["ours"] = FakeEntry(Mark(world.log.log_id, 1), "/gone")
    world.machine.at("net.del.before", NetworkFailed("no plugin"))
    world.run(world.daemon._recovery.reconcile())
    assert "ours" not in world.machine.pods and "ours" in world.net.entries
    world.run(world.daemon._recovery.reconcile())
    assert "ours" not in world.net.entries


def test_a_leak_is_released_by_the_next_daemon(pod: Pod) -> None:
    world = pod.with_box().world
    world.machine.at("net.del.before", *[NetworkFailed("no plugin")] * 30)
    world.ask(c.StopSandbox(pod.box))
    assert world.node.sandboxes[pod.box].leak == "no plugin" and pod.box in world.net.entries
    world.restart()
    world.machine.script.clear()
    world.let_pass(60)
    assert not world.node.sandboxes[pod.box].held and not world.net.leftovers()
    assert world.history(f"sandbox/{pod.box}")[-1] == "sandbox.network_released"


def test_addresses_outlive_the_daemon_and_are_checked_one_by_one(pod: Pod, caplog: pytest.LogCaptureFixture) -> None:
    world = pod.with_box().world
    ips = world.node.sandboxes[pod.box].ips
    world.restart()
    assert world.node.sandboxes[pod.box].ips == ips and set(world.net.held) == set(ips)
    world.let_pass(5)
    assert "CHECK" not in caplog.text
    world.net.lose_link(pod.box)
    world.restart()
    world.let_pass(5)
    assert f"CHECK failed for 1 sandboxes; the first: sandbox {pod.box}" in caplog.text
    assert world.node.sandboxes[pod.box].state == "READY", "a plugin's word is no reason to end a pod"


def test_what_a_plugin_allocated_and_no_cache_entry_knows_is_collected_at_the_start(pod: Pod) -> None:
    world = pod.with_box().world
    world.net.hold("10.200.0.99", "nobody")
    world.restart()
    world.let_pass(1)
    assert set(world.net.held.values()) == {pod.box}

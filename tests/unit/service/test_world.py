"""The harness keeps its word: after a kill nothing of that daemon runs, at exactly the point that was named."""

import copy

import pytest

from adapters.oci.fake import Act
from domain import commands as c
from domain.config import ContainerSecrets
from domain.errors import StorageFailed
from tests.unit.service.pod import Pod

POINTS = [
    *("secrets.write", "append.before", "append.after"),
    *("create.bundle", "create.mount", "create.monitor", "create.runtime", "create.answer"),
]


@pytest.mark.parametrize("where", POINTS)
def test_nothing_runs_after_a_kill(pod: Pod, where: str) -> None:
    pod.with_box()
    life = pod.world.life
    assert life is not None
    pod.world.kill_at(where)
    call = pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    assert pod.world.life is None and call.lost and call.done and not call.answered
    assert pod.world.reached[-1] == where
    before = copy.deepcopy((pod.world.machine.tasks, pod.world.side_files, pod.world.log.head()))
    pod.world.let_pass(100)
    pod.world.machine.changed()
    assert (pod.world.machine.tasks, pod.world.side_files, pod.world.log.head()) == before
    life.daemon._ports.secrets.write("late", ContainerSecrets())
    life.daemon._ports.mark.write("late", 10**9)
    assert "late" not in pod.world.side_files and pod.world.mark != ("late", 10**9)


@pytest.mark.parametrize(("where", "durable"), [("append.before", False), ("append.after", True)])
def test_a_kill_falls_on_one_side_of_the_commit(pod: Pod, where: str, durable: bool) -> None:
    pod.with_box()
    head = pod.world.log.head().seq
    pod.world.kill_at(where)
    pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    assert pod.world.log.head().seq - head == int(durable)


def test_a_kill_counts_points(pod: Pod) -> None:
    pod.with_box()
    pod.world.kill_at("create", 3)
    pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.settle()
    assert pod.world.reached[-1] == "create.monitor"


def test_a_monitor_outlives_the_daemon(pod: Pod) -> None:
    """A cancelled create ends its monitor; a killed daemon cannot."""
    pod.with_box()
    pod.world.kill_at("create.runtime")
    request = pod.create_request()
    pod.world.call(request, ContainerSecrets())
    pod.world.settle()
    assert pod.world.machine.tasks[request.container_id].monitor_alive


def test_without_a_daemon_a_connection_is_lost(pod: Pod) -> None:
    pod.with_box()
    pod.world.kill()
    call = pod.world.call(c.StopSandbox(pod.box))
    assert call.lost and call.done and not call.answered and call.error is None


def test_the_world_goes_on_without_a_daemon(pod: Pod) -> None:
    pod.running()
    pod.world.kill()
    boot, wall = pod.world.clock.boot_ns, pod.world.clock.now().wall_ns
    pod.world.let_pass(5)
    assert pod.world.clock.boot_ns - boot == pod.world.clock.now().wall_ns - wall == 5 * 10**9
    pod.world.machine.end(pod.con, 4)
    assert pod.world.machine.told[pod.con] == {4}


def test_a_boot_starts_boot_time_anew_and_wall_time_goes_on(pod: Pod) -> None:
    pod.running()
    pod.world.let_pass(1000)
    before = pod.world.clock.now()
    pod.world.reboot()
    after = pod.world.clock.now()
    assert after.boot_ns < before.boot_ns and after.wall_ns == before.wall_ns and after.boot_id != before.boot_id
    assert after.boot_id == pod.world.machine.boot_id and not pod.world.machine.tasks[pod.con].init_alive


def test_answers_come_in_the_order_of_the_records(pod: Pod) -> None:
    """The second append is durable before the first is answered, and is answered after it all the same."""
    pod.with_box()
    waits = iter([1.0, 2.0, 5.0, 0.1])
    pod.world.pace = lambda: next(waits, 0.0)
    seen: list[str] = []
    pod.daemon.on_change(seen.append)
    pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.call(c.PullImage("q.io/b:1"))
    pod.world.let_pass(2.5)
    assert len(pod.world.history()) - 6 == 2 and not seen
    pod.world.let_pass(4)
    assert [key.split("/")[0] for key in seen[:2]] == ["container", "image"]


def test_a_script_makes_a_point_fail_or_hang(pod: Pod) -> None:
    pod.with_box()
    pod.world.machine.at("create.mount", StorageFailed("no space"), Act.HANG)
    with pytest.raises(StorageFailed, match="no space"):
        pod.world.ask(pod.create_request(), ContainerSecrets())
    call = pod.world.call(pod.create_request(), ContainerSecrets())
    pod.world.let_pass(50)
    assert not call.done


def test_whoever_waits_for_nothing_is_told(pod: Pod) -> None:
    pod.world.start()
    with pytest.raises(AssertionError, match=r"no daemon is up|died"):
        pod.world.kill()
        pod.world.ask(pod.run_request())

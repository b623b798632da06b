"""What a person does while no daemon runs: first it is said, and nothing is done without `really`."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from adapters.oci.fake import FakePod, FakeTask
from domain import events as e
from domain.errors import InvalidRequest, NetworkFailed
from domain.observations import Mark
from service import maintenance
from service.daemon import Ports
from service.recovery import replay
from tests.support.service_world import Life, ServiceWorld
from tests.support.virtual import VirtualLoop
from tests.unit.service.pod import HELD_BACK, Pod


class Alone:
    """The ports under the daemon's lock, and what they show."""

    def __init__(self, world: ServiceWorld) -> None:
        if world.life is not None:
            world.kill()
        self.world = world
        self.life = Life(world, VirtualLoop(world.passed))
        self.ports: Ports = world.ports(self.life)

    def do(self, work: Any) -> list[str]:
        task = self.life.loop.create_task(work)
        self.life.loop.settle()
        self.life.loop.close()
        self.life.loop = VirtualLoop(self.world.passed)
        self.ports = replace(self.world.ports(self.life))
        told: list[str] = task.result()
        return told

    def state(self) -> object:
        w = self.world
        return w.log.head(), w.mark, sorted(w.machine.tasks), sorted(w.machine.pods), sorted(w.side_files)


@pytest.fixture
def alone(pod: Pod) -> Any:
    pod.running()
    made = Alone(pod.world)
    yield made
    made.life.loop.close()


def stranger(alone: Alone) -> None:
    alone.world.machine.tasks["stranger"] = FakeTask(Mark("another log", 5), mounted=True)
    alone.world.machine.pods["strange-pod"] = FakePod(Mark("another log", 5))
    alone.world.side_files["stranger"] = HELD_BACK
    alone.world.mark = Mark("another log", 9)


def test_adopt_says_what_it_would_do_and_does_nothing(alone: Alone) -> None:
    stranger(alone)
    before = alone.state()
    lines = alone.do(maintenance.adopt(alone.ports, really=False))
    assert alone.state() == before
    head = alone.world.log.head().seq
    assert lines == [
        f"log {alone.world.log.log_id} ends at record {head}; it becomes the truth",
        f"until now: the state directory belongs to log another log, this log is {alone.world.log.log_id}",
        "end and remove container stranger: this log does not know it",
        "end and remove sandbox strange-pod: this log does not know it",
    ]


def test_adopt_ends_what_only_the_other_log_knew(alone: Alone, pod: Pod) -> None:
    stranger(alone)
    alone.do(maintenance.adopt(alone.ports, really=True))
    assert list(alone.world.machine.tasks) == [pod.con] and list(alone.world.machine.pods) == [pod.box]
    assert alone.world.history()[-1] == "node.adopted" and "stranger" not in alone.world.side_files
    assert alone.world.start() is not None and pod.container.state == "RUNNING"


def test_adopt_without_an_objection_says_so(alone: Alone) -> None:
    lines = alone.do(maintenance.adopt(alone.ports, really=False))
    assert lines[1:] == ["the state directory has no objection to it"]


def test_purge_says_what_it_would_do_and_does_nothing(alone: Alone, pod: Pod) -> None:
    stranger(alone)
    before = alone.state()
    lines = alone.do(maintenance.purge(alone.ports, really=False))
    assert alone.state() == before
    assert set(lines[:-1]) == {
        f"end and remove {what}"
        for what in (f"container {pod.con}", "container stranger", f"sandbox {pod.box}", "sandbox strange-pod")
    }
    assert lines[-1].startswith("remove all images, the log and every other file")


def test_purge_ends_everything_containers_first(alone: Alone) -> None:
    stranger(alone)
    alone.do(maintenance.purge(alone.ports, really=True))
    machine = alone.world.machine
    assert not machine.tasks and not machine.pods and not alone.world.side_files
    steps = [step for step in machine.steps if step in ("remove.files", "remove_sandbox.files")]
    assert steps[-4:] == ["remove.files", "remove.files", "remove_sandbox.files", "remove_sandbox.files"]


def test_a_network_that_cannot_be_released_keeps_nothing_else(alone: Alone, pod: Pod) -> None:
    stranger(alone)
    why = NetworkFailed("plugin bridge: DEL: it is not in /opt/cni/bin")
    alone.world.machine.at("net.del.before", *[why] * 4)
    lines = alone.do(maintenance.purge(alone.ports, really=True))
    machine = alone.world.machine
    assert not machine.tasks and not machine.pods and not alone.world.side_files
    (told,) = [line for line in lines if "not released" in line and pod.box in line]
    assert told.endswith("plugin bridge: DEL: it is not in /opt/cni/bin")


def damaged(alone: Alone, key: str) -> None:
    at = max(r.seq for r in alone.world.log.read() if r.key == key)
    alone.world.log.store.records[at] = b"garbage"


def test_release_is_only_for_what_is_quarantined(alone: Alone, pod: Pod) -> None:
    with pytest.raises(InvalidRequest, match="it is not quarantined; quarantined are: none"):
        alone.do(maintenance.release(alone.ports, e.container_key(pod.con), really=True))


def test_release_says_what_it_would_do_and_does_nothing(alone: Alone, pod: Pod) -> None:
    key = e.container_key(pod.con)
    damaged(alone, key)
    before = alone.state()
    (line,) = alone.do(maintenance.release(alone.ports, key, really=False))
    assert alone.state() == before
    assert line.startswith(f"give up {key} (record ") and "does not decode" in line


def test_release_gives_up_one_aggregate_alone(alone: Alone, pod: Pod) -> None:
    key = e.container_key(pod.con)
    damaged(alone, key)
    assert key in replay(alone.world.log).node.quarantined
    alone.do(maintenance.release(alone.ports, key, really=True))
    assert not alone.world.machine.tasks and list(alone.world.machine.pods) == [pod.box]
    assert pod.con not in alone.world.side_files
    assert not replay(alone.world.log).node.quarantined
    pod.world.start()
    pod.with_con()
    assert pod.container.state == "CREATED", "the name is free again"


def test_the_commands_need_no_daemon_and_leave_no_task(alone: Alone) -> None:
    alone.do(maintenance.purge(alone.ports, really=True))
    assert not asyncio.all_tasks(alone.life.loop)

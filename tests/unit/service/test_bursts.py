"""A thousand containers end at the same instant: each has its own code on record, once."""

import pytest

from domain import commands as c
from domain import events as e
from domain.config import ContainerConfig, ContainerSecrets
from tests.unit.service.pod import REF, Pod

COUNT = 1000


@pytest.fixture
def many(pod: Pod) -> list[str]:
    pod.with_box()
    ids = [pod.world.new_id() for _ in range(COUNT)]
    for number, one in enumerate(ids):
        pod.world.ask(c.CreateContainer(one, pod.box, REF, ContainerConfig(f"k{number}"), "h"), ContainerSecrets())
        pod.world.ask(c.StartContainer(one))
    return ids


def codes(pod: Pod, ids: list[str]) -> list[tuple[str, int | None]]:
    return [(pod.world.node.containers[one].state, pod.world.node.containers[one].exit_code) for one in ids]


def wanted() -> list[tuple[str, int]]:
    return [("EXITED", number % 256) for number in range(COUNT)]


def exits(pod: Pod) -> int:
    return pod.world.history().count("container.exited")


@pytest.mark.slow
def test_all_are_recorded(pod: Pod, many: list[str]) -> None:
    for number, one in enumerate(many):
        pod.world.machine.end(one, number % 256)
    pod.world.settle()
    assert codes(pod, many) == wanted()
    assert exits(pod) == COUNT
    assert not pod.world.unforeseen


@pytest.mark.slow
def test_the_daemon_dies_amid_them(pod: Pod, many: list[str]) -> None:
    for number, one in enumerate(many):
        pod.world.machine.end(one, number % 256)
    pod.world.kill_at("append.after", 100)
    pod.world.settle()
    assert not pod.world.up and 0 < exits(pod) < COUNT
    pod.world.start()
    pod.world.settle()
    assert codes(pod, many) == wanted()
    keys = [record.key for record in pod.world.log.read() if isinstance(record.event, e.ContainerExited)]  # type: ignore[union-attr]
    assert len(keys) == len(set(keys)) == COUNT

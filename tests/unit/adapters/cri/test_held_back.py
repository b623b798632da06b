"""What stays out of the log, and which requests are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cri import held_back
from proto import api_pb2 as pb
from tests.support.cri_requests import DIGEST, container_config, run

SERVICES = [("KUBERNETES_PORT", b"tcp://10.0.0.1"), ("A", b"1"), ("B", b"2"), ("A", b"3")]


def with_envs(envs: list[tuple[str, bytes]]) -> str:
    return held_back.hash_of_container(container_config(envs=[pb.KeyValue(key=k, value=v) for k, v in envs]), DIGEST)


def test_order_of_variables_does_not_count_between_names() -> None:
    assert with_envs(SERVICES) == with_envs([SERVICES[1], SERVICES[3], SERVICES[2], SERVICES[0]])


def test_order_counts_within_a_name_for_the_last_wins() -> None:
    assert with_envs([("A", b"1"), ("A", b"3")]) != with_envs([("A", b"3"), ("A", b"1")])


@given(st.permutations(sorted({f"K{i}": i for i in range(20)}.items())))
def test_order_of_maps_does_not_count(items: list[tuple[str, int]]) -> None:
    labels = {k: str(v) for k, v in items}
    assert held_back.hash_of_container(container_config(labels=labels), DIGEST) == held_back.hash_of_container(
        container_config(labels=dict(sorted(labels.items()))), DIGEST
    )
    assert held_back.hash_of_sandbox(run(labels=labels), DIGEST) == held_back.hash_of_sandbox(
        run(labels=dict(sorted(labels.items()))), DIGEST
    )


def with_termination_log(path: str, annotated: bool = True) -> str:
    annotations = {held_back.TERMINATION_PATH: "/dev/termination-log"} if annotated else {}
    mounts = [pb.Mount(container_path="/dev/termination-log", host_path=path)]
    return held_back.hash_of_container(container_config(mounts=mounts, annotations=annotations), DIGEST)


def test_the_kubelets_random_file_behind_the_termination_log_does_not_count() -> None:
    pod = "/var/lib/kubelet/pods/1/containers/app"
    assert with_termination_log(f"{pod}/0a1b2c3d") == with_termination_log(f"{pod}/ffffffff")
    assert with_termination_log(f"{pod}/0a1b2c3d") != with_termination_log("/var/lib/kubelet/pods/2/0a1b2c3d")
    assert with_termination_log(f"{pod}/0a1b2c3d") != with_termination_log("/var/lib/kubelet/pods/1/containers/app/log")
    assert with_termination_log(f"{pod}/0a1b2c3d", False) != with_termination_log(f"{pod}/ffffffff", False)


@pytest.mark.parametrize(
    "change",
    [
        {"args": ["other"]},
        {"envs": [pb.KeyValue(key="A", value=b"other")]},
        {"image": pb.ImageSpec(image="other")},
        {"annotations": {"long": "x" * 2000}},
        {"tty": True},
    ],
)
def test_everything_else_counts(change: dict[str, object]) -> None:
    assert held_back.hash_of_container(container_config(), DIGEST) != held_back.hash_of_container(
        container_config(**change), DIGEST
    )


def test_the_request_itself_is_left_alone() -> None:
    config = container_config(envs=[pb.KeyValue(key=k, value=v) for k, v in SERVICES])
    before = config.SerializeToString(deterministic=True)
    held_back.hash_of_container(config, DIGEST)
    assert config.SerializeToString(deterministic=True) == before


def test_annotations_held_back() -> None:
    name = "kubectl.kubernetes.io/last-applied-configuration"
    shown, hidden = held_back.annotations({"a": "1", name: "{}", "big": "ü" * 513, "most": "x" * 1024})
    assert shown == {"a": "1", "most": "x" * 1024}
    assert hidden == {name: "{}", "big": "ü" * 513}

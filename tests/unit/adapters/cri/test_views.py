"""Aggregates -> the CRI's messages."""

import json
from dataclasses import replace
from typing import Any

import pytest

from adapters.cri import info, views
from domain import config as d
from domain import container as containers
from domain import sandbox as sandboxes
from domain.container import Container
from domain.events import Binary, User
from domain.image import Image, PulledImage
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node, Quarantine
from domain.records import Digest, Process
from domain.sandbox import Sandbox
from proto import api_pb2 as pb
from tests.support.cri_requests import SECRET

CONFIG = d.ContainerConfig(
    name="app",
    attempt=3,
    image="sha256:" + "ab" * 32,
    user_specified_image="busybox:1.36",
    envs=(Digest("TOKEN", 20, "0" * 32),),
    mounts=(d.Mount("/a", "/b", True, True, d.Propagation.HOST_TO_CONTAINER, False, True, options=("noexec",)),),
    labels={"l": "1"},
    annotations={"a": "1"},
    resources=d.Resources(1, 2, 3, 4, 5, 6, "0-1", "0", {"2MB": 7}, {"memory.high": "8"}),
)
RUNNING = Container(
    id="c" * 64,
    sandbox_id="5" * 64,
    state=ContainerState.RUNNING,
    config=CONFIG,
    request_hash="f" * 32,
    image_id="sha256:" + "ab" * 32,
    image_ref="docker.io/library/busybox@sha256:" + "cd" * 32,
    log_path="/var/log/pods/p/app/3.log",
    stop_signal="SIGUSR1",
    created_at=10,
    started_at=11,
    init=Process(77, 5, "boot"),
    user=User(1000, 100, (100, 5)),
    runtime=Binary("/usr/sbin/runc", "1.1.5", "1"),
)
READY = Sandbox(
    id="5" * 64,
    state=SandboxState.READY,
    config=d.SandboxConfig(
        "pod",
        "uid",
        "ns",
        attempt=2,
        runtime_handler="crun",
        namespaces=d.NamespaceOptions(pid=d.NamespaceMode.CONTAINER),
        labels={"l": "1"},
        annotations={"a": "1"},
    ),
    request_hash="f" * 32,
    created_at=9,
    boot_id="boot",
    ready=True,
    ips=("10.88.0.5", "fd00::5"),
    network='{"cniVersion": "1.0.0"}',
)
BAD = Quarantine(4711, "bad checksum")


def no_secrets(name: str) -> None:
    raise AssertionError("there is nothing to look up")


def test_container_status() -> None:
    status = views.container_status(RUNNING, no_secrets)
    assert status == pb.ContainerStatus(
        id="c" * 64,
        metadata=pb.ContainerMetadata(name="app", attempt=3),
        state=pb.CONTAINER_RUNNING,
        created_at=10,
        started_at=11,
        image=pb.ImageSpec(image="busybox:1.36", user_specified_image="busybox:1.36"),
        image_ref=RUNNING.image_ref,
        image_id=RUNNING.image_id,
        labels={"l": "1"},
        annotations={"a": "1"},
        mounts=[
            pb.Mount(
                container_path="/a",
                host_path="/b",
                readonly=True,
                selinux_relabel=True,
                propagation=pb.PROPAGATION_HOST_TO_CONTAINER,
                recursive_read_only=True,
                mount_options=["noexec"],
            )
        ],
        log_path="/var/log/pods/p/app/3.log",
        resources=pb.ContainerResources(
            linux=pb.LinuxContainerResources(
                cpu_period=1,
                cpu_quota=2,
                cpu_shares=3,
                memory_limit_in_bytes=4,
                memory_swap_limit_in_bytes=5,
                oom_score_adj=6,
                cpuset_cpus="0-1",
                cpuset_mems="0",
                hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=7)],
                unified={"memory.high": "8"},
            )
        ),
        user=pb.ContainerUser(linux=pb.LinuxContainerUser(uid=1000, gid=100, supplemental_groups=[100, 5])),
        stop_signal=pb.SIGNAL_SIGUSR1,
    )


def test_exited_container() -> None:
    exited = replace(
        RUNNING, state=ContainerState.EXITED, finished_at=12, exit_code=137, reason="OOMKilled", text="a\ud800b"
    )
    status = views.container_status(exited, no_secrets)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 137, "OOMKilled")
    assert (status.started_at, status.finished_at, status.message) == (11, 12, "a?b")


def test_what_a_client_refuses_empty_never_is() -> None:
    bare = replace(RUNNING, image_ref="", config=d.ContainerConfig("app", image="busybox"))
    for message in (views.container(bare, no_secrets), views.container_status(bare, no_secrets)):
        assert message.image.image == "busybox"
        assert message.image_ref == message.image_id == RUNNING.image_id
        assert message.created_at
    assert not views.container_status(bare, no_secrets).HasField("resources")


@pytest.mark.parametrize("state", ContainerState)
def test_every_listed_container_state_has_a_view(state: ContainerState) -> None:
    known = replace(RUNNING, state=state)
    name = containers.view(known)
    if name is None:
        with pytest.raises(AssertionError):
            views.container(known, no_secrets)
    else:
        assert views.container(known, no_secrets).state == pb.ContainerState.Value(name)


@pytest.mark.parametrize("state", SandboxState)
def test_every_listed_sandbox_state_has_a_view(state: SandboxState) -> None:
    known = replace(READY, state=state)
    name = sandboxes.view(known)
    if name is None:
        with pytest.raises(AssertionError):
            views.sandbox_status(known, no_secrets)
    else:
        assert views.sandbox_status(known, no_secrets).state == pb.PodSandboxState.Value(name)


def test_sandbox_status() -> None:
    assert views.sandbox_status(READY, no_secrets) == pb.PodSandboxStatus(
        id="5" * 64,
        metadata=pb.PodSandboxMetadata(name="pod", uid="uid", namespace="ns", attempt=2),
        state=pb.SANDBOX_READY,
        created_at=9,
        network=pb.PodSandboxNetworkStatus(ip="10.88.0.5", additional_ips=[pb.PodIP(ip="fd00::5")]),
        linux=pb.LinuxPodSandboxStatus(
            namespaces=pb.Namespace(options=pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER, ipc=pb.POD))
        ),
        labels={"l": "1"},
        annotations={"a": "1"},
        runtime_handler="crun",
    )


def test_host_network_has_no_address() -> None:
    modes = d.NamespaceOptions(network=d.NamespaceMode.NODE)
    status = views.sandbox_status(replace(READY, config=replace(READY.config, namespaces=modes)), no_secrets)
    assert status.HasField("network")
    assert status.network.ip == ""
    assert status.linux.namespaces.options.network == pb.NODE


def test_annotations_held_back_come_back() -> None:
    config = replace(CONFIG, hidden=(Digest("big", 3, "0" * 32),))
    kept = d.ContainerSecrets(annotations={"big": "xyz"})
    status = views.container_status(replace(RUNNING, config=config), {RUNNING.id: kept}.get)
    assert dict(status.annotations) == {"a": "1", "big": "xyz"}
    lost = views.container_status(replace(RUNNING, config=config), lambda name: None)
    assert dict(lost.annotations) == {"a": "1"}


def test_quarantined_is_shown_and_explained() -> None:
    status = views.container_status(RUNNING, no_secrets, BAD)
    assert status.state == pb.CONTAINER_RUNNING
    assert "record 4711 of the log does not decode (bad checksum)" in status.message
    assert status.annotations[views.QUARANTINED] == status.message
    for shown in (views.sandbox(READY, no_secrets, BAD), views.sandbox_status(READY, no_secrets, BAD)):
        assert f"sandbox {READY.id} is quarantined" in shown.annotations[views.QUARANTINED]


def held(user: str = "", digest: str = "sha256:" + "cd" * 32, size: int = 5) -> PulledImage:
    return PulledImage("sha256:" + "ab" * 32, digest, (), size, user)


def known_as(*references: str, digest: str = "sha256:" + "cd" * 32) -> list[Image]:
    return [Image(reference, ImageState.PRESENT, held(digest=digest)) for reference in references]


def test_image_under_all_its_names() -> None:
    by_digest = "localhost:5000/x@sha256:" + "cd" * 32
    made = views.image(held(), known_as("docker.io/library/b:2", "docker.io/library/b:1", by_digest))
    assert list(made.repo_tags) == ["docker.io/library/b:1", "docker.io/library/b:2"]
    assert list(made.repo_digests) == ["docker.io/library/b@sha256:" + "cd" * 32, by_digest]
    assert made.size == 5
    assert made.spec.image == made.id == "sha256:" + "ab" * 32


def test_image_pulled_by_digest_has_no_tag() -> None:
    made = views.image(held(size=0), known_as("docker.io/library/b@sha256:" + "cd" * 32))
    assert (list(made.repo_tags), len(made.repo_digests), made.size) == ([], 1, 1)


def test_image_without_a_digest() -> None:
    made = views.image(held(digest=""), known_as("docker.io/library/b:1", digest=""))
    assert (list(made.repo_tags), list(made.repo_digests)) == (["docker.io/library/b:1"], [])


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", 0, ""),
        ("0", 0, ""),
        ("1000:1000", 1000, ""),
        ("www-data:www", None, "www-data"),
        (":5", 0, ""),
        ("-1", None, "-1"),
        ("9" * 30, None, "9" * 30),
        ("9" * 19, None, "9" * 19),
        ("٣", None, "٣"),
    ],
)
def test_user_of_an_image_is_one_of_both(user: str, uid: int | None, username: str) -> None:
    assert views.user_of(user) == (uid, username)
    made = views.image(held(user), known_as("docker.io/library/b:1"))
    assert made.HasField("uid") == (uid is not None)
    assert made.HasField("uid") != bool(made.username)


NETNS = "/var/run/netns/of-the-pod"


def infos() -> dict[str, Any]:
    node = Node()
    node.sandboxes[READY.id], node.containers[RUNNING.id] = READY, RUNNING
    node.images = {i.reference: i for i in known_as("docker.io/library/b:1")}
    return {
        "container": info.container(node, RUNNING),
        "sandbox": info.sandbox(node, READY, NETNS),
        "image": info.image(node, held()),
    }


def test_info_is_one_json_text() -> None:

    read = {name: json.loads(of["info"]) for name, of in infos().items()}
    assert read["container"]["pid"] == 77
    assert read["container"]["sandboxID"] == READY.id
    assert read["container"]["runtimeHandler"] == "crun"
    assert read["container"]["envs"] == [{"name": "TOKEN", "length": 20}]
    assert read["sandbox"]["cniResult"] == {"cniVersion": "1.0.0"}
    assert read["image"]["usedBy"] == [RUNNING.id]
    assert SECRET not in str(read)
    assert "0" * 32 not in str(read)


def test_a_cni_result_that_is_not_json_is_text() -> None:
    assert '"cniResult": "oops"' in info.sandbox(Node(), replace(READY, network="oops"), "")["info"]


def of_pod(known: Any, netns: str, *containers: Any) -> Any:
    node = Node()
    node.sandboxes[known.id] = known
    for each in containers:
        node.containers[each.id] = each
        node._pods.setdefault(known.id, {})[each.id] = None
    return json.loads(info.sandbox(node, known, netns)["info"])


def test_agents_find_the_network_of_a_pod() -> None:
    own = replace(READY, infra=None, config=replace(READY.config, namespaces=d.NamespaceOptions(d.NamespaceMode.POD)))
    told = of_pod(own, NETNS)
    assert (told["pid"], told["netns"], told["netNamespaceClosed"]) == (0, NETNS, False)
    assert told["runtimeSpec"]["linux"]["namespaces"] == [{"type": "network", "path": NETNS}]
    assert of_pod(own, "")["netNamespaceClosed"] is True
    hosts = of_pod(replace(own, config=replace(own.config, namespaces=d.NamespaceOptions(d.NamespaceMode.NODE))), "")
    assert hosts["runtimeSpec"]["linux"]["namespaces"] == [] and hosts["netNamespaceClosed"] is False


def test_the_pid_of_a_pod_is_of_a_process_in_it() -> None:
    ended = replace(RUNNING, id="a" * 64, state=ContainerState.EXITED, created_at=1)
    older = replace(RUNNING, id="b" * 64, init=replace(RUNNING.init, pid=78), created_at=2)
    newer = replace(RUNNING, created_at=3)
    pod = replace(READY, infra=None)
    assert of_pod(pod, NETNS, ended, older, newer)["pid"] == 78
    assert of_pod(pod, NETNS, ended)["pid"] == 0
    assert of_pod(replace(READY, infra=replace(RUNNING.init, pid=9)), NETNS, older)["pid"] == 9

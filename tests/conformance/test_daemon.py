"""The real daemon over its sockets, from the image to the last removal, as the kubelet and crictl use it."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from proto import api_pb2 as pb
from tests.crash.life import Pod, container_config, pod_config, refused
from tests.support.daemon import IMAGE, Machine, machine, until
from tests.support.oci_layout import busybox_files, make_oci_layout
from tests.support.registry import LoopbackRegistry

pytestmark = [pytest.mark.real, pytest.mark.slow]

NOBODY = "f" * 64
FOREVER = "touch /shared/up; while :; do sleep 0.05; done"
OTHER_FILES = {**busybox_files(), "etc/other": b"makes a layer of its own"}
CRI_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout|stderr) [FP] ")


@pytest.fixture(scope="module")
def served() -> Iterator[Machine]:
    with machine() as made:
        made.start()
        made.load()
        yield made
        assert made.terminate() == 0
        assert made.left().mounts == ()
        checked = made.replay("check")
        assert checked.returncode == 0, checked.stdout


@pytest.fixture
def m(served: Machine) -> Iterator[Machine]:
    """The daemon with an image and nothing else, before and after."""
    before = served.left()
    yield served
    runtime, _ = served.cri()
    for pod in runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=5).items:
        runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=30)
    served.await_clean(before)


def pod(m: Machine, name: str = "pod") -> Pod:
    made = Pod(m, name)
    for file in made.shared.iterdir():
        file.unlink()
    return made


# --- a life ----------------------------------------------------------------------------------------------------------


def test_it_says_who_it_is_and_that_it_is_ready(m: Machine) -> None:
    runtime, _ = m.cri()
    version = runtime.Version(pb.VersionRequest(), timeout=5)
    assert (version.runtime_name, version.runtime_api_version) == ("daybook", "v1")
    status = runtime.Status(pb.StatusRequest(verbose=True), timeout=5)
    told = {c.type: c for c in status.status.conditions}
    assert {kind: c.status for kind, c in told.items()} == {"RuntimeReady": True, "NetworkReady": False}
    assert told["NetworkReady"].reason == "NetworkPluginNotReady"
    assert "/nonexistent/net.d" in told["NetworkReady"].message
    assert status.info["info"]
    assert json.loads(status.info["config"]) == {"sandboxImage": "registry.k8s.io/pause:3.10.1"}, "kubeadm reads it"


def test_without_a_network_a_pod_that_needs_one_is_refused_and_leaves_nothing(m: Machine) -> None:
    """`m` looks for what is left. The host's network is there all the same: every other test uses it."""
    with refused(StatusCode.INTERNAL, "/nonexistent/net.d"):
        pod(m).run(network=pb.POD)


def test_the_admin_socket_serves_the_same(m: Machine) -> None:
    made = pod(m).run()
    listed = m.cri(admin=True)[0].ListPodSandbox(pb.ListPodSandboxRequest(), timeout=5).items
    assert [s.id for s in listed] == [made.sandbox_id]


def test_what_a_status_tells(m: Machine) -> None:
    made = pod(m).run()
    config = container_config("exit 3", labels={"a": "b"}, annotations={"c": "d"})
    config.image.user_specified_image = "busybox:1"
    config.envs.add(key="SECRET", value=b"hunter2")
    request = pb.CreateContainerRequest(pod_sandbox_id=made.sandbox_id, config=config)
    made.container_id = m.cri()[0].CreateContainer(request, timeout=30).container_id
    created = made.status()
    assert (created.state, created.started_at, created.finished_at) == (pb.CONTAINER_CREATED, 0, 0)
    made.start()
    status = made.ended()
    assert (status.exit_code, status.reason) == (3, "Error")
    assert 0 < status.created_at <= status.started_at <= status.finished_at
    assert status.metadata.name == "app"
    assert status.image.image == "busybox:1"
    assert status.image_id == m.layout().image_id
    assert status.image_ref == f"registry.example/busybox@{m.layout().manifest}"
    assert status.log_path == str(m.pod_logs / "pod" / "app.log")
    assert (dict(status.labels), dict(status.annotations)) == ({"a": "b"}, {"c": "d"})
    assert (status.user.linux.uid, status.user.linux.gid) == (0, 0)
    verbose = m.cri()[0].ContainerStatus(pb.ContainerStatusRequest(container_id=made.container_id, verbose=True))
    assert "hunter2" not in str(verbose)
    assert json.loads(verbose.info["info"])["evidence"]["source"] == "exit-file"
    assert b"hunter2" not in (m.log_directory / "data.mdb").read_bytes()


def test_a_sandboxs_status(m: Machine) -> None:
    made = pod(m).run()
    status = made.ask("PodSandboxStatus", pod_sandbox_id=made.sandbox_id).status
    assert (status.id, status.state, status.metadata.name) == (made.sandbox_id, pb.SANDBOX_READY, "pod")
    assert status.linux.namespaces.options.network == pb.NODE
    assert dict(status.annotations) == {"kubectl.kubernetes.io/last-applied-configuration": "kept beside the log"}
    made.ask("StopPodSandbox", pod_sandbox_id=made.sandbox_id)
    assert made.ask("PodSandboxStatus", pod_sandbox_id=made.sandbox_id).status.state == pb.SANDBOX_NOTREADY


def test_both_streams_come_into_the_log_in_the_cris_format(m: Machine) -> None:
    made = pod(m).run().create("echo to out; echo to err >&2; printf unfinished").start()
    made.ended()
    file = m.pod_logs / "pod" / "app.log"
    lines = until(lambda: file.read_text().splitlines() if file.read_text().count("\n") >= 3 else None)
    assert all(CRI_LINE.match(line) for line in lines)
    told = sorted(line.split(" ", 1)[1] for line in lines)
    assert told[-3:] == ["stderr F to err", "stdout F to out", "stdout P unfinished"]
    made.remove()
    assert file.exists(), "the log is the kubelet's"
    file.unlink()


def test_the_environment_and_the_mounts_arrive(m: Machine) -> None:
    made = pod(m).run()
    envs = [pb.KeyValue(key="GREETING", value=b"hello")]
    made.create('echo "$GREETING" >/shared/said; cat /etc/hostname >>/shared/said', envs=envs).start()
    assert made.ended().exit_code == 0
    assert (made.shared / "said").read_text().startswith("hello\n")


def test_a_pod_with_a_shared_pid_namespace(m: Machine) -> None:
    made = pod(m).run(pid=pb.POD)
    made.create(FOREVER)
    config = container_config("exec true", "other")
    config.linux.security_context.namespace_options.pid = pb.POD
    config.command[:] = ["/bin/sh", "-c", "ps >/shared/ps"]
    config.mounts.add(container_path="/shared", host_path=str(made.shared))
    request = pb.CreateContainerRequest(pod_sandbox_id=made.sandbox_id, config=config)
    made.container_id = m.cri()[0].CreateContainer(request, timeout=30).container_id
    made.start()
    assert made.ended().exit_code == 0
    assert "1 root     /pause" in (made.shared / "ps").read_text()


def test_a_program_that_is_not_there_is_an_error_of_the_creation_that_says_so(m: Machine) -> None:
    """Without its name: a whole command line, with a password, may stand in its place."""
    made = pod(m).run()
    config = container_config("")
    config.command[:] = ["/nonexistent/program"]
    request = pb.CreateContainerRequest(pod_sandbox_id=made.sandbox_id, config=config)
    with refused(StatusCode.INTERNAL, "exec: no such file or directory"):
        m.cri()[0].CreateContainer(request, timeout=30)


# --- stops -----------------------------------------------------------------------------------------------------------


def test_a_stop_gives_the_container_its_grace(m: Machine) -> None:
    made = pod(m).running("trap 'exit 42' TERM; touch /shared/up; while :; do sleep 0.05 & wait $!; done")
    made.stop(10)
    assert (made.status().exit_code, made.status().state) == (42, pb.CONTAINER_EXITED)


def test_a_grace_that_is_over_ends_in_a_kill(m: Machine) -> None:
    made = pod(m).running("trap : TERM; touch /shared/up; while :; do sleep 0.05; done")
    made.stop(1)
    assert (made.status().exit_code, made.status().reason) == (137, "Error")


def test_a_stop_without_grace_kills_at_once(m: Machine) -> None:
    made = pod(m).running("trap 'exit 42' TERM; " + FOREVER)
    made.stop(0)
    assert made.status().exit_code == 137


def test_an_earlier_deadline_moves_a_stop(m: Machine) -> None:
    made = pod(m).running("trap : TERM; " + FOREVER)
    request = pb.StopContainerRequest(container_id=made.container_id, timeout=60)
    first = m.cri()[0].StopContainer.future(request, timeout=30)
    until(lambda: made.info()["stop"])
    assert made.status().state == pb.CONTAINER_RUNNING
    made.stop(0)
    assert first.result(5) is not None
    assert made.status().exit_code == 137


def test_stopping_the_pod_ends_its_containers(m: Machine) -> None:
    made = pod(m).running(FOREVER)
    made.ask("StopPodSandbox", pod_sandbox_id=made.sandbox_id)
    assert made.status().state == pb.CONTAINER_EXITED


def test_removing_a_running_pod_removes_all_of_it(m: Machine) -> None:
    made = pod(m).running(FOREVER)
    made.ask("RemovePodSandbox", pod_sandbox_id=made.sandbox_id)
    assert not made.ask("ListContainers").containers
    assert not made.ask("ListPodSandbox").items


def test_removing_a_running_container_ends_it(m: Machine) -> None:
    made = pod(m).running(FOREVER)
    made.ask("RemoveContainer", container_id=made.container_id)
    assert not made.ask("ListContainers").containers


# --- asked twice, asked of nobody ------------------------------------------------------------------------------------


def test_what_is_done_already_is_answered_with_yes(m: Machine) -> None:
    made = pod(m).running(FOREVER)
    for _ in range(2):
        made.stop()
    for _ in range(2):
        made.ask("RemoveContainer", container_id=made.container_id)
    made.stop()
    for _ in range(2):
        made.ask("StopPodSandbox", pod_sandbox_id=made.sandbox_id)
    for _ in range(2):
        made.ask("RemovePodSandbox", pod_sandbox_id=made.sandbox_id)
    made.ask("StopPodSandbox", pod_sandbox_id=made.sandbox_id)


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("StopContainer", {"container_id": NOBODY}),
        ("RemoveContainer", {"container_id": NOBODY}),
        ("StopPodSandbox", {"pod_sandbox_id": NOBODY}),
        ("RemovePodSandbox", {"pod_sandbox_id": NOBODY}),
        ("RemoveImage", {"image": pb.ImageSpec(image="registry.example/nobody:1")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stopping_and_removing_what_is_not_there_is_done(m: Machine, rpc: str, fields: dict[str, Any]) -> None:
    pod(m).ask(rpc, **fields)


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("ContainerStatus", {"container_id": NOBODY}),
        ("PodSandboxStatus", {"pod_sandbox_id": NOBODY}),
        ("StartContainer", {"container_id": NOBODY}),
        ("CreateContainer", {"pod_sandbox_id": NOBODY, "config": container_config("true")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nobody_has_no_status_and_cannot_start(m: Machine, rpc: str, fields: dict[str, Any]) -> None:
    with refused(StatusCode.NOT_FOUND, NOBODY):
        pod(m).ask(rpc, **fields)


def test_an_image_that_is_not_there_has_an_empty_status(m: Machine) -> None:
    image = pb.ImageSpec(image="registry.example/nobody:1")
    assert not pod(m).ask("ImageStatus", image=image).HasField("image")


def test_the_same_request_gets_the_same_id_another_one_is_refused(m: Machine) -> None:
    made = pod(m).run()
    first = made.sandbox_id
    assert made.run().sandbox_id == first
    container = made.create("sleep 1000").container_id
    assert made.create("sleep 1000").container_id == container
    with refused(StatusCode.ALREADY_EXISTS, container):
        made.create("sleep 2000")
    config = pod_config(m, "pod")
    config.labels["another"] = "label"
    with refused(StatusCode.ALREADY_EXISTS, first):
        made.ask("RunPodSandbox", config=config)


def test_a_container_starts_once(m: Machine) -> None:
    made = pod(m).running(FOREVER)
    with refused(StatusCode.FAILED_PRECONDITION, "already started"):
        made.start()
    made.stop()
    with refused(StatusCode.FAILED_PRECONDITION, "has ended"):
        made.start()


def test_a_stopped_pod_takes_no_container(m: Machine) -> None:
    made = pod(m).run()
    made.ask("StopPodSandbox", pod_sandbox_id=made.sandbox_id)
    with refused(StatusCode.FAILED_PRECONDITION, "not ready"):
        made.create(FOREVER)


def test_an_image_in_use_stays(m: Machine) -> None:
    made = pod(m).run().create(FOREVER)
    with refused(StatusCode.FAILED_PRECONDITION, made.container_id):
        made.ask("RemoveImage", image=pb.ImageSpec(image=IMAGE))
    assert made.ask("ImageStatus", image=pb.ImageSpec(image=IMAGE)).HasField("image")


def test_an_id_may_be_shortened_while_it_is_clear(m: Machine) -> None:
    made = pod(m).run()
    assert made.ask("PodSandboxStatus", pod_sandbox_id=made.sandbox_id[:12]).status.id == made.sandbox_id


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lists_are_filtered(m: Machine) -> None:
    one, two = pod(m, "one").run().create(FOREVER), pod(m, "two").run().create("exit 0", labels={"is": "two"}).start()
    two.ended()

    def containers(**wanted: Any) -> list[str]:
        return [c.id for c in one.ask("ListContainers", filter=pb.ContainerFilter(**wanted)).containers]

    def pods(**wanted: Any) -> list[str]:
        return [s.id for s in one.ask("ListPodSandbox", filter=pb.PodSandboxFilter(**wanted)).items]

    assert containers() == [one.container_id, two.container_id]
    assert containers(id=two.container_id) == [two.container_id]
    assert containers(id=NOBODY) == []
    assert containers(pod_sandbox_id=one.sandbox_id) == [one.container_id]
    assert containers(label_selector={"is": "two"}) == [two.container_id]
    assert containers(label_selector={"is": "one"}) == []
    assert containers(state=pb.ContainerStateValue(state=pb.CONTAINER_EXITED)) == [two.container_id]
    assert containers(state=pb.ContainerStateValue(state=pb.CONTAINER_CREATED)) == [one.container_id]
    one.ask("StopPodSandbox", pod_sandbox_id=one.sandbox_id)
    assert pods() == [one.sandbox_id, two.sandbox_id]
    assert pods(label_selector={"app": "two"}) == [two.sandbox_id]
    assert pods(state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY)) == [one.sandbox_id]
    assert pods(id=two.sandbox_id, state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY)) == []


# --- images ----------------------------------------------------------------------------------------------------------


@contextmanager
def registry(tmp_path: Path) -> Iterator[tuple[LoopbackRegistry, Any]]:
    built = make_oci_layout(tmp_path / "served", files=OTHER_FILES, multi_arch=True)
    with LoopbackRegistry(built.path) as serving:
        yield serving, built


def test_an_image_is_pulled_by_tag_and_by_digest(m: Machine, tmp_path: Path) -> None:
    with registry(tmp_path) as (serving, built):
        ask = pod(m).ask
        by_tag, by_digest = f"{serving.host}/app:latest", f"{serving.host}/app@{built.named}"
        for name in (by_tag, by_digest, by_tag):
            assert ask("PullImage", image=pb.ImageSpec(image=name)).image_ref == built.image_id
        for name in (by_tag, by_digest, built.image_id):
            image = ask("ImageStatus", image=pb.ImageSpec(image=name)).image
            assert image.id == built.image_id
            assert list(image.repo_tags) == [by_tag]
            assert list(image.repo_digests) == [by_digest]
            assert image.size > 0
        assert [i.id for i in ask("ListImages", filter=pb.ImageFilter(image=pb.ImageSpec(image=by_tag))).images] == [
            built.image_id
        ]
        made = pod(m, "pulled").run()
        made.container_id = made.ask(
            "CreateContainer", pod_sandbox_id=made.sandbox_id, config=container_config("exit 0", image=by_digest)
        ).container_id
        made.start()
        assert made.ended().exit_code == 0
        made.remove()
        ask("RemoveImage", image=pb.ImageSpec(image=built.image_id))
        assert not ask("ImageStatus", image=pb.ImageSpec(image=by_tag)).HasField("image")
        assert len(ask("ListImages").images) == 1


def test_a_pull_that_cannot_be(m: Machine, tmp_path: Path) -> None:
    with registry(tmp_path) as (serving, _):
        with refused(StatusCode.UNKNOWN, f"{serving.host}/app:none"):
            pod(m).ask("PullImage", image=pb.ImageSpec(image=f"{serving.host}/app:none"))
        host = serving.host
    with refused(StatusCode.UNKNOWN, "RegistryUnavailable"):
        pod(m).ask("PullImage", image=pb.ImageSpec(image=f"{host}/app:latest"))


def test_load_is_for_the_admin_socket_only(m: Machine) -> None:
    other = m.layout("other", files={**OTHER_FILES, "etc/loaded": b""})
    image = pb.ImageSpec(image="registry.example/loaded:1")
    with refused(StatusCode.INVALID_ARGUMENT, "admin socket"):
        m.cri()[1].PullImage(m.load_request(image.image, "other"), timeout=30)
    loaded = m.command("load", str(other.path), image.image)
    assert loaded.returncode == 0, loaded.stderr
    assert pod(m).ask("ImageStatus", image=image).image.id == other.image_id
    pod(m).ask("RemoveImage", image=image)


def test_one_image_has_several_names_and_goes_with_all_of_them(m: Machine) -> None:
    other = m.layout("other", files={**OTHER_FILES, "etc/loaded": b""})
    names = ["registry.example/a:1", "registry.example/b:1"]
    for name in names:
        assert m.load(name, "other") == other.image_id
    ask = pod(m).ask
    assert list(ask("ImageStatus", image=pb.ImageSpec(image=names[0])).image.repo_tags) == names
    assert [i.id for i in ask("ListImages").images].count(other.image_id) == 1
    ask("RemoveImage", image=pb.ImageSpec(image=names[0]))
    assert not ask("ImageStatus", image=pb.ImageSpec(image=names[1])).HasField("image")


def test_image_fs_info(m: Machine) -> None:
    told = pod(m).ask("ImageFsInfo")
    assert told.image_filesystems[0].used_bytes.value > 0
    assert told.image_filesystems[0].fs_id.mountpoint.startswith(str(m.data))


# --- wrong inputs ----------------------------------------------------------------------------------------------------


def changed(config: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        part, _, last = name.rpartition("__")
        target = config
        for step in filter(None, part.split("__")):
            target = getattr(target, step)
        setattr(target, last, value)
    return config


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"metadata__name": ""}, StatusCode.INVALID_ARGUMENT),
        ({"metadata__uid": ""}, StatusCode.INVALID_ARGUMENT),
        ({"log_directory": "relative/logs"}, StatusCode.INVALID_ARGUMENT),
        ({"log_directory": "/var/../etc"}, StatusCode.INVALID_ARGUMENT),
        ({"hostname": "not a hostname"}, StatusCode.INVALID_ARGUMENT),
        ({"linux__cgroup_parent": "/../outside"}, StatusCode.INVALID_ARGUMENT),
        ({"linux__security_context__namespace_options__userns_options__mode": pb.POD}, StatusCode.UNIMPLEMENTED),
        ({"linux__security_context__namespace_options__pid": pb.TARGET}, StatusCode.INVALID_ARGUMENT),
    ],
    ids=str,
)
def test_a_wrong_pod_is_refused(m: Machine, fields: dict[str, Any], code: StatusCode) -> None:
    with refused(code):
        pod(m).ask("RunPodSandbox", config=changed(pod_config(m, "pod"), **fields))
    assert not pod(m).ask("ListPodSandbox").items


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"metadata__name": ""}, StatusCode.INVALID_ARGUMENT),
        ({"image__image": ""}, StatusCode.INVALID_ARGUMENT),
        ({"image__image": "registry.example/nobody:1"}, StatusCode.NOT_FOUND),
        ({"log_path": "../outside.log"}, StatusCode.INVALID_ARGUMENT),
        ({"working_dir": "relative\0"}, StatusCode.INVALID_ARGUMENT),
    ],
    ids=str,
)
def test_a_wrong_container_is_refused(m: Machine, fields: dict[str, Any], code: StatusCode) -> None:
    made = pod(m).run()
    with refused(code):
        made.ask("CreateContainer", pod_sandbox_id=made.sandbox_id, config=changed(container_config("true"), **fields))
    assert not made.ask("ListContainers").containers


def test_empty_ids_are_refused(m: Machine) -> None:
    ask = pod(m).ask
    for rpc in ("StopContainer", "RemoveContainer", "ContainerStatus", "StopPodSandbox", "RemovePodSandbox"):
        with refused(StatusCode.INVALID_ARGUMENT):
            ask(rpc)
    with refused(StatusCode.INVALID_ARGUMENT):
        ask("PullImage")
    with refused(StatusCode.INVALID_ARGUMENT):
        ask("PullImage", image=pb.ImageSpec(image="NOT A REFERENCE"))


def test_a_negative_grace_is_refused_or_none(m: Machine) -> None:
    made = pod(m).running(FOREVER)
    with refused(StatusCode.INVALID_ARGUMENT):
        made.stop(-1)
    assert made.status().state == pb.CONTAINER_RUNNING


def test_what_is_not_built_says_so(m: Machine) -> None:
    with refused(StatusCode.UNIMPLEMENTED, "CheckpointContainer"):
        pod(m).ask("CheckpointContainer")


# --- after it all ----------------------------------------------------------------------------------------------------


def test_replay_tells_the_story(m: Machine) -> None:
    made = pod(m).run().create("exit 3").start()
    made.ended()
    why = m.replay("why", made.container_id[:12])
    assert why.returncode == 0, why.stderr
    assert "3" in why.stdout and made.container_id in why.stdout
    assert isinstance(why, subprocess.CompletedProcess)
    events = [json.loads(line) for line in m.replay("log", "--json", "--id", made.container_id).stdout.splitlines()]
    assert len(events) == 5

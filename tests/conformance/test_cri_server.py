"""The CRI over a real socket with a real client: codes, idempotence, filters, hostile requests, and no secret anywhere.

Behind it is the real domain with a world in which everything succeeds at once (`tests.support.fake_api`).
"""

import asyncio
import concurrent.futures
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapters.cri import server
from adapters.cri.calls import MESSAGE_MAX
from adapters.cri.client import OPTIONS, connect, load
from adapters.cri.image import ImageService
from adapters.cri.runtime import RuntimeService
from adapters.cri.translate import LOAD
from domain import commands as c
from domain import effects as f
from domain import errors
from domain import events as e
from domain.records import Evidence, TaskUsage
from proto import api_pb2 as pb
from tests.support.cri_requests import IMAGE, SECRET, Served, create, options, run, served
from tests.support.fake_api import FakeApi, FakeCondition, FakeResult

C = grpc.StatusCode
UNKNOWN = "0" * 64
BUILT = {
    *("Version", "Status", "RuntimeConfig", "UpdateRuntimeConfig"),
    *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus", "ListPodSandbox"),
    *("CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "ContainerStatus", "ListContainers"),
    *("ExecSync", "ReopenContainerLog", "ContainerStats", "ListContainerStats"),
    *("ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"),
}
RPCS = [rpc for service in pb.DESCRIPTOR.services_by_name.values() for rpc in service.methods]


class Client:
    """Every RPC by its name, with keyword arguments for the request's fields."""

    def __init__(self, path: str) -> None:
        self.stubs = connect(path)

    def __call__(self, name: str, timeout: float = 20, **fields: Any) -> Any:
        stub = next(s for s in self.stubs if hasattr(s, name))
        return getattr(stub, name)(getattr(pb, f"{_rpc(name).input_type.name}")(**fields), timeout=timeout)


def _rpc(name: str) -> Any:
    return next(rpc for rpc in RPCS if rpc.name == name)


def code_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()  # type: ignore[attr-defined]
    return C.OK, ""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, handlers=("crun",)) as held:
        yield held


@pytest.fixture
def ask(running: Served) -> Client:
    return Client(running.kubelet)


class Pod:
    """A pod with containers in each of the states that a client can tell apart."""

    def __init__(self, ask: Client, running: Served) -> None:
        ask("PullImage", image=pb.ImageSpec(image="busybox:1.36"))
        self.id: str = ask("RunPodSandbox", config=run().config).pod_sandbox_id
        self.stopped: str = ask("RunPodSandbox", config=run("stopped").config).pod_sandbox_id
        ask("StopPodSandbox", pod_sandbox_id=self.stopped)
        self.created, self.running, self.exited, self.failed = (
            ask("CreateContainer", pod_sandbox_id=self.id, config=create("", name).config).container_id
            for name in ("created", "running", "exited", "failed")
        )
        ask("StartContainer", container_id=self.running)
        ask("StartContainer", container_id=self.exited)
        running.do(lambda: running.api.report(c.RecordExit(self.exited, 3, 0, Evidence("exit-file"))))
        running.api.fail[f.StartTask] = errors.RuntimeFailed("cannot start container: exec: no such file")
        code_of(lambda: ask("StartContainer", container_id=self.failed))
        del running.api.fail[f.StartTask]


@pytest.fixture
def pod(ask: Client, running: Served) -> Pod:
    return Pod(ask, running)


# --- codes and idempotence (cri-facts 1.1) ---------------------------------------------------------------------------

TABLE = [
    # rpc, which id, the first time, again
    ("StopPodSandbox", "id", C.OK, C.OK),
    ("StopPodSandbox", "stopped", C.OK, C.OK),
    ("StopPodSandbox", "unknown", C.OK, C.OK),
    ("RemovePodSandbox", "id", C.OK, C.OK),
    ("RemovePodSandbox", "stopped", C.OK, C.OK),
    ("RemovePodSandbox", "unknown", C.OK, C.OK),
    ("PodSandboxStatus", "id", C.OK, C.OK),
    ("PodSandboxStatus", "stopped", C.OK, C.OK),
    ("PodSandboxStatus", "unknown", C.NOT_FOUND, C.NOT_FOUND),
    ("StartContainer", "created", C.OK, C.FAILED_PRECONDITION),
    ("StartContainer", "running", C.FAILED_PRECONDITION, C.FAILED_PRECONDITION),
    ("StartContainer", "exited", C.FAILED_PRECONDITION, C.FAILED_PRECONDITION),
    ("StartContainer", "failed", C.FAILED_PRECONDITION, C.FAILED_PRECONDITION),
    ("StartContainer", "unknown", C.NOT_FOUND, C.NOT_FOUND),
    ("StopContainer", "created", C.OK, C.OK),
    ("StopContainer", "running", C.OK, C.OK),
    ("StopContainer", "exited", C.OK, C.OK),
    ("StopContainer", "unknown", C.OK, C.OK),
    ("RemoveContainer", "created", C.OK, C.OK),
    ("RemoveContainer", "running", C.OK, C.OK),
    ("RemoveContainer", "exited", C.OK, C.OK),
    ("RemoveContainer", "failed", C.OK, C.OK),
    ("RemoveContainer", "unknown", C.OK, C.OK),
    ("ContainerStatus", "created", C.OK, C.OK),
    ("ContainerStatus", "exited", C.OK, C.OK),
    ("ContainerStatus", "unknown", C.NOT_FOUND, C.NOT_FOUND),
    ("ContainerStats", "running", C.OK, C.OK),
    ("ContainerStats", "exited", C.OK, C.OK),
    ("ContainerStats", "unknown", C.NOT_FOUND, C.NOT_FOUND),
    ("ReopenContainerLog", "running", C.OK, C.OK),
    ("ReopenContainerLog", "created", C.FAILED_PRECONDITION, C.FAILED_PRECONDITION),
    ("ReopenContainerLog", "exited", C.FAILED_PRECONDITION, C.FAILED_PRECONDITION),
    ("ReopenContainerLog", "unknown", C.NOT_FOUND, C.NOT_FOUND),
]


def _by_id(name: str, text: str) -> dict[str, str]:
    return {_rpc(name).input_type.fields_by_number[1].name: text}


@pytest.mark.parametrize(("name", "which", "first", "again"), TABLE, ids=lambda v: getattr(v, "name", v))
def test_codes(ask: Client, pod: Pod, name: str, which: str, first: C, again: C) -> None:
    text = getattr(pod, which, UNKNOWN)
    assert code_of(lambda: ask(name, **_by_id(name, text)))[0] is first
    assert code_of(lambda: ask(name, **_by_id(name, text)))[0] is again


@pytest.mark.parametrize("name", sorted({row[0] for row in TABLE}))
def test_an_empty_id_is_refused(ask: Client, name: str) -> None:
    assert code_of(lambda: ask(name))[0] is C.INVALID_ARGUMENT


@pytest.mark.parametrize("name", sorted({row[0] for row in TABLE}))
def test_a_unique_prefix_is_as_good_as_the_id(ask: Client, pod: Pod, name: str) -> None:
    known = pod.id if "Sandbox" in name else pod.running if "Reopen" in name else pod.created
    assert code_of(lambda: ask(name, **_by_id(name, known[:12])))[0] is C.OK


def test_an_ambiguous_prefix_names_the_count(ask: Client, pod: Pod, running: Served) -> None:
    ids = [pod.created, pod.running, pod.exited, pod.failed]
    for number in range(20):
        config = create("", f"more{number}").config
        ids.append(ask("CreateContainer", pod_sandbox_id=pod.id, config=config).container_id)
    digit = max(set("0123456789abcdef"), key=lambda d: sum(i[0] == d for i in ids))
    many = sum(i[0] == digit for i in ids)
    assert many > 1
    code, text = code_of(lambda: ask("StopContainer", container_id=digit))
    assert (code, text) == (C.INVALID_ARGUMENT, f"container '{digit}' is ambiguous: {many} ids begin so")


def test_run_and_create_again_give_the_same_id(ask: Client, pod: Pod) -> None:
    assert ask("RunPodSandbox", config=run().config).pod_sandbox_id == pod.id
    config = create("", "created").config
    again = ask("CreateContainer", pod_sandbox_id=pod.id, config=config)
    assert again.container_id == pod.created


def test_a_taken_name_is_told_with_its_owner(ask: Client, pod: Pod) -> None:
    code, text = code_of(lambda: ask("RunPodSandbox", config=run(hostname="other").config))
    assert code is C.ALREADY_EXISTS
    assert pod.id in text
    changed = create("", "created", tty=True).config
    assert code_of(lambda: ask("CreateContainer", pod_sandbox_id=pod.id, config=changed))[0] is C.ALREADY_EXISTS


def test_create_needs_a_ready_sandbox_and_an_image(ask: Client, pod: Pod) -> None:
    config = create("", "x").config
    assert code_of(lambda: ask("CreateContainer", pod_sandbox_id=UNKNOWN, config=config))[0] is C.NOT_FOUND
    stopped = code_of(lambda: ask("CreateContainer", pod_sandbox_id=pod.stopped, config=config))
    assert stopped[0] is C.FAILED_PRECONDITION
    config.image.image = "nothing:1"
    code, text = code_of(lambda: ask("CreateContainer", pod_sandbox_id=pod.id, config=config))
    assert code is C.NOT_FOUND
    assert "pull it first" in text


def test_a_failed_start_shows_as_exited(ask: Client, pod: Pod) -> None:
    status = ask("ContainerStatus", container_id=pod.failed).status
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert status.started_at
    assert "no such file" in status.message


def test_failures_of_effects_have_their_codes(ask: Client, running: Served) -> None:
    running.api.fail = {
        f.PullImage: errors.RegistryUnavailable("RegistryUnavailable: no route to host"),
        f.SetUpSandbox: errors.NetworkFailed("cannot run sandbox: bridge said no"),
    }
    code, text = code_of(lambda: ask("PullImage", image=pb.ImageSpec(image="busybox")))
    assert (code, text) == (C.UNKNOWN, "RegistryUnavailable: no route to host")
    assert code_of(lambda: ask("RunPodSandbox", config=run().config))[0] is C.INTERNAL
    assert not ask("ListPodSandbox").items


def test_images(ask: Client, pod: Pod) -> None:
    image_id = ask("PullImage", image=pb.ImageSpec(image="busybox:1.36")).image_ref
    ask("PullImage", image=pb.ImageSpec(image="docker.io/other/name:2"))
    (listed,) = ask("ListImages").images
    status = ask("ContainerStatus", container_id=pod.created).status
    assert image_id == listed.id == status.image_id == ask("ListContainers").containers[0].image_id
    assert list(listed.repo_tags) == [IMAGE, "docker.io/other/name:2"]
    digest = next(d for d in listed.repo_digests if "busybox" in d)
    for text in (image_id, image_id[7:], image_id[7:19], "busybox:1.36", IMAGE, digest):
        assert ask("ImageStatus", image=pb.ImageSpec(image=text)).image.id == image_id, text
    missing = ask("ImageStatus", image=pb.ImageSpec(image="nothing"), verbose=True)
    assert not missing.HasField("image")
    used = code_of(lambda: ask("RemoveImage", image=pb.ImageSpec(image="busybox:1.36")))
    assert used[0] is C.FAILED_PRECONDITION
    ask("RemovePodSandbox", pod_sandbox_id=pod.id)
    for _ in range(2):
        ask("RemoveImage", image=pb.ImageSpec(image=digest))
    assert not ask("ListImages").images


def test_a_pull_with_a_deadline_of_a_millisecond(ask: Client, running: Served) -> None:
    running.api.hold = {f.PullImage}
    assert (
        code_of(lambda: ask("PullImage", timeout=0.001, image=pb.ImageSpec(image="busybox")))[0] is C.DEADLINE_EXCEEDED
    )


def test_the_work_goes_on_when_the_caller_leaves(ask: Client, running: Served) -> None:
    running.api.hold = {f.SetUpSandbox}
    gone = code_of(lambda: ask("RunPodSandbox", timeout=0.3, config=run().config))
    assert gone[0] is C.DEADLINE_EXCEEDED
    assert not ask("ListPodSandbox").items
    with concurrent.futures.ThreadPoolExecutor() as pool:
        joined = [pool.submit(lambda: ask("RunPodSandbox", config=run().config).pod_sandbox_id) for _ in range(3)]
        while len(running.api.causes) < 4:
            time.sleep(0.01)
        running.do(lambda: running.api.release(f.SetUpSandbox))
        ids = {future.result(20) for future in joined}
    (listed,) = ask("ListPodSandbox").items
    assert ids == {listed.id}


# --- node ------------------------------------------------------------------------------------------------------------


def test_version_and_configuration(ask: Client) -> None:
    version = ask("Version", version="v9")
    assert (version.version, version.runtime_name, version.runtime_version, version.runtime_api_version) == (
        "0.1.0",
        "daybook",
        "9.9.9",
        "v1",
    )
    assert ask("RuntimeConfig").linux.cgroup_driver == pb.CGROUPFS
    network = pb.NetworkConfig(pod_cidr="10.0.0.0/24")
    assert ask("UpdateRuntimeConfig", runtime_config=pb.RuntimeConfig(network_config=network)).ByteSize() == 0


def test_status(ask: Client, running: Served) -> None:
    status = ask("Status")
    assert [(x.type, x.status) for x in status.status.conditions] == [("RuntimeReady", True), ("NetworkReady", True)]
    assert [h.name for h in status.runtime_handlers] == ["", "crun"]
    assert not any(h.features.user_namespaces for h in status.runtime_handlers)
    assert status.features == pb.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True)
    assert not status.info
    running.api.shown.network = FakeCondition(False, "NoConfig", "no CNI configuration in /etc/cni/net.d")
    status = ask("Status", verbose=True)
    assert status.status.conditions[1].reason == "NoConfig"
    assert '"sequence"' in status.info["info"]
    running.api.shown.network = FakeCondition(False, "NoConfig", "\udcff.conflist " + "x" * 9000)
    said = ask("Status").status.conditions[1].message
    assert said.startswith("?.conflist x") and len(said) < 3000


@pytest.mark.parametrize("there", [True, False])
def test_recursive_read_only_mounts_are_told_as_the_runtime_has_them(tmp_path: Path, there: bool) -> None:
    with served(tmp_path, recursive_read_only=there, handlers=("crun",)) as made:
        handlers = Client(made.kubelet)("Status").runtime_handlers
    assert [h.features.recursive_read_only_mounts for h in handlers] == [there, there]


def test_image_fs_info(ask: Client) -> None:
    info = ask("ImageFsInfo")
    for (entry,) in (info.image_filesystems, info.container_filesystems):
        assert entry.timestamp
        assert (entry.used_bytes.value, entry.inodes_used.value) == (12_345, 67)
        assert entry.fs_id.mountpoint == "/var/lib/daybook"


def test_filters_over_the_wire(ask: Client, pod: Pod) -> None:
    listed = ask("ListContainers", filter=pb.ContainerFilter(id=pod.exited[:10])).containers
    assert [k.id for k in listed] == [pod.exited]
    wanted = pb.ContainerFilter(state=pb.ContainerStateValue(state=pb.CONTAINER_RUNNING), pod_sandbox_id=pod.id)
    assert [k.id for k in ask("ListContainers", filter=wanted).containers] == [pod.running]
    ready = pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY))
    assert [s.id for s in ask("ListPodSandbox", filter=ready).items] == [pod.id]
    assert [s.id for s in ask("ListPodSandbox").items] == [pod.id, pod.stopped]
    assert not ask("ListImages", filter=pb.ImageFilter(image=pb.ImageSpec(image="nothing"))).images


def test_quarantined_is_seen_and_not_touched(ask: Client, pod: Pod, running: Served) -> None:
    running.do(lambda: running.api.quarantine(e.container_key(pod.running)))
    running.do(lambda: running.api.quarantine(e.container_key("e" * 64)))
    status = ask("ContainerStatus", container_id=pod.running).status
    assert status.state == pb.CONTAINER_RUNNING
    assert "record 4711" in status.message
    for name in ("StopContainer", "RemoveContainer", "StartContainer"):
        assert code_of(lambda name=name: ask(name, container_id=pod.running))[0] is C.FAILED_PRECONDITION
    code, text = code_of(lambda: ask("ContainerStatus", container_id="e" * 64))
    assert code is C.FAILED_PRECONDITION
    assert "record 4711" in text


# --- statistics ------------------------------------------------------------------------------------------------------

USED = TaskUsage(5, cpu_ns=6, memory=700, working_set=600, rss=500, limit=1000, page_faults=4, major_page_faults=3)


def test_what_a_container_uses(ask: Client, pod: Pod, running: Served) -> None:
    running.api.used[pod.running] = USED
    told = ask("ContainerStats", container_id=pod.running[:12]).stats
    assert (told.attributes.id, told.attributes.metadata.name) == (pod.running, "running")
    assert (told.cpu.timestamp, told.cpu.usage_core_nano_seconds.value) == (5, 6)
    assert not told.cpu.HasField("usage_nano_cores"), "a rate that nobody has measured"
    memory = told.memory
    assert (memory.timestamp, memory.usage_bytes.value, memory.working_set_bytes.value) == (5, 700, 600)
    assert (memory.rss_bytes.value, memory.available_bytes.value) == (500, 400)
    assert (memory.page_faults.value, memory.major_page_faults.value) == (4, 3)
    assert not told.HasField("writable_layer")


def test_without_a_limit_nothing_is_available(ask: Client, pod: Pod, running: Served) -> None:
    running.api.used[pod.running] = replace(USED, limit=0)
    assert not ask("ContainerStats", container_id=pod.running).stats.memory.HasField("available_bytes")


def test_what_has_ended_is_named_and_not_measured(ask: Client, pod: Pod, running: Served) -> None:
    told = ask("ContainerStats", container_id=pod.exited).stats
    assert told.attributes.id == pod.exited and not told.HasField("cpu") and not told.HasField("memory")


def test_lists_of_statistics_have_what_lives_and_fits(ask: Client, pod: Pod, running: Served) -> None:
    running.api.used.update({one: USED for one in (pod.created, pod.running, pod.exited)})

    def ids(**asked: Any) -> list[str]:
        filter_ = pb.ContainerStatsFilter(**asked)
        return [stats.attributes.id for stats in ask("ListContainerStats", filter=filter_).stats]

    both = [pod.created, pod.running]
    assert [stats.attributes.id for stats in ask("ListContainerStats").stats] == both == ids(pod_sandbox_id=pod.id)
    assert ids(id=pod.running[:12]) == [pod.running]
    assert ids(id=pod.exited) == ids(id=UNKNOWN) == ids(pod_sandbox_id=pod.stopped) == []
    assert ids(label_selector={"app": "no such"}) == []
    del running.api.used[pod.created]
    assert ids() == [pod.running], "its cgroup went meanwhile"


# --- commands in containers ------------------------------------------------------------------------------------------


def exec_sync(ask: Client, container_id: str, *cmd: str, limit_s: int = 0) -> Any:
    request = pb.ExecSyncRequest(container_id=container_id, cmd=cmd, timeout=limit_s)
    return ask.stubs[0].ExecSync(request, timeout=20)


def test_a_command_and_its_answer(ask: Client, pod: Pod, running: Served) -> None:
    told = exec_sync(ask, pod.running[:12], "sh", "-c", "true", limit_s=7)
    assert (told.stdout, told.stderr, told.exit_code) == (b"out", b"err", 3)
    assert running.api.execs == [(pod.running, ("sh", "-c", "true"), 7.0)]


@pytest.mark.parametrize(
    ("which", "code"),
    [
        ("created", C.FAILED_PRECONDITION),
        ("exited", C.FAILED_PRECONDITION),
        ("failed", C.FAILED_PRECONDITION),
        ("unknown", C.NOT_FOUND),
    ],
)
def test_commands_go_into_running_containers_only(ask: Client, pod: Pod, which: str, code: C) -> None:
    assert code_of(lambda: ask("ExecSync", container_id=getattr(pod, which, UNKNOWN), cmd=["true"]))[0] is code


@pytest.mark.parametrize(("cmd", "limit_s"), [([], 0), ([""], 0), (["true"], -1), (["a", "b\0c"], 0)])
def test_a_command_that_cannot_be_right(ask: Client, pod: Pod, cmd: list[str], limit_s: int) -> None:
    assert code_of(lambda: exec_sync(ask, pod.running, *cmd, limit_s=limit_s))[0] is C.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TimedOut("command timed out: timeout 1s exceeded"), C.DEADLINE_EXCEEDED),
        (errors.ExecFailed('exec: "nosuch": executable file not found in $PATH'), C.UNKNOWN),
        (errors.LimitReached("too many"), C.RESOURCE_EXHAUSTED),
    ],
)
def test_how_a_command_fails(ask: Client, pod: Pod, running: Served, error: errors.DaybookError, code: C) -> None:
    running.api.said = error
    assert code_of(lambda: ask("ExecSync", container_id=pod.running, cmd=["true"])) == (code, error.text)


def test_an_answer_fits_into_one_message(ask: Client, pod: Pod, running: Served) -> None:
    running.api.said = FakeResult(b"o" * MESSAGE_MAX, b"e" * MESSAGE_MAX, 0)
    told = ask("ExecSync", container_id=pod.running, cmd=["true"])
    assert len(told.stdout) == len(told.stderr) > MESSAGE_MAX // 2 - 100


# --- what is not built -----------------------------------------------------------------------------------------------


def test_what_is_built_is_what_has_a_method() -> None:
    methods = {name for kind in (RuntimeService, ImageService) for name in vars(kind) if name[0].isupper()}
    assert methods == BUILT
    assert methods <= {rpc.name for rpc in RPCS}


@pytest.mark.parametrize("name", [rpc.name for rpc in RPCS if rpc.name not in BUILT])
def test_an_unbuilt_rpc_says_so(ask: Client, name: str) -> None:
    def call() -> None:
        reply = ask(name)
        if _rpc(name).server_streaming:
            list(reply)

    assert code_of(call) == (C.UNIMPLEMENTED, f"RPC {name} is not built yet in Daybook 9.9.9")


def test_unsupported_leaves_no_trace(ask: Client, running: Served) -> None:
    linux = pb.LinuxPodSandboxConfig()
    linux.security_context.namespace_options.userns_options.uids.add(host_id=65536, length=65536)
    code, text = code_of(lambda: ask("RunPodSandbox", config=run(linux=linux).config))
    assert code is C.UNIMPLEMENTED
    assert text == "user namespaces are not built yet: set userns_options.mode to NODE (2) or leave it out"
    assert code_of(lambda: ask("RunPodSandbox", config=run().config, runtime_handler="kata"))[0] is C.UNIMPLEMENTED
    assert running.api.events == []


# --- who asked -------------------------------------------------------------------------------------------------------


def test_the_cause_says_who_and_what(running: Served) -> None:
    before = time.time_ns()
    for path in (running.kubelet, running.admin):
        Client(path)("PullImage", image=pb.ImageSpec(image="busybox"))
    first, second = running.api.causes
    assert (first.kind, first.what, first.socket) == ("rpc", "ImageService/PullImage", "kubelet")
    assert second.socket == "admin"
    assert before <= first.arrived_ns <= time.time_ns()
    assert first.agent.startswith("grpc-python/")
    assert first.request != second.request


def test_a_long_user_agent_is_cut(running: Served) -> None:
    with grpc.insecure_channel(f"unix:{running.kubelet}", [("grpc.primary_user_agent", "x" * 900)]) as channel:
        call = channel.unary_unary("/runtime.v1.ImageService/PullImage")
        call(pb.PullImageRequest(image=pb.ImageSpec(image="busybox")).SerializeToString(), timeout=20)
    assert len(running.api.causes[0].agent) == 128


def test_loading_a_file_is_for_the_admin_socket(running: Served) -> None:
    image = pb.ImageSpec(image="busybox", annotations={LOAD: "oci:/srv/layout"})
    assert code_of(lambda: Client(running.kubelet)("PullImage", image=image))[0] is C.INVALID_ARGUMENT
    Client(running.admin)("PullImage", image=image)
    assert running.api.events[0][1] == e.ImagePullRequested("oci:/srv/layout")


# --- hostile ---------------------------------------------------------------------------------------------------------


def raw(running: Served, name: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    rpc = _rpc(name)
    path = f"/{rpc.containing_service.full_name}/{name}"
    with grpc.insecure_channel(f"unix:{running.kubelet}", OPTIONS) as channel:
        return code_of(lambda: channel.unary_unary(path)(data, timeout=20))


@pytest.mark.parametrize("name", sorted(BUILT - {"ImageFsInfo", "RuntimeConfig", "Status"}))
@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x0a\x05\xff\xfe\xfd\xfc\xfb", b"\x0a\xff\xff\xff\xff\x0f"])
def test_garbage(running: Served, name: str, data: bytes, capfd: Any) -> None:
    code, text = raw(running, name, data)
    assert code is C.INVALID_ARGUMENT, text
    assert "Traceback" not in text
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("field", ["name", "uid", "namespace"])
def test_invalid_utf8_in_a_name(running: Served, field: str) -> None:
    request = run()
    setattr(request.config.metadata, field, "MARK")
    code, text = raw(running, "RunPodSandbox", request.SerializeToString().replace(b"MARK", b"\xff\xfe\xfd\xfc"))
    assert code is C.INVALID_ARGUMENT
    assert "not UTF-8" in text


HOSTILE: list[tuple[str, Callable[[Any], None]]] = [
    ("metadata", lambda r: r.config.ClearField("metadata")),
    ("config is missing", lambda r: r.ClearField("config")),
    ("bytes, at most", lambda r: r.config.labels.update({str(i): "x" * 50_000 for i in range(100)})),
    ("control character", lambda r: r.config.labels.update({"a\nb": "c"})),
    ("hostname", lambda r: setattr(r.config, "hostname", "a\n127.0.0.1 evil")),
    ("leads upwards", lambda r: setattr(r.config, "log_directory", "/var/log/../../etc")),
    ("metadata.name", lambda r: setattr(r.config.metadata, "name", "../../../etc/passwd")),
    ("metadata.name", lambda r: setattr(r.config.metadata, "name", "x" * 300)),
]


@pytest.mark.parametrize(("expected", "change"), HOSTILE)
def test_hostile_configurations(ask: Client, running: Served, expected: str, change: Callable[[Any], None]) -> None:
    request = run()
    change(request)
    code, text = code_of(lambda: ask.stubs[0].RunPodSandbox(request, timeout=20))
    assert code is C.INVALID_ARGUMENT
    assert expected in text
    assert running.api.events == []


def test_messages_over_the_limit(ask: Client) -> None:
    request = run(labels={"a": "x" * (MESSAGE_MAX + 1)})
    assert code_of(lambda: ask.stubs[0].RunPodSandbox(request, timeout=20))[0] is C.RESOURCE_EXHAUSTED


def test_a_reply_over_the_limit_is_told(ask: Client, running: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr("adapters.cri.calls.MESSAGE_MAX", 10)
    code, text = code_of(lambda: ask("Version"))
    assert code is C.RESOURCE_EXHAUSTED
    assert "ask with a filter" in text


def test_a_foreign_method_is_unknown(running: Served) -> None:
    with grpc.insecure_channel(f"unix:{running.kubelet}") as channel:
        call = channel.unary_unary("/runtime.v1alpha2.RuntimeService/Version")
        assert code_of(lambda: call(b"", timeout=20))[0] is C.UNIMPLEMENTED


# --- secrets and the log ---------------------------------------------------------------------------------------------


def test_no_secret_in_any_line_event_or_foreign_reply(ask: Client, running: Served, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    pod = Pod(ask, running)
    auth = pb.AuthConfig(username="u", password=SECRET)
    texts = [code_of(lambda: ask("PullImage", image=pb.ImageSpec(image="x"), auth=auth))[1]]
    for change in (
        {"envs": [pb.KeyValue(key=SECRET[:7], value=f"{SECRET}\0".encode())]},
        {"args": [f"{SECRET}\0"]},
        {"tty": True},
        {"envs": [pb.KeyValue(key="A", value=SECRET.encode())] * 40_000},
    ):
        config = create("", "created", **change).config
        code, text = code_of(lambda config=config: ask("CreateContainer", pod_sandbox_id=pod.id, config=config))
        assert code is not C.OK
        texts.append(text)
    replies = [
        ask("ListImages"),
        ask("Status", verbose=True),
        ask("ImageStatus", image=pb.ImageSpec(image=IMAGE), verbose=True),
        *(
            info
            for k in (pod.created, pod.exited)
            for info in _info(ask("ContainerStatus", container_id=k, verbose=True))
        ),
        *_info(ask("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)),
    ]
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "code=" in line]) > 15
    for shown in (*lines, *texts, *map(str, replies), *map(str, running.api.events)):
        assert SECRET not in shown
        assert "\n" not in shown or shown not in lines


def _info(reply: Any) -> list[str]:
    return list(reply.info.values())


def test_an_unforeseen_error_is_told_by_place_only(ask: Client, running: Served, caplog: Any, capfd: Any) -> None:
    def broken() -> Any:
        raise ValueError(SECRET)

    running.api.health = broken  # type: ignore[method-assign]
    code, text = code_of(lambda: ask("Status"))
    (line,) = [r.getMessage() for r in caplog.records if r.name == "daybook.cri" and r.levelno == logging.ERROR]
    request = text.rpartition(" ")[2]
    assert (code, text) == (C.INTERNAL, f"internal error, see daybook's log for request {request}")
    assert f"request={request}" in line
    assert "unforeseen ValueError at " in line
    assert SECRET not in line + "".join(capfd.readouterr())


def test_one_line_for_each_call(ask: Client, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "daybook.cri")
    ask("Version")
    code_of(lambda: ask("ContainerStatus", container_id="nope"))
    ask("StopContainer", container_id="nope")
    lines = [(r.levelname, r.getMessage().split(" ms=")[0]) for r in caplog.records if r.name == "daybook.cri"]
    assert [level for level, _ in lines] == ["DEBUG", "INFO", "INFO"]
    assert [line.split()[0] for _, line in lines] == [
        "RuntimeService/Version",
        "RuntimeService/ContainerStatus",
        "RuntimeService/StopContainer",
    ]
    assert [line.split("code=")[1] for _, line in lines] == ["OK", "NOT_FOUND", "OK"]


# --- sockets ---------------------------------------------------------------------------------------------------------


def test_modes_of_the_sockets(running: Served) -> None:
    assert stat.S_IMODE(os.stat(running.kubelet).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(running.admin).st_mode) == 0o660


def test_the_umask_is_left_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with served(tmp_path):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_stopping_takes_the_sockets_away(tmp_path: Path) -> None:
    with served(tmp_path) as held:
        assert os.path.exists(held.kubelet)
    assert os.listdir(tmp_path) == []


def test_stopping_lets_a_call_end_and_takes_no_other(ask: Client, running: Served) -> None:
    running.api.hold = {f.SetUpSandbox}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        call = pool.submit(lambda: ask("RunPodSandbox", config=run().config).pod_sandbox_id)
        while not running.api.causes:
            time.sleep(0.01)
        stopping = asyncio.run_coroutine_threadsafe(running.front.stop(20), running.loop)
        while code_of(lambda: Client(running.kubelet)("Version"))[0] is not C.UNAVAILABLE:
            time.sleep(0.01)
        assert not stopping.done()
        running.do(lambda: running.api.release(f.SetUpSandbox))
        assert call.result(20) in running.api.node.sandboxes
        stopping.result(20)


def test_a_stale_socket_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "daybook.sock"))
    with served(tmp_path) as held:
        assert Client(held.kubelet)("Version").version
    (tmp_path / "daybook.sock").write_text("precious")
    with pytest.raises(errors.StorageFailed, match="not a socket"), served(tmp_path):
        pass
    assert (tmp_path / "daybook.sock").read_text() == "precious"


@pytest.mark.parametrize("path", ["/nonexistent/dir/x.sock", "relative.sock", "/tmp/" + "x" * 120])
def test_a_path_that_cannot_be_listened_on(path: str, capfd: Any) -> None:

    async def begin() -> None:
        await server.serve(FakeApi(), [server.SocketSpec(path, "kubelet")], options()).start()

    with pytest.raises(errors.StorageFailed, match="cannot listen on"):
        asyncio.run(begin())


def test_no_fork_handlers() -> None:
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"


# --- our own client --------------------------------------------------------------------------------------------------


def test_load(running: Served, tmp_path: Path) -> None:
    assert load(running.admin, "oci:/srv/layout", "busybox") == running.api.pulled.image_id
    with pytest.raises(errors.PullFailed, match="admin socket only"):
        load(running.kubelet, "oci:/srv/layout", "busybox")
    with pytest.raises(errors.NotReady, match="no daemon answers"):
        load(str(tmp_path / "none.sock"), "oci:/srv/layout", "busybox")

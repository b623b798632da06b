"""Commands in containers, rotation of logs and ends of containers through the real daemon, which also dies amid them."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from adapters.oci.cgroups import directories, members, oom_kills
from domain import events as e
from domain.records import Record
from proto import api_pb2 as pb
from tests.crash.life import Pod, container_config, pod_config, refused
from tests.support.daemon import IMAGE, Machine, machine, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

FOREVER = "touch /shared/up; exec sleep 10000"
TALKS = "touch /shared/up; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done"
BURST = 60


@pytest.fixture(scope="module")
def served() -> Iterator[Machine]:
    with machine() as made:
        made.start()
        made.load()
        yield made
        assert made.terminate() == 0
        checked = made.replay("check")
        assert checked.returncode == 0, checked.stdout


@pytest.fixture
def m(served: Machine) -> Iterator[Machine]:
    """The daemon with an image and nothing else, before and after."""
    before = served.left()
    yield served
    for pod in served.cri()[0].ListPodSandbox(pb.ListPodSandboxRequest(), timeout=5).items:
        served.cri()[0].RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=60)
    served.await_clean(before)


def running(m: Machine, script: str = FOREVER, **more: Any) -> Pod:
    pod = Pod(m)
    for file in pod.shared.iterdir():
        file.unlink()
    return pod.running(script, **more)


def execute(pod: Pod, *cmd: str, limit_s: int = 0, deadline_s: float = 30) -> Any:
    request = pb.ExecSyncRequest(container_id=pod.container_id, cmd=cmd, timeout=limit_s)
    return pod.machine.cri()[0].ExecSync(request, timeout=deadline_s)


def begin(pod: Pod, *cmd: str) -> Any:
    """A command that goes on; returns when it runs."""
    request = pb.ExecSyncRequest(container_id=pod.container_id, cmd=cmd)
    call = pod.machine.cri()[0].ExecSync.future(request, timeout=60)
    until(lambda: list((pod.machine.run / "execs").glob("*/pid")), text="the command has been started")
    return call


def cgroup(pod: Pod) -> str:
    return f"/{pod.machine.token}/pod-{pod.name}/{pod.container_id}"


def only_init(pod: Pod) -> bool:
    """Nothing of a command: no process, no cgroup, no ledger."""
    tops = directories(cgroup(pod))
    below = [entry for top in tops for entry in os.scandir(top) if entry.is_dir()]
    init = {
        int(json.loads(pod.ask("ContainerStatus", container_id=pod.container_id, verbose=True).info["info"])["pid"])
    }
    return members(cgroup(pod)) == init and not below and not list((pod.machine.run / "execs").iterdir())


def counts(m: Machine) -> dict[str, int]:
    info = m.cri()[0].Status(pb.StatusRequest(verbose=True), timeout=5).info["info"]
    found: dict[str, int] = json.loads(info)["execs"]
    return found


# --- ExecSync --------------------------------------------------------------------------------------------------------


def test_output_and_code(m: Machine) -> None:
    pod = running(m)
    head, before = m.records()[-1], counts(m)["ended"]
    done = execute(pod, "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 9)
    assert m.records()[-1] == head, "probes are not on record"
    assert counts(m)["ended"] == before + 1
    assert only_init(pod)


def test_the_limit_is_kept_and_nothing_goes_on(m: Machine) -> None:
    pod = running(m)
    began = time.monotonic()
    with refused(StatusCode.DEADLINE_EXCEEDED, pod.container_id, "timeout 1s exceeded"):
        execute(pod, "sh", "-c", "trap '' TERM; (sleep 500 &); sleep 600", limit_s=1)
    assert 0.9 < time.monotonic() - began < 5
    assert only_init(pod)


def test_a_client_that_leaves_ends_its_command(m: Machine) -> None:
    pod = running(m)
    with refused(StatusCode.DEADLINE_EXCEEDED):
        execute(pod, "sleep", "1000", deadline_s=0.5)
    until(lambda: only_init(pod), text="the command is ended")


def test_errors_are_told_with_their_code(m: Machine) -> None:
    pod = running(m)
    with refused(StatusCode.UNKNOWN, "runc exec", "exec: no such file or directory"):
        execute(pod, "/no/such/program")
    with refused(StatusCode.INVALID_ARGUMENT, "cmd is empty"):
        execute(pod)
    pod.stop()
    with refused(StatusCode.FAILED_PRECONDITION, "not running"):
        execute(pod, "true")


def test_no_word_of_a_command_is_told_or_recorded(m: Machine) -> None:
    """Whole command lines in the program's place, to exec and to create: not in the reply, the log, the daemon's own."""
    pod = running(m)
    for program in ("mysql -pHUNTER2", '/bin/"mysql"\t-p HUNTER2\u200b\n-pHUNTER2', "/x/" + "HUNTER2/" * 600):
        with pytest.raises(grpc.RpcError) as of_exec:
            execute(pod, program, "-pHUNTER2")
        config = container_config("", "other", envs=[pb.KeyValue(key="PASSWORD", value=b"HUNTER2")])
        config.command[:] = [program, "-pHUNTER2"]
        with pytest.raises(grpc.RpcError) as of_create:
            pod.ask("CreateContainer", pod_sandbox_id=pod.sandbox_id, config=config)
        for caught in (of_exec, of_create):
            assert "exec: " in caught.value.details() and "HUNTER2" not in caught.value.details()
    assert m.daemon is not None
    assert "HUNTER2" not in m.daemon.said(10**6)
    assert [r for r in m.records() if "exec: " in repr(r)], "why the create failed is on record"
    assert "HUNTER2" not in repr(m.records())


@pytest.mark.parametrize("how", ["ends", "removed", "stopped"])
def test_the_container_goes_amid_a_command(m: Machine, how: str) -> None:
    pod = running(m)
    call = begin(pod, "sleep", "1000")
    if how == "ends":
        os.kill(pod.info()["pid"], 9)
    else:
        pod.ask("RemoveContainer" if how == "removed" else "StopContainer", container_id=pod.container_id)
    with refused(StatusCode.UNKNOWN, "the container ended while the command ran"):
        call.result(10)
    until(lambda: not list((m.run / "execs").iterdir()))


def test_the_daemon_is_told_to_end_amid_a_command() -> None:
    with machine() as m:
        m.start()
        m.load()
        pod = running(m)
        call = begin(pod, "sleep", "1000")
        assert m.terminate() == 0
        assert call.exception(10) is not None
        m.start()
        assert only_init(pod)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.02, 0.05, 0.3])
def test_the_daemon_is_killed_amid_a_command(m: Machine, after_s: float) -> None:
    """The next one ends what it left, and the container goes on."""
    pod = running(m)
    init = pod.info()["pid"]
    request = pb.ExecSyncRequest(
        container_id=pod.container_id, cmd=["sh", "-c", "trap '' TERM; (sleep 500 &); while :; do sleep 1; done"]
    )
    call = m.cri()[0].ExecSync.future(request, timeout=60)
    time.sleep(after_s)  # a moment of its start; any will do
    m.kill9()
    assert call.exception(10) is not None
    m.start()
    until(lambda: only_init(pod), text="the next daemon ends it")
    assert (pod.info()["pid"], pod.status().state) == (init, pb.CONTAINER_RUNNING)
    assert execute(pod, "echo", "on").stdout == b"on\n"


HELPER = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &"


@pytest.mark.parametrize("how", ["lives", "told to end", "killed"])
def test_a_hooks_helper_lives_on_and_a_probes_does_not(m: Machine, how: str) -> None:
    """By the limit: a hook has none. Whatever becomes of the daemon; it ends with its container."""
    pod = running(m)
    assert execute(pod, "sh", "-c", f"{HELPER} exit 5", limit_s=5).exit_code == 5
    assert only_init(pod)
    assert execute(pod, "sh", "-c", f"{HELPER} exit 5").exit_code == 5
    (helper,) = members(cgroup(pod)) - {pod.info()["pid"]}
    if how == "told to end":
        assert m.terminate() == 0
        m.start()
    elif how == "killed":
        m.restart()
    assert execute(pod, "echo", "on").stdout == b"on\n"
    assert execute(pod, "sh", "-c", HELPER).exit_code == 0
    assert helper in members(cgroup(pod)) and len(members(cgroup(pod))) == 3
    pod.stop()
    assert not members(cgroup(pod))
    until(lambda: not list((m.run / "execs").iterdir()), text="nothing of them is left")


def test_helpers_that_end_leave_nothing_under_the_next_daemon(m: Machine) -> None:
    pod = running(m)
    execute(pod, "sh", "-c", HELPER)
    (helper,) = members(cgroup(pod)) - {pod.info()["pid"]}
    m.restart()
    os.kill(helper, 9)
    until(lambda: only_init(pod), text="its cgroup and its directory go")


def test_a_container_is_removed_that_a_dead_daemon_left_a_command_in(m: Machine) -> None:
    pod = running(m)
    begin(pod, "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    m.kill9()
    m.start()
    pod.ask("RemoveContainer", container_id=pod.container_id)
    assert not members(cgroup(pod)) and not list((m.run / "execs").iterdir())


def test_many_at_once_each_get_their_own_answer(m: Machine) -> None:
    pod = running(m)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda n: execute(pod, "sh", "-c", f"echo {n}; exit {n}"), range(48)))
    assert [(one.stdout, one.exit_code) for one in found] == [(f"{n}\n".encode(), n) for n in range(48)]
    assert only_init(pod)


def test_more_than_its_share_is_refused(m: Machine) -> None:
    pod = running(m)
    calls = [
        m.cri()[0].ExecSync.future(pb.ExecSyncRequest(container_id=pod.container_id, cmd=["sleep", "100"]), timeout=60)
        for _ in range(16)
    ]
    until(lambda: counts(m)["running"] == 16)
    with refused(StatusCode.RESOURCE_EXHAUSTED, "16 commands"):
        execute(pod, "true")
    for call in calls:
        call.cancel()
    until(lambda: only_init(pod) and counts(m)["running"] == 0)


# --- who is in the pod's cgroup --------------------------------------------------------------------------------------


def test_nothing_of_the_daemon_is_in_a_pods_cgroup(m: Machine) -> None:
    """Seen from outside, with a command under way: every process there lives in the container's namespaces."""
    pod = running(m)
    call = begin(pod, "sleep", "1000")
    init = pod.info()["pid"]
    found = members(f"/{m.token}")
    assert init in found and len(found) == 2
    for pid in found:
        for kind in ("pid", "mnt"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{init}/ns/{kind}")
    others = [int(line.split(" ", 1)[0]) for line in m.left().processes]
    assert [pid for pid in others if pid in found] == sorted(found)
    monitor = pod.info()["monitor"]["pid"]
    assert "/daybook/monitors" in Path(f"/proc/{monitor}/cgroup").read_text()
    call.cancel()
    until(lambda: only_init(pod))


# --- ReopenContainerLog ----------------------------------------------------------------------------------------------


def test_a_rotated_log(m: Machine) -> None:
    pod = running(m, TALKS)
    path = m.pod_logs / "pod" / "app.log"
    path.unlink(missing_ok=True) if not path.exists() else None
    old = path.with_suffix(".old")
    until(lambda: path.stat().st_size > 0)
    path.rename(old)
    pod.ask("ReopenContainerLog", container_id=pod.container_id)
    assert path.exists(), "the new file is there the moment the call returns"
    size = old.stat().st_size
    until(lambda: path.stat().st_size > 200)
    assert old.stat().st_size == size
    lines = (old.read_text() + path.read_text()).splitlines()
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == list(range(1, len(lines) + 1))
    inode = path.stat().st_ino
    pod.ask("ReopenContainerLog", container_id=pod.container_id)
    assert path.stat().st_ino == inode
    pod.stop()
    with refused(StatusCode.FAILED_PRECONDITION, "not running"):
        pod.ask("ReopenContainerLog", container_id=pod.container_id)
    old.unlink()
    path.unlink()


def test_a_log_that_cannot_be_rotated_stays_as_it_is(m: Machine) -> None:
    pod = running(m, TALKS)
    path = m.pod_logs / "pod" / "app.log"
    until(lambda: path.stat().st_size > 0)
    (path.parent / "app.log.tmp").mkdir()
    path.rename(path.with_suffix(".old"))
    with refused(StatusCode.INTERNAL, "app.log.tmp"):
        pod.ask("ReopenContainerLog", container_id=pod.container_id)
    assert not path.exists(), "the kubelet names the old file back"
    path.with_suffix(".old").rename(path)
    size = path.stat().st_size
    until(lambda: path.stat().st_size > size)
    assert pod.info()["monitorLostAt"] == 0
    (path.parent / "app.log.tmp").rmdir()


# --- ends ------------------------------------------------------------------------------------------------------------


def of(m: Machine, container_id: str) -> list[Any]:
    key = e.container_key(container_id)
    return [r.event for r in m.records() if isinstance(r, Record) and r.key == key]


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_the_kernels_kill_is_on_record_before_the_exit(m: Machine, down: bool) -> None:
    """15 MiB, as critest has it."""
    limit = {"memory_limit_in_bytes": 15 << 20, "memory_swap_limit_in_bytes": 15 << 20}
    waits = "touch /shared/up; while [ ! -e /shared/go ]; do sleep 0.02; done; "
    pod = running(m, waits + "exec /bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=5", resources=limit)
    if down:
        m.kill9()
    (pod.shared / "go").touch()
    if down:
        until((m.data / "containers" / pod.container_id / "exit").exists, text="conmon writes the exit file")
        m.start()
    status = pod.ended()
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 137, "OOMKilled")
    told = [event for event in of(m, pod.container_id) if isinstance(event, e.ContainerOom | e.ContainerExited)]
    assert [type(event) for event in told] == [e.ContainerOom, e.ContainerExited], told
    assert told[0].kills > 0 and told[1].evidence.source == "exit-file"


SMALL_MEMORY = {"memory_limit_in_bytes": 32 << 20, "memory_swap_limit_in_bytes": 32 << 20}
"""Room for the runtime, which is in the cgroup before it becomes the command."""
EATS = "/bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=1"


def ooms(m: Machine, pod: Pod) -> list[Any]:
    return [event.kills for event in of(m, pod.container_id) if isinstance(event, e.ContainerOom)]


@pytest.mark.parametrize("restarts", [False, True], ids=["", "the daemon dies in between"])
@pytest.mark.parametrize("code", [0, 3, 137])
def test_a_kill_that_the_container_outlived_is_told_then_and_is_no_reason(
    m: Machine, code: int, restarts: bool
) -> None:
    """A command in it was killed for want of memory; much later it ends in some way."""
    ends = f"while [ ! -e /shared/go ]; do sleep 0.02; done; exit {code}"
    pod = running(m, f"touch /shared/up; {ends}", resources=SMALL_MEMORY)
    assert execute(pod, "/bin/sh", "-c", f"{EATS}; exit $?").exit_code == 137
    until(lambda: ooms(m, pod) == [1], text="it is on record while the container runs")
    assert pod.status().state == pb.CONTAINER_RUNNING
    if restarts:
        m.restart()
    if code == 137:
        os.kill(pod.info()["pid"], 9)
    else:
        (pod.shared / "go").touch()
    status = pod.ended()
    assert (status.exit_code, status.reason) == (code, "Completed" if code == 0 else "Error")
    assert status.message == "the kernel killed 1 of its processes for want of memory"
    assert ooms(m, pod) == [1]


def test_a_kill_that_no_daemon_saw_is_told_by_the_next(m: Machine) -> None:
    script = f"touch /shared/up; until [ -e /shared/go ]; do sleep 0.02; done; {EATS}; {FOREVER}"
    pod = running(m, script, resources=SMALL_MEMORY)
    m.kill9()
    (pod.shared / "up").unlink()
    (pod.shared / "go").touch()
    until((pod.shared / "up").exists, text="it goes on after the kill")
    m.start()
    until(lambda: ooms(m, pod) == [1], text="the next daemon tells")
    pod.stop()
    assert (pod.status().exit_code, pod.status().reason) == (137, "Error")


def test_children_that_are_killed_again_and_again_do_not_fill_the_log(m: Machine) -> None:
    pod = running(m, f"touch /shared/up; while :; do {EATS} 2>/dev/null; done", resources=SMALL_MEMORY)
    until(lambda: ooms(m, pod), text="the first is told")
    cgroup_kills = until(lambda: (n := oom_kills(cgroup(pod))) > 20 and n)
    assert len(ooms(m, pod)) == 1
    pod.stop()
    assert ooms(m, pod)[-1] >= cgroup_kills and len(ooms(m, pod)) == 2


@contextmanager
def burst(m: Machine) -> Iterator[list[tuple[str, int]]]:
    """Containers in some pods that end together, at a word, each with a code of its own: (id, code)."""
    go = m.base / "go"
    go.mkdir()
    mount = [pb.Mount(container_path="/go", host_path=str(go))]
    script = "while [ ! -e /go/now ]; do sleep 0.2; done; exit {}"
    made = []
    for number in range(BURST):
        pod = f"burst-{number // 10}"
        (m.pod_logs / pod).mkdir(exist_ok=True)
        config = pod_config(m, pod)
        box = m.cri()[0].RunPodSandbox(pb.RunPodSandboxRequest(config=config), timeout=60).pod_sandbox_id
        inner = container_config(script.format(number + 1), f"app-{number}", mounts=mount)
        request = pb.CreateContainerRequest(pod_sandbox_id=box, config=inner, sandbox_config=config)
        made.append((m.cri()[0].CreateContainer(request, timeout=60).container_id, number + 1))
        m.cri()[0].StartContainer(pb.StartContainerRequest(container_id=made[-1][0]), timeout=60)
    yield made
    (go / "now").unlink()
    go.rmdir()


def codes(m: Machine) -> dict[str, tuple[int, int]]:
    found = {}
    for listed in m.cri()[0].ListContainers(pb.ListContainersRequest(), timeout=10).containers:
        request = pb.ContainerStatusRequest(container_id=listed.id)
        status = m.cri()[0].ContainerStatus(request, timeout=10).status
        found[listed.id] = (status.state, status.exit_code)
    return found


@pytest.mark.parametrize("dies", [False, True], ids=["", "the daemon dies amid them"])
def test_many_end_at_the_same_instant(m: Machine, dies: bool) -> None:
    with burst(m) as made:
        assert set(codes(m).values()) == {(pb.CONTAINER_RUNNING, 0)}
        (m.base / "go" / "now").touch()
        if dies:
            until(lambda: [r for r in m.records() if isinstance(getattr(r, "event", None), e.ContainerExited)])
            m.restart()
        wanted = {one: (pb.CONTAINER_EXITED, code) for one, code in made}
        until(lambda: codes(m) == wanted, 30, "all have ended with their own codes")
        ends = [
            (r.key, r.event.code)
            for r in m.records()
            if isinstance(r, Record) and isinstance(r.event, e.ContainerExited) and r.key.split("/")[1] in wanted
        ]
        assert sorted(ends) == sorted((e.container_key(one), code) for one, code in made)


# --- stop signals ----------------------------------------------------------------------------------------------------

TRAPS = "trap 'exit 15' TERM; trap 'exit 10' USR1; trap 'exit 12' USR2; touch /shared/up; while :; do sleep 0.05 & wait $!; done"


@pytest.mark.parametrize(
    ("image", "asked", "code"),
    [
        ("", 0, 15),
        ("SIGUSR1", 0, 10),
        ("SIGUSR1", pb.SIGNAL_SIGUSR2, 12),
        ("", pb.SIGNAL_SIGUSR2, 12),
        ("nonsense", 0, 15),
    ],
    ids=["SIGTERM", "the image's", "the configuration's before the image's", "the configuration's", "no such signal"],
)
def test_the_stop_signal(m: Machine, image: str, asked: int, code: int) -> None:
    name = IMAGE
    if image:
        name = f"registry.example/stops-{image.lower()}:1"
        m.layout(image, config={"StopSignal": image})
        m.load(name, image)
    pod = Pod(m)
    for file in pod.shared.iterdir():
        file.unlink()
    pod.running(TRAPS, image=name, stop_signal=asked)
    pod.stop(20)
    assert pod.status().exit_code == code
    pod.remove()
    if image:
        m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=name)), timeout=30)


def test_a_shortened_stop_while_one_is_under_way(m: Machine) -> None:
    pod = running(m, "trap : TERM; touch /shared/up; while :; do sleep 0.05; done")
    request = pb.StopContainerRequest(container_id=pod.container_id, timeout=60)
    first: Future[Any] = m.cri()[0].StopContainer.future(request, timeout=50)
    until(lambda: pod.info()["stop"])
    began = time.monotonic()
    pod.stop(1)
    assert 0.8 < time.monotonic() - began < 10
    assert first.result(5) is not None
    assert pod.status().exit_code == 137


def test_a_longer_stop_joins_the_shorter_one(m: Machine) -> None:
    pod = running(m, "trap : TERM; touch /shared/up; while :; do sleep 0.05; done")
    request = pb.StopContainerRequest(container_id=pod.container_id, timeout=1)
    first = m.cri()[0].StopContainer.future(request, timeout=50)
    until(lambda: pod.info()["stop"])
    began = time.monotonic()
    pod.stop(600)
    assert time.monotonic() - began < 10
    assert first.result(5) is not None

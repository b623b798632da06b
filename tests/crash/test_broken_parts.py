"""What the daemon leans on breaks: the runtime, the monitor, the image tool, the log, the disk. It says what is wrong,
what it does not know it calls unknown, and everything else goes on."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from adapters.log.lmdb_log import LmdbLog
from adapters.log.readonly import open_live
from domain import events as e
from domain.records import Record, Unreadable
from proto import api_pb2 as pb
from tests.crash.life import Pod, refused
from tests.crash.stage import said
from tests.support.daemon import IMAGE, Ended, Machine, machine, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

UP = "touch /shared/up; "
FOREVER = UP + "while :; do sleep 0.05; done"
ON_CALL = UP + "while [ ! -e /shared/go ]; do sleep 0.02; done; "
LIMITS = {"DAYBOOK_TEST_LIMITS_S": '{"CreateTask": 1, "StartTask": 1, "TidyTask": 1, "RemoveTask": 2}'}


@pytest.fixture
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine; `m` as a parameter: what else to make it with."""
    with machine(**getattr(request, "param", {})) as made:
        yield made


@pytest.fixture
def stood(m: Machine) -> Machine:
    """With stand-ins for the runtime and the monitor, limits of a second, a running daemon and an image."""
    programs = m.stand_in("runc", "conmon")
    m.faulty, m.environment = True, LIMITS
    m.write_config({"runtime": {"path": programs["runc"], "monitor": programs["conmon"]}})
    m.start()
    m.load()
    return m


def end_machine(m: Machine, *pods: Pod) -> None:
    """Everything goes, nothing is left, the log is sound."""
    for pod in pods:
        pod.remove()
    m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)), timeout=30)
    m.await_clean()
    checked = m.replay("check")
    assert checked.returncode == 0, checked.stdout + said(m)
    assert m.terminate() == 0
    assert m.left().mounts == ()


def end_machine_after_stop(m: Machine, pod: Pod) -> None:
    pod.stop()
    end_machine(m, pod)


def kill(pid: int) -> None:
    """One that we were told of by the daemon, and that is ours by its cgroup or command line."""
    os.kill(pid, signal.SIGKILL)


def events(m: Machine, kind: type) -> list[Any]:
    return [r.event for r in m.records() if isinstance(r, Record) and isinstance(r.event, kind)]


# --- the runtime -----------------------------------------------------------------------------------------------------


def nothing_of_containers(m: Machine) -> None:
    def none() -> bool:
        left = m.left()
        return not (left.processes or left.cgroups or [p for p in left.paths if "containers/" in p or "runc/" in p])

    until(none, text="nothing of the container is left")


@pytest.mark.parametrize("program", ["runc", "conmon"])
def test_a_create_that_fails_is_undone_and_may_be_tried_again(stood: Machine, program: str) -> None:
    pod = Pod(stood).run()
    stood.plan(program, "create" if program == "runc" else "-", "fail")
    with refused(StatusCode.INTERNAL, "made to fail"):
        pod.create(FOREVER)
    nothing_of_containers(stood)
    assert not pod.ask("ListContainers").containers
    pod.create(FOREVER).start()
    end_machine_after_stop(stood, pod)


def test_a_create_that_hangs_is_killed_at_its_limit(stood: Machine) -> None:
    pod = Pod(stood).run()
    stood.plan("runc", "create", "hang")
    with refused(StatusCode.DEADLINE_EXCEEDED, "did not end within 1 s"):
        pod.create(FOREVER)
    nothing_of_containers(stood)
    pod.create(FOREVER).start()
    end_machine_after_stop(stood, pod)


def test_a_create_that_hangs_after_its_work_is_undone(stood: Machine) -> None:
    pod = Pod(stood).run()
    stood.plan("runc", "create", "hang-after")
    with refused(StatusCode.DEADLINE_EXCEEDED, "did not end within 1 s"):
        pod.create(FOREVER)
    nothing_of_containers(stood)
    pod.create(FOREVER).start()
    end_machine_after_stop(stood, pod)


@pytest.mark.parametrize(
    ("mode", "code"), [("fail", StatusCode.INTERNAL), ("hang", StatusCode.DEADLINE_EXCEEDED)], ids=["fails", "hangs"]
)
def test_a_start_that_never_was_is_a_start_error(stood: Machine, mode: str, code: StatusCode) -> None:
    pod = Pod(stood).run().create(FOREVER)
    stood.plan("runc", "start", mode)
    with refused(code):
        pod.start()
    status = pod.status()
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert status.message
    assert not (pod.shared / "up").exists()
    end_machine(stood, pod)


def test_a_start_that_hangs_after_its_work_is_a_start(stood: Machine) -> None:
    """A limit is not a failure: the world is looked at."""
    pod = Pod(stood).run().create(FOREVER)
    stood.plan("runc", "start", "hang-after")
    pod.start()
    assert pod.status().state == pb.CONTAINER_RUNNING
    end_machine_after_stop(stood, pod)


@pytest.mark.parametrize("mode", ["fail-always", "hang"])
def test_a_delete_that_does_not_work_keeps_nobody_from_removing(stood: Machine, mode: str) -> None:
    pod = Pod(stood).run().create("exit 3").start()
    stood.plan("runc", "delete", mode)
    assert pod.ended().exit_code == 3
    end_machine(stood, pod)


@pytest.mark.parametrize("key", ["path", "monitor"])
def test_a_missing_program_makes_the_runtime_not_ready_and_is_named(m: Machine, key: str) -> None:
    m.write_config({"runtime": {key: "/nonexistent/program"}})
    m.start()
    m.load()
    conditions = {c.type: c for c in m.cri()[0].Status(pb.StatusRequest(), timeout=5).status.conditions}
    ready = conditions["RuntimeReady"]
    assert not ready.status and ready.reason == "RuntimeMissing" and "/nonexistent/program" in ready.message
    pod = Pod(m).run()
    with refused(StatusCode.INTERNAL, "program", "No such file or directory"):
        pod.create(FOREVER)
    nothing_of_containers(m)
    pod.remove_pod()
    m.write_config({})
    m.restart()
    pod.run().create(FOREVER).start()
    end_machine_after_stop(m, pod)


# --- the monitor -----------------------------------------------------------------------------------------------------


def test_a_killed_monitor_makes_the_code_unknown(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    told = pod.info()
    kill(told["monitor"]["pid"])
    until(lambda: pod.info()["monitorLostAt"], text="the loss of the monitor is on record")
    assert pod.status().state == pb.CONTAINER_RUNNING
    kill(told["pid"])
    status = pod.ended()
    assert (status.exit_code, status.reason) == (255, "Unknown")
    (event,) = events(m, e.ContainerExited)
    assert event.evidence.source == "none"
    end_machine(m, pod)


def test_a_monitor_killed_while_the_daemon_is_down(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    m.kill9()
    told = monitor_of(m, pod)
    kill(told)
    m.start()
    assert pod.status().state == pb.CONTAINER_RUNNING
    assert pod.info()["monitorLostAt"]
    pod.stop()
    assert (pod.status().exit_code, pod.status().reason) == (255, "Unknown")
    end_machine(m, pod)


def monitor_of(m: Machine, pod: Pod) -> int:
    (found,) = [p for p in m.left().processes if f"-c {pod.container_id}" in p or f" {pod.container_id} -u" in p]
    return int(found.split(" ", 1)[0])


def init_of(m: Machine, pod: Pod) -> int:
    return int((m.data / "containers" / pod.container_id / "pidfile").read_text())


# --- the infra process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_a_pod_whose_infra_process_dies_is_not_ready(m: Machine, down: bool) -> None:
    m.start()
    m.load()
    pod = Pod(m).run(pid=pb.POD).create(FOREVER).start()

    def pod_state() -> int:
        return int(pod.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox_id).status.state)

    assert pod_state() == pb.SANDBOX_READY
    told = pod.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox_id, verbose=True).info["info"]
    infra = json.loads(told)["pid"]
    if down:
        m.kill9()
    kill(infra)
    if down:
        until(lambda: not Path(f"/proc/{infra}").exists(), text="the infra process is gone")
        m.start()
    until(lambda: pod_state() == pb.SANDBOX_NOTREADY, text="the pod is not ready")
    with refused(StatusCode.FAILED_PRECONDITION, "not ready"):
        pod.create(FOREVER, "another")
    assert pod.ask("ContainerStatus", container_id=pod.container_id).status.state == pb.CONTAINER_RUNNING
    end_machine_after_stop(m, pod)


# --- ends that nobody saw --------------------------------------------------------------------------------------------


def let_go(pod: Pod) -> None:
    (pod.shared / "go").touch()


def test_it_ends_while_the_daemon_is_down(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(ON_CALL + "exit 7")
    m.kill9()
    let_go(pod)
    until((m.data / "containers" / pod.container_id / "exit").exists, text="conmon writes the exit file")
    m.start()
    status = pod.status()
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 7, "Error")
    assert 0 < status.started_at <= status.finished_at
    end_machine(m, pod)


def lose_its_end(m: Machine, pod: Pod) -> None:
    """conmon dies first, then the container: nobody learns the code. The daemon is down."""
    monitor, init = monitor_of(m, pod), init_of(m, pod)
    kill(monitor)
    kill(init)
    until(lambda: not [p for p in m.left().processes if p.startswith(f"{init} ")], text="init is gone")


def test_it_ends_while_the_daemon_is_down_and_nobody_knows_how(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    m.kill9()
    lose_its_end(m, pod)
    m.start()
    status = pod.status()
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 255, "Unknown")
    assert "no exit code" in status.message
    end_machine(m, pod)


def test_garbage_in_the_exit_file_is_quoted_and_not_believed(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    m.kill9()
    lose_its_end(m, pod)
    (m.data / "containers" / pod.container_id / "exit").write_bytes(b"1\x1b[2J37")
    m.start()
    status = pod.status()
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 255, "Unknown")
    (event,) = events(m, e.ContainerExited)
    assert event.evidence.source == "none"
    assert event.evidence.quote == r"1\x1b[2J37"
    end_machine(m, pod)


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_the_kernel_kills_it_for_want_of_memory(m: Machine, down: bool) -> None:
    m.start()
    m.load()
    script = ON_CALL + "exec /bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=5"
    limit = {"memory_limit_in_bytes": 16 << 20, "memory_swap_limit_in_bytes": 16 << 20}
    pod = Pod(m).running(script, resources=limit)
    if down:
        m.kill9()
    let_go(pod)
    if down:
        until((m.data / "containers" / pod.container_id / "exit").exists, text="conmon writes the exit file")
        m.start()
    status = pod.ended()
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    end_machine(m, pod)


# --- the image tool --------------------------------------------------------------------------------------------------


def test_a_failing_image_tool(m: Machine) -> None:
    m.stand_in("skopeo")
    m.start()
    for word in ("inspect", "copy"):
        m.plan("skopeo", word, "fail")
        with refused(StatusCode.UNKNOWN, "made to fail"):
            m.load()
        m.await_clean()
    m.load()
    end_machine(m)


def test_a_hanging_image_tool_is_ended_when_nothing_moves(m: Machine) -> None:
    m.stand_in("skopeo")
    m.write_config({"images": {"progress_timeout_s": 1}})
    m.start()
    m.plan("skopeo", "copy", "hang")
    with refused(StatusCode.DEADLINE_EXCEEDED, IMAGE):
        m.load()
    m.await_clean()
    m.load()
    end_machine(m)


def test_a_missing_image_tool_is_named(m: Machine) -> None:
    """What is here already still runs."""
    programs = {"path": shutil.which("runc"), "monitor": shutil.which("conmon"), "infra": shutil.which("catatonit")}
    m.write_config({"runtime": programs})
    m.start()
    m.load()
    m.kill9()
    m.environment = {"PATH": "/nonexistent"}
    m.start()
    with refused(StatusCode.INTERNAL, "cannot run skopeo"):
        m.load("registry.example/other:1")
    pod = Pod(m).running(FOREVER)
    pod.stop()
    pod.remove()
    m.kill9()
    m.environment = {}
    m.start()
    end_machine(m)


def test_the_removal_of_an_orphan_does_not_take_what_is_pulled_meanwhile(m: Machine) -> None:
    """A pull dies after the copy; the next daemon but one finds an image that nobody means, and somebody pulls it."""
    m.stand_in("skopeo")
    m.start()
    m.plan("skopeo", "copy", "kill-after")
    with refused(StatusCode.UNAVAILABLE):
        m.load()
    m.start()
    m.kill9()
    waits = m.plan("skopeo", "delete", "wait")
    m.start()
    until(lambda: not waits.exists(), text="the orphan is being removed")
    before = len(events(m, e.ImagePullRequested))
    with ThreadPoolExecutor(1) as somebody:
        loaded = somebody.submit(m.load)
        until(lambda: len(events(m, e.ImagePullRequested)) > before, text="the pull is on record")
        (m.base / "bin" / "skopeo.go").touch()
        loaded.result(timeout=30)
    Pod(m).running(FOREVER)


def test_an_image_outlives_the_removal_of_one_that_shares_its_layers(m: Machine) -> None:
    """The machine is booted anew right after the removal (as the image store knows it)."""
    m.start()
    m.load()
    m.layout("other", config={"Labels": {"another": "image"}})
    m.load("registry.example/other:1", "other")
    image = pb.ImageSpec(image="registry.example/other:1")
    m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=image), timeout=30)
    m.kill9()
    boots = [p for p in (m.data / "pulls").iterdir() if p.is_file() and "boot" in p.name]
    boots = boots or list((m.data / "pulls" / "synced").glob("*boot*"))
    boots[0].write_text("another boot")
    m.start()
    wanted = pb.ImageStatusRequest(image=pb.ImageSpec(image=IMAGE))
    assert m.cri()[1].ImageStatus(wanted, timeout=5).HasField("image")


# --- two daemons, other logs -----------------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_and_harms_nothing(m: Machine) -> None:
    first = m.start()
    m.daemon = None
    second = m.spawn()
    assert second.wait() == 1
    m.daemon = first
    assert "runs and holds" in second.said() and str(first.pid) in second.said()
    assert "Traceback" not in second.said()
    assert m.cri()[0].Version(pb.VersionRequest(), timeout=5).runtime_name == "daybook"
    assert m.terminate() == 0


def refuses(m: Machine, *texts: str) -> None:
    with pytest.raises(Ended) as ended:
        m.start()
    assert ended.value.status == 1, ended.value.said
    for text in (*texts, "daybook adopt", "daybook purge"):
        assert text in ended.value.said
    assert "Traceback" not in ended.value.said


def test_another_log_is_refused_and_may_be_adopted(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    assert m.terminate() == 0
    m.log_directory.rename(m.data / "old-log")
    refuses(m, "is missing")
    assert "Nothing was changed" in m.command("adopt").stdout
    assert not m.log_directory.exists(), "a log was made although nobody asked for it"
    LmdbLog(m.log_directory).close()
    refuses(m, "belongs to log")
    running = [p for p in m.left().processes if "conmon" in p]
    assert running, "a refused daemon has touched what runs"
    assert "Nothing was changed" in m.command("adopt").stdout
    adopted = m.command("adopt", "--yes")
    assert adopted.returncode == 0, adopted.stderr
    assert pod.container_id in adopted.stdout
    m.start()
    assert not pod.ask("ListContainers").containers and not pod.ask("ListPodSandbox").items
    m.await_clean()
    assert m.terminate() == 0


def test_the_right_log_put_back_is_taken(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    m.kill9()
    m.log_directory.rename(m.base / "kept")
    refuses(m, "is missing")
    (m.base / "kept").rename(m.log_directory)
    m.start()
    assert pod.status().state == pb.CONTAINER_RUNNING
    end_machine_after_stop(m, pod)


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_an_older_copy_of_the_log_is_refused(m: Machine, how: str) -> None:
    m.start()
    m.load()
    assert m.terminate() == 0
    shutil.copytree(m.log_directory, m.base / "older")
    m.start()
    Pod(m).running(FOREVER)
    if how == "terminated":
        assert m.terminate() == 0
    else:
        m.kill9()
    shutil.rmtree(m.log_directory)
    (m.base / "older").rename(m.log_directory)
    refuses(m, "the log ends at record")
    purged = m.command("purge", "--yes")
    assert purged.returncode == 0, purged.stderr
    assert [p for p in m.data.iterdir()] == []
    m.start()
    m.await_clean()
    assert m.terminate() == 0


def damage(m: Machine, seq: int) -> None:
    """One bit of one record in the file, wherever LMDB has its pages. The daemon is down."""
    with open_live(m.log_directory, scratch=str(m.base)) as reader:
        raw = bytes(reader._rows.row(seq))
    file = m.log_directory / "data.mdb"
    data = file.read_bytes()
    at, found = 0, []
    while (at := data.find(raw, at)) >= 0:
        found.append(at)
        at += 1
    assert found, "the record is not in the file"
    with file.open("r+b") as target:
        for place in found:
            target.seek(place + len(raw) - 40)
            byte = target.read(1)[0]
            target.seek(place + len(raw) - 40)
            target.write(bytes([byte ^ 0x10]))


def test_a_flipped_bit_quarantines_one_container_alone(m: Machine) -> None:
    m.start()
    m.load()
    hurt = Pod(m, "hurt").running(FOREVER)
    well = Pod(m, "well").running(FOREVER)
    assert m.terminate() == 0
    key = e.container_key(hurt.container_id)
    (seq,) = [
        r.seq for r in m.records() if isinstance(r, Record) and r.key == key and isinstance(r.event, e.ContainerStarted)
    ]
    damage(m, seq)
    daemon = m.start()
    assert [r.seq for r in m.records() if isinstance(r, Unreadable)] == [seq]
    assert f"record {seq}" in daemon.said()
    assert "Traceback" not in daemon.said()
    status = m.cri()[0].Status(pb.StatusRequest(verbose=True), timeout=5)
    assert key in "".join(status.info.values())
    assert "quarantined" in hurt.status().message
    for refuse in (lambda: hurt.stop(), lambda: hurt.remove(), lambda: hurt.start()):
        with refused(StatusCode.FAILED_PRECONDITION, f"record {seq}", f"daybook purge --quarantined {key}"):
            refuse()
    assert [p for p in m.left().processes if hurt.container_id in p], "a quarantined container was touched"
    assert m.replay("check").returncode == 1
    well.stop()
    well.remove()
    assert m.terminate() == 0
    given_up = m.command("purge", "--quarantined", key, "--yes")
    assert given_up.returncode == 0, given_up.stderr
    m.start()
    assert not [c for c in hurt.ask("ListContainers").containers if c.id == hurt.container_id]
    hurt.remove_pod()
    m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)), timeout=30)
    m.await_clean()
    assert m.terminate() == 0


# --- the daemon told to stop, the disk full --------------------------------------------------------------------------


def test_sigterm_leaves_containers_running(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running(ON_CALL + "exit 5")
    before, info = pod.status(), pod.info()
    assert m.terminate() == 0
    assert events(m, e.NodeStopped)
    m.start()
    assert pod.status() == before
    assert pod.info() == info
    let_go(pod)
    assert pod.ended().exit_code == 5
    end_machine(m, pod)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_told_to_stop_while_it_starts(m: Machine, number: signal.Signals) -> None:
    programs = m.stand_in("runc")
    m.write_config({"runtime": {"path": programs["runc"]}})
    asked = m.plan("runc", "--version", "wait")
    daemon = m.spawn()
    until(lambda: not asked.exists(), text="it asks for the runtime's version")
    daemon.child.send_signal(number)
    (m.base / "bin" / "runc.go").touch()
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.said()


def test_sigterm_in_a_stop_leaves_its_deadline_to_the_next_daemon(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running("trap : TERM; " + FOREVER)
    stub = m.cri()[0].StopContainer
    future = stub.future(pb.StopContainerRequest(container_id=pod.container_id, timeout=4), timeout=30)
    until(lambda: pod.info()["stop"], text="the stop is on record")
    deadline = pod.info()["stop"]["deadline"]
    assert m.terminate() == 0
    assert future.exception(10) is not None
    m.start()
    assert pod.info()["stop"]["deadline"] == deadline
    assert pod.status().state == pb.CONTAINER_RUNNING
    assert pod.ended().exit_code == 137
    end_machine(m, pod)


def test_a_full_disk_refuses_what_grows_and_lets_everything_end(m: Machine) -> None:
    m.data.mkdir(mode=0o700)
    m.log_directory.mkdir(mode=0o700)
    options = ["-t", "tmpfs", "-o", "size=3m,mode=0700", f"{m.token}-log", str(m.log_directory)]
    subprocess.run(["mount", *options], check=True)
    m.start()
    m.load()
    pod = Pod(m).running(FOREVER)
    filler = m.log_directory / "filler"
    fill(filler)
    names = iter(range(10_000))

    def full() -> bool:
        """LMDB reuses pages that it has freed before it needs new ones."""
        try:
            other = Pod(m, f"other-{next(names)}").run()
        except Exception as error:
            assert error.code() is StatusCode.RESOURCE_EXHAUSTED, error  # type: ignore[attr-defined]
            return True
        other.remove_pod()
        return False

    until(full, 30, "the disk is full")
    assert pod.status().state == pb.CONTAINER_RUNNING
    pod.stop()
    pod.remove()
    m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)), timeout=30)
    for listed in pod.ask("ListPodSandbox").items:
        pod.ask("StopPodSandbox", pod_sandbox_id=listed.id)
        pod.ask("RemovePodSandbox", pod_sandbox_id=listed.id)
    filler.unlink()
    m.load()
    Pod(m, "again").running(FOREVER).remove()
    m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)), timeout=30)
    assert m.terminate() == 0


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as target, pytest.raises(OSError, match="No space"):
        while True:
            target.write(bytes(4096))

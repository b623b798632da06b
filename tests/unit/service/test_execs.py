"""Commands in containers and log rotation: bounds, counts, whose work it is, and that nothing of it is on record."""

import asyncio
from typing import Any

import pytest

from adapters.oci.fake import Command, FakeTask
from domain import commands as c
from domain import errors
from domain.observations import Mark
from service import execs
from tests.unit.service.pod import Pod

HANGS, SAYS = ("sleep", "1000"), ("echo", "hello")


@pytest.fixture
def ready(pod: Pod) -> Pod:
    pod.running()
    pod.world.machine.commands[HANGS] = Command(hangs=True)
    pod.world.machine.commands[SAYS] = Command(out=b"hello\n", code=4)
    return pod


def ask(pod: Pod, argv: tuple[str, ...] = SAYS, timeout_s: float = 0, which: str = "") -> "asyncio.Task[Any]":
    """A client's call, begun and driven as far as it goes by itself."""
    assert pod.world.life is not None
    call = pod.world.life.loop.create_task(pod.daemon.exec_sync(which or pod.con, argv, timeout_s))
    pod.world.settle()
    return call


def counts(pod: Pod) -> dict[str, int]:
    return {kind: count for kind, count in pod.daemon.health().info["execs"].items() if count}


def under_way(pod: Pod) -> int:
    return sum(task.execs for task in pod.world.machine.tasks.values())


def test_a_command_is_counted_and_not_on_record(ready: Pod) -> None:
    before = ready.world.log.head()
    done = ask(ready).result()
    assert (done.stdout, done.code) == (b"hello\n", 4)
    assert ready.world.log.head() == before
    assert counts(ready) == {"ended": 1}


def test_its_limit(ready: Pod) -> None:
    call = ask(ready, HANGS, 3)
    ready.world.let_pass(2.9)
    assert not call.done() and counts(ready) == {"running": 1}
    ready.world.let_pass(0.2)
    with pytest.raises(errors.TimedOut, match=f"cannot exec in container {ready.con}: .*timeout 3s exceeded"):
        call.result()
    assert counts(ready) == {"timedOut": 1} and not under_way(ready)


@pytest.mark.parametrize(("limit_s", "helpers"), [(0, 1), (1, 0), (3600, 0)], ids=["a hook", "a probe", "a long probe"])
def test_only_a_hook_may_leave_helpers(ready: Pod, limit_s: float, helpers: int) -> None:
    machine = ready.world.machine
    machine.commands[SAYS] = Command(leaves=True)
    assert ask(ready, SAYS, limit_s).result().code == 0
    assert machine.tasks[ready.con].helpers == helpers


def test_the_caller_owns_it(ready: Pod) -> None:
    call = ask(ready, HANGS)
    assert under_way(ready) == 1
    call.cancel()
    ready.world.settle()
    assert call.cancelled() and not under_way(ready) and counts(ready) == {"cancelled": 1}


def test_only_what_runs(ready: Pod) -> None:
    with pytest.raises(errors.NotFound):
        ask(ready, which="f" * 64).result()
    ready.world.machine.end(ready.con, 0)
    ready.world.settle()
    with pytest.raises(errors.WrongState, match="not running"):
        ask(ready).result()


def test_a_container_that_is_being_stopped_answers_its_probes(pod: Pod) -> None:
    pod.running(on_stop=None)
    pod.world.call(c.StopContainer(pod.con, 60))
    pod.world.settle()
    assert pod.container.state == "STOPPING"
    assert ask(pod).result().code == 0


def test_a_container_that_ends_ends_its_commands(ready: Pod) -> None:
    call = ask(ready, HANGS)
    ready.world.machine.end(ready.con, 9)
    ready.world.settle()
    with pytest.raises(errors.ExecFailed, match="the container ended"):
        call.result()


def test_one_container_has_its_share(ready: Pod) -> None:
    calls = [ask(ready, HANGS) for _ in range(execs.IN_ONE_MAX)]
    with pytest.raises(errors.LimitReached):
        ask(ready).result()
    calls[0].cancel()
    ready.world.settle()
    assert ask(ready).result().code == 4
    assert counts(ready) == {"running": execs.IN_ONE_MAX - 1, "cancelled": 1, "refused": 1, "ended": 1}


def test_all_together_wait_in_a_queue_that_ends(ready: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "IN_ONE_MAX", 10**6)
    monkeypatch.setattr(execs, "WAITING_MAX", 3)
    calls = [ask(ready, HANGS) for _ in range(execs.AT_ONCE_MAX)]
    waiting = [ask(ready) for _ in range(3)]
    assert counts(ready) == {"running": execs.AT_ONCE_MAX, "waiting": 3} and under_way(ready) == execs.AT_ONCE_MAX
    with pytest.raises(errors.LimitReached, match="wait for room"):
        ask(ready).result()
    calls[0].cancel()
    ready.world.settle()
    assert [call.result().code for call in waiting] == [4, 4, 4]


def test_one_that_waited_looks_again(ready: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "IN_ONE_MAX", 10**6)
    for _ in range(execs.AT_ONCE_MAX):
        ask(ready, HANGS)
    late = ask(ready)
    ready.world.machine.end(ready.con, 0)
    ready.world.settle()
    with pytest.raises((errors.WrongState, errors.ExecFailed)):
        late.result()
    assert not counts(ready).get("waiting")


def test_an_unforeseen_error_is_a_failure_and_frees_its_room(ready: Pod) -> None:
    ready.world.machine.at("exec.before", ValueError("unforeseen"))
    with pytest.raises(ValueError, match="unforeseen"):
        ask(ready).result()
    assert counts(ready) == {"failed": 1}


def test_the_end_of_the_daemon_gives_them_their_time_and_ends_them(ready: Pod) -> None:
    call = ask(ready, HANGS)
    drained = ready.world.life.loop.create_task(ready.daemon._execs.drain(5))  # type: ignore[union-attr]
    ready.world.let_pass(4.9)
    with pytest.raises(errors.NotReady):
        ask(ready).result()
    assert not call.done() and not drained.done()
    ready.world.let_pass(0.2)
    assert call.done() and drained.done() and not under_way(ready)


def test_another_daemon_ends_what_the_killed_one_left(ready: Pod) -> None:
    ask(ready, HANGS)
    ready.world.kill()
    assert under_way(ready) == 1
    ready.world.start()
    ready.world.settle()
    assert not under_way(ready) and ready.container.state == "RUNNING"


def test_what_cannot_be_ended_does_not_keep_the_rest_from_being_cleaned(ready: Pod) -> None:
    ready.world.kill()
    orphan = "f" * 64
    ready.world.machine.tasks[orphan] = FakeTask(Mark(ready.world.log.log_id, 1), mounted=True)
    ready.world.machine.at("clean_execs", errors.TimedOut("does not die"))
    ready.world.start()
    ready.world.settle()
    assert ready.world.up and orphan not in ready.world.machine.tasks


def reopen(pod: Pod, which: str = "") -> "asyncio.Task[Any]":
    assert pod.world.life is not None
    call = pod.world.life.loop.create_task(pod.daemon.reopen_log(which or pod.con))
    pod.world.settle()
    return call


def with_log(pod: Pod) -> Pod:
    """The container's log is where its record says."""
    object.__setattr__(pod.container, "log_path", "/var/log/pods/u/k.log")
    return pod


def test_a_renamed_log_is_reopened(ready: Pod) -> None:
    with_log(ready)
    task = ready.world.machine.tasks[ready.con]
    task.log_renamed = True
    reopen(ready).result()
    assert (task.logs, task.log_renamed) == (2, False)
    reopen(ready).result()
    assert task.logs == 2


def test_a_log_that_cannot_be_reopened(ready: Pod) -> None:
    with pytest.raises(errors.WrongState, match="it has none"):
        reopen(ready).result()
    with_log(ready)
    with pytest.raises(errors.NotFound):
        reopen(ready, "f" * 64).result()
    ready.world.machine.kill_monitor(ready.con)
    with pytest.raises(errors.WrongState, match=f"cannot reopen the log of container {ready.con}: its monitor"):
        reopen(ready).result()
    ready.world.machine.end(ready.con, 0)
    ready.world.settle()
    with pytest.raises(errors.WrongState, match="not running"):
        reopen(ready).result()

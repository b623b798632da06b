"""One contract for commands inside containers and for log rotation, over the fake and over runc with conmon."""

import asyncio
import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.oci import cgroups, drains, execs, process, reopen
from adapters.oci import helpers as helpers_of_hooks
from adapters.oci.fake import Command
from domain import config as c
from domain.container import Container
from domain.errors import DaybookError, ExecFailed, InvalidRequest, RuntimeFailed, StorageFailed, TimedOut, WrongState
from domain.lifecycle import ContainerState
from tests.conformance.test_tasks import (
    FAR_S,
    IGNORES,
    MARK,
    STOPS,
    Lab,
    contract,
    never,
    only_real,
    run_in,
)
from tests.support.limits import SLOWNESS

NONE, SHORT_S = 0.0, 0.3
SILENT = Command()
IDLE = "echo > /sync/ready; sleep 1000"
"""A container whose processes stay the same."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(request.param == "real", tmp_path)
    if made.real:
        made.build_image()
    yield made


@pytest.fixture
def real(tmp_path: Path) -> Lab:
    made = Lab(True, tmp_path)
    made.build_image()
    return made


def sh(lab: Lab, text: str, does: Command = SILENT) -> tuple[str, ...]:
    """A command line; `does` is what the fake takes it for."""
    argv = ("/bin/sh", "-c", text)
    lab.world.commands[argv] = does
    return argv


def ledgers(lab: Lab) -> list[Any]:
    """Commands of which anything is left in the ledger or, on the fake, alive."""
    if lab.real:
        return os.listdir(lab.layout.execs)
    return [task for task in lab.world.tasks.values() if task.execs]


def members(container: Container) -> set[int]:
    return cgroups.members(f"/daybook/{container.id}")


def sub_cgroups(container: Container) -> list[str]:
    tops = cgroups.directories(f"/daybook/{container.id}")
    return [found for top in tops for found in cgroups.tree(top) if found != top]


def nothing_left(lab: Lab, container: Container, besides: set[int]) -> None:
    assert ledgers(lab) == []
    assert members(container) == besides
    assert sub_cgroups(container) == []


# --- the contract ----------------------------------------------------------------------------------------------------


@contract
async def test_both_streams_and_the_code(lab: Lab) -> None:
    container = await lab.running(STOPS)
    argv = sh(lab, "printf out; printf 'err\\n' >&2; exit 3", Command(b"out", b"err\n", 3))
    done = await lab.tasks().exec_sync(container, argv, NONE)
    assert (done.stdout, done.stderr, done.code) == (b"out", b"err\n", 3)
    assert ledgers(lab) == []


@contract
async def test_it_is_killed_at_its_limit(lab: Lab) -> None:
    container = await lab.running(STOPS)
    argv = sh(lab, "trap '' TERM; while :; do sleep 0.05; done", Command(hangs=True))
    with pytest.raises(TimedOut, match=r"timeout 0\.3s exceeded"):
        await lab.tasks().exec_sync(container, argv, SHORT_S)
    assert ledgers(lab) == []


@contract
async def test_it_is_killed_when_its_caller_leaves(lab: Lab) -> None:
    container = await lab.running(STOPS)
    work = asyncio.ensure_future(lab.tasks().exec_sync(container, sh(lab, "sleep 1000", Command(hangs=True)), NONE))
    await until(lambda: ledgers(lab) != [])
    work.cancel()
    await asyncio.wait([work])
    assert work.cancelled()
    assert ledgers(lab) == []


@contract
async def test_a_missing_program(lab: Lab) -> None:
    container = await lab.running(STOPS)
    argv = ("/no/such-program",)
    lab.world.commands[argv] = Command(missing=True)
    with pytest.raises(ExecFailed, match="no such"):
        await lab.tasks().exec_sync(container, argv, NONE)
    assert ledgers(lab) == []


@contract
async def test_in_a_container_that_has_ended(lab: Lab) -> None:
    container = await lab.running(STOPS)
    await lab.tasks().stop(container, lab.deadline(FAR_S), never)
    await lab.tasks().wait_exit(container)
    await lab.tasks().tidy(container)
    with pytest.raises(ExecFailed):
        await lab.tasks().exec_sync(container, sh(lab, "true"), NONE)
    assert ledgers(lab) == []


@contract
async def test_the_container_ends_first(lab: Lab) -> None:
    container = await lab.running(IGNORES)
    work = asyncio.ensure_future(lab.tasks().exec_sync(container, sh(lab, "sleep 1000", Command(hangs=True)), NONE))
    await until(lambda: ledgers(lab) != [])
    await lab.tasks().stop(container, lab.deadline(0), never)
    with pytest.raises(ExecFailed):
        await asyncio.wait_for(work, 5 * SLOWNESS)
    assert ledgers(lab) == []


@contract
async def test_what_another_daemon_left_is_cleaned(lab: Lab) -> None:
    container = await lab.running(STOPS)
    work = asyncio.ensure_future(lab.tasks().exec_sync(container, sh(lab, "sleep 1000", Command(hangs=True)), NONE))
    await until(lambda: ledgers(lab) != [])
    await lab.tasks().clean_execs()
    assert ledgers(lab) == []
    await lab.tasks().clean_execs()
    if not lab.real:
        work.cancel()
    await asyncio.wait([work])


@contract
async def test_reopening_a_log_without_a_monitor(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab)
    if lab.real:
        process.send_signal(container.monitor, signal.SIGKILL)
    else:
        lab.world.kill_monitor(container.id)
    await lab.tasks().wait_monitor(container)
    with pytest.raises(WrongState, match="monitor"):
        await lab.tasks().reopen_log(container, sandbox)


async def in_sandbox(lab: Lab, shell: Any = STOPS, **values: Any) -> tuple[Container, Any]:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    return await lab.running(shell, sandbox, **values), sandbox


async def until(true: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds * SLOWNESS
    while not true():
        assert time.monotonic() < end, true
        await asyncio.sleep(0.005)


# --- output, on the real one -----------------------------------------------------------------------------------------


@only_real
async def test_binary_output_is_exact(lab: Lab) -> None:
    container = await lab.running(STOPS)
    every = bytes(range(256)) * 4000
    (lab.path / f"sync-{container.id[:8]}" / "every").write_bytes(every)
    done = await lab.tasks().exec_sync(container, ("cat", "/sync/every"), NONE)
    assert done.stdout == every and done.stderr == b""


@only_real
async def test_16_mib_of_each_stream_are_kept_and_the_rest_is_thrown_away(lab: Lab) -> None:
    container = await lab.running(STOPS)
    text = "dd if=/dev/zero bs=1M count=17; dd if=/dev/zero bs=1M count=20 >&2; echo last; exit 5"
    done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", text), 60)
    assert (len(done.stdout), len(done.stderr), done.code) == (drains.STREAM_MAX, drains.STREAM_MAX, 5)
    assert not done.stdout.strip(b"\0")


@only_real
async def test_a_child_that_keeps_the_pipes_does_not_hold_the_answer(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before = members(container)
    began = time.monotonic()
    argv = ("/bin/sh", "-c", "echo said; setsid sleep 1000 & exit 7")
    done = await lab.tasks().exec_sync(container, argv, NONE)
    assert (done.stdout, done.code) == (b"said\n", 7)
    assert time.monotonic() - began < 5 * SLOWNESS
    nothing_left(lab, container, before)


@only_real
async def test_what_goes_to_the_background_without_the_pipes_ends_too(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before = members(container)
    text = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo said"
    done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", text), NONE)
    assert (done.stdout, done.code) == (b"said\n", 0)
    nothing_left(lab, container, before)


# --- helpers that a hook leaves --------------------------------------------------------------------------------------

HELPER = "setsid sleep 1000 </dev/null >/dev/null 2>&1 &"


def helpers(lab: Lab, container: Container, besides: int) -> int:
    return len(members(container)) - besides if lab.real else lab.world.tasks[container.id].helpers


@contract
async def test_helpers_live_on_where_the_caller_lets_them(lab: Lab) -> None:
    """Under the next daemon too; they end with their container."""
    container = await lab.running(IDLE if lab.real else STOPS)
    before = len(members(container)) if lab.real else 0
    argv = sh(lab, f"{HELPER} exit 3", Command(code=3, leaves=True))
    assert (await lab.tasks().exec_sync(container, argv, 30)).code == 3
    assert helpers(lab, container, before) == 0, "a probe's"
    for number in (1, 2):
        assert (await lab.tasks().exec_sync(container, argv, NONE, keep=True)).code == 3
        assert helpers(lab, container, before) == number, "a hook's"
    await lab.tasks().clean_execs()
    assert helpers(lab, container, before) == 2, "the next daemon's"
    await lab.tasks().stop(container, lab.deadline(0), never)
    await lab.tasks().wait_exit(container)
    assert helpers(lab, container, 0) == 0
    await lab.tasks().tidy(container)
    await lab.tasks().remove(container.id)
    assert ledgers(lab) == []


@only_real
async def test_when_its_last_helper_has_ended_nothing_of_a_hook_is_left(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before, tasks = members(container), lab.tasks()
    await tasks.exec_sync(container, ("/bin/sh", "-c", f"{HELPER} {HELPER}"), NONE, keep=True)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert len(ledgers(lab)) == 1 and sub_cgroups(container)
    (ledger,) = execs.ledgers(lab.layout)
    assert not os.path.exists(ledger.spec), "its arguments are not kept"
    for pid in members(container) - before:
        assert ledgers(lab)
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0)
    await until(lambda: not ledgers(lab))
    nothing_left(lab, container, before)
    assert len(os.listdir("/proc/self/fd")) < descriptors


@only_real
async def test_a_helper_that_holds_the_output_ends_and_the_others_live_on(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before = members(container)
    began = time.monotonic()
    text = f"echo said; {HELPER} setsid sleep 1001 & sleep 1002 2>/dev/null & exit 7"
    done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", text), NONE, keep=True)
    assert (done.stdout, done.code) == (b"said\n", 7)
    assert time.monotonic() - began < 5 * SLOWNESS
    assert [command_line(str(pid)).strip() for pid in members(container) - before] == ["sleep 1000"]


@only_real
async def test_a_hook_that_does_not_come_to_its_own_end_leaves_nothing(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before, tasks = members(container), lab.tasks()
    work = asyncio.ensure_future(
        tasks.exec_sync(container, ("/bin/sh", "-c", f"{HELPER} sleep 600; true"), NONE, keep=True)
    )
    await until(lambda: len(members(container)) >= len(before) + 3)
    work.cancel()
    await asyncio.wait([work])
    nothing_left(lab, container, before)
    with pytest.raises(TimedOut):
        await tasks.exec_sync(container, ("/bin/sh", "-c", f"{HELPER} sleep 600; true"), SHORT_S, keep=True)
    nothing_left(lab, container, before)


@only_real
async def test_more_helpers_than_there_may_be_end_with_their_command(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before, tasks = members(container), lab.tasks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers_of_hooks, "IN_ONE_MAX", 3)
        for number in range(5):
            await tasks.exec_sync(container, ("/bin/sh", "-c", HELPER), NONE, keep=True)
            assert len(members(container) - before) == len(ledgers(lab)) == min(3, number + 1)


@only_real
async def test_helpers_without_a_cgroup_of_their_own_are_the_containers(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before = members(container)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups, "divide", lambda *_: ("", ""))
        text = f"{HELPER} sleep 1001 & exit 4"
        done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", text), NONE, keep=True)
    assert done.code == 4 and ledgers(lab) == []
    assert len(members(container) - before) == 1


@only_real
async def test_nothing_of_a_command_survives_its_limit(lab: Lab) -> None:
    """It ignores signals, forks, and leaves its session; what it leaves is orphaned."""
    container = await lab.running(IDLE)
    before = members(container)
    text = "trap '' TERM HUP INT; (setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) ; sleep 500 & sleep 600"
    with pytest.raises(TimedOut):
        await lab.tasks().exec_sync(container, ("/bin/sh", "-c", text), 0.5)
    nothing_left(lab, container, before)


@only_real
async def test_without_a_cgroup_of_its_own_its_session_ends(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before = members(container)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups, "divide", lambda *_: ("", ""))
        done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", "echo x; exit 4"), NONE)
        assert (done.stdout, done.code) == (b"x\n", 4)
        done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", "sleep 500 & exit 6"), NONE)
        assert done.code == 6
        nothing_left(lab, container, before)
        with pytest.raises(TimedOut):
            await lab.tasks().exec_sync(container, ("/bin/sh", "-c", "trap '' TERM; sleep 500 & sleep 600"), 0.5)
    nothing_left(lab, container, before)


@only_real
async def test_200_in_a_row_and_20_at_once_leave_nothing(lab: Lab) -> None:
    container = await lab.running(IDLE)
    before, tasks = members(container), lab.tasks()
    await tasks.exec_sync(container, ("true",), NONE)
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        done = await tasks.exec_sync(container, ("/bin/sh", "-c", f"echo {number}; exit {number % 256}"), NONE)
        assert (done.stdout, done.code) == (f"{number}\n".encode(), number % 256)
    argv = [("/bin/sh", "-c", f"echo {number}; (setsid sleep 99 &); exit {number}") for number in range(20)]
    found = await asyncio.gather(*(tasks.exec_sync(container, one, NONE) for one in argv))
    assert [(one.stdout, one.code) for one in found] == [(f"{n}\n".encode(), n) for n in range(20)]
    nothing_left(lab, container, before)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@only_real
async def test_it_is_the_containers_own_user_groups_capabilities_and_environment(lab: Lab) -> None:
    security = c.SecurityContext(
        run_as_username="web",
        supplemental_groups=(500,),
        no_new_privs=True,
        seccomp=c.SecurityProfile(c.ProfileType.RUNTIME_DEFAULT),
        capabilities=c.Capabilities(drop=("ALL",)),
    )
    container = await lab.running("sleep 1000", security=security, working_dir="/made/here")
    wanted = {"Uid", "Gid", "Groups", "CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"}
    done = await lab.tasks().exec_sync(container, ("cat", "/proc/self/status"), NONE)
    own = Path(f"/proc/{container.init.pid}/status").read_text()
    assert status(done.stdout.decode(), wanted) == status(own, wanted)
    assert status(own, {"CapBnd"}) == {"CapBnd": "0000000000000000"}
    done = await lab.tasks().exec_sync(
        container, ("/bin/sh", "-c", "pwd; echo $FROM_IMAGE; test -t 0 || echo no tty"), NONE
    )
    assert done.stdout == b"/made/here\n1\nno tty\n"


def status(text: str, wanted: set[str]) -> dict[str, str]:
    lines = (line.split(":", 1) for line in text.splitlines())
    return {name: value.strip() for name, value in lines if name in wanted}


SECRETS = {
    "a line": "mysql --password=hunter2",
    "a path": "/usr/bin/mysql --password=hunter2",
    "quotes": "/bin/\"mysql\" -p'hunter2' `hunter2`",
    "lines": "/bin/a\n\thunter2\n\r hunter2",
    "no printing": "/bin/\u200b\x7f\x1b[31mhunter2",
    "long": "/bin/" + "hunter2/" * 1200,
    "an ending": "x: permission denied: hunter2",
}
"""Command lines in the program's place."""


@pytest.mark.real
@pytest.mark.parametrize("kind", SECRETS)
def test_a_command_line_in_the_programs_place_is_not_repeated(real: Lab, kind: str) -> None:
    """By exec and by create; both say why."""

    async def body(lab: Lab) -> None:
        container, sandbox = await in_sandbox(lab)
        with pytest.raises(ExecFailed) as of_exec:
            await lab.tasks().exec_sync(container, (SECRETS[kind], "-p", "hunter2"), NONE)
        made, _ = lab.container(sandbox, "")
        with pytest.raises(RuntimeFailed) as of_create:
            secrets = c.ContainerSecrets(command=(SECRETS[kind],), args=("-p", "hunter2"))
            await lab.tasks().create(made, sandbox, secrets, MARK)
        for caught in (of_exec, of_create):
            text = caught.value.text
            assert "unter2" not in text and "mysql" not in text
            assert text.endswith(
                (
                    "exec: executable file not found in $PATH",
                    "exec: no such file or directory",
                    "exec: file name too long",
                )
            )
        assert ledgers(lab) == []

    run_in(real, body)


@only_real
async def test_a_program_that_ends_with_runcs_own_code(lab: Lab) -> None:
    container = await lab.running(STOPS)
    done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", "echo 'level=error' >&2; exit 255"), NONE)
    assert (done.stderr, done.code) == (b"level=error\n", 255)


@only_real
async def test_killed_by_a_signal(lab: Lab) -> None:
    container = await lab.running(STOPS)
    done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", "kill -9 $$"), NONE)
    assert done.code == 137


@only_real
async def test_the_container_ends_by_itself(lab: Lab) -> None:
    container = await lab.running(STOPS)
    with pytest.raises(ExecFailed, match="container ended"):
        await asyncio.wait_for(
            lab.tasks().exec_sync(container, ("/bin/sh", "-c", "kill -TERM 1; sleep 1000"), NONE), 10 * SLOWNESS
        )
    assert (await lab.tasks().wait_exit(container)).code == 5


@only_real
async def test_removal_ends_a_command_and_clears_its_ledger(lab: Lab) -> None:
    container = await lab.running(STOPS)
    other = lab.tasks()
    work = asyncio.ensure_future(other.exec_sync(container, ("sleep", "1000"), NONE))
    await until(lambda: any(os.path.exists(paths.pidfile) for paths in execs.ledgers(lab.layout)))
    await lab.tasks().remove(container.id)
    assert ledgers(lab) == []
    with pytest.raises(DaybookError):
        await asyncio.wait_for(work, 5 * SLOWNESS)


@only_real
async def test_removal_clears_what_a_dead_daemon_left(lab: Lab) -> None:
    container = await lab.running(STOPS)
    left = lab.layout.exec(container.id, "dead-1")
    os.mkdir(left.directory)
    Path(left.pidfile).write_text(str(2**22))
    Path(left.log).touch()
    assert cgroups.divide(f"/daybook/{container.id}", left.cgroup)[0]
    await lab.tasks().remove(container.id)
    assert ledgers(lab) == []


@only_real
async def test_a_runtime_that_hangs(lab: Lab) -> None:
    container = await lab.running(STOPS)
    script = lab.path / "runtime"
    script.write_text('#!/bin/sh\ncase "$*" in *" exec "*) sleep 1000 & sleep 1000;; esac\nexec /usr/sbin/runc "$@"\n')
    script.chmod(0o755)
    lab.options = {"runtime": str(script)}
    with pytest.raises(TimedOut):
        await lab.tasks().exec_sync(container, ("true",), 0.5)
    assert ledgers(lab) == []
    assert not [name for name in os.listdir("/proc") if name.isdecimal() and str(script) in command_line(name)]


def command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@only_real
async def test_a_missing_runtime(lab: Lab) -> None:
    container = await lab.running(STOPS)
    lab.options = {"runtime": "/nonexistent/runc"}
    with pytest.raises(RuntimeFailed, match="No such file"):
        await lab.tasks().exec_sync(container, ("true",), NONE)
    assert ledgers(lab) == []
    assert sub_cgroups(container) == []


@pytest.mark.real
@pytest.mark.parametrize("after_s", [0.0, 0.004, 0.01, 0.02, 0.2])
def test_a_killed_daemon_leaves_a_command_that_the_next_one_ends(real: Lab, after_s: float) -> None:
    """Killed at several moments of a command: before, in and after its start."""
    script = f"""
import asyncio, json, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from tests.conformance.test_execs import held, Lab
async def main():
    lab = Lab(True, Path({str(real.path)!r}))
    container = held(sys.argv[1])
    tasks = lab.tasks()
    print("now", flush=True)
    await tasks.exec_sync(container, ("/bin/sh", "-c", "(setsid sleep 500 &); trap '' TERM; sleep 600"), 0)
asyncio.run(main())
"""

    async def body(lab: Lab) -> None:
        container = await lab.running(IDLE)
        before = members(container)
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, container.id, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert daemon.stdout is not None
        assert await daemon.stdout.readline() == b"now\n"
        await asyncio.sleep(after_s)
        daemon.kill()
        await daemon.wait()
        # The next daemon takes longer than this to come up, and a child between fork and exec has no name yet.
        await asyncio.sleep(0.1)
        await lab.tasks().clean_execs()
        nothing_left(lab, container, before)
        assert (await lab.tasks().exec_sync(container, ("echo", "on"), NONE)).stdout == b"on\n"

    run_in(real, body)


def held(container_id: str) -> Container:
    """What an exec needs to know of a container that another process made."""
    config = c.ContainerConfig("main")
    return Container(container_id, "", ContainerState.RUNNING, config, "", "", "", "", "SIGTERM", 1)


@only_real
async def test_all_that_is_in_the_pods_cgroup_is_the_containers_own(lab: Lab) -> None:
    """Seen from outside, with a command under way: no runc, no conmon, nothing of the daemon."""
    container = await lab.running(IDLE)
    work = asyncio.ensure_future(lab.tasks().exec_sync(container, ("sleep", "1000"), NONE))
    await until(lambda: any(os.path.exists(paths.pidfile) for paths in execs.ledgers(lab.layout)))
    own = [os.readlink(f"/proc/{container.init.pid}/ns/{kind}") for kind in ("pid", "mnt")]
    found = members(container)
    assert len(found) >= 2
    for pid in found:
        assert [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "mnt")] == own
    assert len(sub_cgroups(container)) == 1
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        if container.id in command_line(str(pid)):
            assert pid not in found and container.id not in Path(f"/proc/{pid}/cgroup").read_text()
    work.cancel()
    await asyncio.wait([work])
    assert sub_cgroups(container) == []


# --- rotation of logs ------------------------------------------------------------------------------------------------

TALKS = "echo > /sync/ready; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done"


@only_real
async def test_after_a_rotation_lines_go_into_a_new_file(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab, TALKS)
    path, old = Path(container.log_path), Path(container.log_path + ".1")
    await until(lambda: path.stat().st_size > 0)
    for _ in range(5):
        path.rename(old)
        await lab.tasks().reopen_log(container, sandbox)
        assert path.exists()
        size, there = old.stat().st_size, path.stat().st_size
        await until(lambda: path.stat().st_size > there + 100)  # noqa: B023
        assert old.stat().st_size == size
    assert path.stat().st_mode & 0o777 == old.stat().st_mode & 0o777
    assert not Path(container.log_path + ".tmp").exists()


@only_real
async def test_a_log_that_was_not_renamed_is_left_alone(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab, TALKS)
    path = Path(container.log_path)
    await until(lambda: path.stat().st_size > 100)
    found = path.stat()
    await lab.tasks().reopen_log(container, sandbox)
    assert path.stat().st_ino == found.st_ino and path.stat().st_size >= found.st_size
    assert " line 1\n" in path.read_text()


@only_real
async def test_many_ask_at_once(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab, TALKS)
    path, tasks = Path(container.log_path), lab.tasks()
    await until(lambda: path.stat().st_size > 100)
    path.rename(container.log_path + ".1")
    await asyncio.gather(*(tasks.reopen_log(container, sandbox) for _ in range(reopen.WAITING_MAX)))
    await until(lambda: path.stat().st_size > 100)
    numbers = numbers_in(Path(container.log_path + ".1"), path)
    assert numbers == list(range(1, len(numbers) + 1))


def numbers_in(*files: Path) -> list[int]:
    text = "".join(file.read_text() for file in files)
    return [int(line.rsplit(" ", 1)[1]) for line in text.splitlines()]


@pytest.mark.real
@pytest.mark.parametrize("obstacle", ["directory", "symlink", "link", "stranger"])
def test_what_is_in_the_way_is_refused_and_conmon_lives(real: Lab, obstacle: str) -> None:
    async def body(lab: Lab) -> None:
        container, sandbox = await in_sandbox(lab, TALKS)
        path, temporary = Path(container.log_path), Path(container.log_path + ".tmp")
        await until(lambda: path.stat().st_size > 0)
        path.rename(container.log_path + ".1")
        if obstacle == "directory":
            temporary.mkdir()
        elif obstacle == "symlink":
            temporary.symlink_to("/etc/passwd")
        elif obstacle == "link":
            os.link(container.log_path + ".1", temporary)
        else:
            path.write_text("somebody's own lines\n")
        with pytest.raises((StorageFailed, WrongState)):
            await lab.tasks().reopen_log(container, sandbox)
        assert process.alive(container.monitor)
        assert path.exists() == (obstacle == "stranger")
        # The kubelet names the file back on an error: all goes on there.
        Path(container.log_path + ".1").rename(path)
        size = path.stat().st_size
        await until(lambda: path.stat().st_size > size)
        temporary.rmdir() if obstacle == "directory" else temporary.unlink(missing_ok=True)

    run_in(real, body)


@only_real
async def test_an_earlier_attempts_file_is_replaced(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab, TALKS)
    path = Path(container.log_path)
    await until(lambda: path.stat().st_size > 0)
    Path(container.log_path + ".tmp").write_text("left")
    path.rename(container.log_path + ".1")
    await lab.tasks().reopen_log(container, sandbox)
    await until(lambda: path.stat().st_size > 0)
    assert "left" not in path.read_text()


@only_real
async def test_a_conmon_that_does_not_answer(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab, TALKS)
    path = Path(container.log_path)
    await until(lambda: path.stat().st_size > 0)
    path.rename(container.log_path + ".1")
    process.send_signal(container.monitor, signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reopen, "ANSWER_S", 0.3)
        with pytest.raises(TimedOut, match="did not reopen"):
            await lab.tasks().reopen_log(container, sandbox)
        assert not path.exists() and not Path(container.log_path + ".tmp").exists()
        with pytest.raises(TimedOut, match="reads no commands"):
            await lab.tasks().reopen_log(container, sandbox)
    process.send_signal(container.monitor, signal.SIGCONT)
    # It reopens by the first word, late: what it made is what it writes, so nothing has to be done.
    await until(path.exists)
    await lab.tasks().reopen_log(container, sandbox)
    await until(lambda: path.stat().st_size > 0)


@only_real
async def test_a_log_outside_its_directory(lab: Lab) -> None:
    container, sandbox = await in_sandbox(lab, TALKS)
    with pytest.raises(InvalidRequest, match="log path"):
        await lab.tasks().reopen_log(replace(container, log_path="/tmp/elsewhere.log"), sandbox)
    with pytest.raises(WrongState, match="no log"):
        await lab.tasks().reopen_log(replace(container, log_path=""), sandbox)


# --- 10 MB/s and more ------------------------------------------------------------------------------------------------

TOTAL = 60 * 2**20
LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)\n", re.DOTALL)


def pattern(path: Path) -> str:
    """Lines of many lengths, each with its number; some longer than conmon's buffers. Returns the whole's hash."""
    made = hashlib.sha256()
    number = size = 0
    with path.open("wb") as file:
        while size < TOTAL:
            length = (number * 7919) % 300 if number % 1000 else 40_000
            line = b"%09d %s\n" % (number, (b"%d" % number * 40_000)[:length])
            made.update(line)
            size += file.write(line)
            number += 1
    return made.hexdigest()


@pytest.mark.slow
@only_real
async def test_no_line_is_lost_or_doubled_at_10_mb_a_second_under_rotation(lab: Lab) -> None:
    in_bursts = (
        "for n in 0 5 10 15 20 25 30 35 40 45 50 55 60; do dd if=/sync/pattern bs=1M skip=$n count=5; sleep 0.1; done"
    )
    waits = f"exec 2>/dev/null; while [ ! -e /sync/go ]; do sleep 0.01; done; {in_bursts}"
    container, sandbox = await in_sandbox(lab, waits)
    sync = lab.path / f"sync-{container.id[:8]}"
    wanted = pattern(sync / "pattern")
    began = time.monotonic()
    (sync / "go").touch()
    path, rotated = Path(container.log_path), []
    while process.alive(container.init):
        await asyncio.sleep(0.03)
        rotated.append(Path(f"{container.log_path}.{len(rotated)}"))
        path.rename(rotated[-1])
        try:
            await lab.tasks().reopen_log(container, sandbox)
        except (WrongState, RuntimeFailed):
            # The container has ended meanwhile, and its monitor perhaps as well.
            assert not process.alive(container.init)
            rotated.pop().rename(path)
            break
    took = time.monotonic() - began
    assert (await lab.tasks().wait_exit(container)).code == 0
    assert len(rotated) >= 10, f"{len(rotated)} rotations in {took:.2f} s"
    found = hashlib.sha256()
    for file in (*rotated, path):
        found.update(contents(file))
    assert found.hexdigest() == wanted
    # As fast as the container can: on a quiet machine well above 10 MB/s, of which a loaded one knows nothing.
    print(f"{TOTAL / took / 1e6:.1f} MB/s, {len(rotated)} rotations")


def contents(file: Path) -> bytes:
    """What the container wrote, from the lines of a log in the CRI's format."""
    out = []
    with file.open("rb") as lines:
        for line in lines:
            found = LINE.fullmatch(line)
            assert found is not None, line[:200]
            assert found[1] == b"stdout"
            out.append(found[3] + (b"\n" if found[2] == b"F" else b""))
    return b"".join(out)

"""Running a plugin: bounded in time and output, and nothing left of one that was cut."""

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.network.process import OUTPUT_MAX, OWNER, Finished, Late, run
from domain.errors import NetworkFailed, TimedOut

ENV = {"PATH": "/usr/bin:/bin", "ONLY": "this"}


def wait(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def sh(script: str, stdin: bytes = b"", limit_s: float = 10) -> Coroutine[Any, Any, Finished]:
    return run(["/bin/sh", "-c", script], env=ENV, stdin=stdin, limit_s=limit_s)


def living(mark: str) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark.encode() in Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0"):
                found.append(entry)
        except OSError:
            continue
    return found


def test_input_output_code() -> None:
    done = wait(sh("cat; echo err >&2; exit 3", b"x" * 300_000))
    assert (done.code, len(done.out), done.err, done.cut) == (3, 300_000, b"err\n", False)


def test_its_environment_session_and_directory() -> None:
    done = wait(sh("env; pwd; cut -d' ' -f5,6 /proc/$$/stat; echo $$"))
    *env, cwd, ids, pid = done.out.decode().splitlines()
    assert set(env) == {"PATH=/usr/bin:/bin", "ONLY=this", "PWD=/"} and cwd == "/" and ids == f"{pid} {pid}"


def test_output_is_bounded_and_holds_nobody_up() -> None:
    done = wait(sh(f"head -c {3 * OUTPUT_MAX} /dev/zero; head -c {3 * OUTPUT_MAX} /dev/zero >&2; echo end"))
    assert (done.code, len(done.out), len(done.err), done.cut) == (0, OUTPUT_MAX, OUTPUT_MAX, True)


def test_the_limit_kills_the_whole_group() -> None:
    with pytest.raises(TimedOut, match=r"killed after 0\.2 s"):
        wait(sh("sleep 4731.5 & sleep 4731.5", limit_s=0.2))
    assert living("4731.5") == []


def test_cancellation_kills_and_waits() -> None:
    async def body() -> None:
        task = asyncio.ensure_future(sh("sleep 4732.5 & echo; sleep 4732.5"))
        while not living("4732.5"):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert living("4732.5") == []

    wait(body())


def test_what_it_starts_and_leaves_is_its_own_business() -> None:
    done = wait(sh("sleep 4733.5 & echo $!", limit_s=15))
    left = int(done.out)
    try:
        os.kill(left, 0)
    finally:
        os.kill(left, signal.SIGKILL)


def test_what_cannot_be_started() -> None:
    with pytest.raises(NetworkFailed, match="cannot run /nonexistent: No such file"):
        wait(run(["/nonexistent"], env=ENV, stdin=b"", limit_s=1))
    with pytest.raises(NetworkFailed, match="null byte"):
        wait(run(["/bin/true"], env={"A": "b\0c"}, stdin=b"", limit_s=1))


def test_no_descriptor_and_no_child_is_left() -> None:
    async def body() -> None:
        await sh("true")
        before = sorted(os.listdir("/proc/self/fd"))
        for script in ("true", "echo x", "kill -9 $$", "sleep 100"):
            try:
                await sh(script, limit_s=0.3)
            except TimedOut:
                continue
        assert sorted(os.listdir("/proc/self/fd")) == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    wait(body())


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts what an earlier daemon would have left; `owner` is its cache."""
    children: list[subprocess.Popen[bytes]] = []

    def start(command: str, container_id: str = "", owner: Path = tmp_path, script: str = "exec sleep 4734.5") -> Any:
        env = {"PATH": "/usr/bin:/bin", OWNER: str(owner), "CNI_COMMAND": command, "CNI_CONTAINERID": container_id}
        children.append(subprocess.Popen(["/bin/sh", "-c", f"echo; {script}"], env=env, stdout=subprocess.PIPE))
        pipe = children[-1].stdout
        assert pipe is not None and pipe.readline() == b"\n"  # its environment is its own by then
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]


def test_what_an_earlier_daemon_left_is_cut_where_it_may_be(left: Any, tmp_path: Path) -> None:
    cut = [left(command, "1") for command in ("GC", "CHECK", "STATUS")]
    stays = [left("ADD", "2"), left("DEL", "3"), left("GC", owner=tmp_path / "another")]
    late = Late(str(tmp_path))
    late.find()
    assert [child.wait(5) for child in cut] == [-signal.SIGKILL] * 3
    assert [child.poll() for child in stays] == [None] * 3
    assert late.ids == {"3"}


def test_a_late_del_is_waited_for_and_ended_at_its_limit(left: Any, tmp_path: Path) -> None:
    ends, hangs, other = left("DEL", "1", script="exec sleep 0.3"), left("DEL", "2"), left("DEL", "3")
    late = Late(str(tmp_path))
    late.find()
    assert late.ids == {"1", "2", "3"}
    late.settle("1", 10)
    assert ends.poll() == 0
    late.settle("2", 0.1)
    assert (hangs.wait(5), other.poll(), late.ids) == (-signal.SIGKILL, None, {"3"})


@pytest.mark.parametrize("name", ["pidfd_open", "memfd_create"])
def test_without_a_descriptor_left_nothing_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> int:
        raise OSError(errno.EMFILE, "")

    async def body() -> None:
        before = sorted(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(NetworkFailed, match="cannot run /bin/sh: Too many open files"):
                await sh("sleep 100; exit")
        assert sorted(os.listdir("/proc/self/fd")) == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    wait(body())


def test_last_words() -> None:
    assert Finished(1, b"", b"a\nb \n\n").last_words == "b"
    assert Finished(2, b"", b"x\npanic: nil\n\ngoroutine 1\nmain.go:5\n").last_words == "panic: nil"
    assert Finished(1, b"", b"").last_words == ""

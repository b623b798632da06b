import asyncio
import os
import signal
import subprocess
import threading

import pytest

from adapters import children
from adapters.oci import process
from domain.errors import RuntimeFailed, TimedOut
from domain.records import Process


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("SIGRTMIN", 34), ("RTMIN+3", 37),
        ("SIGRTMAX-1", 63), ("RTMAX", 64), ("64", 64),
        ("", None), ("0", None), ("65", None), ("NOPE", None), ("RTMIN+99", None), ("RTMAX+1", None),
        ("TERM+1", None), ("RTMIN+x", None), ("99999999999", None),
    ],
)  # fmt: skip
def test_signals(name: str, number: int | None) -> None:
    assert process.signal_number(name) == number


def test_identity_of_the_living_and_the_dead() -> None:
    mine = process.identity(os.getpid())
    assert mine is not None and process.alive(mine)
    assert not process.alive(Process(mine.pid, mine.start + 1, mine.boot_id))
    assert not process.alive(Process(mine.pid, mine.start, "other"))
    assert process.identity(0) is None and not process.alive(None)
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.identity(child.pid) is None  # a zombie


def test_no_signal_to_another_process_with_the_pid() -> None:
    with subprocess.Popen(["/bin/sleep", "100"]) as child:
        found = process.identity(child.pid)
        assert found is not None
        assert not process.send_signal(Process(found.pid, found.start + 1, found.boot_id), signal.SIGKILL)
        assert process.alive(found)
        assert process.send_signal(found, signal.SIGKILL)
        asyncio.run(asyncio.wait_for(process.gone(found), 10))
    assert not process.send_signal(found, signal.SIGKILL)


def test_a_pid_that_is_a_threads_by_now_is_no_process() -> None:
    """A number that was handed out again; start times are of threads too."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        mine = process.identity(os.getpid())
        assert mine is not None and thread.native_id is not None
        assert not process.send_signal(Process(thread.native_id, mine.start, mine.boot_id), signal.SIGKILL)
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("said", children.NO_PROCESS)
def test_what_kernels_say_of_no_process(said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """6.1 says EINVAL of a process that has ended while its group lives."""

    def gone(_: int) -> int:
        raise OSError(said, os.strerror(said))

    mine = process.identity(os.getpid())
    assert mine is not None
    monkeypatch.setattr(os, "pidfd_open", gone)
    assert process.open_pidfd(mine) is None


def test_run() -> None:
    done = asyncio.run(process.run(("/bin/sh", "-c", "echo out; echo a >&2; echo b >&2; exit 3"), limit_s=10))
    assert (done.code, done.out, done.last_line) == (3, "out\n", "b")


def test_what_is_said_is_bounded() -> None:
    done = asyncio.run(process.run(("/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 0"), limit_s=10))
    assert len(done.out) <= process.SAID_MAX


def test_limit_and_cancellation_kill_the_whole_group() -> None:
    async def cancelled() -> None:
        work = asyncio.ensure_future(process.run(("/bin/sh", "-c", "sleep 98765 & sleep 98765"), limit_s=60))
        await asyncio.sleep(0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with pytest.raises(TimedOut, match="killed after"):
        asyncio.run(process.run(("/bin/sh", "-c", "sleep 98765 & sleep 98765"), limit_s=0.05))
    asyncio.run(cancelled())
    assert "98765" not in subprocess.run(
        ["/bin/ps", "-eo", "stat,args"], capture_output=True, text=True
    ).stdout.replace("<defunct>", "")


def test_a_missing_program() -> None:
    with pytest.raises(RuntimeFailed, match="No such file"):
        asyncio.run(process.run(("/nonexistent",), limit_s=1))

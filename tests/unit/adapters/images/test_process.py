import asyncio
import json
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from adapters.images.process import TAIL_MAX, Ledger, run, start_time, uncancelled
from domain.errors import StorageFailed, TimedOut

ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def wait(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def living(mark: str) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark.encode() in Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0"):
                found.append(entry)
        except OSError:
            continue
    return found


def test_output_code_and_closed_stdin() -> None:
    done = wait(run(sh("cat; echo out; echo err >&2; exit 3"), env=ENV))
    assert (done.code, done.out, done.err) == (3, b"out\n", "err\n")


def test_a_session_of_its_own() -> None:
    done = wait(run(sh("cut -d' ' -f1,5,6 /proc/self/stat; echo $$"), env=ENV))
    (_, group, session), leader = done.out.decode().splitlines()[0].split(), done.out.decode().splitlines()[1]
    assert group == session == leader != str(os.getsid(0))


def test_stderr_keeps_its_bounded_tail() -> None:
    done = wait(run(sh("head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2"), env=ENV))
    assert len(done.err) == TAIL_MAX and done.err.endswith("end\n")


def test_a_limit_kills_the_whole_group() -> None:
    with pytest.raises(TimedOut, match="longer than"):
        wait(run(sh("sleep 4711.25 & sleep 4711.25"), env=ENV, limit_s=0.2))
    assert living("4711.25") == []


def test_a_stall_is_no_byte_moved() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut, match="no progress"):
        wait(run(["sleep", "4712.25"], env=ENV, stall_s=0.2))
    assert time.monotonic() - began < 5


def test_cancellation_kills_at_once() -> None:
    async def body() -> None:
        task = asyncio.ensure_future(run(sh("sleep 4713.25 & echo; sleep 4713.25"), env=ENV))
        while not living("4713.25"):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert living("4713.25") == []

    wait(body())


def test_a_child_that_outlives_its_parent_is_killed_and_holds_nothing_up() -> None:
    began = time.monotonic()
    assert wait(run(sh("sleep 4714.25 & exit 0"), env=ENV)).code == 0
    assert time.monotonic() - began < 3 and living("4714.25") == []


def test_what_cannot_be_started() -> None:
    with pytest.raises(StorageFailed, match="cannot run /nonexistent"):
        wait(run(["/nonexistent"], env=ENV))


def test_no_descriptor_is_left_open() -> None:
    async def body() -> None:
        await run(["true"], env=ENV)
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await run(["true"], env=ENV)
        assert sorted(os.listdir("/proc/self/fd")) == before

    wait(body())


def test_the_ledger_names_the_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    ledger.make()
    path = tmp_path / "run" / "ledger.json"
    assert json.loads(path.read_text()) == {"pid": 0, "start": 0}
    wait(run(["sleep", "0.01"], env=ENV, ledger=ledger))
    facts = json.loads(path.read_text())
    assert facts["pid"] > 0 and facts["start"] >= start_time(os.getpid())
    assert start_time(facts["pid"]) == 0


def test_uncancelled_finishes_first() -> None:
    async def body() -> None:
        done = []

        async def work() -> None:
            await asyncio.sleep(0.02)
            done.append(1)

        task = asyncio.ensure_future(uncancelled(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [1]

    wait(body())

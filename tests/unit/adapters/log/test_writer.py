"""writer: what is told when, with commits that wait, fail and lie. Every log lies in a temporary directory."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Thread
from typing import Any

import lmdb
import pytest

from adapters.log.ballast import FILE
from adapters.log.errors import Conflict, LogBroken, LogClosed, LogFull
from adapters.log.lmdb_log import LmdbLog
from domain.errors import Busy
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now, Record

NOW = Now(1, 2, "boot")
DUE = Cause("due")


class Gate:
    """A commit that waits until it is opened. `entered` tells that one waits; `after` waits behind the real commit."""

    def __init__(self, after: bool = False) -> None:
        self.after = after
        self.entered = Event()
        self.opened = Event()
        self.opened.set()
        self.commits = 0

    def shut(self) -> None:
        self.opened.clear()
        self.entered.clear()

    def __call__(self, txn: Any) -> None:
        self.commits += 1
        if self.after:
            txn.commit()
        self.entered.set()
        assert self.opened.wait(20)
        if not self.after:
            txn.commit()


class Failing:
    """A commit that fails with what is set, before or after the real one."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.written = False
        self.calls = 0

    def __call__(self, txn: Any) -> None:
        self.calls += 1
        if self.error is None or self.written:
            txn.commit()
        if self.error is not None:
            raise self.error


Opener = Callable[..., LmdbLog]


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Opener]:
    logs = []

    def opener(**options: Any) -> LmdbLog:
        logs.append(LmdbLog(tmp_path / "log", **{"ballast_bytes": 0, **options}))
        return logs[-1]

    yield opener
    for log in logs:
        log.close()


def stopped(version: int, key: str = "node") -> list[Draft]:
    return [Draft(key, version, NodeStopped())]


def in_thread(call: Callable[[], Any]) -> "Future[Any]":
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


@pytest.mark.parametrize("after", [False, True])
def test_nobody_is_told_and_the_head_stays_until_the_commit_returns(open_log: Opener, after: bool) -> None:
    gate = Gate(after)
    log = open_log(commit=gate)
    log.append_sync(stopped(1), DUE, NOW)
    gate.shut()
    result = in_thread(lambda: log.append_sync(stopped(2), DUE, NOW))
    assert gate.entered.wait(20)
    assert (log.head().seq, result.done()) == (1, False)
    assert len(list(log.read())) == 1 + after  # a read gives what is durable, told or not
    gate.opened.set()
    [record] = result.result(20)
    assert (log.head().seq, log.head().hash) == (2, record.hash)


def test_what_waits_meanwhile_shares_one_commit_and_a_conflict_fails_alone(open_log: Opener) -> None:
    gate = Gate()
    log = open_log(commit=gate)

    async def main() -> list[Any]:
        gate.shut()
        first = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.to_thread(gate.entered.wait, 20)
        rest = [asyncio.create_task(log.append(stopped(v), DUE, NOW)) for v in (2, 2, 3, 1, 4)]
        await asyncio.sleep(0)
        gate.opened.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    results = asyncio.run(main())
    assert gate.commits == 2
    assert [isinstance(result, Conflict) for result in results] == [False, False, True, False, True, False]
    assert [r.version for r in log.read() if isinstance(r, Record)] == [1, 2, 3, 4]


def test_the_queue_is_bounded(open_log: Opener) -> None:
    gate = Gate()
    log = open_log(commit=gate, queue_max=2)

    async def main() -> list[Any]:
        gate.shut()
        first = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.to_thread(gate.entered.wait, 20)
        rest = [asyncio.create_task(log.append(stopped(v), DUE, NOW)) for v in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        gate.opened.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    assert [isinstance(result, Busy) for result in asyncio.run(main())] == [False, False, False, True, True]
    log.append_sync(stopped(4), DUE, NOW)
    assert log.head().seq == 4


def test_close_writes_what_waits(open_log: Opener) -> None:
    gate = Gate()
    log = open_log(commit=gate)

    async def main() -> list[Any]:
        gate.shut()
        first = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.to_thread(gate.entered.wait, 20)
        second = asyncio.create_task(log.append(stopped(2), DUE, NOW))
        await asyncio.sleep(0)
        closed = asyncio.create_task(asyncio.to_thread(log.close))
        gate.opened.set()
        await closed
        return [*await asyncio.gather(first, second), await _error(log.append(stopped(3), DUE, NOW))]

    *records, error = asyncio.run(main())
    assert [record.seq for [record] in records] == [1, 2]
    assert isinstance(error, LogClosed)
    assert open_log().head().seq == 2


async def _error(call: Any) -> BaseException | None:
    return (await asyncio.gather(call, return_exceptions=True))[0]


def test_a_caller_that_gives_up_undoes_nothing(open_log: Opener) -> None:
    gate = Gate()
    log = open_log(commit=gate)

    async def main() -> None:
        gate.shut()
        task = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.to_thread(gate.entered.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.opened.set()
        await log.append(stopped(2), DUE, NOW)

    asyncio.run(main())
    assert [record.seq for record in log.read()] == [1, 2]


def test_a_loop_that_is_gone_does_not_stop_the_writer(open_log: Opener) -> None:
    gate = Gate()
    log = open_log(commit=gate)

    async def main() -> None:
        gate.shut()
        task = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.to_thread(gate.entered.wait, 20)
        task.cancel()

    asyncio.run(main())
    gate.opened.set()
    assert log.append_sync(stopped(2), DUE, NOW)[0].seq == 2


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), lmdb.Error("mdb_txn_commit: panic"), ValueError("a mistake of ours")]
)
def test_after_a_commit_with_an_unknown_outcome_nothing_is_written(
    open_log: Opener, error: Exception, written: bool
) -> None:
    failing = Failing()
    log = open_log(commit=failing)
    log.append_sync(stopped(1), DUE, NOW)
    head = log.head()
    failing.error, failing.written = error, written
    with pytest.raises(LogBroken, match="restart"):
        log.append_sync(stopped(2), DUE, NOW)
    failing.error = None
    calls = failing.calls
    for urgent in (False, True):
        with pytest.raises(LogBroken):
            log.append_sync(stopped(3), DUE, NOW, urgent=urgent)
    with pytest.raises(LogBroken):
        log.save_checkpoint(1, 1, {})
    assert failing.calls == calls
    assert log.broken.endswith("restart")
    assert log.head() == head
    assert next(log.read()).seq == 1
    log.close()
    again = open_log()
    assert again.head().seq == 1 + written
    again.append_sync(stopped(2 + written), DUE, NOW)
    assert again.verify() == []


def test_those_who_wait_behind_a_broken_commit_are_told(open_log: Opener) -> None:
    gate = Gate()
    log = open_log(commit=gate)

    def fail(_: Any) -> None:
        raise OSError(errno.EIO, "I/O error")

    async def main() -> list[Any]:
        gate.shut()
        first = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.to_thread(gate.entered.wait, 20)
        rest = [asyncio.create_task(log.append(stopped(v), DUE, NOW)) for v in (2, 3)]
        await asyncio.sleep(0)
        log.store.commit = fail  # type: ignore[method-assign]
        gate.opened.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert first[0].seq == 1
    assert isinstance(second, LogBroken) and isinstance(third, LogBroken) and second is not third


def test_a_full_disk_fails_appends_until_there_is_room(open_log: Opener) -> None:
    failing = Failing()
    log = open_log(commit=failing)
    failing.error = OSError(errno.ENOSPC, "No space left on device")
    for urgent in (False, True):
        with pytest.raises(LogFull, match="free space"):
            log.append_sync(stopped(1), DUE, NOW, urgent=urgent)
    assert log.head().seq == 0
    failing.error = None
    assert log.broken == ""
    assert log.append_sync(stopped(1), DUE, NOW)[0].seq == 1


def test_a_full_disk_with_a_changed_head_is_an_unknown_outcome(open_log: Opener) -> None:
    failing = Failing()
    log = open_log(commit=failing)
    failing.error, failing.written = OSError(errno.ENOSPC, "No space left on device"), True
    with pytest.raises(LogBroken):
        log.append_sync(stopped(1), DUE, NOW)


def test_the_ballast_is_given_up_for_what_is_urgent_only(open_log: Opener, tmp_path: Path) -> None:
    ballast = tmp_path / "log" / FILE

    def commit(txn: Any) -> None:
        if ballast.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        txn.commit()

    log = open_log(commit=commit, ballast_bytes=8192)
    assert ballast.stat().st_size == 8192
    with pytest.raises(LogFull):
        log.append_sync(stopped(1), DUE, NOW)
    assert ballast.exists()
    assert log.append_sync(stopped(1), DUE, NOW, urgent=True)[0].seq == 1
    assert not ballast.exists()


def test_while_the_ballast_is_gone_only_what_is_urgent_is_written(open_log: Opener) -> None:
    log = open_log(ballast_bytes=2**62)  # no disk has that much room
    with pytest.raises(LogFull, match="little room"):
        log.append_sync(stopped(1), DUE, NOW)
    assert log.append_sync(stopped(1), DUE, NOW, urgent=True)[0].seq == 1


def test_a_full_map_grows(open_log: Opener) -> None:
    log = open_log(map_bytes=64 * 1024)
    big = [Draft("node", version, NodeStopped("x" * 10_000)) for version in range(1, 100)]
    log.append_sync(big, DUE, NOW)
    assert log.head().seq == 99
    assert log.verify() == []


def test_listeners_are_told_after_the_commit(open_log: Opener) -> None:
    log, heard = open_log(), Event()
    log.listen(heard)
    log.append_sync(stopped(1), DUE, NOW)
    assert heard.wait(20)
    log.unlisten(heard)
    heard.clear()
    log.append_sync(stopped(2), DUE, NOW)
    log.close()
    assert not heard.is_set()

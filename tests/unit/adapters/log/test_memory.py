"""memory: what only the twin can do. Its contract is tests/conformance/test_event_log.py."""

import asyncio
import contextlib

import pytest

from adapters.log.errors import LogBroken, LogFull
from adapters.log.memory import MemoryLog
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now

NOW = Now(1, 2, "boot")
DUE = Cause("due")


def stopped(version: int) -> list[Draft]:
    return [Draft("node", version, NodeStopped())]


def test_an_append_needs_no_turn_of_the_loop() -> None:
    log = MemoryLog()
    with contextlib.closing(log.append(stopped(1), DUE, NOW)) as call, pytest.raises(StopIteration):
        call.send(None)
    assert log.head().seq == 1


def test_a_failed_append_leaves_nothing() -> None:
    log = MemoryLog()
    log.fail_next(LogFull("full"))
    with pytest.raises(LogFull):
        log.append_sync(stopped(1), DUE, NOW)
    assert log.head().seq == 0
    assert log.append_sync(stopped(1), DUE, NOW)[0].seq == 1


def test_an_append_may_fail_although_it_is_written() -> None:
    log = MemoryLog()
    log.fail_next(LogBroken("unknown"), written=True)
    with pytest.raises(LogBroken):
        log.append_sync(stopped(1), DUE, NOW)
    assert log.head().seq == 1
    assert log.broken == "unknown"
    with pytest.raises(LogBroken):
        log.append_sync(stopped(2), DUE, NOW)
    again = log.prefix(1)
    assert again.broken == "" and again.append_sync(stopped(2), DUE, NOW)[0].seq == 2


def test_the_hook_holds_an_append_before_and_after_it_is_written() -> None:
    async def main() -> None:
        log, seen, gate = MemoryLog(), [], asyncio.Event()

        async def hook(when: str) -> None:
            seen.append((when, log.head().seq))
            await gate.wait()

        log.hook = hook
        task = asyncio.create_task(log.append(stopped(1), DUE, NOW))
        await asyncio.sleep(0)
        assert seen == [("before", 0)]
        gate.set()
        await task
        assert seen == [("before", 0), ("after", 1)]

    asyncio.run(main())


def test_every_prefix_is_the_log_as_it_was() -> None:
    log = MemoryLog()
    heads = [log.head()]
    for version in range(1, 5):
        log.append_sync(stopped(version), DUE, NOW)
        heads.append(log.head())
    for seq, head in enumerate(heads):
        prefix = log.prefix(seq)
        assert prefix.head() == head
        assert list(prefix.read()) == list(log.read())[:seq]


def test_a_prefix_of_a_damaged_log_is_refused() -> None:
    log = MemoryLog()
    log.append_sync(stopped(1), DUE, NOW)
    log.store.records[1] = b""
    with pytest.raises(ValueError, match="unreadable"):
        log.prefix(1)

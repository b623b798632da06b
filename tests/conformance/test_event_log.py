"""One contract for every log: the LMDB one that the daemon uses, and the one in memory that property tests use."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.log.checkpoint import digest
from adapters.log.errors import CodecError, Conflict, LogClosed
from adapters.log.lmdb_log import LmdbLog
from adapters.log.memory import MemoryLog
from adapters.log.record import Entry
from domain.errors import InvalidRequest
from domain.events import ContainerStarted, ContainerStartRequested, NodeStopped
from domain.records import Cause, Draft, Head, Now, Record, Unreadable

NOW = Now(1_790_000_000_000_000_000, 5_000_000_000, "6f5d1b1e-52f4-4f7c-8a4c-1de5a3a0c9d1")
RPC = Cause("rpc", "StartContainer", "r-1", 17, "kubelet/1.35", "daybook.sock", 3)
Log = Any


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    count: int = 0


def memory_log(_: Path) -> Log:
    return MemoryLog(aggregates={"container": Thing, "node": Thing})


def lmdb_log(directory: Path) -> Log:
    return LmdbLog(directory / "log", aggregates={"container": Thing, "node": Thing}, ballast_bytes=0)


@pytest.fixture(params=[memory_log, lmdb_log])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    make: Callable[[Path], Log] = request.param
    log = make(tmp_path)
    yield log
    log.close()


def started(key: str, version: int, at: int = 1) -> Draft:
    return Draft(key, version, ContainerStarted(at=at))


def append(log: Log, *drafts: Draft) -> list[Record]:
    return list(log.append_sync(drafts, RPC, NOW))


def test_an_empty_log(log: Log) -> None:
    assert log.head().seq == 0
    assert list(log.read()) == []
    assert log.versions("node") == []
    assert log.load_checkpoint(1) is None
    assert log.whole and log.broken == ""
    assert len(log.log_id) == 32


def test_what_append_returns_is_what_a_read_gives(log: Log) -> None:
    drafts = [
        Draft("container/a", 1, ContainerStartRequested()),
        started("container/a", 2),
        Draft("node", 1, NodeStopped()),
    ]
    records = asyncio.run(log.append(drafts, RPC, NOW))
    assert list(log.read()) == list(records)
    assert [(r.seq, r.key, r.version, r.wire) for r in records] == [
        (1, "container/a", 1, "container.start_requested/1"),
        (2, "container/a", 2, "container.started/1"),
        (3, "node", 1, "node.stopped/1"),
    ]
    assert {(r.at, r.cause) for r in records} == {(NOW, RPC)}
    assert log.head() == Head(3, records[-1].hash)
    assert log.verify() == []


def test_reading_begins_after_a_sequence(log: Log) -> None:
    records = append(log, *(started("container/a", n) for n in range(1, 6)))
    assert list(log.read(after=3)) == records[3:]
    assert list(log.read(after=5)) == []
    assert log.whole


def test_every_cause_and_time_comes_back(log: Log) -> None:
    causes = [Cause("due"), Cause("recovery", "@G", led_by=7), Cause("rpc", "", "", 0, "", "admin.sock"), RPC]
    times = [NOW, Now(0, 0, ""), Now(-1, 2, "no uuid"), Now(1, 2, NOW.boot_id.upper())]
    for version, (cause, now) in enumerate(zip(causes, times, strict=True), 1):
        log.append_sync([started("node", version)], cause, now)
    assert [(r.cause, r.at) for r in log.read()] == list(zip(causes, times, strict=True))


def test_a_draft_may_bring_a_cause_of_its_own(log: Log) -> None:
    row = Cause("recovery", "@K", led_by=7)
    drafts = [started("container/a", 1), Draft("container/b", 1, ContainerStarted(at=1), row)]
    records = append(log, *drafts)
    assert [r.cause for r in records] == [RPC, row]
    assert list(log.read()) == records
    with pytest.raises(CodecError):
        append(log, Draft("container/c", 1, ContainerStarted(at=1), Cause(7)))  # type: ignore[arg-type]


def test_a_conflict_appends_nothing_of_its_drafts(log: Log) -> None:
    append(log, started("container/a", 1))
    head = log.head()
    with pytest.raises(Conflict, match="container/a"):
        append(log, started("container/b", 1), started("container/a", 1))
    with pytest.raises(Conflict):
        append(log, started("container/b", 1), started("container/b", 1))
    assert log.head() == head
    assert log.versions("container/b") == []


def test_a_conflict_fails_alone_among_concurrent_appends(log: Log) -> None:
    async def main() -> list[Any]:
        appends = [log.append([started(key, 1, at)], RPC, NOW) for at, key in enumerate("abacad")]
        return await asyncio.gather(*appends, return_exceptions=True)

    results = asyncio.run(main())
    assert [isinstance(result, Conflict) for result in results] == [False, False, True, False, True, False]
    assert [(record.seq, record.key) for record in log.read()] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_appends_are_in_the_order_of_their_calls(log: Log) -> None:
    async def main() -> None:
        await asyncio.gather(*(log.append([started("a", n), started("b", n)], RPC, NOW) for n in range(1, 50)))

    asyncio.run(main())
    assert [(r.key, r.version) for r in log.read()] == [(key, n) for n in range(1, 50) for key in "ab"]


def test_an_append_of_nothing(log: Log) -> None:
    assert list(asyncio.run(log.append([], RPC, NOW))) == []
    assert log.head().seq == 0


@pytest.mark.parametrize(
    ("draft", "cause", "now"),
    [
        (Draft("a", 1, object()), RPC, NOW),
        (Draft("a", 1, ContainerStarted(at="five")), RPC, NOW),  # type: ignore[arg-type]
        (Draft("a", 1, ContainerStarted(at=2**64)), RPC, NOW),
        (Draft("a", 1, NodeStopped("x" * (4 * 1024 * 1024))), RPC, NOW),
        (Draft("a", 1, NodeStopped("\ud800")), RPC, NOW),
        (Draft("", 1, NodeStopped()), RPC, NOW),
        (Draft("a" * 5000, 1, NodeStopped()), RPC, NOW),
        (Draft("a\ud800", 1, NodeStopped()), RPC, NOW),
        (Draft("a", -1, NodeStopped()), RPC, NOW),
        (Draft("a", True, NodeStopped()), RPC, NOW),
        (Draft("a", 1, NodeStopped()), Cause("rpc", led_by=0.5), NOW),  # type: ignore[arg-type]
        (Draft("a", 1, NodeStopped()), Cause("rpc", "x" * 5000), NOW),
        (Draft("a", 1, NodeStopped()), RPC, Now(1.5, 0, "")),  # type: ignore[arg-type]
        (Draft("a", 1, NodeStopped()), RPC, Now(2**70, 0, "")),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(log: Log, draft: Draft, cause: Cause, now: Now) -> None:
    with pytest.raises(CodecError):
        asyncio.run(log.append([started("b", 1), draft], cause, now))
    assert log.head().seq == 0
    assert len(append(log, started("b", 1))) == 1


LONG = [
    "image/" + "x" * 494,
    "image/" + "x" * 495,
    "image/" + "x" * 496,
    "image/" + "ü" * 300,
    "k" * 4096,
    "a\0b",
    "a",
]


def test_keys_of_any_length(log: Log) -> None:
    append(log, *(started(key, version) for key in LONG for version in (1, 2, 300)))
    for number, key in enumerate(LONG):
        assert list(log.versions(key)) == [(v, 3 * number + i) for i, v in enumerate((1, 2, 300), 1)]
    with pytest.raises(Conflict):
        append(log, started(LONG[4], 300))
    assert [record.key for record in log.read()] == [key for key in LONG for _ in range(3)]
    assert log.verify() == []


def test_an_event_of_an_unknown_kind_is_named_and_passed(log: Log) -> None:
    log.write([Entry("container/a", 1, "container.teleported/9", b"\x80")], RPC, NOW)
    log.write([Entry("container/b", 4, "container.started/1", b"\x81\xa2at\xa1x")], RPC, NOW)
    records = append(log, started("container/a", 2))
    found = list(log.read())
    assert [(r.seq, r.key, r.version) for r in found[:2]] == [(1, "container/a", 1), (2, "container/b", 4)]
    assert all(isinstance(record, Unreadable) for record in found[:2])
    assert "teleported" in found[0].why and "at: int expected, got str" in found[1].why
    assert found[2:] == records
    assert log.whole  # the bytes are as they were written


def test_a_closed_log_takes_nothing(log: Log) -> None:
    log.close()
    with pytest.raises(LogClosed):
        append(log, started("a", 1))


def test_checkpoint(log: Log) -> None:
    aggregates = {"node": Thing("n"), "container/b": Thing("b", 2), "container/a": Thing("a")}
    append(log, *(started("node", n) for n in range(1, 4)))
    log.save_checkpoint(2, 7, aggregates)
    seq, loaded = log.load_checkpoint(7)
    assert (seq, dict(loaded)) == (2, aggregates)
    assert digest(loaded) == digest(aggregates) != digest({**aggregates, "node": Thing("m")})
    assert log.load_checkpoint(8) is None
    log.save_checkpoint(3, 8, {})
    assert log.load_checkpoint(8) == (3, {})


def test_checkpoint_of_nothing_yet(log: Log) -> None:
    log.save_checkpoint(0, 1, {})
    assert log.load_checkpoint(1) == (0, {})


def test_a_checkpoint_of_the_future_is_refused(log: Log) -> None:
    with pytest.raises(InvalidRequest):
        log.save_checkpoint(1, 1, {})


def test_a_checkpoint_with_an_unknown_aggregate_is_discarded(log: Log) -> None:
    log.save_checkpoint(0, 1, {"volume/x": Thing("x")})
    assert log.load_checkpoint(1) is None


def test_both_logs_write_the_same_bytes(tmp_path: Path) -> None:
    lmdb, twin = lmdb_log(tmp_path), memory_log(tmp_path)
    twin = MemoryLog(log_id=lmdb.log_id)
    drafts = [started("a", 1), Draft("node", 1, NodeStopped("why"))]
    assert append(lmdb, *drafts) == append(twin, *drafts)
    assert lmdb.head() == twin.head()
    lmdb.close()

"""reading: what was done to the records is told at its place, and the rest is read."""

from collections.abc import Iterator

import pytest

from adapters.log.memory import MemoryLog
from adapters.log.reading import MISSING_MAX
from adapters.log.record import Entry, Stored, lay, unpack
from domain.events import ContainerStarted
from domain.records import Cause, Draft, Head, Now, Record, Unreadable

NOW = Now(1, 2, "boot")
DUE = Cause("due")


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.append_sync([Draft(f"container/{n}", 1, ContainerStarted(n)) for n in range(1, 7)], DUE, NOW)
    return log


def told(log: MemoryLog, after: int = 0) -> Iterator[tuple[int, str]]:
    """What a read finds, shortly."""
    for record in log.read(after):
        yield (record.seq, "") if isinstance(record, Record) else (record.seq, record.why.split(":")[0])


def changed(log: MemoryLog, seq: int) -> bytes:
    """Another record with a right checksum in the place of one: what an editor with our code could make."""
    old = unpack(log.store.records[seq])
    entry = Entry(old.key, old.version, old.wire, b"\x81\xa2at\x63")
    return lay(Head(seq - 1, old.link), [entry], DUE, NOW)[0][0]


def test_a_damaged_record_is_told_alone(log: MemoryLog) -> None:
    log.store.records[3] = log.store.records[3][:-1] + b"?"
    assert list(log.read())[2] == Unreadable(3, "container/3", 1, "the checksum does not match")
    assert [seq for seq, why in told(log) if why] == [3]
    assert not log.whole
    assert [record.seq for record in log.verify()] == [3]


def test_reading_after_the_damage_is_sound_and_whole_stays_false_for_good(log: MemoryLog) -> None:
    log.store.records[2] = b"\0" * 50
    assert all(not why for _, why in told(log, after=2))
    assert log.whole  # nothing read so far was wrong
    list(log.read())
    list(log.read(after=4))
    assert not log.whole


def test_an_edited_record_is_told_once_where_the_chain_breaks(log: MemoryLog) -> None:
    log.store.records[3] = changed(log, 3)
    assert [(seq, why) for seq, why in told(log) if why] == [(4, "it does not continue the record before")]
    assert [record.key for record in log.read() if isinstance(record, Unreadable)] == ["container/4"]


def test_an_edited_record_is_seen_by_a_reader_that_begins_after_it(log: MemoryLog) -> None:
    log.store.records[3] = changed(log, 3)
    assert [seq for seq, why in told(log, after=3) if why] == [4]


def test_the_first_record_has_to_belong_to_this_log(log: MemoryLog) -> None:
    other = MemoryLog(log_id="1" * 32)
    other.append_sync([Draft("container/1", 1, ContainerStarted(1))], DUE, NOW)
    log.store.records[1] = other.store.records[1]
    assert [seq for seq, why in told(log) if why] == [1, 2]


def test_swapped_records_are_told(log: MemoryLog) -> None:
    records = log.store.records
    records[3], records[4] = records[4], records[3]
    assert list(told(log))[2:4] == [
        (3, "the record says that it is number 4"),
        (4, "the record says that it is number 3"),
    ]


def test_missing_records_are_named_from_the_index(log: MemoryLog) -> None:
    del log.store.records[2], log.store.records[6]
    found = [record for record in log.read() if isinstance(record, Unreadable)]
    assert found == [Unreadable(n, f"container/{n}", 1, "the record is missing") for n in (2, 6)]


def test_a_large_gap_is_told_in_one() -> None:
    log = MemoryLog()
    log.store.newest = Head(10**12, b"")
    found = list(log.read())
    assert len(found) == MISSING_MAX + 1
    assert found[-1] == Unreadable(MISSING_MAX + 1, "", 0, f"the records up to {10**12} are missing")


def test_verify_compares_with_the_index(log: MemoryLog) -> None:
    log.store.index["container/9", 1] = log.store.index.pop(("container/2", 1))
    log.store.index["node", 8] = 99
    assert [(found.seq, found.key) for found in log.verify()] == [(2, "container/2"), (99, "node")]
    assert not log.whole


def test_stored_records_within_bounds(log: MemoryLog) -> None:
    found = list(log.stored(after=1, upto=3))
    assert [record.seq for record in found if isinstance(record, Stored)] == [2, 3]
    assert list(log.stored(upto=99))[-1].seq == 6


@pytest.mark.parametrize("place", range(0, 90, 7))
def test_a_damaged_checkpoint_is_discarded(log: MemoryLog, place: int) -> None:
    log.save_checkpoint(3, 1, {})
    assert log.store.saved is not None
    data = bytearray(log.store.saved)
    data[place % len(data)] ^= 4
    log.store.saved = bytes(data)
    assert log.load_checkpoint(1) is None


def test_a_checkpoint_of_another_history_is_discarded(log: MemoryLog) -> None:
    log.save_checkpoint(3, 1, {})
    log.store.records[3] = changed(log, 3)
    assert log.load_checkpoint(1) is None
    del log.store.records[3]
    assert log.load_checkpoint(1) is None


def test_a_checkpoint_ahead_of_the_log_is_discarded(log: MemoryLog) -> None:
    log.save_checkpoint(5, 1, {})
    assert log.prefix(4).load_checkpoint(1) is None
    assert log.prefix(5).load_checkpoint(1) == (5, {})

"""Records that daybook once wrote are read for ever: tests/golden/log_v1, added to by tests/golden/make_log.py."""

import pytest

from adapters.log.codec import EventCodec
from adapters.log.memory import MemoryLog
from adapters.log.record import record_hash, unpack
from domain.events import WIRE
from domain.records import Head, Record
from tests.golden.make_log import LOG_ID, lines, missing

GOLDEN = lines()


@pytest.mark.parametrize("line", GOLDEN, ids=[f"{seq}-{wire}" for seq, wire, _, _ in GOLDEN])
def test_an_old_record_gives_its_event(line: list[str]) -> None:
    _, wire, data, printed = line
    record = unpack(bytes.fromhex(data))
    event = EventCodec().decode(record.wire, record.payload)
    assert record.wire == wire
    if wire in WIRE:  # else it came through an upcaster, whose own test says what it must be
        assert repr(event) == printed
        assert EventCodec().encode(event) == (wire, record.payload)


def test_the_golden_log_is_one_chain() -> None:
    log = MemoryLog(log_id=LOG_ID)
    log.store.records = {int(seq): bytes.fromhex(data) for seq, _, data, _ in GOLDEN}
    log.store.newest = Head(len(GOLDEN), record_hash(log.store.records[len(GOLDEN)]))
    assert all(isinstance(record, Record) for record in log.read())
    assert log.whole


def test_every_event_has_its_golden_records() -> None:
    assert [wire for _, wire, _, _ in missing()] == [], "run python -m tests.golden.make_log"

"""record: every byte counts."""

import pytest

from adapters.log.errors import CodecError
from adapters.log.record import Entry, Stored, check_all, genesis, lay, pack, record_hash, unpack
from domain.records import Cause, Head, Now

NOW = Now(1_790_000_000_000_000_000, 123_456_789, "6f5d1b1e-52f4-4f7c-8a4c-1de5a3a0c9d1")
CAUSE = Cause("rpc", "StartContainer", "r-1", 17, "kubelet", "daybook.sock", 3)
ENTRY = Entry("container/" + "ab" * 32, 3, "container.started/1", b"\x81\xa2at\x05")
START = Head(0, genesis("0" * 32))


def one(entry: Entry = ENTRY, cause: Cause = CAUSE, now: Now = NOW) -> bytes:
    return lay(START, [entry], cause, now)[0][0]


def test_a_record_comes_back() -> None:
    data = one()
    assert unpack(data) == Stored(
        1, NOW, ENTRY.key, 3, ENTRY.wire, ENTRY.payload, CAUSE, START.hash, record_hash(data), len(data)
    )


def test_records_are_chained() -> None:
    first, second = lay(START, [ENTRY, ENTRY], CAUSE, NOW)
    assert unpack(first[0]).link == genesis("0" * 32) != genesis("1" * 32)
    assert unpack(second[0]).link == first[1].hash == record_hash(first[0])
    assert (first[1].seq, second[1].seq) == (1, 2)
    [third] = lay(Head(second[1].seq, second[1].hash), [ENTRY], CAUSE, NOW)
    assert unpack(third[0]).link == second[1].hash


def test_every_flipped_bit_is_found() -> None:
    data = one()
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises(CodecError):
                unpack(bytes(damaged))


def test_every_cut_and_every_zeroed_rest_is_found() -> None:
    data = one()
    for place in range(len(data)):
        with pytest.raises(CodecError):
            unpack(data[:place])
        zeroed = data[:place] + bytes(len(data) - place)
        if zeroed != data:
            with pytest.raises(CodecError):
                unpack(zeroed)
    with pytest.raises(CodecError):
        unpack(data + b"\0")


def sealed(*fields: object) -> bytes:
    import zlib

    import msgpack

    body = msgpack.packb(fields)
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


GOOD = (1, 1, 5, b"b" * 16, 6, "node", 1, "node.stopped/1", b"\x80", ["rpc"], b"h" * 16)


def test_the_form_that_other_programs_may_rely_on() -> None:
    record = unpack(sealed(*GOOD))
    assert (record.key, record.at.boot_id, record.cause) == (
        "node",
        "62626262-6262-6262-6262-626262626262",
        Cause("rpc"),
    )


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 2),
        (0, "1"),
        (1, "1"),
        (1, True),
        (2, 1.5),
        (3, None),
        (3, b"b" * 15),
        (4, None),
        (5, b"node"),
        (6, -1),
        (6, "1"),
        (7, 1),
        (8, "x"),
        (9, []),
        (9, {}),
        (9, [1]),
        (9, ["rpc", 1]),
        (9, ["rpc", "", "", "x"]),
        (9, ["rpc", "", "", 1, "", "", 1, 1]),
        (10, b"h" * 15),
        (10, "h" * 16),
    ],
)
def test_a_record_of_other_types_is_refused_even_with_a_right_checksum(place: int, value: object) -> None:
    with pytest.raises(CodecError):
        unpack(sealed(*GOOD[:place], value, *GOOD[place + 1 :]))


@pytest.mark.parametrize("fields", [(), GOOD[:-1], (*GOOD, 1)])
def test_a_record_of_another_length_is_refused(fields: tuple[object, ...]) -> None:
    with pytest.raises(CodecError):
        unpack(sealed(*fields))


def test_what_a_cause_leaves_out_is_default() -> None:
    long, short = len(one()), len(one(cause=Cause("due")))
    assert long - short > 40
    assert unpack(one(cause=Cause("due"))).cause == Cause("due")


def test_a_boot_id_that_is_no_uuid_is_kept_as_it_is() -> None:
    for boot_id in ("boot-1", "", NOW.boot_id.upper(), "{" + NOW.boot_id + "}"):
        assert unpack(one(now=Now(1, 2, boot_id))).at.boot_id == boot_id


def test_one_append_is_bounded() -> None:
    big = Entry("a", 1, "b", bytes(4 * 1024 * 1024))
    assert len(check_all([big] * 16)) == 16
    with pytest.raises(CodecError, match="together"):
        check_all([big] * 17)


def test_pack_takes_what_unpack_gives() -> None:
    data = one()
    r = unpack(data)
    at = (r.at.wall_ns, bytes.fromhex(r.at.boot_id.replace("-", "")), r.at.boot_ns)
    cause = ["rpc", "StartContainer", "r-1", 17, "kubelet", "daybook.sock", 3]
    assert pack(r.seq, r.link, at, Entry(r.key, r.version, r.wire, r.payload), cause) == data

"""The bytes of one record: a msgpack array and its CRC32; the chain that ties each record to the one before.

Array: format, seq, wall ns, boot id, boot ns, key, version, wire name, payload, cause, hash of the record before.
The CRC stands lowest byte first; a record's hash covers it too. The first record's link is derived from the log's
id, so that records of another log never fit. Pure; what a payload means is the codec's business.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import msgpack

from adapters.log.codec import PAYLOAD_BYTES_MAX
from adapters.log.errors import CodecError
from domain.records import Cause, Head, Now

FORMAT = 1
HASH_BYTES = 16
KEY_BYTES_MAX = 4096
WIRE_BYTES_MAX = 1024
CAUSE_BYTES_MAX = 4096
VERSION_MAX = 2**63 - 1
APPEND_BYTES_MAX = 64 * 1024 * 1024
_CRC_BYTES = 4
_CRC_RESIDUE = 0x2144DF1C  # the CRC32 of anything that its own CRC32 follows, lowest byte first
_RECORD_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * 1024
_CAUSE = (str, str, str, int, str, str, int)


@dataclass(frozen=True, slots=True)
class Entry:
    """What an append brings: the event as bytes under its wire name. `cause`: its own, else the append's."""

    key: str
    version: int
    wire: str
    payload: bytes
    cause: Cause | None = None


class Placed(NamedTuple):
    """Where an entry came to stand."""

    seq: int
    hash: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One record as it lies in the log, its payload undecoded. `link` is the hash of the record before."""

    seq: int
    at: Now
    key: str
    version: int
    wire: str
    payload: bytes
    cause: Cause
    link: bytes
    hash: bytes
    size: int


def genesis(log_id: str) -> bytes:
    """The link of a log's first record."""
    return blake2b(b"daybook log " + log_id.encode(), digest_size=HASH_BYTES).digest()


def record_hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=HASH_BYTES).digest()


def check(entry: Entry) -> Entry:
    """The entry itself, if it can be written. Raises CodecError."""
    if type(entry.version) is not int or not 0 <= entry.version <= VERSION_MAX:
        raise CodecError(f"cannot append event of {entry.key[:80]}: {entry.version!r} is no version")
    try:
        sizes = len(entry.key.encode()), len(entry.wire.encode())
    except UnicodeEncodeError:
        raise CodecError("cannot append event: its key or wire name is no valid text") from None
    if not 0 < sizes[0] <= KEY_BYTES_MAX or not 0 < sizes[1] <= WIRE_BYTES_MAX:
        raise CodecError(f"cannot append event of {entry.key[:80]}: key or wire name is empty or too long")
    if type(entry.payload) is not bytes or len(entry.payload) > PAYLOAD_BYTES_MAX:
        raise CodecError(f"cannot append event of {entry.key[:80]}: over {PAYLOAD_BYTES_MAX} bytes of payload")
    if entry.cause is not None:
        check_surroundings(entry.cause, Now(0, 0, ""))
    return entry


def check_surroundings(cause: Cause, now: Now) -> None:
    """Raises CodecError where the cause or the time cannot be written."""
    values, times = _cause_values(cause), (now.wall_ns, now.boot_ns, now.boot_id)
    if tuple(map(type, values)) != _CAUSE[: len(values)] or tuple(map(type, times)) != (int, int, str):
        raise CodecError(f"cannot append event: a field of another type in {cause} or {now}")
    try:
        size = len(msgpack.packb((values, times)))
    except (OverflowError, ValueError) as error:
        raise CodecError(f"cannot append event: its cause or time cannot be written: {error}") from None
    if size > CAUSE_BYTES_MAX:
        raise CodecError(f"cannot append event: its cause exceeds {CAUSE_BYTES_MAX} bytes")


def check_all(entries: Iterable[Entry]) -> list[Entry]:
    """The entries of one append, if they can be written. Raises CodecError."""
    checked = [check(entry) for entry in entries]
    if sum(len(entry.payload) for entry in checked) > APPEND_BYTES_MAX:
        raise CodecError(f"cannot append events: together they exceed {APPEND_BYTES_MAX} bytes")
    return checked


def lay(head: Head, entries: Iterable[Entry], cause: Cause, now: Now) -> list[tuple[bytes, Placed]]:
    """The records that append `entries` to a log that ends at `head`."""
    rows = []
    seq, link = head.seq, head.hash
    causes, boot = _cause_values(cause), _boot_bytes(now.boot_id)
    for entry in entries:
        seq += 1
        own = causes if entry.cause is None else _cause_values(entry.cause)
        data = pack(seq, link, (now.wall_ns, boot, now.boot_ns), entry, own)
        link = record_hash(data)
        rows.append((data, Placed(seq, link, len(data))))
    return rows


def pack(seq: int, link: bytes, at: tuple[int, bytes | str, int], entry: Entry, cause: Sequence[Any]) -> bytes:
    fields = (FORMAT, seq, *at, entry.key, entry.version, entry.wire, entry.payload, cause, link)
    body: bytes = msgpack.packb(fields)
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")


def unpack(data: bytes) -> Stored:
    """The record. Raises CodecError where any byte of it is not as it was written."""
    _, seq, wall_ns, boot, boot_ns, key, version, wire, payload, cause, link = parse(data)
    at = Now(wall_ns, boot_ns, boot_text(boot))
    return Stored(seq, at, key, version, wire, payload, Cause(*cause), link, record_hash(data), len(data))


def parse(data: bytes) -> list[Any]:
    """The checked fields of a record in their order; `boot_text` and `Cause(*...)` give the rest their meaning."""
    if not _CRC_BYTES < len(data) <= _RECORD_BYTES_MAX:
        raise CodecError(f"the record has {len(data)} bytes")
    if zlib.crc32(data) != _CRC_RESIDUE:
        raise CodecError("the checksum does not match")
    try:
        fields: list[Any] = msgpack.unpackb(data[:-_CRC_BYTES])
    except Exception as error:
        # msgpack raises ValueError and a dozen of its own; none of them may leave here as a traceback
        raise CodecError(f"the record is no msgpack value ({type(error).__name__})") from None
    if type(fields) is not list or not fields or fields[0] != FORMAT:
        raise CodecError("the record's format is not one that this version of daybook reads")
    _check_types(fields)
    return fields


def _check_types(fields: list[Any]) -> None:
    if len(fields) != 11:
        raise CodecError("the record has another number of fields than it must")
    _, seq, wall, boot, boot_ns, key, version, wire, payload, cause, link = fields
    # one by one because it is done for every record of a replay
    right = type(seq) is int and type(wall) is int and type(boot_ns) is int and type(version) is int and version >= 0
    right = right and type(key) is str and type(wire) is str and type(payload) is bytes and type(cause) is list
    right = right and ((type(boot) is bytes and len(boot) == 16) or type(boot) is str)
    if not right or type(link) is not bytes or len(link) != HASH_BYTES:
        raise CodecError("the record's fields have other types than they must")
    if not cause or tuple(map(type, cause)) != _CAUSE[: len(cause)]:
        raise CodecError("the record's cause has other types than it must")


def _cause_values(cause: Cause) -> list[Any]:
    """The fields in order, without the last ones that hold their defaults."""
    values = [cause.kind, cause.what, cause.request, cause.arrived_ns, cause.agent, cause.socket, cause.led_by]
    while len(values) > 1 and not values[-1]:
        values.pop()
    return values


@lru_cache(maxsize=64)
def _boot_bytes(boot_id: str) -> bytes | str:
    """16 raw bytes where the id is a UUID as the kernel prints it, else the text itself."""
    try:
        raw = UUID(boot_id)
    except ValueError:
        return boot_id
    return raw.bytes if str(raw) == boot_id else boot_id


@lru_cache(maxsize=64)
def boot_text(boot: bytes | str) -> str:
    return boot if isinstance(boot, str) else str(UUID(bytes=boot))

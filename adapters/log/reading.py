"""What a log holds, in order: records, and in their place what could not be read, which never ends the reading.

Rule 1: a record is given out only if its checksum, its sequence and its link to the record before are right.
Rule 2: a broken link is told once, at the record that does not fit the one before; a damaged record is told as
itself, and the record after it is judged without its link. Rule 3: a gap is told as missing records.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from adapters.log import checkpoint
from adapters.log.codec import EventCodec, decode_value
from adapters.log.errors import CodecError
from adapters.log.making import maker
from adapters.log.record import Stored, boot_text, genesis, parse, record_hash
from domain.errors import InvalidRequest
from domain.events import split_key
from domain.records import Cause, Head, Now, Record, Unreadable

MISSING_MAX = 1000
T = TypeVar("T")


class Rows(Protocol):
    """Where records lie: the LMDB store, or lists in memory. Nothing here checks what the bytes say."""

    log_id: str

    def head(self) -> Head: ...

    def rows(self, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        """Sequences and records, after < sequence <= upto, in order; what is missing is left out."""
        ...

    def row(self, seq: int) -> bytes | None: ...

    def names(self) -> Iterator[tuple[int, str, int]]:
        """The index: sequence, key and version of every record, in no order."""
        ...

    def versions(self, key: str) -> Sequence[tuple[int, int]]:
        """Version and sequence of each event of an aggregate, by version."""
        ...

    def checkpoint(self) -> bytes | None: ...


class LogReader:
    """The reading side that all logs share. `whole` turns False for good when read bytes were not as written."""

    def __init__(self, rows: Rows, aggregates: Mapping[str, type], codec: EventCodec) -> None:
        self.log_id = rows.log_id
        self.whole = True
        self._rows = rows
        self._aggregates = aggregates
        self._codec = codec

    def head(self) -> Head:
        return self._rows.head()

    def versions(self, key: str) -> Sequence[tuple[int, int]]:
        return self._rows.versions(key)

    def read(self, after: int = 0) -> Iterator[Record | Unreadable]:
        """The events after a sequence, up to where the log ends when the reading begins."""
        decode = self._codec.decode
        make_now, make_cause = maker(Now), maker(Cause)
        make_record: Callable[..., Record] = maker(Record)

        def make(fields: list[Any], digest: bytes, size: int) -> Record:
            _, seq, wall_ns, boot, boot_ns, key, version, wire, payload, cause, _ = fields
            event = decode(wire, payload)
            at = make_now(wall_ns, boot_ns, boot_text(boot))
            return make_record(seq, at, key, version, wire, event, make_cause(*cause), digest, size)

        return self._scan(after, self.head().seq, make)

    def stored(self, after: int = 0, upto: int | None = None) -> Iterator[Stored | Unreadable]:
        """As `read`, with payloads undecoded: also what is no event of ours is a record here."""

        def make(fields: list[Any], digest: bytes, size: int) -> Stored:
            _, seq, wall_ns, boot, boot_ns, key, version, wire, payload, cause, link = fields
            at = Now(wall_ns, boot_ns, boot_text(boot))
            return Stored(seq, at, key, version, wire, payload, Cause(*cause), link, digest, size)

        end = self.head().seq
        return self._scan(after, end if upto is None else min(upto, end), make)

    def verify(self) -> Sequence[Unreadable]:
        """Everything that is wrong: with the records, and between them and the index. Empty for a sound log."""
        named = {seq: (key, version) for seq, key, version in self._rows.names()}
        found = []
        for record in self.stored():
            name = named.pop(record.seq, ("", 0))
            if isinstance(record, Unreadable):
                found.append(record)
            elif name != (record.key, record.version):
                found.append(Unreadable(record.seq, record.key, record.version, "the index does not lead here"))
        found += [Unreadable(seq, *name, "the index names a record that is missing") for seq, name in named.items()]
        self.whole = self.whole and not found
        return found

    def checkpoint_bytes(self, seq: int, schema: int, aggregates: Mapping[str, Any]) -> bytes:
        link = self._hash_at(seq)
        if link is None or not 0 <= seq <= self.head().seq:
            raise InvalidRequest(f"cannot save checkpoint {seq}: the log has no such record")
        return checkpoint.pack(checkpoint.checkpoint_of(schema, Head(seq, link), aggregates))

    def load_checkpoint(self, schema: int) -> tuple[int, Mapping[str, Any]] | None:
        """None where there is none that fits this log and this schema: the log is then read from the beginning."""
        data = self._rows.checkpoint()
        if data is None:
            return None
        try:
            found = checkpoint.unpack(data)
            if found.schema != schema or found.head.seq > self.head().seq:
                return None
            if found.head.hash != self._hash_at(found.head.seq):
                return None
            return found.head.seq, {key: self._aggregate(key, value) for key, value in found.aggregates.items()}
        except CodecError:
            return None

    def _aggregate(self, key: str, data: bytes) -> Any:
        kind = self._aggregates.get(split_key(key)[0])
        if kind is None:
            raise CodecError(f"the checkpoint holds {key}, which is no kind of aggregate")
        return decode_value(kind, data)

    def _hash_at(self, seq: int) -> bytes | None:
        if seq == 0:
            return genesis(self.log_id)
        data = self._rows.row(seq)
        return None if data is None else record_hash(data)

    def _link_after(self, seq: int) -> bytes | None:
        """What the record after must refer to; None where the record is damaged itself and says nothing of the next."""
        data = self._rows.row(seq) if seq else None
        try:
            return self._hash_at(seq) if data is None or parse(data) else None
        except CodecError:
            return None

    def _scan(self, after: int, upto: int, make: Callable[[list[Any], bytes, int], T]) -> Iterator[T | Unreadable]:
        link, expected, index = self._link_after(after), after + 1, _Index(self._rows)
        for seq, data in self._rows.rows(after, upto):
            if seq != expected:
                yield from self._missing(expected, seq, index)
                link = None
            expected = seq + 1
            digest, before, link = record_hash(data), link, None
            try:
                fields = parse(data)
                if fields[1] != seq:
                    raise CodecError(f"the record says that it is number {fields[1]}")
                link = digest
                if before is not None and fields[10] != before:
                    raise CodecError("it does not continue the record before: one of the two was changed")
            except CodecError as error:
                self.whole = False
                yield Unreadable(seq, *index.name(seq), error.text)
                continue
            try:
                yield make(fields, digest, len(data))
            except CodecError as error:
                yield Unreadable(seq, fields[5], fields[6], error.text)
        if expected <= upto:
            yield from self._missing(expected, upto + 1, index)

    def _missing(self, begin: int, end: int, index: "_Index") -> Iterator[Unreadable]:
        self.whole = False
        for seq in range(begin, min(end, begin + MISSING_MAX)):
            yield Unreadable(seq, *index.name(seq), "the record is missing")
        if end - begin > MISSING_MAX:
            yield Unreadable(begin + MISSING_MAX, "", 0, f"the records up to {end - 1} are missing")


class _Index:
    """Who stands at a sequence, as the index tells. Read once, and only where a record is damaged."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._names: dict[int, tuple[str, int]] | None = None

    def name(self, seq: int) -> tuple[str, int]:
        if self._names is None:
            self._names = {at: (key, version) for at, key, version in self._rows.names()}
        return self._names.get(seq, ("", 0))

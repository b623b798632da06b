"""`MemoryLog`: the log for tests of what stands above it. Same checks, same records and hashes, no disk, no thread.

An append is durable and told within one turn of the loop, unless a hook waits, or `fail_next` was called.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from adapters.log.codec import EventCodec
from adapters.log.drafts import entries_of, records_of
from adapters.log.errors import Conflict, LogBroken, LogClosed
from adapters.log.reading import LogReader
from adapters.log.record import Entry, Placed, Stored, check_all, check_surroundings, genesis, lay
from domain.records import Cause, Draft, Head, Now, Record, Unreadable

Hook = Callable[[str], Awaitable[None]]


class MemoryRows:
    """What the LMDB store is, as lists and dicts. `records` may be changed by tests that want damage."""

    def __init__(self, log_id: str) -> None:
        self.log_id = log_id
        self.records: dict[int, bytes] = {}
        self.index: dict[tuple[str, int], int] = {}
        self.newest = Head(0, genesis(log_id))
        self.saved: bytes | None = None

    def head(self) -> Head:
        return self.newest

    def rows(self, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        for seq in range(after + 1, min(upto, max(self.records, default=0)) + 1):
            if seq in self.records:
                yield seq, self.records[seq]

    def row(self, seq: int) -> bytes | None:
        return self.records.get(seq)

    def names(self) -> Iterator[tuple[int, str, int]]:
        for (key, version), seq in self.index.items():
            yield seq, key, version

    def versions(self, key: str) -> Sequence[tuple[int, int]]:
        return sorted((version, seq) for (name, version), seq in self.index.items() if name == key)

    def checkpoint(self) -> bytes | None:
        return self.saved

    def add(self, entries: Sequence[Entry], cause: Cause, now: Now) -> Sequence[Placed]:
        """Raises Conflict with nothing added."""
        places = [(entry.key, entry.version) for entry in entries]
        for number, (key, version) in enumerate(places):
            if (key, version) in self.index or (key, version) in places[:number]:
                raise Conflict(f"cannot append event {version} of {key}: there is one with this version")
        placed = []
        for place, (data, at) in zip(places, lay(self.newest, entries, cause, now), strict=True):
            self.records[at.seq] = data
            self.index[place] = at.seq
            self.newest = Head(at.seq, at.hash)
            placed.append(at)
        return placed


class MemoryLog:
    """`hook` is awaited with "before" and "after" each commit: what waits there delays, what raises there fails."""

    def __init__(
        self,
        *,
        aggregates: Mapping[str, type] | None = None,
        codec: EventCodec | None = None,
        log_id: str = "0" * 32,
        hook: Hook | None = None,
    ) -> None:
        self.log_id = log_id
        self.hook = hook
        self.broken = ""
        self.store = MemoryRows(log_id)
        self._codec = codec or EventCodec()
        self._aggregates = aggregates or {}
        self._reader = LogReader(self.store, self._aggregates, self._codec)
        self._failures: list[tuple[Exception, bool]] = []
        self._closed = False

    @property
    def whole(self) -> bool:
        return self._reader.whole

    def head(self) -> Head:
        return self.store.head()

    def fail_next(self, error: Exception, *, written: bool = False) -> None:
        """The next append raises this; `written`: although it is in the log (a commit with an unknown outcome).

        After a LogBroken nothing more is taken, as in the real log; `prefix(head().seq)` is the log opened again.
        """
        self._failures.append((error, written))

    async def append(
        self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False
    ) -> Sequence[Record]:
        if self.hook is not None and drafts:
            await self.hook("before")
        records = self.append_sync(drafts, cause, now, urgent=urgent)
        if self.hook is not None and drafts:
            await self.hook("after")
        return records

    def append_sync(self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False) -> Sequence[Record]:
        if not drafts:
            return []
        entries = entries_of(drafts, self._codec)
        return records_of(drafts, entries, self.write(entries, cause, now, urgent=urgent), cause, now)

    def write(self, entries: Iterable[Entry], cause: Cause, now: Now, *, urgent: bool = False) -> Sequence[Placed]:
        checked = check_all(entries)
        check_surroundings(cause, now)
        if self.broken:
            raise LogBroken(self.broken)
        if self._closed:
            raise LogClosed("cannot append to log: it is closed")
        error, written = self._failures.pop(0) if self._failures else (None, True)
        placed = self.store.add(checked, cause, now) if written else []
        if error is not None:
            self.broken = str(error) if isinstance(error, LogBroken) else ""
            raise error
        return placed

    def read(self, after: int = 0) -> Iterator[Record | Unreadable]:
        return self._reader.read(after)

    def stored(self, after: int = 0, upto: int | None = None) -> Iterator[Stored | Unreadable]:
        return self._reader.stored(after, upto)

    def versions(self, key: str) -> Sequence[tuple[int, int]]:
        return self._reader.versions(key)

    def verify(self) -> Sequence[Unreadable]:
        return self._reader.verify()

    def save_checkpoint(self, seq: int, schema: int, aggregates: Mapping[str, Any]) -> None:
        self.store.saved = self._reader.checkpoint_bytes(seq, schema, aggregates)

    def load_checkpoint(self, schema: int) -> tuple[int, Mapping[str, Any]] | None:
        return self._reader.load_checkpoint(schema)

    def prefix(self, seq: int) -> "MemoryLog":
        """The log as it was when `seq` was its newest record: what a crash right there leaves behind."""
        log = MemoryLog(aggregates=self._aggregates, codec=self._codec, log_id=self.log_id)
        log.store.saved = self.store.saved  # where it is of a later record, loading refuses it
        for record in self.stored(upto=seq):
            if not isinstance(record, Stored):
                raise ValueError(f"record {record.seq} is unreadable: {record.why}")
            log.store.add([Entry(record.key, record.version, record.wire, record.payload)], record.cause, record.at)
        return log

    def close(self) -> None:
        self._closed = True

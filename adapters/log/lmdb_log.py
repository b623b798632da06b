"""`LmdbLog`: the daemon's event log in an LMDB directory (0700) that one process writes at a time.

`append` returns when its records are durable. Reading never waits for writing. What a full disk, a failed commit
and a damaged record lead to is said in `writer` and `reading`.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

from adapters.log.ballast import Ballast
from adapters.log.codec import EventCodec
from adapters.log.drafts import entries_of, records_of
from adapters.log.errors import LogFull, LogLocked, LogUnusable
from adapters.log.reading import LogReader
from adapters.log.record import Entry, Placed, Stored, check_all, check_surroundings
from adapters.log.store import MAP_BYTES, Store, is_full, open_writing
from adapters.log.writer import Ticket, Writer
from domain.records import Cause, Draft, Head, Now, Record, Unreadable

QUEUE_MAX = 4096
BALLAST_BYTES = 16 * 1024 * 1024
_LOCK = "writer.lock"


class LmdbLog:
    """`aggregates`: the class of each kind of key, for checkpoints. `commit`: a seam for tests of failing commits."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        aggregates: Mapping[str, type] | None = None,
        codec: EventCodec | None = None,
        map_bytes: int = MAP_BYTES,
        ballast_bytes: int = BALLAST_BYTES,
        queue_max: int = QUEUE_MAX,
        commit: Callable[[Any], None] | None = None,
    ) -> None:
        """Opens or creates the log. Raises LogLocked, LogFull, LogUnusable, LogCorrupt, WrongFormat."""
        directory = Path(path)
        self._codec = codec or EventCodec()
        with contextlib.ExitStack() as opened:
            self._lock = _lock(directory)
            opened.callback(os.close, self._lock)
            self.store: Store = open_writing(directory, map_bytes, commit)
            opened.callback(self.store.close)
            self._reader = LogReader(self.store, aggregates or {}, self._codec)
            self._writer = Writer(self.store, Ballast(directory, ballast_bytes), queue_max)
            opened.pop_all()
        self.log_id = self.store.log_id

    @property
    def whole(self) -> bool:
        """Whether all that was read so far is as it was written. An event of an unknown kind is whole."""
        return self._reader.whole

    @property
    def broken(self) -> str:
        """Why this process appends nothing more; empty while all is well."""
        return self._writer.broken

    def head(self) -> Head:
        """The newest durable record."""
        return self._writer.head

    async def append(
        self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False
    ) -> Sequence[Record]:
        """All drafts in one transaction or none; durable on return. A cancelled wait does not undo the append.

        `urgent` (stops, removals, outcomes) may use the room that is kept back for a full disk.
        Raises CodecError, Conflict, LogFull, LogBroken, LogClosed, Busy.
        """
        if not drafts:
            return []
        entries = entries_of(drafts, self._codec)
        check_surroundings(cause, now)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Placed]] = loop.create_future()
        self._writer.submit(Ticket(entries, cause, now, future, loop, urgent))
        return records_of(drafts, entries, await future, cause, now)

    def append_sync(self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False) -> Sequence[Record]:
        """`append` for threads without a loop: tools and tests."""
        if not drafts:
            return []
        entries = entries_of(drafts, self._codec)
        return records_of(drafts, entries, self.write(entries, cause, now, urgent=urgent), cause, now)

    def write(
        self,
        entries: Sequence[Entry],
        cause: Cause,
        now: Now,
        *,
        urgent: bool = False,
        also: Callable[[Any], None] | None = None,
    ) -> Sequence[Placed]:
        """Entries as they are, whatever their payloads mean; waits until they are durable."""
        future: Future[Sequence[Placed]] = Future()
        entries = check_all(entries)
        check_surroundings(cause, now)
        self._writer.submit(Ticket(entries, cause, now, future, None, urgent, also))
        return future.result()

    def read(self, after: int = 0) -> Iterator[Record | Unreadable]:
        return self._reader.read(after)

    def stored(self, after: int = 0, upto: int | None = None) -> Iterator[Stored | Unreadable]:
        return self._reader.stored(after, upto)

    def versions(self, key: str) -> Sequence[tuple[int, int]]:
        """Version and sequence of each event of an aggregate, by version."""
        return self._reader.versions(key)

    def verify(self) -> Sequence[Unreadable]:
        return self._reader.verify()

    def save_checkpoint(self, seq: int, schema: int, aggregates: Mapping[str, Any]) -> None:
        """Replaces the checkpoint; waits until it is durable."""
        data = self._reader.checkpoint_bytes(seq, schema, aggregates)
        self.write([], Cause("checkpoint"), _NO_TIME, also=lambda txn: self.store.put_checkpoint(txn, data))

    def load_checkpoint(self, schema: int) -> tuple[int, Mapping[str, Any]] | None:
        return self._reader.load_checkpoint(schema)

    def listen(self, event: Event) -> None:
        """Sets the event after every commit."""
        self._writer.listen(event)

    def unlisten(self, event: Event) -> None:
        self._writer.unlisten(event)

    def close(self) -> None:
        """Writes what was submitted, then closes. No read may be under way. May be called twice."""
        if self._lock < 0:
            return
        self._writer.close()
        self.store.close()
        os.close(self._lock)
        self._lock = -1


_NO_TIME = Now(0, 0, "")


def _lock(directory: Path) -> int:
    """Held as long as the log is open. LMDB itself would let two processes write in turns, each with its own head."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        kind = LogFull if is_full(error) else LogUnusable
        raise kind(f"cannot open log {directory}: {error.strerror}; check its permissions and free space") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LogLocked(f"cannot open log {directory}: another process writes it; stop that one first") from None
    return fd

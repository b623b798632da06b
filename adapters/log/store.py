"""The LMDB directory: its tables, its format, its head, and rows as bytes. Knows nothing of threads or of events.

    meta        format, log_id, created (wall ns)      checkpoint  one row
    records     sequence -> record                     tracking    application name -> notification id
    index       key, version -> sequence               snapshots   originator, version -> stored event

Reads are short transactions of `CHUNK` rows, so that no reader keeps the writer from reusing pages.
`Store.begin` and everything that takes a transaction belongs to the writer thread.
"""

import errno
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import lmdb

from adapters.log import engine
from adapters.log.errors import Conflict, LogCorrupt, LogFull, LogUnusable, WrongFormat
from adapters.log.record import Entry, Placed, genesis, record_hash
from domain.records import Head

FORMAT = b"daybook log 1"
TABLES = (b"meta", b"records", b"index", b"checkpoint", b"tracking", b"snapshots")
MAP_BYTES = 16 * 1024**3
LOCK_FILE = "lock.mdb"
CHUNK = 1000
CHUNK_BYTES = 8 * 1024 * 1024
_NUMBER = struct.Struct(">Q")
_KEY_BYTES_PLAIN = 500  # LMDB takes 511; a version and a separator follow
_HASHED = b"\xff"  # begins no UTF-8 text
_READ_TRIES = 50
_LOCK_FILE_BYTES = 8192  # what 126 readers, LMDB's default, take
_CHECKPOINT = b"newest"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
T = TypeVar("T")


class Store:
    """An open environment. `commit` is the seam at which tests let a commit fail."""

    def __init__(self, env: Any, directory: Path, commit: Callable[[Any], None] | None = None) -> None:
        self._env = env
        self._directory = directory
        self._commit = commit or _commit
        create = not env.flags()["readonly"]
        self._refuse_foreign()
        self._db = {name: env.open_db(name, create=create) for name in TABLES}
        self.log_id = self._read_meta(create)

    # --- reading: any thread ---

    def head(self) -> Head:
        """The last record in the file, by its bytes as they are."""

        def last(txn: Any) -> tuple[bytes, bytes] | None:
            cursor = txn.cursor(db=self._db[b"records"])
            return cursor.item() if cursor.last() else None

        found = self._reading(last)
        if found is None:
            return Head(0, genesis(self.log_id))
        if len(found[0]) != _NUMBER.size:
            text = "its last record has no number; restore it from a copy"
            raise LogCorrupt(f"cannot read log {self._directory}: {text}")
        return Head(_NUMBER.unpack(found[0])[0], record_hash(found[1]))

    def rows(self, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        while after < upto:
            try:
                chunk = self._reading(partial(self._chunk, after=after, upto=upto))
            except lmdb.Error:
                # a damaged page ends a cursor: what lies beyond it can still be had one by one
                chunk, after = self._one_by_one(after, upto), min(after + CHUNK, upto)
                yield from chunk
                continue
            yield from chunk
            if not chunk:
                return
            after = chunk[-1][0]

    def row(self, seq: int) -> bytes | None:
        return self._reading(lambda txn: _bytes(txn.get(_NUMBER.pack(seq), db=self._db[b"records"])))

    def names(self) -> Iterator[tuple[int, str, int]]:
        begin = b""
        while True:
            chunk = self._reading(partial(_range, db=self._db[b"index"], begin=begin, limit=CHUNK))
            for key, value in chunk:
                yield _index_entry(key, value)
            if len(chunk) < CHUNK:
                return
            begin = chunk[-1][0] + b"\0"

    def versions(self, key: str) -> Sequence[tuple[int, int]]:
        prefix = _prefix(key)

        def collect(txn: Any) -> list[tuple[int, int]]:
            found = []
            cursor = txn.cursor(db=self._db[b"index"])
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append((_NUMBER.unpack(cursor.key()[-8:])[0], _NUMBER.unpack(cursor.value()[:8])[0]))
                more = cursor.next()
            return found

        return self._reading(collect)

    def checkpoint(self) -> bytes | None:
        return self._reading(lambda txn: _bytes(txn.get(_CHECKPOINT, db=self._db[b"checkpoint"])))

    def tracked(self, application: str) -> int | None:
        return self._reading(lambda txn: self._tracked(txn, application))

    def snapshots(self, key: str) -> Sequence[tuple[int, bytes]]:
        """Version and bytes, by version."""
        prefix = _prefix(key)

        def collect(txn: Any) -> list[tuple[int, bytes]]:
            found = []
            cursor = txn.cursor(db=self._db[b"snapshots"])
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append((_NUMBER.unpack(cursor.key()[-8:])[0], bytes(cursor.value())))
                more = cursor.next()
            return found

        return self._reading(collect)

    # --- writing: the writer thread ---

    def begin(self) -> Any:
        return self._env.begin(write=True)

    def commit(self, txn: Any) -> None:
        self._commit(txn)

    def grow(self) -> None:
        """Doubles the map. Other processes that have it open must open it again."""
        self._env.set_mapsize(self._env.info()["map_size"] * 2)

    def check(self, txn: Any, entries: Iterable[Entry]) -> None:
        """Raises Conflict where a version exists, or comes twice in `entries`."""
        seen = set()
        for entry in entries:
            place = _place(entry.key, entry.version)
            if place in seen or txn.get(place, db=self._db[b"index"]) is not None:
                raise Conflict(f"cannot append event {entry.version} of {entry.key}: there is one with this version")
            seen.add(place)

    def put(self, txn: Any, entries: Iterable[Entry], rows: Iterable[tuple[bytes, Placed]]) -> None:
        records, index = self._db[b"records"], self._db[b"index"]
        for entry, (data, placed) in zip(entries, rows, strict=True):
            seq = _NUMBER.pack(placed.seq)
            if not txn.put(seq, data, append=True, db=records):
                raise lmdb.KeyExistsError(f"record {placed.seq} exists")
            place = _place(entry.key, entry.version)
            txn.put(place, seq + (entry.key.encode() if place.startswith(_HASHED) else b""), db=index)

    def put_checkpoint(self, txn: Any, data: bytes) -> None:
        txn.put(_CHECKPOINT, data, db=self._db[b"checkpoint"])

    def put_tracking(self, txn: Any, application: str, notification_id: int) -> None:
        """Raises Conflict, before anything is written, unless the id is above the recorded one."""
        before = self._tracked(txn, application)
        if before is not None and before >= notification_id:
            raise Conflict(f"cannot track {notification_id} of {application}: {before} is recorded")
        txn.put(_short(application), _NUMBER.pack(notification_id), db=self._db[b"tracking"])

    def put_snapshots(self, txn: Any, snapshots: Sequence[tuple[str, int, bytes]]) -> None:
        """Raises Conflict, before anything is written, where one exists or comes twice."""
        places = [_place(key, version) for key, version, _ in snapshots]
        taken = [place for place in places if txn.get(place, db=self._db[b"snapshots"]) is not None]
        if taken or len(set(places)) < len(places):
            raise Conflict("cannot store snapshot: there is one with this version")
        for place, (_, _, data) in zip(places, snapshots, strict=True):
            txn.put(place, data, db=self._db[b"snapshots"])

    def close(self) -> None:
        self._env.close()

    # --- below ---

    def _refuse_foreign(self) -> None:
        """Before any table is made: an environment that has tables, but not ours, belongs to somebody else."""
        names = self._reading(lambda txn: [bytes(name) for name, _ in txn.cursor()])
        if names and TABLES[0] not in names:
            text = "it holds another program's data; name another directory"
            raise WrongFormat(f"cannot open log {self._directory}: {text}")

    def _read_meta(self, create: bool) -> str:
        def read(txn: Any) -> tuple[bytes | None, bytes | None]:
            return _bytes(txn.get(b"format", db=self._db[b"meta"])), _bytes(txn.get(b"log_id", db=self._db[b"meta"]))

        form, log_id = self._reading(read)
        if form is None and log_id is None and create and self._empty():
            log_id = uuid4().hex.encode()
            meta = {b"format": FORMAT, b"log_id": log_id, b"created": str(time.time_ns()).encode()}
            with self._env.begin(write=True) as txn:
                for name, value in meta.items():
                    txn.put(name, value, db=self._db[b"meta"])
        elif form != FORMAT:
            told = "none" if form is None else repr(form[:40].decode("ascii", "replace"))
            text = f"its format is {told}, this daybook reads {FORMAT.decode()!r}"
            raise WrongFormat(f"cannot open log {self._directory}: {text}; use the daybook that wrote it")
        if log_id is None or len(log_id) != 32:
            raise LogCorrupt(f"cannot open log {self._directory}: it has no id; restore it from a copy")
        return log_id.decode("ascii", "replace")

    def _empty(self) -> bool:
        return self._reading(lambda txn: not any(txn.stat(self._db[name])["entries"] for name in TABLES))

    def _tracked(self, txn: Any, application: str) -> int | None:
        found = txn.get(_short(application), db=self._db[b"tracking"])
        return None if found is None else int(_NUMBER.unpack(found)[0])

    def _chunk(self, txn: Any, after: int, upto: int) -> list[tuple[int, bytes]]:
        cursor = txn.cursor(db=self._db[b"records"])
        chunk: list[tuple[int, bytes]] = []
        if not cursor.set_range(_NUMBER.pack(after + 1)):
            return chunk
        size, last, number = 0, _NUMBER.pack(upto), _NUMBER.unpack
        for key, value in cursor:
            if key > last or len(key) != _NUMBER.size:
                break
            chunk.append((number(key)[0], value))
            size += len(value)
            if len(chunk) == CHUNK or size > CHUNK_BYTES:
                break
        return chunk

    def _one_by_one(self, after: int, upto: int) -> list[tuple[int, bytes]]:
        found = []
        for seq in range(after + 1, min(after + CHUNK, upto) + 1):
            try:
                data = self.row(seq)
            except lmdb.Error:
                continue
            if data is not None:
                found.append((seq, data))
        return found

    def _reading(self, read: Callable[[Any], T]) -> T:
        for left in reversed(range(_READ_TRIES)):
            try:
                with self._env.begin() as txn:
                    return read(txn)
            except lmdb.InvalidParameterError:
                # the map is being resized: libraries.md A7 saw this for about 5 ms
                if not left:
                    raise
                time.sleep(0.002)
        raise AssertionError("unreachable")


def open_writing(directory: Path, map_bytes: int, commit: Callable[[Any], None] | None = None) -> Store:
    """Opens or creates the log in an existing directory. Raises LogFull, LogUnusable, LogCorrupt, WrongFormat."""
    engine.inspect(directory)
    _reserve_lock_file(directory)
    new = not (directory / engine.DATA).exists()
    store = _open(directory, commit, map_size=map_bytes, mode=0o600, readahead=True, lock=True)
    if new:
        for path in (directory, directory.parent):
            _sync(path)
    return store


def open_reading(directory: Path, lock: bool) -> Store:
    """Opens an existing log without ever writing to its data. Raises LogUnusable, LogCorrupt, WrongFormat."""
    engine.inspect(directory)
    return _open(directory, None, readonly=True, create=False, lock=lock)


def is_full(error: Exception) -> bool:
    """Whether an error of LMDB or of the kernel means that there is no room."""
    return getattr(error, "code", None) in _FULL or getattr(error, "errno", None) in _FULL


def _open(directory: Path, commit: Callable[[Any], None] | None, **options: Any) -> Store:
    # Of all defaults, sync, metasync and writemap=False are what durability rests on (libraries.md A7, A8).
    pinned: dict[str, Any] = {
        "lib_version": engine.LIB_VERSION,
        "max_dbs": len(TABLES),
        "max_spare_txns": 4,
        "subdir": True,
    }
    env = None
    try:
        env = lmdb.open(str(directory), sync=True, metasync=True, writemap=False, **pinned, **options)
        return Store(env, directory, commit)
    except (lmdb.Error, OSError) as error:
        _close(env)
        if is_full(error):
            raise LogFull(f"cannot open log {directory}: {error}; free space on its disk") from None
        if (
            isinstance(error, OSError) or getattr(error, "code", 0) > 0
        ):  # an errno, not one of LMDB's own (negative) codes
            raise LogUnusable(f"cannot open log {directory}: {error}; check its permissions and its disk") from None
        raise LogCorrupt(f"cannot open log {directory}: {error}; restore it from a copy") from None
    except (LogCorrupt, WrongFormat):
        _close(env)
        raise


def _reserve_lock_file(directory: Path) -> None:
    """LMDB maps this file and writes to it: without blocks of its own that is a SIGBUS on a full disk."""
    try:
        fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _LOCK_FILE_BYTES)
        finally:
            os.close(fd)
    except OSError as error:
        kind = LogFull if is_full(error) else LogUnusable
        raise kind(f"cannot open log {directory}: {error.strerror}; check its disk's free space and state") from None


def _close(env: Any) -> None:
    if env is not None:
        env.close()


def _commit(txn: Any) -> None:
    txn.commit()


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _short(text: str) -> bytes:
    raw = text.encode()
    if len(raw) <= _KEY_BYTES_PLAIN and raw and b"\0" not in raw:
        return raw
    return _HASHED + blake2b(raw, digest_size=32).digest()


def _prefix(key: str) -> bytes:
    # no plain prefix begins another one: they hold no zero byte but the last
    return _short(key) + b"\0"


def _place(key: str, version: int) -> bytes:
    return _prefix(key) + _NUMBER.pack(version)


def _index_entry(key: bytes, value: bytes) -> tuple[int, str, int]:
    """Sequence, key and version; whatever damage did to an entry, it is told and not raised."""
    if len(key) < 9 or len(value) < 8:
        return 0, "", 0
    name = value[8:] if key.startswith(_HASHED) else key[:-9]
    return _NUMBER.unpack(value[:8])[0], name.decode(errors="replace"), _NUMBER.unpack(key[-8:])[0]


def _range(txn: Any, db: Any, begin: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    cursor = txn.cursor(db=db)
    if not (cursor.set_range(begin) if begin else cursor.first()):
        return found
    for item in cursor:
        found.append(item)
        if len(found) == limit:
            break
    return found

"""A log for tools: never written, never held on to, and nothing is created in its directory.

Beside a running daemon pages are reused while one reads, so a tool takes a reader's slot in the lock file, copies the
log out in one short transaction and works on the copy. A copied directory has no writer and is read where it lies.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import lmdb

from adapters.log import engine
from adapters.log.codec import EventCodec
from adapters.log.errors import LogCorrupt, LogFull, LogUnusable
from adapters.log.reading import LogReader
from adapters.log.store import LOCK_FILE, is_full, open_reading


@contextmanager
def open_live(
    path: str | PathLike[str],
    aggregates: Mapping[str, type] | None = None,
    codec: EventCodec | None = None,
    scratch: str | None = None,
) -> Iterator[LogReader]:
    """The log as it is now, copied to a temporary directory (under `scratch`) until the context ends.

    Raises LogUnusable, LogCorrupt, WrongFormat, LogFull (no room for the copy).
    """
    directory = _existing(path)
    if not (directory / LOCK_FILE).exists():
        raise LogUnusable(
            f"cannot read log {directory}: it has no {LOCK_FILE}, so no daemon wrote here; read it as a copy"
        )
    with tempfile.TemporaryDirectory(prefix="daybook-log-", dir=scratch) as copy:
        _copy(directory, copy)
        with open_copy(copy, aggregates, codec) as reader:
            yield reader


@contextmanager
def open_copy(
    path: str | PathLike[str], aggregates: Mapping[str, type] | None = None, codec: EventCodec | None = None
) -> Iterator[LogReader]:
    """A directory that nobody writes to while it is read. Raises LogUnusable, LogCorrupt, WrongFormat."""
    store = open_reading(_existing(path), lock=False)
    try:
        yield LogReader(store, aggregates or {}, codec or EventCodec())
    finally:
        store.close()


def _existing(path: str | PathLike[str]) -> Path:
    directory = Path(path)
    try:
        with (directory / engine.DATA).open("rb"):
            return directory
    except OSError as error:
        raise LogUnusable(f"cannot read log {directory}: {engine.DATA}: {error.strerror}") from None


def _copy(directory: Path, target: str) -> None:
    engine.inspect(directory)
    options: dict[str, Any] = {
        "readonly": True,
        "create": False,
        "lock": True,
        "lib_version": engine.LIB_VERSION,
        "max_dbs": 0,
    }
    try:
        with lmdb.open(str(directory), **options) as env:
            env.copy(target, compact=True)
    except (lmdb.Error, OSError) as error:
        if is_full(error):
            raise LogFull(f"cannot copy log {directory} to {target}: {error}") from None
        raise LogCorrupt(f"cannot copy log {directory}: {error}") from None

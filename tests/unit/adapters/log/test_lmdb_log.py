"""lmdb_log and store: the directory, its format, and what damage to its rows leads to."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from adapters.log.errors import LogCorrupt, LogLocked, LogUnusable, WrongFormat
from adapters.log.lmdb_log import LmdbLog
from adapters.log.record import genesis
from adapters.log.store import CHUNK
from domain.events import ContainerStarted
from domain.records import Cause, Draft, Head, Now, Record, Unreadable

NOW = Now(1, 2, "boot")
DUE = Cause("due")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "log"


@pytest.fixture
def log(directory: Path) -> Iterator[LmdbLog]:
    log = LmdbLog(directory, ballast_bytes=4096)
    log.append_sync([Draft(f"container/{n}", 1, ContainerStarted(n)) for n in range(1, 7)], DUE, NOW)
    yield log
    log.close()


def rewrite(directory: Path, change: Callable[[Any, Callable[[bytes], Any]], None]) -> None:
    """Lets a test change rows behind the log's back."""
    with lmdb.open(str(directory), lib_version=0, max_dbs=6) as env:
        tables = {name: env.open_db(name) for name in (b"meta", b"records", b"index", b"checkpoint")}
        with env.begin(write=True) as txn:
            change(txn, tables.__getitem__)


def number(seq: int) -> bytes:
    return seq.to_bytes(8, "big")


def test_everything_is_private(log: LmdbLog, directory: Path) -> None:
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert files == dict.fromkeys(("data.mdb", "lock.mdb", "writer.lock", "ballast"), 0o600)


def test_a_wider_directory_is_narrowed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    LmdbLog(tmp_path, ballast_bytes=0).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_second_opening_is_refused(log: LmdbLog, directory: Path) -> None:
    with pytest.raises(LogLocked, match="another process"):
        LmdbLog(directory)
    log.close()
    LmdbLog(directory, ballast_bytes=0).close()


def test_a_log_is_the_same_when_opened_again(log: LmdbLog, directory: Path) -> None:
    log_id, head, records = log.log_id, log.head(), list(log.read())
    log.close()
    again = LmdbLog(directory, ballast_bytes=0)
    assert (again.log_id, again.head(), list(again.read())) == (log_id, head, records)
    again.close()


def test_every_log_has_its_own_id(tmp_path: Path) -> None:
    first, second = (LmdbLog(tmp_path / name, ballast_bytes=0) for name in "ab")
    assert first.log_id != second.log_id
    assert first.head() == Head(0, genesis(first.log_id))
    first.close()
    second.close()


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    with pytest.raises(LogUnusable):
        LmdbLog(tmp_path / "log")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        (b"format", b"daybook log 2", WrongFormat),
        (b"format", b"\xff\xfe", WrongFormat),
        (b"format", None, WrongFormat),
        (b"log_id", None, LogCorrupt),
        (b"log_id", b"short", LogCorrupt),
    ],
)
def test_another_format_is_refused(
    log: LmdbLog, directory: Path, name: bytes, value: bytes | None, error: type[Exception]
) -> None:
    log.close()
    rewrite(
        directory, lambda txn, db: txn.put(name, value, db=db(b"meta")) if value else txn.delete(name, db=db(b"meta"))
    )
    with pytest.raises(error):
        LmdbLog(directory)


def test_a_foreign_environment_is_refused_and_left_alone(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"somebody", b"else's")
    with pytest.raises(WrongFormat, match="another program"):
        LmdbLog(tmp_path, ballast_bytes=0)
    with lmdb.open(str(tmp_path), lib_version=0) as env, env.begin() as txn:
        assert list(txn.cursor()) == [(b"somebody", b"else's")]


def test_a_damaged_row_is_named_and_the_log_goes_on(log: LmdbLog, directory: Path) -> None:
    log.close()
    rewrite(directory, lambda txn, db: txn.put(number(3), b"\0" * 80, db=db(b"records")))
    again = LmdbLog(directory, ballast_bytes=0)
    found = list(again.read())
    assert [record.seq for record in found if isinstance(record, Record)] == [1, 2, 4, 5, 6]
    assert found[2] == Unreadable(3, "container/3", 1, "the checksum does not match")
    assert again.append_sync([Draft("node", 1, ContainerStarted(1))], DUE, NOW)[0].seq == 7
    again.close()


def test_a_damaged_last_row_does_not_stop_the_next(log: LmdbLog, directory: Path) -> None:
    log.close()
    rewrite(directory, lambda txn, db: txn.put(number(6), b"torn", db=db(b"records")))
    again = LmdbLog(directory, ballast_bytes=0)
    again.append_sync([Draft("node", 1, ContainerStarted(1))], DUE, NOW)
    assert [record.seq for record in again.read() if isinstance(record, Unreadable)] == [6]
    assert not again.whole
    again.close()


def test_a_last_row_without_a_number_is_refused(log: LmdbLog, directory: Path) -> None:
    log.close()
    rewrite(directory, lambda txn, db: txn.put(b"\xff" * 9, b"", db=db(b"records")))
    with pytest.raises(LogCorrupt):
        LmdbLog(directory, ballast_bytes=0)
    LmdbLog(directory.parent / "other", ballast_bytes=0).close()


def test_an_index_that_leads_astray_is_found(log: LmdbLog, directory: Path) -> None:
    log.close()

    def change(txn: Any, db: Callable[[bytes], Any]) -> None:
        txn.delete(b"container/2\0" + number(1), db=db(b"index"))
        txn.put(b"x", b"y", db=db(b"index"))

    rewrite(directory, change)
    again = LmdbLog(directory, ballast_bytes=0)
    assert {found.seq for found in again.verify()} == {0, 2}
    again.close()


def test_reading_in_chunks_and_while_it_is_written(log: LmdbLog) -> None:
    many = [Draft("node", version, ContainerStarted(version)) for version in range(1, 2 * CHUNK + 2)]
    log.append_sync(many, DUE, NOW)
    end = log.head().seq
    reading = log.read()
    first = next(reading)
    log.append_sync([Draft("node", 10**6, ContainerStarted(1))], DUE, NOW)
    assert [first.seq, *(record.seq for record in reading)] == list(range(1, end + 1))


def test_names_beyond_one_chunk(log: LmdbLog) -> None:
    many = [Draft("node", version, ContainerStarted(version)) for version in range(1, CHUNK + 500)]
    log.append_sync(many, DUE, NOW)
    assert sorted(seq for seq, _, _ in log.store.names()) == list(range(1, log.head().seq + 1))


def test_a_checkpoint_outlives_the_process(log: LmdbLog, directory: Path) -> None:
    log.save_checkpoint(4, 1, {})
    log.close()
    again = LmdbLog(directory, ballast_bytes=0)
    assert again.load_checkpoint(1) == (4, {})
    again.close()


def test_closing_twice(log: LmdbLog) -> None:
    log.close()
    log.close()


def test_what_durability_rests_on_is_switched_on(log: LmdbLog) -> None:
    """A power cut is not to be had in a test: the flags are what stands for it here."""
    env = log.store._env
    flags = env.flags()
    assert {name: flags[name] for name in ("sync", "metasync", "writemap", "map_async", "lock", "readahead")} == {
        "sync": True,
        "metasync": True,
        "writemap": False,
        "map_async": False,
        "lock": True,
        "readahead": True,
    }
    assert env.lib_version()[:2] == (0, 9)

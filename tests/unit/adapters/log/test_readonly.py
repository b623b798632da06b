"""readonly: a copied directory, read where it lies. Beside a running writer: tests/crash/test_log_durability.py."""

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from adapters.log.errors import LogCorrupt, LogUnusable, WrongFormat
from adapters.log.lmdb_log import LmdbLog
from adapters.log.readonly import open_copy, open_live
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now, Record


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """As `cp` of data.mdb alone leaves it, in a directory that must not change."""
    log = LmdbLog(tmp_path / "log", ballast_bytes=0)
    log.append_sync([Draft("node", n, NodeStopped()) for n in range(1, 9)], Cause("due"), Now(1, 2, "boot"))
    log.save_checkpoint(3, 1, {})
    log.close()
    target = tmp_path / "copy"
    target.mkdir()
    (target / "data.mdb").write_bytes((tmp_path / "log" / "data.mdb").read_bytes())
    before = state_of(target)
    yield target
    assert state_of(target) == before


def state_of(directory: Path) -> list[tuple[str, int, int, bytes]]:
    files = [
        (path.name, path.stat().st_mtime_ns, path.stat().st_size, path.read_bytes()) for path in directory.iterdir()
    ]
    return [*files, (".", directory.stat().st_mtime_ns, 0, b"")]


def test_a_copy_is_read_and_left_as_it_is(copy: Path) -> None:
    with open_copy(copy) as reader:
        assert [record.seq for record in reader.read() if isinstance(record, Record)] == list(range(1, 9))
        assert reader.head().seq == 8
        assert len(reader.versions("node")) == 8
        assert reader.load_checkpoint(1) == (3, {})
        assert reader.verify() == [] and reader.whole


def test_a_copy_that_may_not_be_written_is_read(copy: Path) -> None:
    (copy / "data.mdb").chmod(0o400)
    copy.chmod(0o500)
    with open_copy(copy) as reader:
        assert reader.head().seq == 8


def test_without_a_lock_file_there_is_no_writer_to_stand_beside(copy: Path) -> None:
    with pytest.raises(LogUnusable, match="as a copy"), open_live(copy):
        pass


def test_nothing_is_created_where_there_is_no_log(tmp_path: Path) -> None:
    for opener in (open_copy, open_live):
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(LogUnusable), opener(path):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_copy_cut_short_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes((copy / "data.mdb").read_bytes()[:9000])
    with pytest.raises(LogCorrupt), open_copy(tmp_path):
        pass


def test_the_other_engine_and_other_programs_are_refused(tmp_path: Path) -> None:
    for name, lib_version in (("later", 1), ("other", 0)):
        with lmdb.open(str(tmp_path / name), lib_version=lib_version) as env, env.begin(write=True) as txn:
            txn.put(b"a", b"b")
        with pytest.raises(WrongFormat), open_copy(tmp_path / name):
            pass

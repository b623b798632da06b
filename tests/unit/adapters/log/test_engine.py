"""engine: what must not be mapped is refused before it is."""

from pathlib import Path

import lmdb
import pytest

from adapters.log.engine import DATA, inspect, structure
from adapters.log.errors import LogCorrupt, WrongFormat
from adapters.log.lmdb_log import LmdbLog
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    log = LmdbLog(tmp_path / "log", ballast_bytes=0)
    for version in range(1, 50):
        log.append_sync([Draft("node", version, NodeStopped("x" * 500))], Cause("due"), Now(1, 2, "boot"))
    log.close()
    return tmp_path / "log"


def test_a_sound_file_passes(directory: Path) -> None:
    inspect(directory)
    assert structure(directory) == []


def test_an_absent_file_passes(tmp_path: Path) -> None:
    inspect(tmp_path)
    assert structure(tmp_path) != []


def test_the_other_engine_is_refused(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), lib_version=1).close()
    with pytest.raises(WrongFormat, match="LMDB format"):
        inspect(tmp_path)
    with pytest.raises(WrongFormat):
        LmdbLog(tmp_path, ballast_bytes=0)


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 4200, 8192, 12_000, 30_000])
def test_a_file_cut_short_is_refused(directory: Path, keep: int) -> None:
    data = (directory / DATA).read_bytes()
    (directory / DATA).write_bytes(data[:keep])
    with pytest.raises(LogCorrupt, match="restore it"):
        LmdbLog(directory, ballast_bytes=0)


@pytest.mark.parametrize(
    ("place", "noise"), [(16, b"XXXX"), (40, b"\0\0\0\0"), (40, b"\xff" * 4), (4096 + 16, b"XXXX"), (0, bytes(8192))]
)
def test_damaged_meta_pages_are_refused(directory: Path, place: int, noise: bytes) -> None:
    data = bytearray((directory / DATA).read_bytes())
    data[place : place + len(noise)] = noise
    (directory / DATA).write_bytes(data)
    with pytest.raises(LogCorrupt):
        LmdbLog(directory, ballast_bytes=0)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / DATA).write_text("hello" * 5000)
    with pytest.raises(LogCorrupt, match="no LMDB file"):
        inspect(tmp_path)

"""reopen: the file that conmon is given, and what is refused before conmon is asked."""

import asyncio
import os
from pathlib import Path

import pytest

from adapters.oci import process, reopen
from adapters.oci.layout import ContainerPaths
from domain.errors import RuntimeFailed, StorageFailed, WrongState
from domain.records import Process


@pytest.fixture
def me() -> Process:
    found = process.identity(os.getpid())
    assert found is not None
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "pod").mkdir()
    return tmp_path / "pod" / "0.log"


def prepare(me: Process, log: Path) -> reopen.FileId | None:
    return reopen._prepare(me, str(log.parent), str(log))


def test_a_file_that_is_still_written_is_left_alone(me: Process, log: Path) -> None:
    with log.open("w"):
        assert prepare(me, log) is None
    assert os.listdir(log.parent) == ["0.log"]


def test_the_new_file_is_ours_before_it_is_conmons(me: Process, log: Path) -> None:
    made = prepare(me, log)
    there = os.stat(f"{log}.tmp")
    assert made == (there.st_dev, there.st_ino) and there.st_size == 0 and there.st_mode & 0o777 == 0o640
    assert prepare(me, log) is not None, "one that was left is replaced"


def test_somebodys_lines_are_not_overwritten(me: Process, log: Path) -> None:
    log.write_text("lines")
    with pytest.raises(WrongState, match="in the way"):
        prepare(me, log)
    log.write_text("")
    assert prepare(me, log) is not None


@pytest.mark.parametrize("kind", ["directory", "symlink", "link", "fifo"])
def test_what_is_in_the_new_files_place(me: Process, log: Path, kind: str) -> None:
    place = Path(f"{log}.tmp")
    if kind == "directory":
        place.mkdir()
    elif kind == "symlink":
        place.symlink_to("elsewhere")
    elif kind == "link":
        (log.parent / "other").touch()
        os.link(log.parent / "other", place)
    else:
        os.mkfifo(place)
    with pytest.raises(StorageFailed, match="in the way"):
        prepare(me, log)


def test_a_monitor_that_is_gone(me: Process, log: Path) -> None:
    gone = Process(me.pid, me.start + 1, me.boot_id)
    with pytest.raises(WrongState, match="monitor is gone"):
        prepare(gone, log)
    assert not os.path.exists(f"{log}.tmp")


async def _sent(directory: Path, me: Process) -> None:
    await reopen.send(ContainerPaths(str(directory), "", "", ""), me, reopen.REOPEN)


def test_a_fifo_that_nobody_reads(me: Process, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ctl")
    with pytest.raises(RuntimeFailed, match="nobody reads it"):
        asyncio.run(_sent(tmp_path, me))
    reader = os.open(tmp_path / "ctl", os.O_RDONLY | os.O_NONBLOCK)
    asyncio.run(_sent(tmp_path, me))
    assert os.read(reader, 100) == reopen.REOPEN
    os.close(reader)

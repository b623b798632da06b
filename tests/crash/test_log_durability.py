"""The log against a killed process, a full disk, and a reader beside the writer: real processes, a real small disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.log.ballast import FILE
from adapters.log.errors import LogFull, LogLocked
from adapters.log.lmdb_log import LmdbLog
from adapters.log.readonly import open_live
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now, Record

NOW = Now(1, 2, "boot")
DUE = Cause("due")
ROOT = Path(__file__).parents[2]

WRITERS = """
import os, sys, threading
from adapters.log.lmdb_log import LmdbLog
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now

log = LmdbLog(sys.argv[1], ballast_bytes=0)

def write(key):
    version = len(log.versions(key))
    while True:
        drafts = [Draft(key, version + n, NodeStopped("x" * (version % 300))) for n in (1, 2)]
        for record in log.append_sync(drafts, Cause("due"), Now(1, 2, "boot")):
            os.write(1, b"%d %s %d\\n" % (record.seq, key.encode(), record.version))
        version += 2

for number in range(4):
    threading.Thread(target=write, args=(f"writer/{number}",)).start()
"""


def start_writers(directory: Path) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen([sys.executable, "-c", WRITERS, str(directory)], stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    return child


def test_every_acknowledged_append_survives_a_kill(tmp_path: Path) -> None:
    acknowledged: set[tuple[int, str, int]] = set()
    for lines in (1, 50, 333, 1000):
        child = start_writers(tmp_path)
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.read().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        for line in told:
            if line.endswith(b"\n"):
                seq, key, version = line.split()
                acknowledged.add((int(seq), key.decode(), int(version)))
        log = LmdbLog(tmp_path, ballast_bytes=0)
        found = [record for record in log.read() if isinstance(record, Record)]
        assert [record.seq for record in found] == list(range(1, log.head().seq + 1))
        assert acknowledged <= {(record.seq, record.key, record.version) for record in found}
        assert all(len(log.versions(f"writer/{n}")) % 2 == 0 for n in range(4))  # no append was torn
        assert log.verify() == [] and log.whole
        log.close()
    assert len(acknowledged) >= 1384


def test_a_reader_beside_a_running_writer(tmp_path: Path) -> None:
    child = start_writers(tmp_path)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        names = {path.name for path in tmp_path.iterdir()}
        with pytest.raises(LogLocked):
            LmdbLog(tmp_path)
        for _ in range(5):
            acknowledged = int([child.stdout.readline() for _ in range(50)][-1].split()[0])
            with open_live(tmp_path, scratch=str(tmp_path.parent)) as reader:
                found = list(reader.read())
                assert [record.seq for record in found] == list(range(1, len(found) + 1))
                assert len(found) >= acknowledged
                assert reader.verify() == []
        assert {path.name for path in tmp_path.iterdir()} == names
        assert child.poll() is None
    finally:
        child.kill()
        child.stdout.read()
        child.wait()
        child.stdout.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "daybook-test", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # a failed test may still hold the log


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return filler


def stop(version: int) -> list[Draft]:
    return [Draft("node", version, NodeStopped("x" * 2000))]


@pytest.mark.real
def test_a_full_disk(small_disk: Path) -> None:
    log = LmdbLog(small_disk / "log", ballast_bytes=256 * 1024)
    log.append_sync(stop(1), DUE, NOW)
    filler = fill(small_disk)
    version = 2
    with pytest.raises(LogFull):
        while True:  # LMDB reuses the pages that it has freed before it needs new ones
            log.append_sync(stop(version), DUE, NOW)
            version += 1
    assert log.head().seq == version - 1
    for _ in range(20):
        log.append_sync(stop(version), DUE, NOW, urgent=True)
        version += 1
    assert not (small_disk / "log" / FILE).exists()
    with pytest.raises(LogFull):  # what the ballast freed is not for everybody
        log.append_sync(stop(version), DUE, NOW)
    filler.unlink()
    log.append_sync(stop(version), DUE, NOW)
    assert (small_disk / "log" / FILE).exists()
    assert log.verify() == []
    assert log.head().seq == version
    log.close()


@pytest.mark.real
def test_a_disk_that_stays_full_refuses_even_what_is_urgent_and_the_log_stays_whole(small_disk: Path) -> None:
    log = LmdbLog(small_disk / "log", ballast_bytes=64 * 1024)
    fill(small_disk)
    version = 1
    with pytest.raises(LogFull):
        while True:
            log.append_sync(stop(version), DUE, NOW, urgent=True)
            version += 1
    assert log.head().seq == version - 1 >= 10
    log.close()
    again = LmdbLog(small_disk / "log", ballast_bytes=64 * 1024)
    assert again.head().seq == version - 1
    assert again.verify() == []
    again.close()


@pytest.mark.real
def test_a_new_log_on_a_full_disk_is_refused(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(LogFull, match="free space"):
        LmdbLog(small_disk)

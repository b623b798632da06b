import os
import subprocess
import threading
from pathlib import Path

import pytest

from adapters.images import strays
from adapters.images.process import Ledger, start_time


@pytest.fixture
def pulls(tmp_path: Path) -> Path:
    (tmp_path / "names").mkdir()
    (tmp_path / "storage.conf").touch()
    return tmp_path


def test_only_directories_of_runs_that_nobody_runs(pulls: Path) -> None:
    for name in ("a" * 32, "b" * 32):
        Ledger(pulls / name).make()
    (left,) = strays.leftovers(pulls, [pulls / ("b" * 32)])
    assert (left.directory.name, left.pid, left.start) == ("a" * 32, 0, 0)
    assert strays.leftovers(pulls / "none", []) == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "start": []}', "[" * 100_000])
def test_an_unreadable_ledger_knows_nothing(pulls: Path, text: str) -> None:
    (pulls / ("a" * 32)).mkdir()
    (pulls / ("a" * 32) / "ledger.json").write_text(text)
    (left,) = strays.leftovers(pulls, [])
    assert (left.pid, left.start) == (0, 0)


def test_a_pid_that_is_a_threads_by_now_is_left_alone() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        strays._kill(thread.native_id)
        assert thread.is_alive()
    finally:
        over.set()
        thread.join()


def test_a_process_is_found_by_its_directory_and_no_other_is_touched(pulls: Path) -> None:
    Ledger(pulls / ("a" * 32)).make()
    (left,) = strays.leftovers(pulls, [])
    script = ["/bin/sh", "-c", "read x", "--tmpdir"]
    with (
        subprocess.Popen([*script, str(left.directory / "tmp")], stdin=subprocess.PIPE) as ours,
        subprocess.Popen([*script, str(left.directory / "tmpx")], stdin=subprocess.PIPE) as other,
    ):
        try:
            assert strays.processes(left) == (ours.pid,)
            strays.end_processes(left)
            assert ours.wait() == -9
            assert other.poll() is None
        finally:
            ours.kill()
            other.kill()


def test_a_recorded_pid_that_is_someone_else_now_is_left_alone(pulls: Path) -> None:
    me = os.getpid()
    left = strays.Leftover(pulls, me, start_time(me) - 1)
    assert strays.processes(left) == ()


def test_trial_directories(tmp_path: Path) -> None:
    for name in ("compat123456", "metacopy-check12345", "l", "a" * 64, "1" * 64, "compat"):
        (tmp_path / name).mkdir()
    assert [p.name for p in strays.odd_directories(tmp_path)] == ["compat123456", "metacopy-check12345"]
    strays.clear_store(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1" * 64, "a" * 64, "compat", "l"]

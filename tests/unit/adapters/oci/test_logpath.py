import os
from pathlib import Path

import pytest

from adapters.oci import logpath
from domain.errors import InvalidRequest


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_good(logs: Path) -> None:
    logpath.make(str(logs), f"{logs}/main/0.log")
    assert (logs / "main").is_dir()
    (logs / "main/0.log").write_text("earlier")
    logpath.make(f"{logs}/", f"{logs}/main/0.log")
    assert (logs / "main/0.log").read_text() == "earlier"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_log_is_0640_whatever_the_umask_and_whoever_made_it(logs: Path, umask: int) -> None:
    (logs / "old.log").touch(0o600)
    before = os.umask(umask)
    try:
        for name in ("old.log", "new.log"):
            logpath.make(str(logs), f"{logs}/{name}")
    finally:
        os.umask(before)
    assert {oct((logs / name).stat().st_mode & 0o7777) for name in ("old.log", "new.log")} == {"0o640"}


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{}/../x.log", "{}/a//b.log", "{}", "{}x/a.log", "{}/a:b.log", "{}/a\nb.log", "a.log", ""]
)
def test_paths_that_leave_or_confuse(logs: Path, path: str) -> None:
    with pytest.raises(InvalidRequest):
        logpath.make(str(logs), path.format(logs))


def test_no_log_directory(logs: Path) -> None:
    with pytest.raises(InvalidRequest):
        logpath.make("", f"{logs}/a.log")


def test_what_lies_there_already(logs: Path) -> None:
    (logs / "link").symlink_to("/tmp")
    (logs / "file.log").symlink_to("/etc/passwd")
    (logs / "dir.log").mkdir()
    os.mkfifo(logs / "fifo.log")
    (logs / "open").mkdir()
    (logs / "open").chmod(0o777)
    (logs / "one.log").write_text("")
    os.link(logs / "one.log", logs / "two.log")
    for name in ("link/a.log", "file.log", "dir.log", "fifo.log", "open/a.log", "one.log", "file.log/x"):
        with pytest.raises(InvalidRequest):
            logpath.make(str(logs), f"{logs}/{name}")

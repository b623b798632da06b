import errno
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


@pytest.mark.parametrize(
    ("below", "why"),
    [
        ("x" * 256 + "/a.log", "longer than 255 bytes"),
        ("\N{SNOWMAN}" * 86 + "/a.log", "longer than 255 bytes"),
        ("x" * 252, "longer than 251 bytes"),
        ("x/" * 33 + "a.log", "33 directories"),
        ("x/" * 1500 + "a.log", "1500 directories"),
        ("/".join(["x" * 200] * 22), "longer than 4091 bytes"),
    ],
)
def test_paths_that_no_file_can_have_make_nothing(logs: Path, below: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^log_path .*{why}"):
        logpath.make(str(logs), f"{logs}/{below}")
    assert list(logs.iterdir()) == []


def test_the_longest_that_can_be(logs: Path) -> None:
    path = f"{logs}/{'x/' * 32}{'x' * 251}"
    logpath.make(str(logs), path)
    assert os.path.isfile(path)
    Path(f"{path}.tmp").touch()


def test_a_log_directory_that_cannot_be(logs: Path) -> None:
    (logs / "file").touch()
    (logs / "loop").symlink_to("loop")
    for top in (f"{logs}/file", f"{logs}/file/x", f"{logs}/loop/x", f"{logs}/{'x' * 256}"):
        with pytest.raises(InvalidRequest, match=r"^log_directory "):
            logpath.make(top, f"{top}/a.log")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "mkdir", "stat"])
def test_what_is_not_the_paths_fault(logs: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    true = getattr(os, call)

    def failing(path: str, *given: object, **named: object) -> object:
        if path == "bad":
            raise OSError(number, os.strerror(number))
        return true(path, *given, **named)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        logpath.make(str(logs), f"{logs}/bad" if call == "stat" else f"{logs}/bad/a.log")

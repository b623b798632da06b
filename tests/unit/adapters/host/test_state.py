import json
import os
import stat
from pathlib import Path

import pytest

from adapters.host.state import Lock, OwnerMark, digester, empty_directory, group_id, make_private, write_atomically
from domain.errors import NotReady, StorageFailed
from domain.observations import Mark


def test_a_second_holder_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(
        NotReady, match=rf"^daemon \(pid {os.getpid()}\) runs and holds .*; stop it: systemctl stop daybook"
    ):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_the_mark_says_what_was_written_and_nothing_before(tmp_path: Path) -> None:
    mark = OwnerMark(tmp_path)
    assert mark.read() is None
    mark.write("log", 7)
    assert mark.read() == Mark("log", 7)
    assert stat.S_IMODE((tmp_path / "owner.json").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["owner.json"], "no part file is left"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"log_id": "x"}', '{"log_id": "x", "seq": "y"}', "\0"])
def test_a_mark_that_says_nothing_stops_the_daemon(tmp_path: Path, content: str) -> None:
    (tmp_path / "owner.json").write_text(content)
    with pytest.raises(NotReady, match="daybook adopt"):
        OwnerMark(tmp_path).read()


def test_digests_are_keyed_and_the_key_is_kept(tmp_path: Path) -> None:
    first = digester(tmp_path)
    assert first(b"secret") == digester(tmp_path)(b"secret")
    assert len(first(b"secret")) == 32
    assert first(b"secret") != first(b"secret2")
    other = make_private(tmp_path / "other")
    assert digester(other)(b"secret") != first(b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(NotReady, match="32 bytes"):
        digester(tmp_path)


def test_an_atomic_write_replaces_or_fails_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two", sync=False)
    assert path.read_bytes() == b"two"
    with pytest.raises((StorageFailed, OSError)):
        write_atomically(tmp_path / "missing" / "file", b"x")


def test_a_private_directory_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert stat.S_IMODE(make_private(tmp_path / "a").stat().st_mode) == 0o700
        assert stat.S_IMODE(make_private(tmp_path / "b", 0o755).stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_emptying_keeps_what_is_named_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    inside = tmp_path / "inside"
    (inside / "deep" / "er").mkdir(parents=True)
    (inside / "link").symlink_to(outside)
    (inside / "lock").write_text("")
    empty_directory(inside, but=("lock",))
    assert [p.name for p in inside.iterdir()] == ["lock"]
    assert (outside / "file").read_text() == "kept"
    empty_directory(tmp_path / "never there")


def test_groups() -> None:
    assert group_id("root") == 0
    assert group_id("no such group") == -1
    assert json.dumps(group_id("root")) == "0"

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.host import fitness
from adapters.host.fitness import (
    FAIL,
    OK,
    WARN,
    Fact,
    facts,
    file_system,
    mount_namespace,
    network,
    pin_directory,
    trial,
    version_of,
)
from domain.errors import StorageFailed

PROGRAMS = {"OCI runtime": "true", "monitor": "no-such-program"}


def by_name(data: Path) -> dict[str, Fact]:
    found = facts(data / "data", data / "run", PROGRAMS, {"signature policy": str(data / "missing.json")})
    return {fact.what: fact for fact in found}


def test_each_thing_that_is_not_fit_has_a_remedy(tmp_path: Path) -> None:
    told = by_name(tmp_path)
    assert (told["monitor"].level, told["signature policy"].level) == (FAIL, FAIL)
    assert "apt-get install conmon" in told["monitor"].remedy
    assert all(fact.remedy for fact in told.values() if fact.level != OK)
    assert not any(fact.remedy for fact in told.values() if fact.level == OK)


def test_a_directory_that_others_may_write_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    assert "chmod go-w" in by_name(tmp_path)[str(tmp_path / "data")].remedy
    assert by_name(tmp_path)[str(tmp_path / "run")].found == "will be made"


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    by_name(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_cannot_be_run_has_no_version(tmp_path: Path) -> None:
    assert version_of(str(tmp_path / "nothing")) == ""
    assert version_of("/bin/false") == ""


def test_a_missing_network_is_told_with_its_remedy_and_is_no_failure(tmp_path: Path) -> None:
    (told,) = network("", "no CNI configuration: /x", [tmp_path])
    assert (told.level, told.found) == (WARN, "no CNI configuration: /x")
    assert "containernetworking-plugins" in told.remedy


def test_what_root_will_run_must_not_be_writable_by_others(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin").chmod(0o757)
    told = list(network("pods", "", [tmp_path / "bin", tmp_path / "none"]))
    assert (told[0].level, told[0].found) == (OK, "pods")
    assert (told[-1].level, told[-1].remedy) == (FAIL, f"chmod go-w {tmp_path / 'bin'}")


def test_where_network_namespaces_are_pinned(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "to come").symlink_to("later/on")
    for name, found in (
        ("there", "there"),
        ("link", "there"),
        ("none/at/all", "will be made"),
        ("to come", "will be made"),
    ):
        told = pin_directory(tmp_path / name)
        assert (told.level, told.what, told.found, told.remedy) == (OK, f"{tmp_path}/{name}", found, "")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "file/below", "loop"):
        told = pin_directory(tmp_path / name)
        assert told.level == FAIL and "is no directory" in told.found and "move" in told.remedy


def test_a_read_only_place_for_pins_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = os.statvfs_result((4096, 4096, 1, 1, 1, 1, 1, 1, os.ST_RDONLY, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: sealed)
    told = pin_directory(tmp_path / "netns")
    assert (told.level, told.found) == (FAIL, f"{tmp_path} is read-only") and "remount,rw" in told.remedy
    assert list(tmp_path.iterdir()) == []


def raising(error: Exception) -> Callable[[], str]:
    def attempt() -> str:
        raise error

    return attempt


@pytest.mark.parametrize(
    ("attempt", "level", "found"),
    [
        (lambda: "made", OK, "made"),
        (raising(OSError(1, "Operation not permitted", "/x")), FAIL, "/x: Operation not permitted"),
        (raising(OSError("odd")), FAIL, "odd"),
        (raising(StorageFailed("cannot mount root /x: No such device")), FAIL, "cannot mount root /x: No such device"),
    ],
)
def test_what_is_tried_is_told(attempt: Callable[[], str], level: str, found: str) -> None:
    told = trial("it", attempt, "do this")
    assert (told.level, told.what, told.found, told.remedy) == (level, "it", found, "" if level == OK else "do this")


def test_a_trial_that_hangs_is_given_up() -> None:
    never = threading.Event()
    told = trial("it", lambda: str(never.wait()), "do this", limit_s=0.05)
    never.set()
    assert (told.level, told.found) == (FAIL, "no answer within 0.05 s")


@pytest.mark.parametrize(
    ("magic", "level", "name"),
    [
        (0xEF53, OK, ""),
        (0x58465342, OK, ""),
        (0x9123683E, WARN, "btrfs"),
        (0x9123683E - (1 << 32), WARN, "btrfs"),
        (0x2FC12FC1, WARN, "ZFS"),
        (0xCA451A4E, WARN, "bcachefs"),
        (0x794C7630, WARN, "overlay"),
        (0x01021994, WARN, "tmpfs"),
    ],
)
def test_what_a_file_system_cannot_promise_is_told(tmp_path: Path, magic: int, level: str, name: str) -> None:
    told = file_system(tmp_path / "not" / "there", lambda path: magic)
    assert told.level == level and name in told.found and str(tmp_path) in told.found


@pytest.mark.parametrize(
    ("links", "daemon", "level", "whose"),
    [
        ({"1": "mnt:[1]", "me": "mnt:[1]", "7": "mnt:[1]"}, 7, OK, ""),
        ({"1": "mnt:[1]", "me": "mnt:[1]", "7": "mnt:[2]"}, 7, FAIL, "daemon (pid 7)"),
        ({"1": "mnt:[1]", "me": "mnt:[2]"}, 0, FAIL, "this process"),
        ({"1": "mnt:[1]", "me": "mnt:[1]"}, 7, OK, ""),
        ({"me": "mnt:[1]"}, 0, OK, ""),
        ({"me": "mnt:[1]", "7": "mnt:[2]"}, 7, FAIL, "daemon (pid 7)"),
    ],
)
def test_a_daemon_with_mounts_of_its_own_is_told(
    monkeypatch: pytest.MonkeyPatch, links: dict[str, str], daemon: int, level: str, whose: str
) -> None:
    seen = {f"/proc/{os.getpid() if pid == 'me' else pid}/ns/mnt": link for pid, link in links.items()}
    monkeypatch.setattr(fitness, "_link", lambda path: seen.get(path, ""))
    told = mount_namespace(daemon)
    assert told.level == level and whose in told.found

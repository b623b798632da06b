import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.oci import inside, kernel
from domain.config import Mount
from domain.errors import InvalidRequest


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    root = inside.open_root(str(path))
    try:
        yield root
    finally:
        os.close(root)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    return tmp_path / "rootfs"


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_root_file_systems_that_runc_must_not_see(tmp_path: Path, name: str) -> None:
    os.close(inside.open_root(str(tmp_path)))
    (tmp_path / name).symlink_to("/tmp")
    with pytest.raises(InvalidRequest, match=f"/{name} is not a directory"):
        inside.open_root(str(tmp_path))


# --- paths -----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "..", ".", "a/b", "b/../c", "/", "/a", "/c/b", "../../a", "//b//"])
TREES = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "a/b", "a/c", "b/c", "c/a"]), st.none() | NAMES), max_size=7)


@settings(max_examples=300, deadline=None)
@given(TREES, st.lists(NAMES, min_size=1, max_size=4).map("/".join))
def test_a_path_leads_where_the_kernel_would_lead_it(tree: Sequence[tuple[str, str | None]], path: str) -> None:
    """The kernel's own way (openat2 with RESOLVE_IN_ROOT) is the oracle for whatever exists."""
    top = Path(tempfile.mkdtemp())
    try:
        for name, target in tree:
            with contextlib.suppress(OSError):
                os.mkdir(top / name) if target is None else os.symlink(target, top / name)
        with opened(top) as root:
            try:
                fd = kernel.open_in_root(root, path, os.O_PATH)
            except OSError:
                with contextlib.suppress(InvalidRequest):
                    assert inside.resolved(root, path).startswith("/")
                return
            there = os.readlink(f"/proc/self/fd/{fd}")
            os.close(fd)
            assert str(top) + inside.resolved(root, path).rstrip("/") == there
    finally:
        shutil.rmtree(top)


def test_what_does_not_exist_is_taken_as_it_is_written(rootfs: Path) -> None:
    (rootfs / "app").symlink_to("/mnt/data/app")
    (rootfs / "rel").symlink_to("../../outside/./x")
    (rootfs / "file").write_text("")
    with opened(rootfs) as root:
        for path, where in {
            "/app/bin": "/mnt/data/app/bin",
            "rel": "/outside/x",
            "/no/../such/": "/such",
            "/": "/",
            "/file/x": "/file/x",
            "/a/../../../etc": "/etc",
        }.items():
            assert inside.resolved(root, path) == where


def test_circles_and_endless_paths_are_refused(rootfs: Path) -> None:
    (rootfs / "a").symlink_to("b")
    (rootfs / "b").symlink_to("/a")
    (rootfs / "grows").symlink_to("grows/x")
    with opened(rootfs) as root:
        for path in ("/a", "/a/c", "/grows", "x" * 300, "/x" * 3000):
            with pytest.raises(InvalidRequest):
                inside.resolved(root, path)


# --- the working directory -------------------------------------------------------------------------------------------


def test_the_working_directory_stays_inside(rootfs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (rootfs / "inner").mkdir()
    (rootfs / "in").symlink_to("/inner")
    (rootfs / "out").symlink_to(outside)
    (rootfs / "file").write_text("")
    with opened(rootfs) as root:
        for path in ("/", "/a/b", "/in/c", "/out/d"):
            inside.make_working_directory(root, path, {})
        for path in ("/file", "/file/e"):
            with pytest.raises(InvalidRequest, match=path):
                inside.make_working_directory(root, path, {})
    assert (rootfs / "a/b").is_dir() and (rootfs / "inner/c").is_dir() and not list(outside.iterdir())
    assert (rootfs / str(outside).lstrip("/") / "d").is_dir(), "a dangling link is made whole, inside"


@pytest.mark.parametrize("path", ["/proc", "/proc/self/fd/7", "/leak", "/leak/x", "/chain"])
def test_a_working_directory_in_proc_is_refused(rootfs: Path, path: str) -> None:
    (rootfs / "leak").symlink_to("/proc/self/fd/8")
    (rootfs / "chain").symlink_to("leak")
    with opened(rootfs) as root, pytest.raises(InvalidRequest, match="leads into /proc"):
        inside.make_working_directory(root, path, {})
    assert not (rootfs / "proc").exists()


@pytest.mark.parametrize("path", ["/mnt/data", "/mnt/data/x/y", "/app", "/app/x", "/mnt/other/../data/x"])
def test_behind_a_mount_of_the_client_it_is_the_runtimes_to_make(rootfs: Path, path: str) -> None:
    (rootfs / "app").symlink_to("/mnt/data/app")
    (rootfs / "volume").symlink_to("mnt/data")
    with opened(rootfs) as root:
        mounts = inside.destinations(root, [Mount("/volume/", "/host")])
        inside.make_working_directory(root, path, mounts)
    assert sorted(p.name for p in rootfs.iterdir()) == ["app", "volume"]


# --- volumes ---------------------------------------------------------------------------------------------------------


def volumes(
    rootfs: Path, *paths: str, mounts: Sequence[Mount] = (), read_only: bool = True
) -> tuple[tuple[str, str], ...]:
    with opened(rootfs) as root:
        found = inside.destinations(root, mounts)
        return inside.make_volumes(root, str(rootfs), paths, found, read_only=read_only)


def test_volumes_are_made_and_in_a_read_only_root_bound(rootfs: Path) -> None:
    (rootfs / "var/lib").mkdir(parents=True)
    (rootfs / "var/lib/kept").mkdir(mode=0o700)
    (rootfs / "log").symlink_to("/var/log/app")
    asked = ("/data/db", "var/lib/kept", "/log", "/data/db/", "/x/../y")
    places = ("/data/db", "/var/lib/kept", "/var/log/app", "/y")
    assert volumes(rootfs, *asked) == tuple((place, f"{rootfs}{place}") for place in places)
    assert volumes(rootfs, *asked, read_only=False) == ()
    assert [mode(rootfs / place.lstrip("/")) for place in places] == [0o755, 0o700, 0o755, 0o755]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "..",
        "/proc/x",
        "/sys",
        "/dev/shm",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname/x",
        "/file",
        "/file/x",
        "/to-proc",
    ],
)
def test_volumes_that_cannot_be_are_left_out(rootfs: Path, path: str) -> None:
    (rootfs / "file").write_text("")
    (rootfs / "to-proc").symlink_to("proc/sys")
    assert volumes(rootfs, path) == ()
    assert sorted(p.name for p in rootfs.iterdir()) == ["file", "to-proc"]


ODD = [
    "/loop/x",
    "/a/loop/x/y",
    "/" + "x" * 300,
    "/x/" + "y" * 256 + "/z",
    "/d/" * 3000,
    "/file/x",
    "/n\0l",
    "/h\ud800",
]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("path", ODD)
def test_an_odd_volume_takes_nothing_from_the_others(rootfs: Path, path: str, read_only: bool) -> None:
    (rootfs / "file").write_text("")
    (rootfs / "loop").symlink_to("loop")
    (rootfs / "a").mkdir()
    (rootfs / "a/loop").symlink_to("../a/loop/x")
    made = volumes(rootfs, "/first", path, "/last", read_only=read_only)
    assert made == (tuple((place, f"{rootfs}{place}") for place in ("/first", "/last")) if read_only else ())
    assert (rootfs / "first").is_dir() and (rootfs / "last").is_dir()


@pytest.mark.parametrize("call", ["mkdir", "readlink"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_no_odd_volume(
    rootfs: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        volumes(rootfs, "/v")


def test_too_many_volumes_are_refused(rootfs: Path) -> None:
    with pytest.raises(InvalidRequest, match="volumes"):
        volumes(rootfs, *(f"/v{n}" for n in range(inside.VOLUMES_MAX + 1)))


def test_what_the_client_mounts_there_counts(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "var").mkdir()
    (rootfs / "var/run").symlink_to("/run")
    assert volumes(rootfs, "/run/db", "/other", mounts=[Mount("/var/run/db/", str(tmp_path))]) == (
        ("/other", f"{rootfs}/other"),
    )


def test_a_volume_below_a_mount_becomes_a_directory_in_it(rootfs: Path, tmp_path: Path) -> None:
    """A mount there would hide what the client's own volume has."""
    (rootfs / "var/lib/db/data").mkdir(parents=True)
    os.chown(rootfs / "var/lib/db/data", 33, 34)
    (rootfs / "var/lib/db/data").chmod(0o2750)
    host, full = tmp_path / "host", tmp_path / "full"
    host.mkdir()
    (full / "data").mkdir(parents=True, mode=0o711)
    assert volumes(rootfs, "/var/lib/db/data", mounts=[Mount("/var/lib/db", str(host))]) == ()
    made = host / "data"
    assert (mode(made), made.stat().st_uid, made.stat().st_gid) == (0o2750, 33, 34)
    volumes(rootfs, "/var/lib/db/data", mounts=[Mount("/var/lib/db", str(full))])
    assert mode(full / "data") == 0o711, "what the client has is left as it is"


def test_the_clients_volume_leads_nowhere_else(rootfs: Path, tmp_path: Path) -> None:
    host, outside = tmp_path / "host", tmp_path / "outside"
    host.mkdir()
    outside.mkdir()
    (host / "link").symlink_to(outside)
    (host / "file").write_text("")
    asked = ("/v/link/x", "/v/file/x", "/v/link", "/w/x")
    assert volumes(rootfs, *asked, mounts=[Mount("/v", str(host)), Mount("/w", str(host), readonly=True)]) == ()
    assert not list(outside.iterdir()) and sorted(p.name for p in host.iterdir()) == ["file", "link"]

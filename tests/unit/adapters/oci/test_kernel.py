"""mountinfo as the kernel writes it: without symlinks, four characters in octal, what is hidden still listed."""

from pathlib import Path

import pytest

from adapters.oci.kernel import escaped, is_shared, mounts_at, mounts_below, unescaped

NAMES = ("plain", "with space", "a\ttab", "a\nline", "back\\slash", "\\040", "\\134040", "a#b", "ä", "\udcff")


def line(point: bytes, options: bytes = b"") -> bytes:
    return b"61 27 0:45 / " + escaped(point) + b" rw,relatime " + options + b"- tmpfs tmpfs rw\n"


def raw(path: object) -> bytes:
    return str(path).encode(errors="surrogateescape")


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_directory_is_called(tmp_path: Path, name: str) -> None:
    root = f"{tmp_path}/{name}"
    points = [root, f"{root}/a", f"{root}/a/{name}", f"{root}x", f"{tmp_path}"]
    told = b"".join(line(raw(point)) for point in points)
    assert list(mounts_below(root, told)) == [points[2], points[1], points[0]]
    assert mounts_at(f"{root}/a", told) == 1 and mounts_at(f"{root}/b", told) == 0
    assert unescaped(escaped(raw(name))) == raw(name)


def test_the_root_and_what_is_mounted_twice() -> None:
    told = line(b"/") + line(b"/run") + line(b"/run") + line(b"/running")
    assert list(mounts_below("/", told)) == ["/running", "/run", "/run", "/"]
    assert mounts_at("/run", told) == 2


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    told = line(raw(tmp_path / "real/pin"))
    assert list(mounts_below(f"{tmp_path}/link", told)) == [f"{tmp_path}/real/pin"]
    assert mounts_at(f"{tmp_path}/link/pin", told) == 1


@pytest.mark.parametrize(
    ("told", "shared"),
    [
        (line(b"/"), False),
        (line(b"/", b"shared:1 "), True),
        (line(b"/", b"shared:1 ") + line(b"/run"), False),
        (line(b"/run", b"shared:1 ") + line(b"/"), True),
        (line(b"/run") + line(b"/run", b"shared:7 master:2 "), True),
        (line(b"/run", b"shared:7 ") + line(b"/run", b"master:2 "), False),
        (line(b"/") + line(b"/running", b"shared:1 "), False),
        (line(b"/") + line(b"/run/netns/x", b"shared:1 "), False),
    ],
)
def test_by_which_mount_a_directory_is_judged(told: bytes, shared: bool, tmp_path: Path) -> None:
    assert is_shared("/run/netns", told) is shared

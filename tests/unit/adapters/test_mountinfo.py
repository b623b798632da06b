"""mountinfo as the kernel writes it: without symlinks, four characters in octal, what is hidden still listed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.mountinfo import count_at, escaped, is_shared, mounts, points_below, unescaped

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
    assert list(points_below(root, told)) == [points[2], points[1], points[0]]
    assert count_at(f"{root}/a", told) == 1 and count_at(f"{root}/b", told) == 0
    assert unescaped(escaped(raw(name))) == raw(name)


def test_the_root_and_what_is_mounted_twice() -> None:
    told = line(b"/") + line(b"/run") + line(b"/run") + line(b"/running")
    assert list(points_below("/", told)) == ["/running", "/run", "/run", "/"]
    assert count_at("/run", told) == 2


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    told = line(raw(tmp_path / "real/pin"))
    assert list(points_below(f"{tmp_path}/link", told)) == [f"{tmp_path}/real/pin"]
    assert count_at(f"{tmp_path}/link/pin", told) == 1


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


@given(
    st.lists(st.binary(max_size=40).map(lambda name: b"/" + name.replace(b"\0", b"")), max_size=5),
    st.binary(max_size=60),
)
def test_no_byte_of_a_path_but_a_newline_ends_a_record(points: list[bytes], odd: bytes) -> None:
    """Names are anybody's; the kernel escapes four characters, and a record that means nothing hides no other."""
    told = b"".join(line(point, b"shared:3 ") for point in points)
    nothing = odd.replace(b"\n", b"").replace(b" - ", b"---") + b"\n"
    for text in (told, nothing + told, told + nothing):
        assert [found.point for found in mounts(text)] == points
        assert all(found.shared and found.kind == b"tmpfs" for found in mounts(text))


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n"])
def test_what_pythons_lines_end_at(end: str) -> None:
    name = f"/a{end}b"
    told = line(b"/") + line(raw(name)) + line(raw(f"{name}/c"))
    assert points_below(name, told) == [f"{name}/c", name]
    assert count_at(name, told) == 1

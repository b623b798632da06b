import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.oci import users
from domain.config import SecurityContext
from domain.errors import InvalidRequest
from domain.events import User

PASSWD = "root:x:0:0:r:/root:/bin/sh\nweb:x:33:34::/:\n\n#c:x:1:1\nbroken\nbig:x:4294967296:0::/:\n12:x:99:98::/:\n"
GROUP = "root:x:0:\nweb:x:34:web\nextra:x:77:other,web\nbig:x:2147483648:web\nshort\n"
FILES = {"/etc/passwd": PASSWD, "/etc/group": GROUP}


def resolve(image: str = "", **security: Any) -> User:
    return users.resolve(SecurityContext(**security), image, lambda path: FILES.get(path, ""))


@pytest.mark.parametrize(
    ("image", "security", "expected"),
    [
        ("", {}, User(0, 0, (0,))),
        ("web", {}, User(33, 34, (34, 77))),
        ("33", {}, User(33, 34, (34, 77))),
        ("5000", {}, User(5000, 0, (0,))),
        ("web:extra", {}, User(33, 77, (34, 77))),
        ("web:500", {}, User(33, 500, (34, 77, 500))),
        ("12", {}, User(12, 0, (0,))),
        (":77", {}, User(0, 77, (77,))),
        ("0033", {}, User(33, 34, (34, 77))),
        ("web:0077", {}, User(33, 77, (34, 77))),
        ("", {"run_as_username": "12"}, User(12, 0, (0,))),
        ("", {"run_as_username": "33"}, User(33, 34, (34, 77))),
        ("web", {"run_as_user": 0}, User(0, 0, (0,))),
        ("", {"run_as_user": 33}, User(33, 34, (34, 77))),
        ("", {"run_as_user": 33, "run_as_group": 5}, User(33, 5, (5, 34, 77))),
        ("", {"run_as_username": "web"}, User(33, 34, (34, 77))),
        ("", {"run_as_username": "web", "supplemental_groups": (9,)}, User(33, 34, (9, 34, 77))),
        (
            "",
            {"run_as_username": "web", "supplemental_groups": (9,), "supplemental_groups_strict": True},
            User(33, 34, (9, 34)),
        ),
        ("", {"run_as_user": 2**31 - 1}, User(2**31 - 1, 0, (0,))),
    ],
)
def test_resolution(image: str, security: dict[str, Any], expected: User) -> None:
    assert resolve(image, **security) == expected


@pytest.mark.parametrize(
    ("image", "security"),
    [
        ("nobody", {}),
        ("web:nothing", {}),
        ("4294967296", {}),
        ("2147483648", {}),
        ("99999999999999999999", {}),
        ("big", {}),
        ("\u0663\u0663", {}),
        ("-1", {}),
        ("", {"run_as_user": -1}),
        ("", {"run_as_user": 2**31}),
        ("", {"run_as_group": 5}),
        ("", {"run_as_user": 1, "run_as_group": 2**32}),
        ("", {"run_as_username": "nobody"}),
        ("", {"supplemental_groups": (2**31,)}),
    ],
)
def test_refusals(image: str, security: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        resolve(image, **security)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    (tmp_path / "rootfs/etc").mkdir(parents=True)
    fd = os.open(tmp_path / "rootfs", os.O_PATH | os.O_DIRECTORY)
    yield tmp_path / "rootfs", fd
    os.close(fd)


def test_files_are_read_inside_the_root(root: tuple[Path, int], tmp_path: Path) -> None:
    path, fd = root
    read = users.files_of(fd)
    assert read("/etc/passwd") == ""
    (path / "etc/passwd").write_text("inside")
    assert read("/etc/passwd") == "inside"
    (tmp_path / "outside").write_text("outside")
    for target in (str(tmp_path / "outside"), "../../outside", "/proc/self/environ"):
        (path / "etc/passwd").unlink()
        (path / "etc/passwd").symlink_to(target)
        assert read("/etc/passwd") == ""


def test_odd_files(root: tuple[Path, int]) -> None:
    path, fd = root
    read = users.files_of(fd)
    (path / "etc/passwd").write_bytes(b"x" * (users.FILE_MAX + 1))
    with pytest.raises(InvalidRequest):
        read("/etc/passwd")
    os.mkfifo(path / "etc/group")
    assert read("/etc/group") == ""
    (path / "etc/dir").mkdir()
    assert read("/etc/dir") == ""


NUMBERS = st.integers(0, 2**31 - 1)
LINES = st.lists(
    st.tuples(st.one_of(NUMBERS.map(str), st.sampled_from(["root", "web"])), NUMBERS, NUMBERS), max_size=6
).flatmap(st.permutations)


@given(NUMBERS, NUMBERS, LINES, st.booleans())
def test_a_number_is_never_a_name(uid: int, gid: int, lines: list[tuple[str, int, int]], with_own: bool) -> None:
    """Whatever a hostile passwd calls its accounts: who runs is the one whom ImageStatus and runAsNonRoot mean."""
    hostile = [*lines, *([(str(uid), 0, 0), (str(gid), 0, 0)] if with_own else [])]
    passwd = "".join(f"{name}:x:{u}:{g}::/:/bin/sh\n" for name, u, g in hostile)
    group = "".join(f"{name}:x:{g}:\n" for name, _, g in lines if int(g) == g and not name.isdecimal())
    files = {"/etc/passwd": passwd, "/etc/group": group}
    for user, security in (
        (f"{uid}:{gid}", SecurityContext()),
        ("root", SecurityContext(run_as_user=uid, run_as_group=gid)),
        ("root", SecurityContext(run_as_username=str(uid), run_as_group=gid)),
    ):
        found = users.resolve(security, user, lambda path: files.get(path, ""))
        assert (found.uid, found.gid) == (uid, gid)


@pytest.mark.parametrize("line", ["77:x:0:", "77:x::", "77", " 77:x:5", "77:x:-1:", "77:x:4294967373:", "77:x"])
def test_a_group_that_the_runtime_would_take_for_another_is_refused(line: str) -> None:
    """runc looks the numbers of the spec up as names in the container's own file."""
    for text in (f"{line}\n", f"a:x:78:\n{line}\nb:x:1:\n"):
        files = {"/etc/passwd": "", "/etc/group": text}
        with pytest.raises(InvalidRequest, match="a group named 77"):
            users.resolve(SecurityContext(supplemental_groups=(77,)), "5", files.__getitem__)
        users.resolve(SecurityContext(supplemental_groups=(78,)), "5", files.__getitem__)


@pytest.mark.parametrize("line", ["77:x:77:", "77:x:077:a", "077:x:0:", "x77:x:0:"])
def test_a_group_whose_name_is_its_number_is_no_trap(line: str) -> None:
    users.resolve(SecurityContext(supplemental_groups=(77,)), "5", lambda path: line if "group" in path else "")

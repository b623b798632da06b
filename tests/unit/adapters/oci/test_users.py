import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
        ("12", {}, User(99, 98, (98,))),
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

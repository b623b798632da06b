import stat
from pathlib import Path

import pytest

from adapters.host.secrets import SideFiles
from domain.config import ContainerSecrets, SandboxSecrets
from domain.errors import StorageFailed

CONTAINER = ContainerSecrets(("sh", "-c"), ("a",), (("KEY", b"\xff\0value"),), {"big": "x" * 5000})


def test_what_is_written_is_read_and_removed(tmp_path: Path) -> None:
    files = SideFiles(tmp_path / "private")
    files.write("c", CONTAINER)
    files.write("s", SandboxSecrets({"a": "b"}))
    assert files.read("c") == CONTAINER
    assert files.read("s") == SandboxSecrets({"a": "b"})
    assert sorted(files.names()) == ["c", "s"]
    files.remove("c")
    files.remove("c")
    assert files.read("c") is None
    assert list(files.names()) == ["s"]


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    files = SideFiles(tmp_path / "private")
    files.write("c", CONTAINER)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "private" / "c").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x01", b"\x80", b"\x81\xa4envs\x01"])
def test_damage_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    files = SideFiles(tmp_path)
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(StorageFailed, match="private side file of c"):
        files.read("c")


def test_what_a_death_left_half_written_is_named_and_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    files = SideFiles(tmp_path)
    files.write("c", CONTAINER)
    for _ in range(2):
        with monkeypatch.context() as dying, pytest.raises(Death):
            dying.setattr(Path, "replace", die)
            files.write("c", CONTAINER)
    left = [name for name in files.names() if name != "c"]
    assert len(left) == 1, "every death leaves another file"
    files.remove(left[0])
    assert list(files.names()) == ["c"] and [path.name for path in tmp_path.iterdir()] == ["c"]

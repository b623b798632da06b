"""ballast: held, given up, taken back."""

from pathlib import Path

from adapters.log.ballast import FILE, Ballast

SIZE = 64 * 1024


def test_it_holds_allocated_blocks_that_nobody_else_can_read(tmp_path: Path) -> None:
    assert Ballast(tmp_path, SIZE).held
    status = (tmp_path / FILE).stat()
    assert (status.st_size, status.st_mode & 0o777) == (SIZE, 0o600)
    assert status.st_blocks * 512 >= SIZE


def test_it_is_given_up_once_and_taken_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path, SIZE)
    assert ballast.release()
    assert not (tmp_path / FILE).exists() and not ballast.held
    assert not ballast.release()
    assert ballast.take() and ballast.held


def test_one_that_lies_there_is_kept(tmp_path: Path) -> None:
    Ballast(tmp_path, SIZE)
    before = (tmp_path / FILE).stat()
    assert Ballast(tmp_path, SIZE).held
    assert (tmp_path / FILE).stat().st_ino == before.st_ino


def test_a_sparse_file_or_one_of_another_size_holds_nothing(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(SIZE)
    assert Ballast(tmp_path, SIZE).held
    assert (tmp_path / FILE).stat().st_blocks * 512 >= SIZE
    assert Ballast(tmp_path, 2 * SIZE).held
    assert (tmp_path / FILE).stat().st_size == 2 * SIZE


def test_without_room_to_spare_it_is_not_taken(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path, 2**62)
    assert not ballast.held and not ballast.take() and not ballast.release()
    assert not (tmp_path / FILE).exists()


def test_none_is_always_held(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path, 0)
    assert ballast.held and not ballast.release()
    assert not (tmp_path / FILE).exists()


def test_a_directory_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    assert not Ballast(tmp_path / "gone", SIZE).held

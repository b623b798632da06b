import threading
from pathlib import Path

import pytest

from adapters.images.sync import Marks, count_inodes, sync_image
from domain.errors import Cancelled, StorageFailed


def store(root: Path) -> tuple[Path, Path]:
    layer = root / "overlay" / ("a" * 64)
    (layer / "diff" / "d").mkdir(parents=True)
    (layer / "diff" / "d" / "f").write_text("x")
    (layer / "diff" / "hard").hardlink_to(layer / "diff" / "d" / "f")
    (layer / "diff" / "soft").symlink_to("/nonexistent")
    for name in ("overlay/l", "overlay-layers", "overlay-images/i"):
        (root / name).mkdir(parents=True)
    (root / "overlay-images/i/manifest").write_text("{}")
    return layer, root / "overlay-images" / "i"


def test_syncs_and_counts(tmp_path: Path) -> None:
    layer, image = store(tmp_path)
    assert sync_image(tmp_path, image, [layer], threading.Event()) == {"a" * 64: 5}
    assert count_inodes(layer / "diff") == 5


def test_stops_between_files(tmp_path: Path) -> None:
    layer, image = store(tmp_path)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        sync_image(tmp_path, image, [layer], stop)


def test_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    layer, image = store(tmp_path)
    (tmp_path / "overlay" / "l").rmdir()
    with pytest.raises(StorageFailed, match="cannot sync image"):
        sync_image(tmp_path, image, [layer], threading.Event())


def test_marks_outlive_a_daemon_and_tell_an_earlier_boots_layers(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "synced", "boot1")
    assert marks.unsure(["a", "b"]) == {"a", "b"} and marks.tainted(["a"]) == set()
    marks.begin_boot()
    marks.mark({"a": 7, "c": 9})
    assert marks.unsure(["a", "b", "c"]) == {"b"}
    marks.unmark(["c", "never"])
    assert marks.unsure(["a", "b", "c"]) == {"b", "c"}
    again = Marks(tmp_path / "synced", "boot1")
    assert again.unsure(["a", "b", "c"]) == {"b", "c"} and again.tainted(["b"]) == set()
    later = Marks(tmp_path / "synced", "boot2")
    assert later.tainted(["a", "b"]) == {"b"}
    later.begin_boot()
    assert later.tainted(["a", "b"]) == set()


def test_a_mark_knows_the_inodes(tmp_path: Path) -> None:
    Marks(tmp_path / "synced", "boot").mark({"a": 7})
    (tmp_path / "synced" / "old").touch()
    marks = Marks(tmp_path / "synced", "boot")
    assert (marks.inodes("a"), marks.inodes("old"), marks.inodes("none")) == (7, None, None)

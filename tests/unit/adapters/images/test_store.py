"""The store's index as skopeo writes it, and as it looks half-way or damaged; made by hand, without skopeo."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from adapters.images.store import Store, StoredImage
from domain.errors import StorageFailed


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class HandMade:
    """A store with one whole image of two layers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers = [self.layer("1" * 64, "a" * 64), self.layer("2" * 64, "b" * 64, parent="1" * 64)]
        diff_ids = ["sha256:" + "a" * 64, "sha256:" + "b" * 64]
        self.config = json.dumps({"config": {"User": "33"}, "rootfs": {"diff_ids": diff_ids}}).encode()
        self.manifest = json.dumps({"schemaVersion": 2, "config": {"digest": f"sha256:{self.id}"}}).encode()
        self.images: list[Any] = [self.entry()]
        self.write()

    @property
    def id(self) -> str:
        return sha(self.config)

    def layer(self, layer_id: str, diff: str, **more: Any) -> dict[str, Any]:
        (self.root / "overlay" / layer_id / "diff").mkdir(parents=True)
        return {"id": layer_id, "diff-digest": f"sha256:{diff}", "diff-size": 100, "compression": 2, **more}

    def entry(self, **more: Any) -> dict[str, Any]:
        names = ["manifest", f"manifest-sha256:{sha(self.manifest)}", f"sha256:{self.id}"]
        return {
            "id": self.id,
            "digest": f"sha256:{sha(self.manifest)}",
            "names": ["q.io/x:1"],
            "layer": "2" * 64,
            "big-data-names": names,
            "big-data-sizes": dict.fromkeys(names, 10),
            **more,
        }

    def write(self) -> None:
        for folder, name, value in (("images", "images.json", self.images), ("layers", "layers.json", self.layers)):
            (self.root / f"overlay-{folder}").mkdir(exist_ok=True)
            new = self.root / f"overlay-{folder}" / f"{name}.new"
            new.write_text(json.dumps(value))
            new.rename(new.with_name(name))
        data = self.root / "overlay-images" / self.id
        data.mkdir(exist_ok=True)
        (data / "manifest").write_bytes(self.manifest)
        (data / ("=" + base64.b64encode(f"sha256:{self.id}".encode()).decode())).write_bytes(self.config)


@pytest.fixture
def made(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path)


def test_a_whole_image(made: HandMade) -> None:
    image = Store(made.root).image(made.id)
    assert isinstance(image, StoredImage)
    assert [layer.id for layer in image.layers] == ["2" * 64, "1" * 64]
    assert image.config.user == "33"
    assert image.size == 230
    assert image.manifest == f"sha256:{sha(made.manifest)}"


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.index().images == {} and store.image("a" * 64) is None


@pytest.mark.parametrize(
    "half",
    [
        {"names": None, "digest": None, "big-data-names": None, "big-data-sizes": None},
        {"names": [], "big-data-names": []},
        {"layer": "9" * 64},
        {"layer": "../../etc"},
        {"layer": 7},
        {"big-data-names": "manifest"},
        {"big-data-sizes": [1]},
    ],
)
def test_half_committed_entries_are_not_whole(made: HandMade, half: dict[str, Any]) -> None:
    made.images = [made.entry(**half)]
    made.write()
    assert isinstance(Store(made.root).image(made.id), str) or half == {"big-data-sizes": [1]}


def test_damage_is_told(made: HandMade) -> None:
    store = Store(made.root)
    (made.root / "overlay" / ("1" * 64) / "diff").rmdir()
    assert "has no directory" in str(store.image(made.id, fresh=True))
    (made.root / "overlay" / ("1" * 64) / "diff").symlink_to("/")
    assert "has no directory" in str(store.image(made.id, fresh=True))


@pytest.mark.parametrize("name", ["manifest", "config"])
def test_a_changed_file_is_told(made: HandMade, name: str) -> None:
    store = Store(made.root)
    path = store.data_path(made.id, "manifest" if name == "manifest" else f"sha256:{made.id}")
    path.write_bytes(b"{}")
    assert isinstance(store.image(made.id), str)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert "cannot be read" in str(store.image(made.id, fresh=True))


def test_an_incomplete_layer(made: HandMade) -> None:
    made.layers[1]["flags"] = {"incomplete": True}
    made.write()
    assert "incomplete" in str(Store(made.root).image(made.id))


def test_other_layers_than_the_configuration_names(made: HandMade) -> None:
    made.layers[0]["diff-digest"] = "sha256:" + "c" * 64
    made.write()
    assert "not those" in str(Store(made.root).image(made.id))


def test_a_chain_without_end(made: HandMade) -> None:
    made.layers[0]["parent"] = "2" * 64
    made.write()
    assert isinstance(Store(made.root).image(made.id), str)


def test_entries_that_are_no_entries_are_reported(made: HandMade) -> None:
    made.images += [{"id": "../../x"}, {"names": ["a"]}, 7, None, {"id": "f" * 64}]
    made.layers += [{"id": "x/y"}, []]  # type: ignore[list-item]
    made.write()
    index = Store(made.root).index()
    assert set(index.images) == {made.id, "f" * 64}
    assert len(index.odd) == 6


@pytest.mark.parametrize("text", ["{", "{}", '"x"', "[" * 100_000])
def test_an_unreadable_index_is_an_error(made: HandMade, text: str) -> None:
    (made.root / "overlay-images" / "images.json").write_text(text)
    with pytest.raises(StorageFailed, match=r"images\.json"):
        Store(made.root).index()


def test_the_index_is_read_again_when_it_changes(made: HandMade) -> None:
    store = Store(made.root)
    first = store.index()
    assert store.index() is first
    made.images = []
    made.write()
    assert store.index().images == {}


def test_orphans_are_layers_without_an_image(made: HandMade) -> None:
    made.layers.append(made.layer("3" * 64, "c" * 64, parent="2" * 64))
    made.layers.append(made.layer("4" * 64, "d" * 64, parent="3" * 64))
    made.write()
    assert [layer.id for layer in Store(made.root).index().orphans()] == ["4" * 64, "3" * 64]

"""What the guests are made by: README's lines, layers in a cache. Fast; nothing is booted."""

import threading
from pathlib import Path

import pytest

from tests.guest import layers, readme
from tests.guest.readme import Drifted, install

TEXT = (readme.ROOT / "README.md").read_text()


def test_readme_says_how_daybook_is_installed() -> None:
    found = install()
    assert all(line.startswith("apt-get install ") for line in found.packages)
    assert any(" runc " in line and " conmon " in line for line in found.packages)
    assert any(line.endswith("pip install --require-hashes --no-deps -r requirements.lock") for line in found.steps)
    assert "systemctl enable --now daybook" in found.units


def test_remarks_are_not_typed_and_what_uses_daybook_is_not() -> None:
    typed = [line for lines in (install().packages, install().steps, install().units) for line in lines]
    assert not [line for line in typed if "   " in line or line.startswith("daybook ")]


@pytest.mark.parametrize(
    "words", ["## Install and run", "pip install", "systemctl enable", "packaging/daybook.service", "runc"]
)
def test_a_section_that_no_longer_says_it_is_told(words: str) -> None:
    with pytest.raises(Drifted, match="README"):
        install("\n".join(line for line in TEXT.splitlines() if words not in line))


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAYBOOK_TEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(place: Path) -> None:
    (place / "file").write_text("made")


def test_a_layer_is_made_once_for_the_same_inputs() -> None:
    made: list[Path] = []
    first = layers.layer("one", ["a", b"b"], lambda place: (made.append(place), fill(place))[1])
    assert layers.layer("one", ["a", b"b"], made.append) == first
    assert len(made) == 1 and (first / "file").read_text() == "made"


def test_other_inputs_are_another_layer() -> None:
    places = {layers.layer("one", inputs, fill) for inputs in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""])}
    assert len(places) == 4


def test_what_is_half_built_never_counts() -> None:
    def dies(place: Path) -> None:
        fill(place)
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        layers.layer("one", ["a"], dies)
    seen: list[list[Path]] = []
    layers.layer("one", ["a"], lambda place: seen.append(list(place.iterdir())))
    assert seen == [[]], "the second build began with what the first one left"


def test_two_builds_of_one_layer_make_it_once() -> None:
    made: list[Path] = []
    both = threading.Barrier(2)

    def build() -> None:
        both.wait(10)
        layers.layer("one", ["a"], made.append)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1


def test_old_layers_go_but_not_those_in_use(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = layers.layer("one", ["0"], fill)
    monkeypatch.setattr(layers, "_hold", lambda place: None)
    others = [layers.layer("one", [str(number)], fill) for number in range(1, layers.KEEP + 2)]
    assert first.is_dir(), "this process holds it"
    assert [place.is_dir() for place in others] == [False, *[True] * layers.KEEP]
    assert not list(cache.glob("*.gone"))

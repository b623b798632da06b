"""What a manifest or index may bring; the port itself is in tests/conformance/test_images.py."""

import asyncio
import json
from pathlib import Path

import pytest

from adapters.images.images import SkopeoImages, _instances
from adapters.images.reference import parse
from domain.errors import PullFailed

D, E = "sha256:" + "d" * 64, "sha256:" + "e" * 64


def test_an_index_stands_for_what_it_lists() -> None:
    raw = json.dumps({"schemaVersion": 2, "manifests": [{"digest": E}, {"digest": "x"}, 7, {"digest": 1}]}).encode()
    assert _instances(raw, D, parse("x")) == {D, E}
    assert _instances(b'{"schemaVersion": 2}', D, parse("x")) == {D}


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"schemaVersion": 1}', b"[" * 100_000])
def test_other_manifests_are_refused(raw: bytes) -> None:
    with pytest.raises(PullFailed, match="manifest"):
        _instances(raw, D, parse("x"))


def test_an_empty_store_can_be_looked_at_and_cleaned_of_nothing(tmp_path: Path) -> None:
    images = SkopeoImages(tmp_path / "i", tmp_path / "r", tmp_path / "p", "boot")
    seen = images.observe()
    assert seen.readable and not seen.images and not seen.names and not seen.stray
    assert asyncio.run(images.usage()).bytes == 0
    asyncio.run(images.remove(D))
    assert not images.present(D)


def test_clean_drops_what_was_noted_and_never_got_there(tmp_path: Path) -> None:
    images = SkopeoImages(tmp_path / "i", tmp_path / "r", tmp_path / "p", "boot")
    images._book.note("q.io/x:1", D, E)
    (tmp_path / "p" / "names" / "half.new").write_text("{")
    asyncio.run(images.clean())
    assert not [*(tmp_path / "p" / "names").iterdir()]

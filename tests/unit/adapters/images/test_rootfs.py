"""What needs no mount; mounts themselves are in tests/conformance/test_images.py."""

import asyncio
from pathlib import Path

import pytest

from adapters.images.rootfs import RootMounts, mounts_below
from domain.errors import InvalidRequest


@pytest.mark.parametrize("lower", ["/etc", "overlay/x/diff", "overlay/../diff", "layers/" + "a" * 64 + "/diff"])
def test_only_layers_of_the_store(tmp_path: Path, lower: str) -> None:
    roots = RootMounts(tmp_path)
    with pytest.raises(InvalidRequest, match="not a layer of the image store"):
        asyncio.run(roots.mount([tmp_path / lower], tmp_path / "u", tmp_path / "w", tmp_path / "t"))
    assert not (tmp_path / "t").exists()


def test_mounts_are_listed_below_a_directory_not_beside_it() -> None:
    assert Path("/proc") in mounts_below(Path("/proc"))
    assert mounts_below(Path("/pro")) == ()
    assert Path("/proc") in mounts_below(Path("/"))

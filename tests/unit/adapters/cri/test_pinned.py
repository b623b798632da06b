import pytest

from adapters.cri.pinned import Pins
from adapters.images.reference import normalise
from domain.errors import InvalidRequest

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("pattern", "name", "held"),
    [
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", True),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.91", False),
        ("busybox", "docker.io/library/busybox:latest", True),
        ("registry.k8s.io/pause*", "registry.k8s.io/pause:3.9", True),
        ("registry.k8s.io/pause*", f"registry.k8s.io/pause@{DIGEST}", True),
        ("registry.k8s.io/pause*", "evil.io/registry.k8s.io/pause:3.9", False),
        (f"q.io/x@{DIGEST}", f"q.io/x@{DIGEST}", True),
        ("*", "q.io/x:1", True),
    ],
)
def test_patterns(pattern: str, name: str, held: bool) -> None:
    assert Pins([pattern], normalise).hold([name]) == held
    assert Pins(["q.io/other:1", pattern], normalise).hold(["q.io/more:1", name]) == held


def test_no_pattern_pins_nothing() -> None:
    assert not Pins().hold(["q.io/x:1"])


def test_a_pattern_that_is_no_reference_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="UPPER"):
        Pins(["q.io/UPPER"], normalise)

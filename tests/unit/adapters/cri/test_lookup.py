"""Which aggregate a text means."""

import pytest

from adapters.cri import lookup
from domain import events as e
from domain.errors import InvalidRequest, NotFound
from domain.node import Node
from tests.support.cri_requests import normalise

A, B = "aa" + "0" * 62, "ab" + "0" * 62
MANIFEST = "sha256:" + "cd" * 32
OTHER = "sha256:" + "ef" * 32


def with_image(*pulled: tuple[str, str, str]) -> Node:
    node = Node()
    for reference, image_id, digest in pulled:
        key = e.image_key(reference)
        node.apply(key, 1, e.ImagePullRequested())
        node.apply(key, 2, e.ImagePulled(image_id, digest, (), 1))
    return node


def with_sandboxes(*ids: str) -> Node:
    node = Node()
    for name in ids:
        node.sandboxes[name] = None  # type: ignore[assignment]
    return node


def test_ids_and_unique_prefixes() -> None:
    node = with_sandboxes(A, B)
    assert lookup.sandbox_id(node, A) == A
    assert lookup.sandbox_id(node, "aa") == A
    assert lookup.sandbox_id(node, "ac") is None
    assert lookup.container_id(node, A) is None
    with pytest.raises(InvalidRequest, match="sandbox 'a' is ambiguous: 2 ids begin so"):
        lookup.sandbox_id(node, "a")
    with pytest.raises(InvalidRequest, match="is empty"):
        lookup.sandbox_id(node, "")


def test_an_aggregate_without_any_readable_record_is_known() -> None:
    node = Node()
    node.quarantine(e.container_key(A), 1, 7, "bad")
    assert lookup.container_id(node, A) == A


def test_unknown_is_not_found() -> None:
    assert lookup.known("container", "x", A, "start") == A
    with pytest.raises(NotFound, match="cannot start container 'x\\\\n': there is no such container"):
        lookup.known("container", "x\n", None, "start")


def test_filters_take_several_for_none() -> None:
    assert lookup.only("aa", [A, B]) == A
    assert lookup.only(B, [A, B]) == B
    assert lookup.only("a", [A, B]) is None


ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "12" + "3" * 62


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (ONE, "docker.io/library/a:1"),
        ("1" * 64, "docker.io/library/a:1"),
        ("a:1", "docker.io/library/a:1"),
        ("a:2", "docker.io/library/a:2"),
        (f"a:9@{MANIFEST}", "docker.io/library/a:1"),
        (f"docker.io/library/b@{OTHER}", "docker.io/library/b:latest"),
        ("b", "docker.io/library/b:latest"),
        ("123", "docker.io/library/b:latest"),
        ("sha256:123", "docker.io/library/b:latest"),
        ("111", "docker.io/library/a:1"),
        ("999", None),
        (f"b@{MANIFEST}", None),
        ("2" * 64, None),
        ("c", None),
    ],
)
def test_images(text: str, reference: str | None) -> None:
    node = with_image(
        ("docker.io/library/a:1", ONE, MANIFEST),
        ("docker.io/library/a:2", ONE, MANIFEST),
        ("docker.io/library/b:latest", TWO, OTHER),
    )
    found = lookup.image(node, text, normalise)
    assert (found.reference if found else None) == reference


def test_images_refused() -> None:
    node = with_image(
        ("docker.io/library/a:1", ONE, MANIFEST), ("docker.io/library/b:1", "sha256:111" + "2" * 61, OTHER)
    )
    with pytest.raises(InvalidRequest, match="image '111' is ambiguous: 2 ids begin so"):
        lookup.image(node, "111", normalise)
    with pytest.raises(InvalidRequest):
        lookup.image(node, "UPPER case", normalise)
    with pytest.raises(InvalidRequest):
        lookup.image(node, "", normalise)


def test_a_repository_goes_before_a_prefix() -> None:
    node = with_image(
        ("docker.io/library/cafe:latest", ONE, MANIFEST), ("docker.io/library/x:1", "sha256:cafe" + "0" * 60, OTHER)
    )
    found = lookup.image(node, "cafe", normalise)
    assert found is not None
    assert found.reference == "docker.io/library/cafe:latest"


def test_an_image_that_is_only_being_pulled_is_not_there() -> None:
    node = Node()
    node.apply(e.image_key("docker.io/library/a:1"), 1, e.ImagePullRequested())
    assert lookup.image(node, "a:1", normalise) is None

"""Which image of an index each machine takes, and what skopeo is told for it."""

from typing import Any

import pytest

from adapters.images.platforms import PLATFORMS, Platform, chosen, native, options


def index(*platforms: str) -> dict[str, Any]:
    """Of `os/architecture[/variant]`."""
    entries = []
    for text in platforms:
        os, architecture, *variant = text.split("/")
        platform = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append({"digest": f"sha256:{len(entries):064}", "platform": platform})
    return {"schemaVersion": 2, "manifests": entries}


ALL = ("linux/arm/v7", "linux/386", "windows/amd64", "linux/amd64", "linux/arm64/v8", "linux/s390x", "unknown/unknown")


@pytest.mark.parametrize(
    ("machine", "there", "expected", "told"),
    [
        ("x86_64", ALL, Platform("amd64"), ()),
        ("x86_64", ("linux/amd64/v1", "linux/386"), Platform("amd64", "v1"), ("amd64", "v1")),
        ("x86_64", ("linux/386",), Platform("386"), ("386",)),
        ("x86_64", ("linux/amd64/v3", "linux/arm64"), None, ()),
        ("aarch64", ALL, Platform("arm64", "v8"), ()),
        ("aarch64", ("linux/arm64", "linux/arm/v7"), Platform("arm64"), ()),
        ("aarch64", ("linux/arm64", "linux/arm64/v8"), Platform("arm64", "v8"), ()),
        ("aarch64", ("linux/arm/v6", "linux/arm/v7"), Platform("arm", "v7"), ("arm", "v7")),
        ("aarch64", ("linux/amd64",), None, ()),
        ("armv7l", ("linux/arm/v6", "linux/arm/v7", "linux/arm64"), Platform("arm", "v7"), ()),
        ("s390x", ALL, Platform("s390x"), ()),
        ("unheard-of", ALL, None, ()),
    ],
)
def test_the_best_of_an_index(
    machine: str, there: tuple[str, ...], expected: Platform | None, told: tuple[str, ...]
) -> None:
    assert chosen(index(*there), machine) == expected
    given = options(expected, machine)
    assert given[3::2] == told
    assert given[:2] == (("--override-os", "linux") if told else ())
    assert given[2::2] == ("--override-arch", "--override-variant")[: len(told)]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"manifests": None},
        {"manifests": {}},
        {"manifests": [None, 3, {}, {"platform": None}, {"platform": {"os": "linux", "architecture": 3}}]},
        {"manifests": [{"platform": {"os": "linux", "architecture": "amd64", "variant": ["v1"]}}]},
    ],
)
def test_what_is_no_index_chooses_nothing(document: Any) -> None:
    assert chosen(document, "x86_64") is None


def test_every_machine_has_a_name_in_images() -> None:
    assert {native(machine) for machine in PLATFORMS} >= {"amd64", "arm64", "arm", "386", "ppc64le", "riscv64"}
    assert native("unheard-of") == "unheard-of"

"""Which image of an index is this machine's: a table of what a processor runs, the best first. Pure.

skopeo looks for the machine's own architecture alone, and on x86 only for entries without a variant. So it is told what
to take where that is another one: `amd64/v1`, or 32-bit programs. (containerd takes them in the same order.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Platform:
    """As OCI's image index has it; `variant` may be empty."""

    architecture: str
    variant: str = ""


def _each(architecture: str, *variants: str) -> tuple[Platform, ...]:
    return tuple(Platform(architecture, variant) for variant in variants)


ARM32 = _each("arm", "v8", "v7", "", "v6", "v5")
PLATFORMS = {
    "x86_64": (*_each("amd64", "", "v1"), *_each("386", "")),
    "aarch64": (*_each("arm64", "v8", ""), *ARM32),
    "armv7l": ARM32[1:],
    "armv8l": ARM32,
    "i686": _each("386", ""),
    "loongarch64": _each("loong64", ""),
    "ppc64le": _each("ppc64le", ""),
    "riscv64": _each("riscv64", ""),
    "s390x": _each("s390x", ""),
}
"""`uname -m` -> what runs there. Variants above the least (amd64/v2 and on) are not promised by any machine's name."""

OWN_CHOICE = {"amd64": ("",), "arm64": ("v8", ""), "arm": ("v8", "v7", "", "v6", "v5")}
"""Variants that skopeo finds by itself on a machine of that architecture; of others those without a variant."""


def native(machine: str) -> str:
    """The architecture in the words of images."""
    return PLATFORMS[machine][0].architecture if machine in PLATFORMS else machine


def chosen(document: Mapping[str, Any], machine: str) -> Platform | None:
    """The best of an index for a machine; None for a manifest, and where the index has none."""
    listed = document.get("manifests")
    there = {_platform(item) for item in listed} if isinstance(listed, list) else set()
    return next((one for one in PLATFORMS.get(machine, ()) if one in there), None)


def _platform(item: Any) -> Platform | None:
    given = item.get("platform") if isinstance(item, Mapping) else None
    if not isinstance(given, Mapping) or given.get("os") != "linux":
        return None
    found, variant = given.get("architecture"), given.get("variant") or ""
    return Platform(found, variant) if isinstance(found, str) and isinstance(variant, str) else None


def options(platform: Platform | None, machine: str) -> tuple[str, ...]:
    """What skopeo must be told so that it takes this one; nothing where it would by itself."""
    if platform is None:
        return ()
    if platform.architecture == native(machine) and platform.variant in OWN_CHOICE.get(platform.architecture, ("",)):
        return ()
    variant = ("--override-variant", platform.variant) if platform.variant else ()
    return ("--override-os", "linux", "--override-arch", platform.architecture, *variant)

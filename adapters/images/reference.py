"""Image references as docker and containerd read them. Pure.

Rule 1: `parse` is the only way in; what it returns is normalised, bounded, and safe in a path or an argument.
Rule 2: a digest is validated (sha256 and 64 lower-case hex digits) before anything is made of it.
Rule 3: `name:tag@digest` keeps the digest only.
"""

import ipaddress
import re
from dataclasses import dataclass

from domain.errors import InvalidRequest

DEFAULT_REGISTRY = "docker.io"
NAME_MAX = 255
REFERENCE_MAX = 512

_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*")
_SIX = re.compile(r"\[[0-9a-fA-F:]+\]")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"(?:sha256:)?[0-9a-f]{3,64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference: it has a tag or a digest, never both. `registry` may carry a port."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse(text: str) -> Reference:
    """The normalised reference. Raises InvalidRequest; an image id is not a reference."""
    if not text or len(text) > REFERENCE_MAX:
        raise _invalid(text, "it is empty" if not text else f"it is longer than {REFERENCE_MAX} characters")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, "the digest is not sha256: and 64 lower-case hex digits")
    if not at and is_image_id(rest):
        raise _invalid(text, "it is an image id, not a reference")
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _invalid(text, "the tag has characters that a tag cannot have, or more than 128")
    registry, repository = _split_registry(name)
    if not _is_registry(registry):
        raise _invalid(text, f"{registry!r} is not a registry's host name")
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    if not all(_PART.fullmatch(part) for part in repository.split("/")):
        raise _invalid(text, "the repository name may have lower-case letters, digits and single separators only")
    if len(registry) + 1 + len(repository) > NAME_MAX:
        raise _invalid(text, f"the repository name is longer than {NAME_MAX} characters")
    return Reference(registry, repository, "" if at else tag or "latest", digest)


def normalise(text: str) -> str:
    """`parse` and back to a string."""
    return str(parse(text))


def is_digest(text: str) -> bool:
    """Exactly `sha256:` and 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def is_image_id(text: str) -> bool:
    """`sha256:<hex>` or the bare 64 hex digits."""
    return _HEX.fullmatch(text.removeprefix("sha256:")) is not None


def is_id_prefix(text: str) -> bool:
    """Might be the beginning of an id (at least 3 digits); `cafe` may be a repository too: ask for that first."""
    return _PREFIX.fullmatch(text) is not None


def image_hex(image_id: str) -> str:
    """The 64 hex digits of an id. Raises InvalidRequest, so that nothing else ever becomes part of a path."""
    if not is_image_id(image_id):
        raise InvalidRequest(f"cannot use image id {image_id[:80]!r}: it is not sha256: and 64 lower-case hex digits")
    return image_id.removeprefix("sha256:")


def is_loopback(registry: str) -> bool:
    """127.0.0.0/8, [::1] or localhost, with or without a port."""
    host = _host(registry)
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(registry: str) -> str:
    if registry.startswith("["):
        inner, bracket, _ = registry.partition("]")
        return inner + bracket
    return registry.partition(":")[0]


def _split_tag(text: str) -> tuple[str, str | None]:
    head, colon, tail = text.rpartition(":")
    return (head, tail) if colon and "/" not in tail and not tail.endswith("]") else (text, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (any(c in first for c in ".:") or first == "localhost" or first.lower() != first):
        return DEFAULT_REGISTRY, name
    return (DEFAULT_REGISTRY if first == "index.docker.io" else first), rest


def _is_registry(registry: str) -> bool:
    host = _host(registry)
    port = registry[len(host) :]
    if port and not (re.fullmatch(r":[0-9]{1,5}", port) and int(port[1:]) <= 65535):
        return False
    if host.startswith("["):
        return _SIX.fullmatch(host) is not None
    return _HOST.fullmatch(host) is not None


def _invalid(text: str, cause: str) -> InvalidRequest:
    shown = text if len(text) <= 80 else text[:80] + "…"
    return InvalidRequest(f"cannot read image reference {shown!r}: {cause}")

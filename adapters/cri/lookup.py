"""Which aggregate a client means: ids and unique prefixes of them, image ids, tags and digests."""

import re
from collections.abc import Collection

from adapters.cri import checks
from adapters.cri.port import Normalise
from domain.errors import InvalidRequest, NotFound
from domain.image import Image
from domain.names import repo_digest
from domain.node import Node

_HEX = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{3,64}")


def container_id(node: Node, text: str) -> str | None:
    """The id that a client's text means; None where nothing begins so. Raises InvalidRequest for several."""
    return _resolve("container", text, node.containers, node)


def sandbox_id(node: Node, text: str) -> str | None:
    return _resolve("sandbox", text, node.sandboxes, node)


def known(kind: str, text: str, found: str | None, verb: str) -> str:
    """The id, or NotFound."""
    if found is None:
        raise NotFound(f"cannot {verb} {kind} {checks.shown(text)}: there is no such {kind}")
    return found


def only(text: str, ids: Collection[str]) -> str | None:
    """The id, or the only one that begins with the text. For filters, where several are none."""
    if text in ids:
        return text
    found = [i for i in ids if i.startswith(text)]
    return found[0] if len(found) == 1 else None


def full_id(text: str) -> str:
    """`sha256:<hex>` for a whole image id, with or without its prefix; empty for anything else."""
    digits = text.removeprefix("sha256:")
    return f"sha256:{digits}" if _HEX.fullmatch(digits) else ""


def image(node: Node, text: str, normalise: Normalise) -> Image | None:
    """The present image that an id, a reference, a repository digest or a unique prefix of an id means.

    Of an image with several references the one that the text names. Raises InvalidRequest for what is none of these.
    """
    checks.require(bool(text), "image.image is empty")
    if whole := full_id(text):
        return next(iter(node.references(whole)), None)
    digits = text.removeprefix("sha256:")
    short = _PREFIX.fullmatch(digits) is not None
    try:
        reference = normalise(text)
    except InvalidRequest:
        if not short:
            raise
    else:
        if found := _referenced(node, reference):
            return found
    return _by_prefix(node, text, f"sha256:{digits}") if short else None


def _referenced(node: Node, reference: str) -> Image | None:
    named = node.images.get(reference)
    if named is not None and named.held is not None:
        return named
    if "@" not in reference:
        return None
    held = sorted((i for i in node.images.values() if i.held is not None), key=lambda i: i.reference)
    return next((i for i in held if i.held and repo_digest(i.reference, i.held.digest) == reference), None)


def _by_prefix(node: Node, text: str, prefix: str) -> Image | None:
    ids = {i.held.image_id for i in node.images.values() if i.held is not None and i.held.image_id.startswith(prefix)}
    if len(ids) > 1:
        raise InvalidRequest(f"image {checks.shown(text)} is ambiguous: {len(ids)} ids begin so")
    return node.references(ids.pop())[0] if ids else None


def _resolve(kind: str, text: str, ids: Collection[str], node: Node) -> str | None:
    checks.require(bool(text), f"the {kind} id is empty")
    if text in ids or f"{kind}/{text}" in node.quarantined:
        return text
    found = [i for i in ids if i.startswith(text)]
    if len(found) > 1:
        raise InvalidRequest(f"{kind} {checks.shown(text)} is ambiguous: {len(found)} ids begin so")
    return found[0] if found else None

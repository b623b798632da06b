"""Reads a containers-storage store: its index files, its images' manifests and configurations, its layers' directories.

Never writes and never locks: the index files are replaced by rename, so a reader sees an old or a new one, never a torn
one. Half-committed entries are common (every copy makes one for a moment) and are simply not complete. Everything read
is bounded, and every id is 64 hex digits before it becomes part of a path.
"""

import base64
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.images.config import CONFIG_MAX, BadConfig, ImageConfig, parse_config, read_object
from adapters.images.reference import is_digest
from domain.errors import StorageFailed

INDEX_MAX = 64 * 2**20
MANIFEST_MAX = 4 * 2**20
DEPTH_MAX = 500

_HEX = re.compile(r"[0-9a-f]{64}")
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """One entry of layers.json. `diff` and `blob` are digests ("" while incomplete), `blob` as it was downloaded."""

    id: str
    parent: str
    complete: bool
    size: int
    diff: str
    blob: str
    blob_size: int
    gzipped: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of images.json. `data`: sizes of its files by name (manifests, configuration, signatures)."""

    id: str
    digest: str
    names: tuple[str, ...]
    layer: str
    data: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Index:
    images: Mapping[str, Entry] = field(default_factory=dict)
    layers: Mapping[str, Layer] = field(default_factory=dict)
    odd: tuple[str, ...] = ()

    def chain(self, top: str) -> tuple[Layer, ...] | None:
        """Layers from `top` down to the base; None when one is missing or the chain does not end."""
        found: list[Layer] = []
        while top:
            layer = self.layers.get(top)
            if layer is None or len(found) >= DEPTH_MAX:
                return None
            found.append(layer)
            top = layer.parent
        return tuple(found)

    def orphans(self) -> tuple[Layer, ...]:
        """Complete layers that no image needs: what a broken pull had finished. Tops first."""
        needed: set[str] = set()
        for entry in self.images.values():
            needed.update(layer.id for layer in self.chain(entry.layer) or ())
        loose = [layer for layer in self.layers.values() if layer.complete and layer.id not in needed]
        return tuple(sorted(loose, key=lambda layer: (-len(self.chain(layer.id) or ()), layer.id)))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A whole image. `layers` top first; `manifest` is the digest of the manifest that was copied."""

    id: str
    manifest: str
    manifests: tuple[str, ...]
    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    config: ImageConfig
    size: int


class Store:
    """The store at `root`. Everything is cached by the index files' inode, size and time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.overlay = root / "overlay"
        self._images_json = root / "overlay-images" / "images.json"
        self._layers_json = root / "overlay-layers" / "layers.json"
        self._cached: tuple[tuple[_Stamp, _Stamp], Index] | None = None
        self._whole: dict[str, StoredImage | str] = {}

    def index(self) -> Index:
        """Raises StorageFailed when a file is there but cannot be read."""
        stamps = (_stamp(self._images_json), _stamp(self._layers_json))
        if self._cached is None or self._cached[0] != stamps:
            # layers first: an image is entered after its layers, so that none seems to lack one
            layers, odd_layers = _layers(_documents(self._layers_json))
            images, odd_images = _entries(_documents(self._images_json))
            self._whole.clear()
            self._cached = (stamps, Index(images, layers, (*odd_layers, *odd_images)))
        return self._cached[1]

    def image(self, image_hex: str, *, fresh: bool = False) -> StoredImage | str | None:
        """The image; a text that says why it is not whole; None when the index does not have it.

        `fresh` looks at the files again even where the index has not changed.
        """
        entry = self.index().images.get(image_hex)
        if entry is None:
            return None
        if fresh or image_hex not in self._whole:
            self._whole[image_hex] = self._examine(entry)
        return self._whole[image_hex]

    def named(self, name: str) -> Entry | None:
        """The image that the store itself calls by this name."""
        return next((entry for entry in self.index().images.values() if name in entry.names), None)

    def diff(self, layer_hex: str) -> Path:
        return self.overlay / layer_hex / "diff"

    def data_path(self, image_hex: str, name: str) -> Path:
        """Where the store keeps a file of an image: under its name, or `=` and base64 when the name is not plain."""
        plain = re.fullmatch(r"[a-zA-Z0-9._]+", name) is not None and not name.startswith(".")
        file = name if plain else "=" + base64.b64encode(name.encode()).decode()
        return self.root / "overlay-images" / image_hex / file.replace("/", "_")

    def _examine(self, entry: Entry) -> StoredImage | str:
        chain = self.index().chain(entry.layer)
        if chain is None:
            return "a layer is not in the index"
        for layer in chain:
            if not layer.complete:
                return f"layer {layer.id} is incomplete"
            if not _is_directory(self.diff(layer.id)):
                return f"layer {layer.id} has no directory"
        try:
            manifest = _read(self.data_path(entry.id, "manifest"), MANIFEST_MAX)
            config = _read(self.data_path(entry.id, f"sha256:{entry.id}"), CONFIG_MAX)
        except OSError as error:
            return f"a file of it cannot be read: {error.strerror or error}"
        digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
        if f"manifest-{digest}" not in entry.data:
            return "its manifest does not have the digest that the index tells"
        if hashlib.sha256(config).hexdigest() != entry.id:
            return "its configuration does not have the image's id as digest"
        try:
            parsed = parse_config(config)
            named = read_object(manifest, MANIFEST_MAX).get("config")
        except BadConfig as error:
            return f"its configuration is refused: {error}"
        if not isinstance(named, dict) or named.get("digest") != f"sha256:{entry.id}":
            return "its manifest names another configuration"
        if tuple(layer.diff for layer in reversed(chain)) != parsed.diff_ids:
            return "its layers are not those that its configuration names"
        manifests = tuple(name[9:] for name in entry.data if name.startswith("manifest-") and is_digest(name[9:]))
        size = sum(layer.size for layer in chain) + sum(entry.data.values())
        return StoredImage(entry.id, digest, manifests, entry.names, chain, parsed, size)


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    except OSError as error:
        raise StorageFailed(f"cannot read image index {path}: {error.strerror}") from error
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: Path, limit: int) -> bytes:
    """A regular file of bounded size. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise OSError(f"{path.name} is no regular file of at most {limit} bytes")
        return file.read(limit)


def _documents(path: Path) -> Sequence[Any]:
    try:
        data = _read(path, INDEX_MAX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageFailed(f"cannot read image index {path}: {error.strerror or error}") from error
    try:
        documents = json.loads(data) if data else []
    except (ValueError, RecursionError) as error:
        raise StorageFailed(f"cannot read image index {path}: it is not JSON") from error
    if not isinstance(documents, list):
        raise StorageFailed(f"cannot read image index {path}: it is not a list")
    return documents


def _layers(documents: Sequence[Any]) -> tuple[dict[str, Layer], list[str]]:
    layers: dict[str, Layer] = {}
    odd: list[str] = []
    for document in documents:
        if not isinstance(document, dict) or not _is_hex(document.get("id")):
            odd.append("layers.json: an entry without a usable id")
            continue
        parent = document.get("parent") or ""
        flags = document.get("flags")
        incomplete = isinstance(flags, dict) and bool(flags.get("incomplete"))
        diff, blob = document.get("diff-digest"), document.get("compressed-diff-digest")
        layers[document["id"]] = Layer(
            id=document["id"],
            parent=parent if _is_hex(parent) else "-" if parent else "",
            complete=not incomplete and isinstance(diff, str) and is_digest(diff),
            size=_number(document.get("diff-size")),
            diff=diff if isinstance(diff, str) and is_digest(diff) else "",
            blob=blob if isinstance(blob, str) and is_digest(blob) else "",
            blob_size=_number(document.get("compressed-size")),
            gzipped=document.get("compression") == 2,
        )
    return layers, odd


def _entries(documents: Sequence[Any]) -> tuple[dict[str, Entry], list[str]]:
    entries: dict[str, Entry] = {}
    odd: list[str] = []
    for document in documents:
        if not isinstance(document, dict) or not _is_hex(document.get("id")):
            odd.append("images.json: an entry without a usable id")
            continue
        digest, layer = document.get("digest"), document.get("layer") or ""
        names, present = document.get("names"), document.get("big-data-names")
        sizes = document.get("big-data-sizes")
        entries[document["id"]] = Entry(
            id=document["id"],
            digest=digest if isinstance(digest, str) and is_digest(digest) else "",
            names=tuple(n for n in names if isinstance(n, str)) if isinstance(names, list) else (),
            layer=layer if _is_hex(layer) else "-" if layer else "",
            data={
                name: _number(sizes.get(name)) if isinstance(sizes, dict) else 0
                for name in (present if isinstance(present, list) else ())
                if isinstance(name, str)
            },
        )
    return entries, odd


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62 else 0


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False

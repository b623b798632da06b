"""What an image's file or directory is, and what it calls its images: for `daybook load`. Reads; hostile input.

OCI layout: image-layout.md of the OCI image specification; the annotation org.opencontainers.image.ref.name holds a
whole reference (skopeo, buildah) or a tag alone, io.containerd.image.name (ctr, nerdctl) always a whole one. Docker's
archive: manifest.json with RepoTags.
"""

import bz2
import contextlib
import gzip
import json
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.images.reference import normalise
from domain.errors import InvalidRequest

DOCUMENT_MAX = 4 << 20
ENTRIES_MAX = 1_000_000
NAMES_MAX = 100
CHUNK = 1 << 20
LARGE_FILES = "/var/tmp"
REF_NAME, CONTAINERD_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Load:
    """`source`: as the daemon is told it; `name`: the reference that the image shall have, normalised."""

    source: str
    name: str


def loads(given: str, name: str = "") -> tuple[Load, ...]:
    """What to load from PATH or PATH:REF, under the name given or under all that it has of its own.

    Raises InvalidRequest naming what is wrong, and the remedy.
    """
    path, ref = _split(given)
    try:
        kind, document = _opened(path)
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"cannot load {path}: {why}") from error
    entries = [each for each in _entries(kind, document) if not ref or ref in each]
    if ref and not entries:
        raise InvalidRequest(f"cannot load {given}: it has no image that it calls {ref[:200]!r}")
    found = [_load(kind, path, entry, one) for entry in entries for one in entry[1:]]
    if name:
        selector = ref or _only(path, entries)
        return (Load(_source(kind, path, selector), normalise(name)),)
    if not found:
        called = ", ".join(sorted({part for entry in entries for part in entry if part}))
        has = f"it calls its images only {called[:200]}" if called else "it has no name for its images"
        raise InvalidRequest(f"cannot load {given} without a name: {has}; say which, `daybook load {given} NAME`")
    return tuple(dict.fromkeys(found[:NAMES_MAX]))


@contextlib.contextmanager
def plain(given: str) -> Iterator[str]:
    """The same as PATH[:REF] of an archive that is not compressed, unpacked for a while into the temporary directory.

    skopeo reads no compressed docker archive (1.9.3: "invalid tar header"). Raises InvalidRequest.
    """
    path, ref = _split(given)
    opened = _OPENERS.get(_compression(path)) if path.is_file() else None
    if opened is None:
        yield given
        return
    with tempfile.NamedTemporaryFile(prefix="daybook-load-", suffix=".tar", dir=LARGE_FILES) as made:
        try:
            with opened(path, "rb") as packed:
                shutil.copyfileobj(packed, made, CHUNK)
            made.flush()
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidRequest(f"cannot load {path}: cannot unpack it into {LARGE_FILES}: {why}") from error
        yield made.name + (f":{ref}" if ref else "")


def _split(given: str) -> tuple[Path, str]:
    """The path may be followed by a colon and what the archive calls the image."""
    for path, ref in ((given, ""), *_splits(given)):
        if Path(path).exists():
            resolved = Path(path).resolve()
            if ":" in str(resolved):
                raise InvalidRequest(
                    f"cannot load {path}: the image tool takes what follows a colon for a name; move it"
                )
            return resolved, ref
    raise InvalidRequest(f"cannot load {given}: there is no such file or directory")


def _splits(given: str) -> Iterator[tuple[str, str]]:
    for at, char in enumerate(given):
        if char == ":":
            yield given[:at], given[at + 1 :]


Entry = tuple[str, ...]
"""One image: what the image tool selects it by (empty: there is no such word), then its names as whole references."""


def _opened(path: Path) -> tuple[str, Any]:
    """(oci, oci-archive or docker-archive; the document that lists its images)."""
    if path.is_dir():
        if not (path / "oci-layout").is_file() or not (path / "index.json").is_file():
            raise ValueError("the directory is no OCI layout: it has no oci-layout or no index.json")
        with open(path / "index.json", "rb") as file:
            return "oci", _parsed(file.read(DOCUMENT_MAX + 1), "index.json")
    try:
        # `r|*` reads a compressed archive once, from its beginning to its end; a plain one too.
        with tarfile.open(path, "r|*" if _compression(path) else "r:") as archive:
            return _listed(archive)
    except tarfile.ReadError:
        raise ValueError(
            "it is neither a tar archive (plain, gzip, bzip2 or xz) of an image nor a directory with an OCI layout"
        ) from None


def _compression(path: Path) -> bytes:
    """What a compressed file begins with; empty where it is not compressed in a way that is known here."""
    with open(path, "rb") as file:
        beginning = file.read(6)
    return next((magic for magic in _OPENERS if beginning.startswith(magic)), b"")


_OPENERS: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def _listed(archive: tarfile.TarFile) -> tuple[str, Any]:
    """docker 25 and newer write both: then manifest.json says more, as it has the tags."""
    found: dict[str, bytes] = {}
    for number, member in enumerate(archive):
        if number > ENTRIES_MAX:
            raise ValueError("it has too many entries")
        name = member.name.removeprefix("./")
        if name in ("oci-layout", "index.json", "manifest.json") and member.isfile():
            opened = archive.extractfile(member)
            found[name] = opened.read(DOCUMENT_MAX + 1) if opened else b""
    if "manifest.json" in found:
        return "docker-archive", _parsed(found["manifest.json"], "manifest.json")
    if "index.json" in found and "oci-layout" in found:
        return "oci-archive", _parsed(found["index.json"], "index.json")
    raise ValueError(
        "the archive is no image: it has neither manifest.json (docker save) nor oci-layout and index.json"
    )


def _parsed(data: bytes, what: str) -> Any:
    if len(data) > DOCUMENT_MAX:
        raise ValueError(f"{what} has more than {DOCUMENT_MAX} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is not JSON") from None


def _entries(kind: str, document: Any) -> list[Entry]:
    if kind == "docker-archive":
        images = document if isinstance(document, list) else []
        return [_of_docker(image) for image in images if isinstance(image, dict)]
    manifests = document.get("manifests") if isinstance(document, dict) else None
    return [_of_layout(each) for each in manifests or () if isinstance(each, dict)]


def _of_docker(image: dict[str, Any]) -> Entry:
    tags = tuple(tag for tag in image.get("RepoTags") or () if isinstance(tag, str) and _whole(tag))
    return (next(iter(tags), ""), *tags)


def _of_layout(described: dict[str, Any]) -> Entry:
    told = described.get("annotations")
    ref, full = (_text(told, key) for key in (REF_NAME, CONTAINERD_NAME))
    return (ref, *[name for name in (full, ref) if _whole(name)][:1])


def _text(told: Any, key: str) -> str:
    value = told.get(key) if isinstance(told, dict) else None
    return value if isinstance(value, str) else ""


def _whole(name: str) -> bool:
    """A tag alone, `1.0` or `latest`, would be taken for docker.io/library/latest."""
    if not any(mark in name for mark in "/:@"):
        return False
    try:
        normalise(name)
    except InvalidRequest:
        return False
    return True


def _load(kind: str, path: Path, entry: Entry, name: str) -> Load:
    return Load(_source(kind, path, name if kind == "docker-archive" else entry[0]), normalise(name))


def _source(kind: str, path: Path, selector: str) -> str:
    return f"{kind}:{path}" + (f":{selector}" if selector else "")


def _only(path: Path, entries: list[Entry]) -> str:
    """What selects the one image that there is. Raises InvalidRequest where a person must choose."""
    if len(entries) > 1:
        shown = ", ".join(entry[0] or "one without a name" for entry in entries[:20])
        raise InvalidRequest(f"cannot load {path}: it holds {len(entries)} images, write {path}:WHICH; {shown}")
    return entries[0][0] if entries else ""

"""What an image's file or directory is, and what it calls its images: for `daybook load`. Reads; hostile input.

OCI layout: image-layout.md of the OCI image specification; the annotation org.opencontainers.image.ref.name holds a
whole reference (skopeo, buildah) or a tag alone, io.containerd.image.name (ctr, nerdctl) always a whole one. Docker's
archive: manifest.json with RepoTags.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.images import tars
from adapters.images.reference import normalise
from domain.errors import InvalidRequest

DOCUMENT_MAX = 4 << 20
NAMES_MAX = 100
SHOWN_MAX = 1000
DOCUMENTS = ("oci-layout", "index.json", "manifest.json")
LARGE_FILES = "/var/tmp"
REF_NAME, CONTAINERD_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


Entry = tuple[str, ...]
"""One image: what the image tool selects it by (empty: there is no such word), then its names as whole references."""


@dataclass(frozen=True, slots=True)
class Load:
    """`source`: as the daemon is told it; `name`: the reference that the image shall have, normalised."""

    source: str
    name: str


def loads(given: str, name: str = "", called: str = "") -> tuple[Load, ...]:
    """What to load from PATH or PATH:REF, under the name given or under all that it has of its own.

    `called`: what the person gave, where `given` is only `plain` of it. Raises InvalidRequest naming what is wrong,
    and the remedy.
    """
    path, ref = _split(given)
    called = called or given
    shown = called.removesuffix(f":{ref}") if ref else called
    try:
        kind, document = _opened(path)
        every = _entries(kind, document)
    except tars.ERRORS as error:
        raise InvalidRequest(f"cannot load {shown}: {tars.why(error)}") from error
    entries = [each for each in every if not ref or ref in each]
    if ref and not entries:
        raise InvalidRequest(f"cannot load {called}: it has no image that it calls {ref[:200]!r}; {_names(every)}")
    if name:
        selector = ref or _only(shown, entries)
        return (Load(_source(kind, path, selector), normalise(name)),)
    found = [_load(kind, path, entry, one) for entry in entries for one in entry[1:]]
    if not found:
        raise InvalidRequest(
            f"cannot load {called} without a name: {_names(entries)}; say which, `daybook load {called} NAME`"
        )
    return tuple(dict.fromkeys(found[:NAMES_MAX]))


def _names(entries: list[Entry]) -> str:
    called = ", ".join(sorted({part for entry in entries for part in entry if part}))
    return f"it calls its images only {_shown(called)}" if called else "it has no name for its images"


def _shown(text: str) -> str:
    """An archive's words on a person's terminal."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


@contextlib.contextmanager
def plain(given: str) -> Iterator[str]:
    """The same as PATH[:REF] of an archive that is not compressed, unpacked for a while into the temporary directory.

    skopeo reads no compressed docker archive (1.9.3: "invalid tar header"). Raises InvalidRequest.
    """
    path, ref = _split(given)
    try:
        packed = path.is_file() and tars.is_compressed(path)
    except OSError as error:
        raise InvalidRequest(f"cannot load {path}: {tars.why(error)}") from error
    if not packed:
        yield given
        return
    with tempfile.NamedTemporaryFile(prefix="daybook-load-", suffix=".tar", dir=LARGE_FILES) as made:
        try:
            tars.unpack(path, made)
        except tars.ERRORS as error:
            raise InvalidRequest(
                f"cannot load {path}: cannot unpack it into {LARGE_FILES}: {tars.why(error)}"
            ) from error
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


def _opened(path: Path) -> tuple[str, Any]:
    """(oci, oci-archive or docker-archive; the document that lists its images)."""
    if path.is_dir():
        if not (path / "oci-layout").is_file() or not (path / "index.json").is_file():
            raise ValueError("the directory is no OCI layout: it has no oci-layout or no index.json")
        with open(path / "index.json", "rb") as file:
            return "oci", _parsed(file.read(DOCUMENT_MAX + 1), "index.json")
    return _listed(*tars.documents(path, DOCUMENTS, DOCUMENT_MAX))


def _listed(found: Mapping[str, bytes], cut: bool) -> tuple[str, Any]:
    """docker 25 and newer write both: then manifest.json says more, as it has the tags."""
    if "manifest.json" in found:
        return "docker-archive", _parsed(found["manifest.json"], "manifest.json")
    if "index.json" in found and "oci-layout" in found:
        return "oci-archive", _parsed(found["index.json"], "index.json")
    if cut:
        raise EOFError(tars.CUT)
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
    """Raises ValueError where the list of images is none."""
    if kind == "docker-archive":
        images = _list(document, "manifest.json")
        return [_of_docker(image) for image in images if isinstance(image, dict)]
    if not isinstance(document, dict):
        raise ValueError("index.json is not an object; save the image again")
    manifests = _list(document.get("manifests"), "manifests in index.json")
    return [_of_layout(each) for each in manifests if isinstance(each, dict)]


def _list(value: Any, what: str) -> list[Any]:
    if value is None or isinstance(value, list):
        return value or []
    raise ValueError(f"{what} is not a list; save the image again")


def _of_docker(image: dict[str, Any]) -> Entry:
    told = _list(image.get("RepoTags"), "RepoTags in manifest.json")
    tags = tuple(tag for tag in told if isinstance(tag, str) and _whole(tag))
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


def _only(path: str, entries: list[Entry]) -> str:
    """What selects the one image that there is. Raises InvalidRequest where a person must choose."""
    if len(entries) > 1:
        shown = _shown(", ".join(entry[0] or "one without a name" for entry in entries[:20]))
        raise InvalidRequest(f"cannot load {path}: it holds {len(entries)} images, write {path}:WHICH; {shown}")
    return entries[0][0] if entries else ""

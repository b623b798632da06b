"""Which reference meant what when its last pull ended: one small file per reference, beside the store.

The store keeps no digest per name, and the record of a pull is the log's. This book bridges the moment between the two:
a daemon killed in between finds there what it was about to record. An entry goes before its reference is pulled again,
is written after the image was synced, and counts only while the image is whole. Losing it costs a second, cheap pull.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Container
from pathlib import Path

from adapters.images.reference import is_digest

ENTRY_MAX = 4096


class Book:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def forget(self, reference: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(reference).unlink()

    def note(self, reference: str, image_id: str, digest: str) -> None:
        """Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(reference)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"reference": reference, "image_id": image_id, "digest": digest}))
        os.replace(new, path)

    def entries(self) -> dict[str, tuple[str, str]]:
        """Image id and digest by reference. What cannot be read is left out."""
        found: dict[str, tuple[str, str]] = {}
        for path in sorted(self._directory.glob("*.json")) if self._directory.is_dir() else ():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                with open(path, "rb") as file:
                    entry = json.loads(file.read(ENTRY_MAX))
                reference, image_id, digest = (str(entry[key]) for key in ("reference", "image_id", "digest"))
                if is_digest(image_id) and is_digest(digest) and self._path(reference) == path:
                    found[reference] = (image_id, digest)
        return found

    def forget_image(self, image_id: str) -> None:
        for reference, (known, _) in self.entries().items():
            if known == image_id:
                self.forget(reference)

    def keep_only(self, images: Container[str]) -> None:
        """Drops what is no entry, or one of another image: what a death left half-written or never put on record."""
        whole = {self._path(reference) for reference, (image_id, _) in self.entries().items() if image_id in images}
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            if path not in whole:
                path.unlink(missing_ok=True)

    def _path(self, reference: str) -> Path:
        return self._directory / (hashlib.sha256(reference.encode()).hexdigest() + ".json")

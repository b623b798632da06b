"""Brings an image's files to the disk before it is recorded as pulled. Blocking; called in threads.

syncfs would hold up every other writer of the file system (the log: 97 ms measured), so each file is synced by itself,
after its writing back was begun for all; syncfs only where the image store is a file system of its own.
"""

import ctypes
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from adapters.images.failures import storage_failure
from domain.errors import Cancelled, StorageFailed

_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def sync_image(root: Path, image_dir: Path, layers: Sequence[Path], stop: threading.Event) -> dict[str, int]:
    """Syncs layers' directories, the image's files and the indexes. Returns the inodes per layer directory's name.

    Raises StorageFailed; Cancelled when `stop` was set.
    """
    try:
        inodes = {layer.name: count_inodes(layer / "diff") for layer in layers}
        if os.path.ismount(root):
            _syncfs(root)
            return inodes
        for layer in layers:
            _sync_tree(layer, stop)
        _sync_tree(image_dir, stop)
        for directory in (root / "overlay", root / "overlay" / "l", root / "overlay-layers", root / "overlay-images"):
            _sync_flat(directory, {layer.name for layer in layers})
        _sync_one(root)
        return inodes
    except OSError as error:
        raise storage_failure(f"cannot sync image {image_dir.name}", error) from error


def count_inodes(directory: Path) -> int:
    return 1 + sum(len(files) + len(dirs) for _, dirs, files in os.walk(directory))


class Marks:
    """Which layers are on the disk for sure, over restarts: a file each, made after the layer was synced.

    It holds the layer's number of inodes: nobody shall walk a store again to tell how large it is.

    A layer without a mark that an earlier boot wrote may be empty files (power was lost before the sync). A mark goes
    before its layer does; nothing here is synced, for the journal keeps the order.
    """

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._directory = directory
        self._boot_file = directory.with_name("boot")
        self._boot_id = boot_id
        self._marked: set[str] | None = None

    def unsure(self, layers: Iterable[str]) -> set[str]:
        """Layers that are not known to be on the disk. Raises StorageFailed."""
        return set(layers) - self._known()

    def tainted(self, layers: Iterable[str]) -> set[str]:
        """Of these, layers that an earlier boot left without having synced them. Raises StorageFailed."""
        try:
            boot_id = self._boot_file.read_text() if self._boot_file.exists() else self._boot_id
        except (OSError, ValueError) as error:
            raise StorageFailed(f"cannot read {self._boot_file}: {error}") from error
        return set() if boot_id == self._boot_id else self.unsure(layers)

    def mark(self, layers: Mapping[str, int]) -> None:
        """`layers`: with their inodes. Raises StorageFailed."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for layer in self.unsure(layers):
                (self._directory / layer).write_text(str(layers[layer]))
                self._known().add(layer)
        except OSError as error:
            raise storage_failure("cannot note layers as synced", error) from error

    def inodes(self, layer: str) -> int | None:
        """As it was when the layer was marked; None where that is not known."""
        try:
            with open(self._directory / layer) as file:
                return int(file.read(20))
        except (OSError, ValueError):
            return None

    def unmark(self, layers: Iterable[str]) -> None:
        """Raises StorageFailed."""
        for layer in layers:
            try:
                (self._directory / layer).unlink(missing_ok=True)
            except OSError as error:
                raise StorageFailed(f"cannot note layers as not synced: {error.strerror}") from error
            self._known().discard(layer)

    def keep_only(self, layers: Iterable[str]) -> None:
        """Drops the marks of layers that are gone: a layer that comes again has the same id. Raises StorageFailed."""
        self.unmark(self._known() - set(layers))

    def begin_boot(self) -> None:
        """What an earlier boot left without a mark is gone: from now on, unmarked layers are this boot's."""
        new = self._boot_file.with_suffix(".new")
        try:
            self._boot_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_text(self._boot_id)
            os.replace(new, self._boot_file)
        except OSError as error:
            raise StorageFailed(f"cannot write {self._boot_file}: {error.strerror}") from error

    def _known(self) -> set[str]:
        if self._marked is None:
            try:
                self._marked = set(os.listdir(self._directory)) if self._directory.is_dir() else set()
            except OSError as error:
                raise StorageFailed(f"cannot read {self._directory}: {error.strerror}") from error
        return self._marked


def _sync_tree(top: Path, stop: threading.Event) -> None:
    for fd in _open_files(top, stop):
        _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
    for fd in _open_files(top, stop):
        os.fsync(fd)
    for directory, _, _ in os.walk(top, topdown=False):
        _sync_one(Path(directory))


def _open_files(top: Path, stop: threading.Event) -> Iterator[int]:
    """Every regular file once, also where it has several names."""
    seen: set[int] = set()
    for directory, _, files in os.walk(top):
        for name in files:
            if stop.is_set():
                raise Cancelled("the sync of an image was cancelled")
            path = os.path.join(directory, name)
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_ino in seen:
                continue
            seen.add(found.st_ino)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)


def _sync_flat(directory: Path, layers: set[str]) -> None:
    """A directory of the store: its entries, its index, and what it has beside for the given layers."""
    for name in os.listdir(directory):
        if name.endswith(".json") or name.partition(".")[0] in layers:
            path = directory / name
            if path.is_file() and not path.is_symlink():
                _sync_one(path)
    _sync_one(directory)


def _sync_one(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _syncfs(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)

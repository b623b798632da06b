"""Brings an image's files to the disk before it is recorded as pulled. Blocking; called in threads.

syncfs would hold up every other writer of the file system (the log: 97 ms measured), so each file is synced by itself,
after its writing back was begun for all; syncfs only where the image store is a file system of its own.
"""

import ctypes
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from domain.errors import Cancelled, StorageFailed

_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def sync_image(root: Path, image_dir: Path, layers: Sequence[Path], stop: threading.Event) -> dict[str, int]:
    """Syncs layers' directories, the image's files and the indexes. Returns the inodes per layer directory's name.

    Raises StorageFailed; Cancelled when `stop` was set.
    """
    try:
        inodes = {layer.name: _count(layer / "diff") for layer in layers}
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
        raise StorageFailed(f"cannot sync image {image_dir.name}: {error.strerror or error}") from error


def _count(directory: Path) -> int:
    return 1 + sum(len(files) + len(dirs) for _, dirs, files in os.walk(directory))


count_inodes = _count


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

"""Small files of ours: written whole, read bounded, removed without following anything. Blocking."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from adapters import mountinfo
from adapters.oci import kernel
from adapters.oci.layout import DIRECTORY_MODE, Layout
from adapters.oci.process import boot_id
from adapters.oci.threads import failed
from domain.errors import StorageFailed
from domain.observations import Mark
from domain.records import Process

SMALL_MAX = 64 * 1024
STATE_MAX = 4 * 1024 * 1024


def prepare(layout: Layout) -> None:
    """Makes the directories that must exist before the first container."""
    for path in layout.directories:
        os.makedirs(path, DIRECTORY_MODE, exist_ok=True)


def write(path: str, data: bytes) -> None:
    """The whole file or none of it: readers never see a part. 0600."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.rename(f"{path}.new", path)


def write_json(path: str, value: Mapping[str, Any]) -> None:
    write(path, json.dumps(value, separators=(",", ":")).encode())


def read(path: str, limit: int = SMALL_MAX) -> bytes | None:
    """A file's beginning; None where there is none. Raises StorageFailed for anything else."""
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None
    except OSError as error:
        raise failed(error) from error


def read_end(path: str, limit: int) -> bytes | None:
    """The last bytes of a file; None where there is none. Raises StorageFailed for anything else."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - limit))
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise failed(error) from error


def read_json(path: str, limit: int = SMALL_MAX) -> dict[str, Any] | None:
    """None where there is no file or no JSON object in it."""
    data = read(path, limit)
    try:
        found = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# --- what we write beside a bundle -----------------------------------------------------------------------------------


def write_owner(path: str, mark: Mapping[str, Any]) -> None:
    write_json(path, {"log_id": mark["log_id"], "seq": mark["seq"], "boot_id": boot_id()})


def read_owner(path: str) -> tuple[Mark | None, str]:
    """The mark, and the boot in which it was written (empty: unknown)."""
    found = read_json(path) or {}
    log_id, seq, boot = found.get("log_id"), found.get("seq"), found.get("boot_id")
    mark = Mark(log_id, seq) if isinstance(log_id, str) and isinstance(seq, int) else None
    return mark, boot if isinstance(boot, str) else ""


def boot_of(path: str) -> str:
    """The boot in which an owner mark was written; empty where it cannot be told, so that nothing of it lives."""
    try:
        return read_owner(path)[1]
    except StorageFailed:
        return ""


def write_process(path: str, process: Process) -> None:
    write_json(path, {"pid": process.pid, "start": process.start, "boot_id": process.boot_id})


def read_process(path: str) -> Process | None:
    found = read_json(path) or {}
    pid, start, boot = found.get("pid"), found.get("start"), found.get("boot_id")
    if isinstance(pid, int) and isinstance(start, int) and isinstance(boot, str):
        return Process(pid, start, boot)
    return None


def runtime_init(state_path: str, boot: str) -> Process | None:
    """The init process that the runtime's state.json names, as one of the boot in which the bundle was made."""
    found = read_json(state_path, STATE_MAX) or {}
    pid, start = found.get("init_process_pid"), found.get("init_process_start")
    if isinstance(pid, int) and isinstance(start, int) and pid > 0:
        return Process(pid, start, boot)
    return None


# --- removal ---------------------------------------------------------------------------------------------------------


def remove_tree(path: str) -> None:
    """Removes a directory of ours. Mounts below it go first, lazily; while one is left nothing is deleted.

    Of a link only the link goes. Raises StorageFailed.
    """
    if os.path.islink(path):
        remove_file(path)
    if not os.path.lexists(path):
        return
    for point in mountinfo.points_below(path):
        with contextlib.suppress(OSError):
            kernel.unmount(point, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
    stuck = next(iter(mountinfo.points_below(path)), None)
    if stuck is not None:
        raise StorageFailed(f"{stuck} is still mounted")
    try:
        # Works on descriptors and follows no symlink (shutil.rmtree.avoids_symlink_attacks).
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(error) from error


def remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)

"""What broken pulls leave, found and removed: processes, directories, mounts. Blocking; called in threads.

A pull's directory holds its ledger (`process.Ledger`), which was on disk before its process existed.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters import children
from adapters.images.process import start_time, stat_fields
from adapters.images.rootfs import mounts_below, unmount
from domain.errors import StorageFailed

END_S = 5.0
LEDGER_MAX = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A pull's directory without a pull, and the process that its ledger names (0: none)."""

    directory: Path
    pid: int
    start: int


def leftovers(pulls: Path, active: Iterable[Path]) -> tuple[Leftover, ...]:
    """Directories of pulls that nobody in this process runs. An unreadable ledger knows nothing."""
    mine = set(active)
    try:
        found = sorted(path for path in pulls.iterdir() if re.fullmatch(r"[0-9a-f]{32}", path.name))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StorageFailed(f"cannot read {pulls}: {error.strerror}") from error
    return tuple(_leftover(path) for path in found if path not in mine)


def _leftover(directory: Path) -> Leftover:
    facts: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError), open(directory / "ledger.json", "rb") as file:
        read = json.loads(file.read(LEDGER_MAX))
        facts = read if isinstance(read, dict) else {}
    pid, start = facts.get("pid"), facts.get("start")
    return Leftover(
        directory=directory,
        pid=pid if isinstance(pid, int) else 0,
        start=start if isinstance(start, int) else 0,
    )


def processes(left: Leftover) -> tuple[int, ...]:
    """Living processes of a pull: started with its --tmpdir (the ledger may miss the pid), or of its process group.

    A child outlives its parent for a moment; a group's number is ours only while it holds nothing but skopeo's own.
    """
    wanted = os.fsencode(left.directory / "tmp")
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        fields = stat_fields(pid)
        if not fields or fields[0] in "ZX":
            continue
        by_group = left.start != 0 and fields[2] == str(left.pid) and int(fields[19]) >= left.start and _is_skopeo(pid)
        if by_group or wanted in _arguments(pid):
            found.append(pid)
    return tuple(found)


def end_processes(left: Leftover) -> None:
    """Kills them until none is left. Raises StorageFailed when one survives for END_S."""
    deadline = time.monotonic() + END_S
    while living := processes(left):
        if time.monotonic() > deadline:
            raise StorageFailed(f"cannot end the processes {living} of a broken pull")
        for pid in living:
            _kill(pid)
        time.sleep(0.005)


def _kill(pid: int) -> None:
    began = start_time(pid)
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in children.NO_PROCESS:
            return
        raise
    try:
        if began and start_time(pid) == began:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)


def _arguments(pid: int) -> Sequence[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(65536).split(b"\0")
    except OSError:
        return ()


def _is_skopeo(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")) == "skopeo"
    except OSError:
        return False


def remove_tree(directory: Path) -> None:
    """A directory of ours with everything in it; mounts in it are undone first. Raises StorageFailed."""
    for point in mounts_below(directory):
        unmount(point)
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageFailed(f"cannot remove {directory}: {error.strerror}") from error


def odd_directories(overlay: Path) -> tuple[Path, ...]:
    """skopeo's trial directories (`compatNNN`, `metacopy-checkNNN` and the like), left by a kill."""
    try:
        names = os.listdir(overlay)
    except OSError:
        return ()
    return tuple(overlay / name for name in sorted(names) if re.fullmatch(r"[a-z()-]{2,40}[0-9]{3,}", name))


def store_mounts(overlay: Path) -> tuple[Path, ...]:
    """Mounts that skopeo left in the store: the bind mount on it, and below it. Never a container's root."""
    return mounts_below(overlay)


def clear_store(overlay: Path) -> None:
    """Undoes mounts and removes trial directories. Only while no skopeo runs on the store."""
    for point in store_mounts(overlay):
        unmount(point)
    for directory in odd_directories(overlay):
        remove_tree(directory)

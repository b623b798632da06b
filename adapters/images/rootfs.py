"""Overlay root file systems of containers: by the new mount API, by mount(2) where the kernel lacks it.

Rule 1: the lower directories are layers of our own store, nothing else. Rule 2: a root whose /dev, /proc or /sys is not
a directory is refused before it is attached anywhere (CVE-2026-41579, CVE-2023-28642). Rule 3: mounts are private, and
the directory they lie in is made private first, so that they do not travel into other mount namespaces.
"""

import contextlib
import ctypes
import errno
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from adapters import mountinfo
from adapters.images.threads import Threads
from domain.errors import InvalidRequest, StorageFailed

MOUNT_S = 30.0
BUSY_TRIES = 20
FSCONFIG_MAX = 255

_FSOPEN, _FSCONFIG, _FSMOUNT, _MOVE_MOUNT = 430, 431, 432, 429  # the same numbers on every architecture since 5.2
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_MS_BIND, _MS_PRIVATE = 0x1000, 1 << 18
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_CLONE_FS = 0x200
_CLOEXEC = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_log = logging.getLogger(__name__)


class RootMounts:
    """Mounts over the layers of the store at `root`. `detached` counts the unmounts that had to be lazy."""

    def __init__(self, root: Path, *, threads: Threads | None = None) -> None:
        self.detached = 0
        self._overlay = root / "overlay"
        self._threads = threads or Threads()

    async def prepare(self, directory: Path) -> None:
        """Makes the directory under which roots will be mounted a private mount, if its mount is shared. Idempotent."""
        await self._threads.run(f"make {directory} private", MOUNT_S, make_private, directory)

    async def mount(self, lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
        """Mounts a root at `target`; `lowers` top first. A mount that is there already is replaced.

        Raises StorageFailed, TimedOut; InvalidRequest for a lower directory that is not the store's.
        """
        for lower in lowers:
            if not self._is_ours(lower):
                raise InvalidRequest(f"cannot mount root {target}: {lower} is not a layer of the image store")
        await self._threads.run(f"mount root {target}", MOUNT_S, self._mount, tuple(lowers), upper, work, target)

    async def unmount(self, target: Path) -> None:
        """Until nothing is mounted at `target`, which need not exist. Raises StorageFailed, TimedOut."""
        await self._threads.run(f"unmount root {target}", MOUNT_S, self._unmount, target)

    def _is_ours(self, lower: Path) -> bool:
        return (
            lower.name == "diff"
            and re.fullmatch(r"[0-9a-f]{64}", lower.parent.name) is not None
            and lower.parent.parent == self._overlay
            and not lower.is_symlink()
            and not lower.parent.is_symlink()
        )

    def _mount(self, lowers: tuple[Path, ...], upper: Path, work: Path, target: Path) -> None:
        self._unmount(target)
        mount_overlay(lowers, upper, work, target)

    def _unmount(self, target: Path) -> None:
        if unmount(target):
            self.detached += 1


def mount_overlay(lowers: Sequence[Path], upper: Path, work: Path, target: Path, *, old_api: bool = False) -> None:
    """One overlay mount. Makes `upper`, `work` and `target` where missing. Raises StorageFailed."""
    try:
        for directory in (upper, work, target):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not lowers:  # an image without layers: overlay wants one lower directory
            empty = work.parent / "empty"
            empty.mkdir(mode=0o755, exist_ok=True)
            lowers = (empty,)
        if old_api or not _mount_new(lowers, upper, work, target):
            _mount_old(lowers, upper, work, target)
    except OSError as error:
        raise StorageFailed(f"cannot mount root {target}: {error.strerror or error}") from error


def try_overlay(scratch: Path) -> str:
    """A root of two layers as a container has it, written to: what was seen. Raises StorageFailed, OSError.

    For `daybook check`, in mounts of its own.
    """
    lowers = [scratch / "upper-layer", scratch / "lower-layer"]
    for number, lower in enumerate(lowers):
        lower.mkdir()
        (lower / "file").write_text(str(number))
    upper, work, target = (scratch / name for name in ("upper", "work", "merged"))
    mount_overlay(lowers, upper, work, target)
    try:
        if (target / "file").read_text() != "0":
            raise StorageFailed("the upper layer's file is not the one that is seen")
        (target / "file").unlink()
        (target / "new").write_text("new")
        if (target / "file").exists() or not (upper / "new").exists() or not (lowers[0] / "file").exists():
            raise StorageFailed("what is written and removed in a root does not come to lie above its layers")
    finally:
        unmount(target)
    return "a root over two layers: mounted, written, unmounted"


def unmount(target: Path) -> bool:
    """Unmounts everything stacked at `target`; True when a mount stayed busy and was only detached.

    Raises StorageFailed. The mount's files stay in use by whoever holds them after a detach.
    """
    tries, detached = 0, False
    path = os.fsencode(target)
    while True:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detached else 0)
        if _libc.umount2(path, flags) == 0:
            continue
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOENT):
            return detached
        if number != errno.EBUSY or detached:
            raise StorageFailed(f"cannot unmount {target}: {os.strerror(number)}")
        tries += 1
        if tries >= BUSY_TRIES:
            _log.warning("%s stays busy: detaching it", target)
            detached = True
        else:
            time.sleep(0.01)


def mounts_below(directory: Path) -> tuple[Path, ...]:
    """Mount points at or below a directory in this mount namespace, the newest first."""
    return tuple(map(Path, mountinfo.points_below(str(directory))))


def make_private(directory: Path) -> None:
    """Raises StorageFailed."""
    inside = os.path.realpath(directory)
    found = mountinfo.holding(inside)
    if found is None or not found.shared:
        return
    path = os.fsencode(directory)
    steps = [(None, _MS_PRIVATE)] if found.point == os.fsencode(inside) else [(path, _MS_BIND), (None, _MS_PRIVATE)]
    for source, flags in steps:
        if _libc.mount(source, path, None, ctypes.c_ulong(flags), None) != 0:
            raise StorageFailed(f"cannot make {directory} a private mount: {os.strerror(ctypes.get_errno())}")


def _mount_new(lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> bool:
    """False when this kernel lacks the calls (before 5.2) or `lowerdir+` for overlay (before 6.7)."""
    try:
        context = _call(_FSOPEN, b"overlay", _CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return False
        raise
    mount = -1
    try:
        if _takes_anything(context):
            return False
        with contextlib.ExitStack() as stack:
            for lower in lowers:
                try:
                    _configure(context, b"lowerdir+", _short(stack, lower))
                except OSError as error:
                    if error.errno == errno.EINVAL:
                        return False
                    raise
            _configure(context, b"upperdir", _short(stack, upper))
            _configure(context, b"workdir", _short(stack, work))
            _configure(context, b"source", "overlay")
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _CLOEXEC, 0)
        _refuse_odd_root(mount, target)
        _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(context)
        if mount >= 0:
            os.close(mount)
    _privatise(target)
    return True


def _takes_anything(context: int) -> bool:
    """Whether overlay has no parameters of its own here: before 6.5 the kernel keeps any key for the mount call.

    There `lowerdir+` would be taken as well, and refused only when the whole is created.
    """
    try:
        _configure(context, b"daybook-no-such-parameter", "overlay")
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def _mount_old(lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """By mount(2); the check of the root can only follow it."""
    options = _options([os.fsencode(lower) for lower in lowers], os.fsencode(upper), os.fsencode(work))
    if _fits(options) and not any(byte in os.fsencode(path) for path in (*lowers, upper, work) for byte in b":,\\"):
        _mount_overlay_old(target, options)
    else:
        _mount_by_numbers(lowers, upper, work, target)
    _privatise(target)
    fd = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _refuse_odd_root(fd, target)
    except StorageFailed:
        os.close(fd)
        fd = -1
        unmount(target)
        raise
    finally:
        if fd >= 0:
            os.close(fd)


def _options(lowers: Sequence[bytes], upper: bytes, work: bytes) -> bytes:
    return b"lowerdir=" + b":".join(lowers) + b",upperdir=" + upper + b",workdir=" + work


def _fits(options: bytes) -> bool:
    return len(options) < os.sysconf("SC_PAGE_SIZE")


def _mount_overlay_old(target: Path, options: bytes) -> None:
    if _libc.mount(b"overlay", os.fsencode(target), b"overlay", ctypes.c_ulong(0), options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount_by_numbers(lowers: Sequence[Path], upper: Path, work: Path, target: Path) -> None:
    """For options that one page does not hold (an image may have 500 layers), or with characters that mean something.

    Each directory is named by its descriptor, relative to /proc/self/fd, which needs a working directory of its own:
    that of a thread which is thrown away.
    """
    failed: list[OSError] = []

    def work_there() -> None:
        try:
            with contextlib.ExitStack() as stack:
                *named, upper_fd, work_fd = (str(_opened(stack, path)).encode() for path in (*lowers, upper, work))
                _unshare_working_directory()
                os.chdir("/proc/self/fd")
                options = _options(named, upper_fd, work_fd)
                if not _fits(options):
                    raise OSError(errno.E2BIG, f"{len(lowers)} layers do not fit into a mount call of this kernel")
                _mount_overlay_old(target, options)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=work_there, name="images mount", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _unshare_working_directory() -> None:
    if _libc.unshare(_CLONE_FS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _opened(stack: contextlib.ExitStack, directory: Path) -> int:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _short(stack: contextlib.ExitStack, directory: Path) -> str:
    """The path itself, or one by descriptor where fsconfig does not take it so long, or overlay would unescape it."""
    path = os.fsencode(directory)
    if len(path) <= FSCONFIG_MAX and b"\\" not in path:
        return str(directory)
    return f"/proc/self/fd/{_opened(stack, directory)}"


def _refuse_odd_root(root_fd: int, target: Path) -> None:
    for name in ("dev", "proc", "sys"):
        try:
            found = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise StorageFailed(f"cannot mount root {target}: /{name} in the image is not a directory")


def _privatise(target: Path) -> None:
    if _libc.mount(None, os.fsencode(target), None, ctypes.c_ulong(_MS_PRIVATE), None) != 0:
        number = ctypes.get_errno()
        unmount(target)
        raise OSError(number, os.strerror(number))


def _configure(context: int, key: bytes, value: str) -> None:
    _call(_FSCONFIG, context, _FSCONFIG_SET_STRING, key, os.fsencode(value), 0)


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

"""Where pods' network namespaces are pinned: in the directory of `ip netns`, beside those of others.

CNI daemons run in pods of their own and open CNI_NETNS there. So mounts in the directory have to travel into the mount
namespaces that see it, and only names of ours are touched. Blocking, raising domain errors.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from adapters import mountinfo
from adapters.oci import kernel
from domain.errors import NetworkFailed, StorageFailed

DIRECTORY_MODE = 0o755
PIN_MODE = 0o400
LOCK_S, LOCK_POLL_S = 5.0, 0.01
"""How long somebody else's `ip netns add` is waited for; it holds the lock for one mount."""
STACKED_MAX = 64
"""Mounts at one path, of a pin or over the directory. Nobody stacks as many by mistake."""
REMEDIES = {
    errno.EROFS: "make it writable (mount -o remount,rw), or unmount what covers it",
    errno.ENOTDIR: "move away what is there: it must be a directory",
    errno.EEXIST: "it must be a directory or a link to one",
    errno.ELOOP: "it must be a directory or a link to one",
    errno.ENOSPC: "free some space on its file system",
}


# --- the directory ---------------------------------------------------------------------------------------------------


def prepare(directory: str) -> None:
    """The directory exists and is a shared mount, as iproute2 makes it. Idempotent. Raises NetworkFailed.

    Without that, the next `ip netns add` of anybody binds the directory over itself, pins and all: each is then mounted
    twice, and the lower one is out of reach.
    """
    try:
        where = os.path.realpath(directory)
        _make(where)
        if not _shared(where):
            with _locked(where):
                # Whoever had the lock may have done it.
                if not _shared(where):
                    _bind(where)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        remedy = REMEDIES.get(error.errno or 0, "pods with a network of their own need it")
        raise NetworkFailed(f"cannot pin network namespaces in {directory}: {why}; {remedy}") from error


def _make(where: str) -> None:
    if not os.path.isdir(where):
        os.makedirs(where, exist_ok=True)
        os.chmod(where, DIRECTORY_MODE)
    if os.statvfs(where).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), where)


def _shared(where: str) -> bool:
    """Makes the mount at a path a shared one. False where none is there."""
    try:
        kernel.mount("", where, "none", kernel.MS_SHARED | kernel.MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _bind(where: str) -> None:
    """Over itself, with all that is pinned there.

    Where the mount below is private, the pins of others would from now on be mounted twice: who takes one away then
    finds its file busy for ever. So the lower ones go; only through a descriptor from before can they be reached.
    """
    alone = not mountinfo.is_shared(where)
    names = [os.path.relpath(point, where) for point in mountinfo.points_below(where)]
    fd = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.mount(where, where, "none", kernel.MS_BIND | kernel.MS_REC)
        _shared(where)
        for name in names if alone else ():
            with suppress(OSError):
                kernel.unmount(f"/proc/self/fd/{fd}/{name}", kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
    finally:
        os.close(fd)


@contextmanager
def _locked(where: str) -> Iterator[None]:
    """iproute2's own lock for this. It goes on without where the lock cannot be had, and so do we."""
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_S
        while not _lock(fd) and time.monotonic() < until:
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- one pin ---------------------------------------------------------------------------------------------------------


def unpin(path: str) -> None:
    """Nothing is mounted at the path, however often it was, and the file is gone. Idempotent. Raises StorageFailed."""
    _unmount_all(path)
    gone = _unlinked(path)
    if gone and not mountinfo.count_at(path):
        return
    # Hidden below a mount that came over the directory later. Unlinking the file where it is no mount point takes it
    # off everywhere (kernel 3.18), and that can be in a mount namespace of our own.
    thread = threading.Thread(target=_unlink_beneath, args=(path,), name="oci unpin", daemon=True)
    thread.start()
    thread.join()
    if left := mountinfo.count_at(path):
        where = os.path.dirname(path)
        raise StorageFailed(f"{path} is still mounted ({left} times); unmount what was mounted over {where} later")
    _unlinked(path)


def _unmount_all(path: str) -> None:
    """What is on top, again and again; lazily, as somebody may have the file open."""
    for _ in range(STACKED_MAX):
        try:
            kernel.unmount(path, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        except OSError:
            return


def _unlinked(path: str) -> bool:
    """Whether there is no such file (any more)."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def _unlink_beneath(path: str) -> None:
    """In a copy of all mounts that ends with this thread: takes away what covers the directory, layer by layer."""
    with suppress(OSError):
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("", "/", "none", kernel.MS_PRIVATE | kernel.MS_REC)
        directory = os.path.realpath(os.path.dirname(path))
        for _ in range(STACKED_MAX):
            _unmount_all(path)
            _unlinked(path)
            kernel.unmount(directory, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)

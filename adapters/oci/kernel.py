"""The few system calls that Python lacks: mount, umount2, unshare, setns, openat2, inotify, syslog.

Thin, blocking, raising OSError.

Everything inside a container's root file system is opened through `open_in_root`, never by a path string.
"""

import ctypes
import functools
import os
from collections.abc import Callable

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
IN_MODIFY = 0x02
NSFS_MAGIC = 0x6E736673
SYS_OPENAT2 = 437

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _checked(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), target)


def unmount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    _checked(_libc.umount2(target.encode(), flags), target)


def unshare(flags: int) -> None:
    """Of the calling thread only. The thread must be thrown away afterwards."""
    _checked(_libc.unshare(flags), "unshare")


def last_messages(size: int) -> bytes:
    """The newest bytes of the kernel's own log: syslog(2), SYSLOG_ACTION_READ_ALL."""
    buffer = ctypes.create_string_buffer(size)
    length = _checked(_libc.klogctl(3, buffer, size), "syslog")
    return buffer.raw[:length]


def inotify_init() -> int:
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def inotify_rm_watch(fd: int, watch: int) -> None:
    _checked(_libc.inotify_rm_watch(fd, watch), "inotify")


def enter(path: str, kind: int) -> None:
    """Puts the calling thread, and no other, into the namespace that is pinned at a path. It must be thrown away."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(fd, kind), path)
    finally:
        os.close(fd)


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor for `path` as a process whose root is the directory `root` would find it."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    return _checked(_libc.syscall(SYS_OPENAT2, root, path.encode(), ctypes.byref(how), ctypes.sizeof(how)), path)


def filesystem_magic(path: str) -> int:
    """`f_type` of statfs(2): tells a pinned namespace from the plain file below it."""
    buffer = (ctypes.c_long * 32)()
    _checked(_libc.statfs(os.fsencode(path), ctypes.byref(buffer)), path)
    return int(buffer[0])


@functools.cache
def knows_syscall() -> Callable[[str], bool] | None:
    """libseccomp's own answer to "is this the name of a system call"; None where the library is not there.

    seccomp_syscall_resolve_name(3): -1 is __NR_SCMP_ERROR; other negative numbers are calls of other architectures.
    """
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name
    except (OSError, AttributeError):
        return None
    return lambda name: bool(resolve(name.encode()) != -1)

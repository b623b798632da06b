"""Where a container may log. conmon opens the path itself and follows symlinks, so it is judged before.

The pod's log directory is the kubelet's and trusted; everything below it must be ours or root's alone. What remains is
a window that only root could use (CVE-2025-0750, CVE-2026-53489).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from domain.errors import InvalidRequest

DIRECTORY_MODE = 0o755
FILE_MODE = 0o640
"""Whom root lets into its group may read logs, as with the peers; conmon would make the file 0600."""

NAME_MAX = 255
PATH_MAX = 4095
"""Bytes: NAME_MAX and PATH_MAX of the kernel, the latter without the NUL."""

REOPENED = ".tmp"
"""What conmon appends to the path while it reopens the log: it must fit, too."""

DIRECTORIES_MAX = 32
"""Between the log directory and the log. The kubelet has one, of the container's name."""

AT_FAULT = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
"""What says that the path is wrong, not the disk."""


def make(log_directory: str, log_path: str) -> None:
    """Makes what is missing of the directories, and the file: conmon, which appends, finds it with the right mode.

    Raises InvalidRequest where the path leaves the directory or cannot be trusted, OSError. `log_path` is absolute, as
    the container's record has it.
    """
    directory, name = enter(log_directory, log_path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with _told(f"log_path {log_path[:200]!r}"):
            fd = os.open(name, flags, FILE_MODE, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        os.fchmod(fd, FILE_MODE)
    finally:
        os.close(fd)


def enter(log_directory: str, log_path: str) -> tuple[int, str]:
    """A descriptor of the directory that holds the log, which the caller closes, and the log's name. Raises as `make`.

    Missing directories are made; what lies at the path is judged, not opened.
    """
    top = log_directory.rstrip("/")
    if not log_path.startswith("/") or os.path.normpath(log_path) != log_path or "\0" in log_path:
        raise InvalidRequest(f"log path {log_path[:200]!r} is not a clean absolute path")
    if not all(char.isprintable() and char != ":" for char in log_path):
        # conmon takes what stands before a colon for the name of a log driver.
        raise InvalidRequest(f"log path {log_path[:200]!r} contains a colon or a control character")
    if not top or not log_path.startswith(f"{top}/"):
        raise InvalidRequest(f"log path {log_path[:200]!r} is not below the log directory {top[:200]!r}")
    *between, name = log_path[len(top) + 1 :].split("/")
    _check_length(log_path, between, name)
    with _told(f"log_directory {top[:200]!r}"):
        _make_top(top)
        here = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _told(f"log_path {log_path[:200]!r}"):
            for part in between:
                here = _enter(here, part, log_path)
            _check_file(here, name, log_path)
    except BaseException:
        os.close(here)
        raise
    return here, name


def _check_length(log_path: str, between: list[str], name: str) -> None:
    """Before anything is made."""
    if len(between) > DIRECTORIES_MAX:
        raise InvalidRequest(
            f"log_path {log_path[:200]!r} has {len(between)} directories below the log directory, more than"
            f" {DIRECTORIES_MAX}"
        )
    if len(os.fsencode(log_path)) > PATH_MAX - len(REOPENED):
        raise InvalidRequest(f"log_path {log_path[:200]!r} is longer than {PATH_MAX - len(REOPENED)} bytes")
    for part, most in (*((each, NAME_MAX) for each in between), (name, NAME_MAX - len(REOPENED))):
        if len(os.fsencode(part)) > most:
            raise InvalidRequest(f"log_path {log_path[:200]!r}: its part {part[:80]!r} is longer than {most} bytes")


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """A path that cannot be is the client's fault; EIO and ENOSPC are not."""
    try:
        yield
    except OSError as error:
        if error.errno not in AT_FAULT:
            raise
        raise InvalidRequest(f"{what}: {os.strerror(error.errno)}") from error


def _make_top(top: str) -> None:
    try:
        os.makedirs(top, DIRECTORY_MODE, exist_ok=True)
    except FileExistsError as error:
        raise InvalidRequest(f"log_directory {top[:200]!r} is not a directory") from error


def _enter(parent: int, part: str, log_path: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, DIRECTORY_MODE, dir_fd=parent)
    try:
        fd = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in AT_FAULT:
            raise
        raise InvalidRequest(f"log path {log_path[:200]!r}: {part!r} is not a directory") from error
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise InvalidRequest(f"log path {log_path[:200]!r}: others may write in {part!r}")
    os.close(parent)
    return fd


def _check_file(parent: int, name: str, log_path: str) -> None:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRequest(f"log path {log_path[:200]!r} is not a regular file")
    if found.st_nlink != 1:
        raise InvalidRequest(f"log path {log_path[:200]!r} has {found.st_nlink} links")

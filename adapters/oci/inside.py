"""A container's root file system before its program lives: what the runtime must not see, and what is made for it.

Blocking. The tree is a stranger's and nobody changes it meanwhile. Links are followed here, name by name, with the root
as "/": nothing is opened through one.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from adapters.oci.mounts import clean
from domain.config import Mount
from domain.errors import InvalidRequest

LINKS_MAX = 40
"""As many as the kernel follows in one path."""

VOLUMES_MAX = 256
DIRECTORY_MODE = 0o755
NOT_FOR_VOLUMES = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""What every container has a mount of its own at."""
NO_PLACE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EEXIST)
"""No directory can be at this path, whatever is done: not EIO, not ENOSPC."""


def open_root(rootfs: str) -> int:
    """A descriptor of the mounted root, after the check that runc needs (CVE-2026-41579, CVE-2023-28642).

    Raises InvalidRequest where the image's /dev, /proc or /sys is a symlink or anything else but a directory.
    """
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    for name in ("dev", "proc", "sys"):
        try:
            found = os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            os.close(root)
            raise InvalidRequest(f"the image's /{name} is not a directory")
    return root


def resolved(root: int, path: str) -> str:
    """Where a path leads inside the root, without links; what does not exist is taken as it is written.

    Raises InvalidRequest where links lead in a circle or the path grows too long, OSError.
    """
    done: list[str] = []
    waiting = _parts(path)[::-1]
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            del done[-1:]
            continue
        target = _link(root, "/".join((*done, part)), path)
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > LINKS_MAX:
            raise InvalidRequest(f"{path[:200]!r} in the image: too many links")
        if target.startswith("/"):
            done.clear()
        waiting += _parts(target)[::-1]
    return "/" + "/".join(done)


def below(path: str, top: str) -> bool:
    """Whether a clean path is a directory or lies in it."""
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def destinations(root: int, mounts: Sequence[Mount]) -> dict[str, Mount]:
    """Where the client's mounts will lie; of several at one place the last, which ends on top."""
    return {resolved(root, clean(mount.container_path)): mount for mount in mounts}


def make_working_directory(root: int, path: str, mounts: Mapping[str, Mount]) -> None:
    """Makes it where the image lacks it. In a mount of the client it is the runtime's to make, behind the mount.

    Raises InvalidRequest where a file is in the way, or where it leads into /proc: a working directory there has led
    out of the root (CVE-2024-21626).
    """
    where = resolved(root, path)
    if below(where, "/proc"):
        raise InvalidRequest(f"working directory {path[:200]!r} leads into /proc")
    if any(below(where, top) for top in mounts):
        return
    try:
        make_directory(root, where)
    except OSError as error:
        raise InvalidRequest(f"working directory {path[:200]!r}: {os.strerror(error.errno or 0)}") from error


def make_volumes(
    root: int, rootfs: str, volumes: Sequence[str], mounts: Mapping[str, Mount], *, read_only: bool
) -> tuple[tuple[str, str], ...]:
    """The image's VOLUMEs as directories that can be written to: (place, source on the host) for each bind mount.

    They lie in the container's own layer and go with it. In a read-only root each is bound on its own place, writable.
    What the client mounts there counts; a VOLUME below a mount of the client becomes a directory in it, never a mount
    that hides what the client has there. One whose path no directory can have is left out: the image's programs were
    made without it. Raises InvalidRequest for too many.
    """
    if len(volumes) > VOLUMES_MAX:
        raise InvalidRequest(f"the image has {len(volumes)} volumes, more than {VOLUMES_MAX}")
    places: dict[str, None] = {}
    for volume in volumes:
        with contextlib.suppress(InvalidRequest), _where_there_is_a_place():
            places[resolved(root, clean(volume))] = None
    made = []
    for where in places:
        if where == "/" or where in mounts or any(below(where, top) for top in NOT_FOR_VOLUMES):
            continue
        if (top := _covering(where, mounts)) is not None:
            # As far as the client's volume lets us: what is odd there is the client's.
            with contextlib.suppress(OSError):
                _make_in_mount(root, where, top, mounts[top])
            continue
        # A file that lies there in the image stays what it is.
        with _where_there_is_a_place():
            make_directory(root, where)
            made.append((where, f"{rootfs}{where}"))
    return tuple(made) if read_only else ()


@contextlib.contextmanager
def _where_there_is_a_place() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
    except ValueError:
        # A NUL, or half of a surrogate pair, which JSON can carry and a path cannot.
        return


def make_directory(root: int, path: str) -> None:
    """A directory at a resolved path, with its parents, 0755 where they are missing. Raises OSError."""
    os.close(_made(os.dup(root), path))


def _made(here: int, path: str) -> int:
    """`make_directory` below a descriptor that it closes; a descriptor of what it made."""
    for part in _parts(path):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, DIRECTORY_MODE, dir_fd=here)
            following = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        here = following
    return here


def _make_in_mount(root: int, where: str, top: str, mount: Mount) -> None:
    """Owned and permitted as the image has it. Links in the client's volume are not followed."""
    if mount.readonly:
        return
    rest = where[len(top) :].lstrip("/")
    source = os.open(os.path.realpath(mount.host_path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if _mode(source, rest):
        os.close(source)
        return
    made = _made(source, rest)
    try:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(where.lstrip("/"), dir_fd=root, follow_symlinks=False)
            os.chown(f"/proc/self/fd/{made}", found.st_uid, found.st_gid)
            os.chmod(f"/proc/self/fd/{made}", stat.S_IMODE(found.st_mode))
    finally:
        os.close(made)


def _covering(where: str, mounts: Mapping[str, Mount]) -> str | None:
    """The innermost mount of the client that a path lies below."""
    return max((top for top in mounts if below(where, top)), key=len, default=None)


def _link(root: int, path: str, asked: str) -> str | None:
    """The target of a link; None for anything else, also for nothing. The path has no link before its last part."""
    try:
        return os.readlink(path, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if stat.S_IFMT(_mode(root, path)):
            return None
        if error.errno not in NO_PLACE:
            raise
        raise InvalidRequest(f"{asked[:200]!r} in the image: {os.strerror(error.errno or 0)}") from error


def _mode(root: int, path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path, dir_fd=root, follow_symlinks=False).st_mode
    return 0


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]

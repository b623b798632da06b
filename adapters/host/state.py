"""The state directory: who holds it (lock), which log it belongs to (mark), the key of the log's digests.

<data>/          0700
  owner.json     {"log_id", "seq"}: the mark that the fence compares with the log
  key            32 random bytes, 0600: outside the log directory, so that a copied log cannot be searched
<run>/           0755
  lock           flock of the running daemon, with its pid in it
"""

import contextlib
import fcntl
import grp
import hashlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from domain.errors import NotReady, StorageFailed
from domain.observations import Mark

KEY_BYTES = 32
MARK_BYTES_MAX = 4096


def make_private(directory: Path, mode: int = 0o700) -> Path:
    """Creates a directory with exactly this mode, whatever the umask."""
    directory.mkdir(mode=mode, parents=True, exist_ok=True)
    directory.chmod(mode)
    return directory


def empty_directory(directory: Path, but: Sequence[str] = ()) -> None:
    """Removes all that lies in a directory. Raises StorageFailed where something is still mounted or in use."""
    for entry in sorted(directory.iterdir()) if directory.exists() else ():
        if entry.name in but:
            continue
        try:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        except OSError as error:
            raise StorageFailed(f"cannot remove {error.filename}: {error.strerror}") from error


def group_id(name: str) -> int:
    """The id of a group, or -1 where there is none of this name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return -1


class Lock:
    """At most one daemon per run directory: a second one on the same socket would silently take it over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Raises NotReady naming the holder."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            raise NotReady(
                f"daemon (pid {holder or 'unknown'}) runs and holds {self._path}; stop it: systemctl stop daybook"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def holder(self) -> int:
        """The pid of the daemon that holds it now; 0 where none does, or it has not said yet."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.read(fd, 32).decode(errors="replace").strip()
            return int(said) if said.isdecimal() else 0
        finally:
            os.close(fd)
        return 0

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_atomically(path: Path, content: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """The file has the old content or the new one, also after a power cut where `sync` is set.

    A death in between leaves `.NAME.new`, at most one per file: whoever holds the lock is the only one to write.
    """
    part = path.with_name(f".{path.name}.new")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise StorageFailed(f"cannot write {path}: {error.strerror}") from error
    if sync:
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class OwnerMark:
    """The state directory's own mark."""

    def __init__(self, data: Path) -> None:
        self._path = data / "owner.json"

    def read(self) -> Mark | None:
        """Raises NotReady where the mark is there but says nothing: a person must look."""
        try:
            with self._path.open("rb") as file:
                told = json.loads(file.read(MARK_BYTES_MAX))
            return Mark(str(told["log_id"]), int(told["seq"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise NotReady(
                f"{self._path} does not say which log it belongs to ({error}); see `daybook adopt`"
            ) from error

    def write(self, log_id: str, seq: int) -> None:
        write_atomically(self._path, json.dumps({"log_id": log_id, "seq": seq}).encode())


def digester(data: Path) -> Callable[[bytes], str]:
    """The keyed hash under which values stand in the log that must not stand there themselves."""
    path = data / "key"
    if not path.exists():
        write_atomically(path, secrets.token_bytes(KEY_BYTES))
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise NotReady(f"{path} does not hold a key of {KEY_BYTES} bytes; restore it, or remove it to make a new one")
    return lambda value: hmac.new(key, value, hashlib.blake2s).hexdigest()[:32]

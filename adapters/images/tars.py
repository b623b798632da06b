"""A stranger's tar archive, compressed or not, read and unpacked within bounds.

tarfile believes what a header says: it reads a long name or a pax header whole, however long it calls itself, and
calls itself once more for each header that only describes the next.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any

ENTRY_MAX = 1 << 20
"""Bytes of all headers of one entry. A path has at most 4096, an extended attribute 64 KiB."""

ENTRIES_MAX = 1_000_000
CHUNK = 1 << 20
FREE_SHARE = 10
"""One part of so many of a file system stays free when something is unpacked into it: where the kubelet evicts."""

ERRORS = (
    OSError,
    tarfile.TarError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
)
"""What reading can raise: a size that is no offset is an OverflowError, a map that is none an IndexError."""

CUT = "it ends early, so it was not copied or downloaded whole; get it again"

_OPENERS: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


def is_compressed(path: Path) -> bool:
    """In a way that is known here. Raises OSError."""
    return _opener(path) is not None


def documents(path: Path, names: tuple[str, ...], most: int) -> tuple[dict[str, bytes], bool]:
    """Those of the files that it has, each cut after `most` bytes and one more; whether the archive has no end.

    Raises one of ERRORS.
    """
    with closing((_opener(path) or open)(path, "rb")) as opened:
        source = _Bounded(opened)
        found: dict[str, bytes] = {}
        try:
            for archive, member in _entries(source):
                name = member.name.removeprefix("./")
                if name in names and member.isfile() and (file := archive.extractfile(member)):
                    source.left = ENTRY_MAX + most
                    found[name] = file.read(most + 1)
        except tarfile.ReadError as error:
            if source.cut:
                raise EOFError(CUT) from None
            raise ValueError(
                f"it is neither a tar archive (plain, gzip, bzip2 or xz) of an image nor a directory with an OCI layout"
                f" ({error})"
            ) from None
    return found, source.cut


def why(error: BaseException) -> str:
    """What one of ERRORS means to a person."""
    if isinstance(error, EOFError):
        return CUT
    if isinstance(error, RecursionError):
        return "one of its entries has too many headers; it was not made by an image tool"
    told = getattr(error, "strerror", None) or str(error)
    return told or "it is damaged; get it again"


def unpack(path: Path, into: IO[bytes]) -> None:
    """Writes what a compressed file holds. Raises one of ERRORS, also where the file system would be filled."""
    opener = _opener(path)
    if opener is None:
        raise ValueError("it is not compressed")
    with closing(opener(path, "rb")) as packed:
        while data := packed.read(CHUNK):
            room = os.fstatvfs(into.fileno())
            if room.f_bavail * room.f_frsize - len(data) < room.f_blocks * room.f_frsize // FREE_SHARE:
                raise ValueError(
                    f"after {into.tell()} bytes less than 1/{FREE_SHARE} of the file system would be free; make room,"
                    f" or unpack it elsewhere yourself and load the tar archive"
                )
            into.write(data)
    into.flush()


class _Bounded:
    """What tarfile reads from: no more than `left` bytes until somebody sets it anew."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._begun = False
        self.left = ENTRY_MAX
        self.cut = False
        """Whether the end came in the midst of something."""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError(f"one of its entries has more than {ENTRY_MAX} bytes of headers; no image tool writes so")
        self.left -= size
        data: bytes = self._file.read(size)
        self.cut = self._begun and len(data) < size
        self._begun = True
        return data

    def seek(self, offset: int) -> int:
        return int(self._file.seek(offset))

    def tell(self) -> int:
        return int(self._file.tell())


def _entries(source: _Bounded) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    end = -1
    with tarfile.open(fileobj=source, mode="r:") as archive:  # type: ignore[call-overload]
        for number, member in enumerate(iter(archive.next, None)):
            if number >= ENTRIES_MAX:
                raise ValueError(f"it has more than {ENTRIES_MAX} entries")
            if archive.offset <= end:
                # A size may be negative: the same entries would come again and again.
                raise ValueError("one of its entries ends before it begins")
            end = archive.offset
            yield archive, member
            # tarfile keeps them all.
            archive.members.clear()
            source.left = ENTRY_MAX


def _opener(path: Path) -> Callable[..., Any] | None:
    with open(path, "rb") as file:
        beginning = file.read(6)
    return next((opener for magic, opener in _OPENERS.items() if beginning.startswith(magic)), None)

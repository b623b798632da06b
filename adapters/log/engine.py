"""A look at an LMDB file before the engine maps it: liblmdb trusts what it maps, and a short file is a SIGBUS.

Only format 1 (LMDB 0.9, which Debian's tools read too) passes. Reads two pages; where the file is shorter than its
pages claim, lmdb's own offline checker decides, because pages at the end may legitimately never have been written.
"""

import struct
from pathlib import Path

from lmdb import verify as offline

from adapters.log.errors import LogCorrupt, WrongFormat

LIB_VERSION = 0
DATA = "data.mdb"
_MAGIC = 0xBEEFC0DE
_FORMAT = 1
_PAGE_HEADER = 16
_META = struct.Struct("=IIQQ48s48sQQ")
_PAGE_START_LATER = struct.Struct("=24xII")  # LMDB 1.0 has eight bytes more before the magic number


def inspect(directory: Path) -> None:
    """Raises WrongFormat or LogCorrupt where the engine must not open the file; an absent file passes."""
    path = directory / DATA
    try:
        with path.open("rb") as file:
            head = file.read(_PAGE_HEADER + _META.size)
            page_size = _page_size(directory, head)
            file.seek(page_size)
            metas = [head, file.read(_PAGE_HEADER + _META.size)]
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size < max(_bytes_claimed(directory, meta, page_size) for meta in metas):
        problems = structure(directory)
        if problems:
            raise LogCorrupt(f"cannot open log {directory}: it was cut short: {problems[0]}; restore it from a copy")


def structure(directory: Path) -> list[str]:
    """What lmdb's offline checker finds wrong with the pages of the file; reads all of it."""
    try:
        return [str(problem) for problem in offline.verify(str(directory))]
    except (offline.VerifyError, OSError) as error:
        return [str(error)]


def _fields(directory: Path, page: bytes) -> tuple[int, int, int, int, bytes, bytes, int, int]:
    if len(page) < _PAGE_HEADER + _META.size:
        raise LogCorrupt(f"cannot open log {directory}: {DATA} is too short to be one; restore it from a copy")
    return _META.unpack(page[_PAGE_HEADER:])


def _page_size(directory: Path, page: bytes) -> int:
    magic, version, _, _, free, _, _, _ = _fields(directory, page)
    if magic != _MAGIC:
        magic, version = _PAGE_START_LATER.unpack_from(page)
    if magic != _MAGIC:
        raise LogCorrupt(f"cannot open log {directory}: {DATA} is no LMDB file; restore it from a copy")
    if version != _FORMAT:
        raise WrongFormat(f"cannot open log {directory}: LMDB format {version}, this daybook reads {_FORMAT} only")
    size: int = struct.unpack_from("=I", free)[0]
    if not 512 <= size <= 65536:
        raise LogCorrupt(f"cannot open log {directory}: pages of {size} bytes; restore it from a copy")
    return size


def _bytes_claimed(directory: Path, page: bytes, page_size: int) -> int:
    magic, _, _, _, _, _, last_page, _ = _fields(directory, page)
    if magic != _MAGIC:
        raise LogCorrupt(f"cannot open log {directory}: its second meta page is damaged; restore it from a copy")
    return (last_page + 1) * page_size

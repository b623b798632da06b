"""/proc/PID/mountinfo, read in one place: what is mounted where (proc(5)). For all adapters; pure but for `read`.

A record ends at a newline and nothing else. Paths in it are anybody's: only space, tab, newline and backslash are
escaped, every other byte stands as it is, also those that Python's `splitlines` takes for the end of a line. A record
that is not understood says nothing; it never keeps the others from being read.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

OPTIONAL = 6
"""Where the optional fields begin; a single dash ends them."""

OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
ESCAPED = {ord(char): rb"\%03o" % ord(char) for char in " \t\n\\"}


@dataclass(frozen=True, slots=True)
class Mount:
    """`point`: in the reader's root, unescaped. `propagation`: the optional fields, such as `shared:1`."""

    point: bytes
    propagation: tuple[bytes, ...]
    kind: bytes
    super_options: bytes

    @property
    def shared(self) -> bool:
        return any(word.startswith(b"shared:") for word in self.propagation)

    @property
    def slave(self) -> bool:
        return any(word.startswith(b"master:") for word in self.propagation)


def read() -> bytes:
    with open("/proc/self/mountinfo", "rb") as file:
        return file.read()


def mounts(told: bytes | None = None) -> Iterator[Mount]:
    """In the order of the file: the newest mount is the last."""
    for record in (read() if told is None else told).split(b"\n"):
        if (found := _mount(record)) is not None:
            yield found


def _mount(record: bytes) -> Mount | None:
    fields = record.split(b" ")
    try:
        dash = fields.index(b"-", OPTIONAL)
    except ValueError:
        return None
    if len(fields) < dash + 4:
        return None
    return Mount(unescaped(fields[4]), tuple(fields[OPTIONAL:dash]), fields[dash + 1], b" ".join(fields[dash + 3 :]))


def points_below(directory: str, told: bytes | None = None) -> list[str]:
    """Mount points at or below a directory, the newest first.

    The kernel tells them without symlinks, so the directory is resolved first (/var/run is a link everywhere).
    """
    wanted = os.fsencode(os.path.realpath(directory))
    told = read() if told is None else told
    if escaped(wanted) not in told:  # most often: nothing need be parsed
        return []
    return [os.fsdecode(found.point) for found in mounts(told) if is_below(found.point, wanted)][::-1]


def count_at(path: str, told: bytes | None = None) -> int:
    """How many mounts there are at a path, those that another one hides included."""
    where = os.fsencode(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)))
    told = read() if told is None else told
    return sum(found.point == where for found in mounts(told)) if escaped(where) in told else 0


def is_shared(path: str, told: bytes | None = None) -> bool:
    """Whether what is mounted below a path travels from the mount in which the path lies."""
    found = holding(os.path.realpath(path), told)
    return found is not None and found.shared


def holding(path: str, told: bytes | None = None) -> Mount | None:
    """The mount that a path, which has no symlinks in it, lies in: the last of the longest above it."""
    wanted, best = os.fsencode(path), None
    for found in mounts(told):
        if is_below(wanted, found.point) and (best is None or len(found.point) >= len(best.point)):
            best = found
    return best


def is_below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


def unescaped(field: bytes) -> bytes:
    return OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field)


def escaped(path: bytes) -> bytes:
    return b"".join(ESCAPED.get(byte, bytes([byte])) for byte in path)

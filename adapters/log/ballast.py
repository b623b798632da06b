"""Room that the log keeps for itself: a file of allocated blocks that is given up when the disk is full.

While it is gone, only urgent appends (stops, removals) may use what it freed; it comes back once there is twice as
much room as it needs. Size 0: no ballast, and nothing is ever kept back.
"""

import contextlib
import os
from pathlib import Path

FILE = "ballast"


class Ballast:
    """Used by the writer thread alone."""

    def __init__(self, directory: Path, size: int) -> None:
        self._path = directory / FILE
        self._size = size
        self.held = size == 0 or self._present()
        if not self.held:
            self.take()

    def take(self) -> bool:
        """Allocates the file if there is room to spare; tells whether it is held now."""
        try:
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize >= 2 * self._size:
                self._allocate()
                self.held = True
        except OSError:  # no room after all, or a disk that fails: the next commit will tell
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        return self.held

    def release(self) -> bool:
        """Gives the room up; tells whether there was any."""
        if self._size == 0 or not self.held:
            return False
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return False
        self.held = False
        return True

    def _allocate(self) -> None:
        fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size)
        finally:
            os.close(fd)

    def _present(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        return status.st_size == self._size and status.st_blocks * 512 >= self._size

"""What a command says, through a pipe that is always read on: kept up to a bound, thrown away beyond it.

A writer is never held up and nobody's memory grows without end (CVE-2022-1708).
"""

import asyncio
import os
from dataclasses import dataclass

STREAM_MAX = 16 * 1024 * 1024
"""Bytes kept of a stream."""

TOGETHER_MAX = 256 * 1024 * 1024
"""Bytes kept of all streams that are open, beyond `SURE` of each."""

SURE = 256 * 1024
"""Bytes that each stream may keep, whatever the others hold."""

PART = 64 * 1024
PAUSE_S = 0.001
"""Between two reads of what is thrown away: a command that floods must not have the loop for itself."""


@dataclass(slots=True)
class Pool:
    """Room for what streams keep beyond `SURE`."""

    free: int = TOGETHER_MAX

    def take(self, wanted: int) -> int:
        given = min(wanted, self.free)
        self.free -= given
        return given


class Drain:
    """One pipe. `write` is for the child and closed with `started`; `ended` is done at the end of the pipe."""

    def __init__(self, pool: Pool, limit: int = STREAM_MAX) -> None:
        self._pool, self._limit = pool, limit
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._taken = 0
        self._full = False
        self._pause: asyncio.TimerHandle | None = None
        self._read, self.write = os.pipe()
        os.set_blocking(self._read, False)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._read, self._readable)

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    def started(self) -> None:
        """The child has its end: ours goes, so that the end of the pipe can be seen."""
        if self.write >= 0:
            os.close(self.write)
            self.write = -1

    def close(self) -> None:
        """Reads no more and gives back what it holds; whoever still writes gets SIGPIPE."""
        self.started()
        if self._read >= 0:
            self._loop.remove_reader(self._read)
            os.close(self._read)
            self._read = -1
        if self._pause is not None:
            self._pause.cancel()
        self._pool.free += self._taken
        self._taken = 0
        if not self.ended.done():
            self.ended.set_result(None)

    def _readable(self) -> None:
        try:
            part = os.read(self._read, PART)
        except BlockingIOError:
            return
        if not part:
            self._loop.remove_reader(self._read)
            self.ended.set_result(None)
        elif self._full:
            self._rest()
        else:
            self._keep(part)

    def _keep(self, part: bytes) -> None:
        room = self._room(len(part))
        self._data += part[:room]
        self._full = room < len(part)

    def _room(self, wanted: int) -> int:
        wanted = min(wanted, self._limit - len(self._data))
        sure = max(0, min(wanted, SURE - len(self._data)))
        more = self._pool.take(wanted - sure)
        self._taken += more
        return sure + more

    def _rest(self) -> None:
        self._loop.remove_reader(self._read)
        self._pause = self._loop.call_later(PAUSE_S, self._loop.add_reader, self._read, self._readable)

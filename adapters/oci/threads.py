"""Blocking calls off the loop: one short-lived thread per call, bounded in number, abandoned and counted when it hangs.

Not the default executor: six hung umounts would fill it and stop everything else.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from domain.errors import Busy, StorageFailed, TimedOut

T = TypeVar("T")
Outcome = tuple[T | None, BaseException | None]


class Threads:
    """At most `limit` calls at work or hanging; the next ones wait for a place, first come first served.

    `hanging` counts the abandoned ones that have not come back.
    """

    def __init__(self, limit: int = 64, limit_s: float = 30.0) -> None:
        self.hanging = 0
        self._places = asyncio.Semaphore(limit)
        self._limit_s = limit_s

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """The function's result. A cancelled caller still waits for the thread (within the limit): nothing runs unseen.

        Raises Busy where no place comes free within the limit, TimedOut where this call does not come back,
        StorageFailed for any OSError.
        """
        try:
            async with asyncio.timeout(self._limit_s):
                await self._places.acquire()
        except TimeoutError:
            raise Busy(f"too many file operations are running ({self.hanging} hang)") from None
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._start(future, function, args)
        except RuntimeError:
            self._places.release()
            raise Busy("the system starts no more threads for the daemon") from None
        try:
            await settled(future, self._limit_s)
        finally:
            if not future.done():
                self.hanging += 1
                future.cancel()
        if future.cancelled():
            raise TimedOut(f"{function.__name__}: not done after {self._limit_s:g} s")
        try:
            return future.result()
        except OSError as error:
            raise failed(error) from error

    def _start(self, future: "asyncio.Future[T]", function: Callable[..., T], args: tuple[object, ...]) -> None:
        loop = future.get_loop()

        def tell(outcome: Outcome[T]) -> None:
            self._places.release()
            result, error = outcome
            if future.done():
                self.hanging -= 1
            elif error is not None:
                future.set_exception(error)
                future.exception()  # marked as seen: a cancelled caller does not fetch it
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            try:
                outcome: Outcome[T] = (function(*args), None)
            except BaseException as error:
                outcome = (None, error)
            try:
                loop.call_soon_threadsafe(tell, outcome)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        threading.Thread(target=work, name=f"oci {function.__name__}", daemon=True).start()


def failed(error: OSError) -> StorageFailed:
    """A system call's refusal in our own words: the file and the reason."""
    where = f"{error.filename}: " if error.filename else ""
    return StorageFailed(f"{where}{os.strerror(error.errno or 0)}")


async def settled(future: "asyncio.Future[T]", limit_s: float) -> None:
    """Waits for the future until the limit, also through a cancellation, which is raised again at the end."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    cancelled: asyncio.CancelledError | None = None
    while not future.done() and (rest := deadline - loop.time()) > 0:
        try:
            await asyncio.wait([future], timeout=rest)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled

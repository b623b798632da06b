"""Blocking calls (fsync, setns, reading a directory) in short-lived threads: bounded, abandoned when they hang.

A thread is thrown away after its call, so it may change its namespace.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from domain.errors import Busy, TimedOut

T = TypeVar("T")


class Threads:
    """At most `limit` calls at work or hanging; the next ones wait for a place, first come first served."""

    def __init__(self, limit: int = 32, limit_s: float = 30.0) -> None:
        self._places = asyncio.Semaphore(limit)
        self._limit_s = limit_s

    async def call(self, function: Callable[..., T], *given: Any) -> T:
        """The function's result or error. A cancelled caller still waits, within the limit: nothing runs unseen.

        Raises Busy where no place comes free within the limit, TimedOut where this call does not come back.
        """
        try:
            async with asyncio.timeout(self._limit_s):
                await self._places.acquire()
        except TimeoutError:
            raise Busy("too many operations on network files are running") from None
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._start(future, function, given)
        except RuntimeError:
            self._places.release()
            raise Busy("the system starts no more threads for the daemon") from None
        await _settled(future, self._limit_s)
        if not future.done():
            future.cancel()
            raise TimedOut(f"{function.__name__}: not done after {self._limit_s:g} s")
        return future.result()

    def _start(self, future: "asyncio.Future[T]", function: Callable[..., T], given: tuple[Any, ...]) -> None:
        loop = future.get_loop()

        def tell(result: Any, error: BaseException | None) -> None:
            self._places.release()
            if future.done():
                return
            if error is None:
                future.set_result(result)
                return
            future.set_exception(error)
            future.exception()  # marked as seen: a cancelled caller does not fetch it

        def body() -> None:
            try:
                outcome: tuple[Any, BaseException | None] = (function(*given), None)
            except BaseException as error:
                outcome = (None, error)
            try:
                loop.call_soon_threadsafe(tell, *outcome)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        threading.Thread(target=body, name=f"network {function.__name__}"[:60], daemon=True).start()


async def _settled(future: "asyncio.Future[Any]", limit_s: float) -> None:
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

"""Blocking calls (mount, fsync, removal) in short-lived threads: bounded, abandoned and counted when they hang."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from domain.errors import StorageFailed, TimedOut

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Threads:
    """At most `limit` calls at once; a hung one gives its place back and counts in `abandoned`, at most `lost_max`."""

    def __init__(self, limit: int = 4, *, lost_max: int = 16) -> None:
        self.abandoned = 0
        self._lost_max = lost_max
        self._places = asyncio.Semaphore(limit)

    async def run(self, what: str, limit_s: float, call: Callable[..., T], *args: Any) -> T:
        """The call's result. A cancelled caller still waits for the thread's end, within the limit.

        Raises TimedOut when the limit passes; StorageFailed when too many threads hang already.
        """
        if self.abandoned >= self._lost_max:
            raise StorageFailed(f"cannot {what}: {self.abandoned} earlier calls still hang")
        async with self._places:
            done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            hung = threading.Event()
            self._start(what, done, hung, call, args)
            try:
                finished = await _settled(done, limit_s)
            finally:
                if not done.done():
                    hung.set()
                    self.abandoned += 1
                    _log.error("abandoned a thread: %s (%d hang)", what, self.abandoned)
            if not finished:
                raise TimedOut(f"cannot {what}: not done after {limit_s:g} s")
            return done.result()

    def _start(
        self, what: str, done: "asyncio.Future[T]", hung: threading.Event, call: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        loop = done.get_loop()

        def tell(result: T | None, error: BaseException | None) -> None:
            if hung.is_set():
                self.abandoned -= 1
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
                done.exception()
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def body() -> None:
            try:
                outcome: tuple[T | None, BaseException | None] = (call(*args), None)
            except BaseException as error:
                outcome = (None, error)
            try:
                loop.call_soon_threadsafe(tell, *outcome)
            except RuntimeError:
                return  # the loop has closed: nobody waits any more

        threading.Thread(target=body, name=f"images: {what}"[:60], daemon=True).start()


async def _settled(future: "asyncio.Future[Any]", limit_s: float) -> bool:
    """Waits for the future, also through a cancellation, which is then raised at the end."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    cancelled: asyncio.CancelledError | None = None
    while not future.done() and loop.time() < deadline:
        try:
            await asyncio.wait([future], timeout=deadline - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return future.done()

"""The one thread that writes: takes all waiting tickets, one transaction, one commit, then tells everybody.

Rule 1: nobody is told before the commit is durable, and `head` never runs ahead of it. Rule 2: a ticket is written
whole or not at all; a conflict fails that ticket alone. Rule 3: after a commit with an unknown outcome nothing is
written any more (a failed fsync must not be tried again: the kernel may have dropped the pages). Rule 4: a full
disk is no such case: LMDB writes its root last. While the ballast is gone, only urgent tickets are taken.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import lmdb

from adapters.log.ballast import Ballast
from adapters.log.errors import Conflict, LogBroken, LogClosed, LogError, LogFull
from adapters.log.record import APPEND_BYTES_MAX, Entry, Placed, lay
from adapters.log.store import Store, is_full
from domain.errors import Busy
from domain.records import Cause, Head, Now

BATCH_MAX = 4096
_GROWTHS_MAX = 8
_STILL_FULL = "cannot append to log: its disk was full and still has little room; free space on it"
Outcome = Sequence[Placed] | Exception


@dataclass(slots=True)
class Ticket:
    """One append on its way. `also` writes to other tables in the same transaction; it raises Conflict first or never.

    `loop` is None where a thread waits instead of a coroutine.
    """

    entries: Sequence[Entry]
    cause: Cause
    now: Now
    future: "asyncio.Future[Sequence[Placed]] | Future[Sequence[Placed]]"
    loop: asyncio.AbstractEventLoop | None = None
    urgent: bool = False
    also: Callable[[Any], None] | None = None


class Writer:
    """Begins at construction. `head` is what is durable; `broken` says why nothing is written any more."""

    def __init__(self, store: Store, ballast: Ballast, queue_max: int) -> None:
        self.head: Head = store.head()
        self._store = store
        self._ballast = ballast
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self._queue_max = queue_max
        self._lock = Lock()
        self._closed = False
        self.broken = ""
        self._listeners: frozenset[Event] = frozenset()
        self._thread = Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Raises Busy, LogClosed or LogBroken; else the ticket's future tells how it went."""
        with self._lock:
            if self.broken:
                raise LogBroken(self.broken)
            if self._closed:
                raise LogClosed("cannot append to log: it is closed")
            if self._queue.qsize() >= self._queue_max:
                raise Busy(f"cannot append to log: {self._queue_max} appends are waiting; try again")
            self._queue.put(ticket)

    def listen(self, event: Event) -> None:
        """Sets the event after every commit from now on."""
        with self._lock:
            self._listeners |= {event}

    def unlisten(self, event: Event) -> None:
        with self._lock:
            self._listeners -= {event}

    def close(self) -> None:
        """Writes what was submitted, then ends. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            tickets, more = self._take()
            if tickets:
                _resolve(tickets, self._write(tickets))
                for event in self._listeners:
                    event.set()
            if not more:
                return

    def _take(self) -> tuple[list[Ticket], bool]:
        """All that wait, at least one; and whether there may be more after them."""
        tickets: list[Ticket] = []
        size = 0
        while not tickets or (len(tickets) < BATCH_MAX and size < APPEND_BYTES_MAX and not self._queue.empty()):
            ticket = self._queue.get()
            if ticket is None:
                return tickets, False
            tickets.append(ticket)
            size += sum(len(entry.payload) for entry in ticket.entries)
        return tickets, True

    def _write(self, tickets: Sequence[Ticket]) -> list[Outcome]:
        if not (self._ballast.held or self._ballast.take()):
            return self._write_urgent(tickets, _STILL_FULL)
        try:
            return self._transact(tickets)
        except LogFull as error:
            if not any(ticket.urgent for ticket in tickets) or not self._ballast.release():
                return _each(error, len(tickets))
            return self._write_urgent(tickets, error.text)
        except LogBroken as error:
            return _each(error, len(tickets))

    def _write_urgent(self, tickets: Sequence[Ticket], why: str) -> list[Outcome]:
        """What may use the ballast's room is written, the rest refused."""
        urgent = [ticket for ticket in tickets if ticket.urgent]
        try:
            outcomes = iter(self._transact(urgent) if urgent else [])
        except (LogFull, LogBroken) as error:
            outcomes = iter(_each(error, len(urgent)))
        return [next(outcomes) if ticket.urgent else LogFull(why) for ticket in tickets]

    def _transact(self, tickets: Sequence[Ticket]) -> list[Outcome]:
        """One durable transaction. Raises LogFull with nothing written, or LogBroken for good."""
        for _ in range(_GROWTHS_MAX):
            if self.broken:
                raise LogBroken(self.broken)
            try:
                return self._attempt(tickets)
            except lmdb.MapFullError:
                self._grow()
            except Exception as error:
                # whatever it is, the outcome is unknown unless it is a full disk with the old head still in place
                if is_full(error) and self._unchanged():
                    raise LogFull(f"cannot append to log: {error}; free space on its disk") from None
                raise self._break(error) from None
        raise LogFull("cannot append to log: its map cannot grow any further; raise the configured map size")

    def _attempt(self, tickets: Sequence[Ticket]) -> list[Outcome]:
        store, head = self._store, self.head
        outcomes: list[Outcome] = []
        txn = store.begin()
        try:
            for ticket in tickets:
                try:
                    store.check(txn, ticket.entries)
                    if ticket.also is not None:
                        ticket.also(txn)
                except Conflict as error:
                    outcomes.append(error)
                    continue
                rows = lay(head, ticket.entries, ticket.cause, ticket.now)
                store.put(txn, ticket.entries, rows)
                placed = [at for _, at in rows]
                head = Head(placed[-1].seq, placed[-1].hash) if placed else head
                outcomes.append(placed)
            store.commit(txn)
        except BaseException:
            with contextlib.suppress(lmdb.Error):
                txn.abort()
            raise
        self.head = head
        return outcomes

    def _grow(self) -> None:
        try:
            self._store.grow()
        except (lmdb.Error, OSError, OverflowError) as error:
            raise LogFull(f"cannot append to log: its map is full and cannot grow: {error}") from None

    def _unchanged(self) -> bool:
        try:
            return self._store.head() == self.head
        except (LogError, lmdb.Error):
            return False

    def _break(self, error: Exception) -> LogBroken:
        text = f"cannot append to log: a commit failed with an unknown outcome: {error}; check the disk, then restart"
        with self._lock:
            self.broken = text
        return LogBroken(text)


def _each(error: LogError, count: int) -> list[Outcome]:
    """One exception per waiter: raised in several tasks, a shared one would collect their tracebacks."""
    return [type(error)(error.text) for _ in range(count)]


def _resolve(tickets: Sequence[Ticket], outcomes: Sequence[Outcome]) -> None:
    """Each loop is woken once for all of its tickets."""
    told: dict[asyncio.AbstractEventLoop | None, list[tuple[Any, Outcome]]] = {}
    for ticket, outcome in zip(tickets, outcomes, strict=True):
        told.setdefault(ticket.loop, []).append((ticket.future, outcome))
    for loop, results in told.items():
        if loop is None:
            _settle(results)
            continue
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(_settle, results)


def _settle(results: Sequence[tuple[Any, Outcome]]) -> None:
    for future, outcome in results:
        if future.done():  # its caller gave up waiting; the append counts all the same
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

"""Runs what `due` says: per aggregate at most one effect and one watch, held against the state after every event.

Rule 1: what runs is what is due. An effect that is no longer due is cancelled, its successor starts when it has ended.
Rule 2: the outcome of an effect is a command like any other. From the moment it is known, the effect is not cancelled.
Rule 3: what fails without an outcome event (stop, removal, tidying) is repeated, later and later, until it is true.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from domain import commands as c
from domain import effects as f
from domain import errors
from domain.due import Due, due
from domain.node import Node
from domain.records import Cause
from service.ports import Clock
from service.rooms import Rooms
from service.unforeseen import told

log = logging.getLogger("daybook.effects")

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 30.0
Report = Callable[[c.Command], Awaitable[None]]
Handler = Callable[[f.Effect | f.Watch, Report], Awaitable[None]]
"""Runs one effect and reports its outcome. Raises a Failure where that has no outcome event."""


@dataclass(slots=True)
class _Running:
    what: f.Effect | f.Watch
    task: "asyncio.Task[None]"
    begun: bool = False
    reporting: bool = False

    def cancel(self) -> None:
        """Not once its outcome is known; nor before it has begun: a task that never ran could not tidy up behind
        itself. It looks what is due when it begins.
        """
        if self.begun and not self.reporting:
            self.task.cancel()


@dataclass(slots=True)
class _Slot:
    """What one aggregate has under way. `tried`: the newest effect; it ended `attempts` times with nothing changed."""

    effect: _Running | None = None
    watch: _Running | None = None
    timer: "asyncio.Task[None] | None" = None
    timer_for: object = None
    retry: asyncio.TimerHandle | None = None
    commands: set[c.Command] = field(default_factory=set)
    tried: f.Effect | None = None
    attempts: int = 0
    quiet_done: bool = False

    def idle(self) -> bool:
        return not (self.effect or self.watch or self.timer or self.retry or self.commands or self.quiet_done)


class Runner:
    """`submit` takes a follow-up command, `report` an effect's outcome; both come from the dispatcher.

    While `halted` is true nothing begins: the log broke, and only another process can tell what is on record.
    """

    def __init__(
        self,
        node: Node,
        clock: Clock,
        handle: Handler,
        submit: Callable[[c.Command, Cause], Awaitable[object]],
        report: Callable[[c.Command, Cause], Awaitable[None]],
        halted: Callable[[], object] = lambda: False,
    ) -> None:
        self._node = node
        self._clock = clock
        self._handle = handle
        self._submit = submit
        self._report = report
        self._halted = halted
        self._slots: dict[str, _Slot] = {}
        self._seq: dict[str, int] = {}
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()
        self._rooms = Rooms(node)
        self.last_error: dict[str, str] = {}
        self.failures = 0

    def kick(self, keys: Iterable[str], seq: int = 0) -> None:
        """Holds what runs for these aggregates against what is due now. `seq`: the record that led here."""
        if self._closed:
            return
        for key in keys:
            if seq:
                self._seq[key] = seq
            self._match(key)

    def repeat(self, key: str) -> None:
        """A quiet effect that was done is owed once more: the world has contradicted it since."""
        slot = self._slots.get(key)
        if slot is not None:
            slot.quiet_done = False
        self.kick([key])

    def busy(self, key: str) -> bool:
        """Whether an effect of this aggregate is in flight, or waits to be tried again."""
        slot = self._slots.get(key)
        return slot is not None and (slot.effect is not None or slot.retry is not None or bool(slot.commands))

    def in_flight(self) -> list[f.Effect | f.Watch]:
        return [s.effect.what for s in self._slots.values() if s.effect is not None]

    async def drain(self, seconds: float) -> int:
        """Starts nothing new, waits for running effects (not for the graces of stops), cancels and counts the rest."""
        self._closed = True
        self._cancel_waiting()
        effects = [s.effect for s in self._slots.values() if s.effect]
        finite = {r.task for r in effects if not isinstance(r.what, f.StopTask)}
        if finite:
            await asyncio.wait(finite, timeout=seconds)
        left = [r.task for r in effects if not r.task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    def _cancel_waiting(self) -> None:
        for slot in self._slots.values():
            for task in (slot.timer, slot.watch.task if slot.watch else None):
                if task is not None:
                    task.cancel()
            if slot.retry is not None:
                slot.retry.cancel()

    # --- matching ----------------------------------------------------------------------------------------------------

    def _match(self, key: str) -> None:
        if self._halted():
            return
        owed = due(self._node, key)
        slot = self._slots.setdefault(key, _Slot())
        self._match_effect(key, slot, owed.effect)
        self._match_watch(key, slot, owed.watch)
        self._match_timer(key, slot, owed)
        for command in owed.commands:
            self._follow(key, slot, command)
        if slot.idle():
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._slots.pop(key, None)
        self._seq.pop(key, None)
        self.last_error.pop(key, None)

    def _match_effect(self, key: str, slot: _Slot, wanted: f.Effect | None) -> None:
        running = slot.effect
        if running is not None:
            if running.what != wanted:
                running.cancel()
            return
        if wanted != slot.tried:
            slot.tried, slot.attempts = wanted, 0
            slot.quiet_done = False
            if slot.retry is not None:
                slot.retry.cancel()
                slot.retry = None
        if wanted is None or slot.retry is not None or slot.quiet_done:
            return
        slot.effect = self._start(key, wanted, self._run_effect(key, slot, wanted))

    def _match_watch(self, key: str, slot: _Slot, wanted: f.Watch | None) -> None:
        running = slot.watch
        if running is not None:
            if running.what != wanted:
                running.cancel()
            return
        if wanted is not None:
            slot.watch = self._start(key, wanted, self._run_watch(key, slot, wanted))

    def _match_timer(self, key: str, slot: _Slot, owed: Due) -> None:
        if owed.at == slot.timer_for:
            return
        if slot.timer is not None:
            slot.timer.cancel()
        slot.timer, slot.timer_for = None, owed.at
        if owed.at is not None:
            slot.timer = asyncio.ensure_future(self._wake(key, slot, owed))

    def _start(self, key: str, what: f.Effect | f.Watch, work: Coroutine[Any, Any, None]) -> _Running:
        task = asyncio.ensure_future(work)
        return _Running(what, task)

    # --- running -----------------------------------------------------------------------------------------------------

    async def _run_effect(self, key: str, slot: _Slot, what: f.Effect) -> None:
        failed = False
        assert slot.effect is not None
        slot.effect.begun = True
        try:
            if due(self._node, key).effect == what:
                await self._handle_in_turn(what, lambda command: self._reported(key, slot.effect, command))
                slot.quiet_done = isinstance(what, f.QUIET)
        except asyncio.CancelledError:
            if self._closed:
                raise
        except errors.DaybookError as error:
            failed = True
            self._note_failure(key, what, error.text)
        except Exception as error:
            failed = True
            self._note_failure(key, what, told(error))
        finally:
            slot.effect = None
        self._after_effect(key, slot, what, failed)

    def _after_effect(self, key: str, slot: _Slot, what: f.Effect, failed: bool) -> None:
        if self._closed:
            return
        if due(self._node, key).effect == what and not slot.quiet_done:
            self._retry_later(key, slot)
        if not failed:
            self.last_error.pop(key, None)
        self._match(key)

    async def _handle_in_turn(self, what: f.Effect, report: Report) -> None:
        async with self._rooms.place(what):
            await self._handle(what, report)

    async def _run_watch(self, key: str, slot: _Slot, what: f.Watch) -> None:
        failed = False
        assert slot.watch is not None
        slot.watch.begun = True
        try:
            if due(self._node, key).watch == what:
                await self._handle(what, lambda command: self._reported(key, slot.watch, command))
        except asyncio.CancelledError:
            if self._closed:
                raise
        except Exception as error:
            failed = True
            self._note_failure(key, what, error.text if isinstance(error, errors.DaybookError) else told(error))
        finally:
            slot.watch = None
        if failed:
            asyncio.get_running_loop().call_later(BACKOFF_FIRST_S, self.kick, [key])
        elif not self._closed:
            self._match(key)

    async def _reported(self, key: str, running: _Running | None, command: c.Command) -> None:
        """From here on the work is done; only its record is missing, so nothing may cancel it."""
        assert running is not None
        running.reporting = True
        kind = "watch" if isinstance(running.what, f.Watch) else "effect"
        cause = Cause(kind, type(running.what).__name__, led_by=self._seq.get(key, 0))
        await asyncio.shield(asyncio.ensure_future(self._report(command, cause)))
        if kind == "watch":
            # It may have seen something on the way, and watches on.
            running.reporting = False

    def _note_failure(self, key: str, what: object, text: str) -> None:
        self.failures += 1
        self.last_error[key] = text
        log.warning("%s of %s failed: %s", type(what).__name__, key, text)

    def _retry_later(self, key: str, slot: _Slot) -> None:
        delay = min(BACKOFF_FIRST_S * 2**slot.attempts, BACKOFF_MAX_S)
        slot.attempts += 1
        slot.retry = asyncio.get_running_loop().call_later(delay, self._retry, key, slot)

    def _retry(self, key: str, slot: _Slot) -> None:
        slot.retry = None
        if not self._closed:
            self._match(key)

    # --- commands that follow ----------------------------------------------------------------------------------------

    def _follow(self, key: str, slot: _Slot, command: c.Command) -> None:
        if command in slot.commands:
            return
        slot.commands.add(command)
        task = asyncio.ensure_future(self._run_command(key, slot, command))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run_command(self, key: str, slot: _Slot, command: c.Command) -> None:
        cause = Cause("due", type(command).__name__, led_by=self._seq.get(key, 0))
        try:
            await self._submit(command, cause)
        except errors.DaybookError as error:
            self._note_failure(key, command, error.text)
            await asyncio.sleep(BACKOFF_FIRST_S)
        finally:
            slot.commands.discard(command)
        if not self._closed:
            self._match(key)

    async def _wake(self, key: str, slot: _Slot, owed: Due) -> None:
        assert owed.at is not None
        deadline, command = owed.at
        if deadline.boot_id == self._clock.now().boot_id:
            await self._clock.sleep_until(deadline.boot_ns)
        slot.timer, slot.timer_for = None, None
        self._follow(key, slot, command)

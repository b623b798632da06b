"""Commands enter here: one lane per pod, held for decide, append and evolve only; effects run outside.

Obligation of every caller: a command that was accepted is on record, and what it started no longer belongs to the
caller. Cancelling `submit` ends the wait for the outcome, nothing else. The one exception is the domain's (`given_up`):
when nobody waits for a pull any more, its end is recorded, and with that it is no longer due.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from domain import commands as c
from domain import errors
from domain import events as e
from domain.config import ContainerSecrets, PullCredentials, SandboxSecrets, Withheld
from domain.deciding import given_up
from domain.decision import Accept, Already, Join, Refused, Wait
from domain.names import sandbox_name
from domain.node import Node
from domain.outcome import Done, Failed, Outcome, outcome
from domain.records import Cause, Draft, Record
from service.credentials import OpenPulls
from service.ports import Clock, EventLog, Secrets

log = logging.getLogger("daybook.dispatcher")

GROWING = (c.RunSandbox, c.CreateContainer, c.StartContainer, c.PullImage)
"""Commands that make more of something. All others may use the room that the log keeps back for a full disk."""

LANE_WAITERS_MAX = 256
"""Commands that may wait for one lane; one more is answered Busy."""

Listener = Callable[[Record, Sequence[str]], None]
"""Called after a fold with the record and the keys whose `due` may have changed."""


@dataclass(slots=True)
class _Lane:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """How far a command got: nothing more to wait for, or a future of its outcome, or a state to leave first."""

    key: str
    pending: "asyncio.Future[Outcome] | None" = None
    result: Outcome = None
    left: "asyncio.Future[None] | None" = None
    seq: int = 0


class Dispatcher:
    def __init__(self, node: Node, log: EventLog, clock: Clock, secrets: Secrets) -> None:
        self.node = node
        self._log = log
        self._clock = clock
        self._secrets = secrets
        self._lanes: dict[str, _Lane] = {}
        self._waiters: dict[str, list[tuple[c.Command, asyncio.Future[Outcome]]]] = {}
        self._leaving: dict[str, list[asyncio.Future[None]]] = {}
        self._listeners: list[Listener] = []
        self._background: set[asyncio.Task[None]] = set()
        self.credentials = OpenPulls()
        self.ending = False
        """Set when the daemon is told to stop: clients that leave from then on give nothing up."""
        self._folded_to = log.head().seq
        self._ahead: set[int] = set()
        self.broken = asyncio.Event()
        """Set when the log takes no more: what is on disk must be read again, by another process."""

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def submit(self, command: c.Command, cause: Cause, secrets: Withheld | None = None) -> str:
        """Decides, appends and waits for the outcome. Returns the id of the reply, or an empty string.

        Raises any of `domain.errors`: a refusal, the failure on record, LimitReached or NotReady from the log.
        """
        if isinstance(secrets, PullCredentials):
            with self.credentials.lent(command.reference, secrets):
                return await self._submit(command, cause, None)
        return await self._submit(command, cause, secrets)

    async def _submit(self, command: c.Command, cause: Cause, secrets: ContainerSecrets | SandboxSecrets | None) -> str:
        while True:
            step = asyncio.ensure_future(self._step(command, cause, secrets))
            try:
                settled = await asyncio.shield(step)
                if settled.left is not None:
                    await settled.left
                    continue
                result = await settled.pending if settled.pending is not None else settled.result
            except asyncio.CancelledError:
                self._caller_left(command, cause, step)
                raise
            return _reply(result)

    async def record(self, command: c.Command, cause: Cause) -> None:
        """Appends the report of an effect or watcher; one that comes too late appends nothing."""
        while True:
            settled = await self._step(command, cause, None, most=None)
            if settled.left is None:
                return
            await settled.left

    async def append_if(self, version: int, drafts: Sequence[Draft], lane: str, cause: Cause) -> bool:
        """Appends what a reconcile found, unless the aggregate has moved on since it was observed.

        Cancelling ends the wait: what has become durable is folded.
        """
        return await asyncio.shield(asyncio.ensure_future(self._append_if(version, drafts, lane, cause)))

    async def _append_if(self, version: int, drafts: Sequence[Draft], lane: str, cause: Cause) -> bool:
        async with self._lane(lane):
            key = drafts[0].key
            if self.node.versions.get(key, 0) != version:
                return False
            self.fold(await self._durable(drafts, cause, urgent=True))
            return True

    def fold(self, records: Sequence[Record]) -> None:
        """Durable records become state; who waits for them or watches them is told, synchronously and in order."""
        for record in records:
            self._ahead.add(record.seq)
            related = dict.fromkeys(self.node.related(record.key))
            self.node.apply(record.key, record.version, record.event)
            related.update(dict.fromkeys(self.node.related(record.key)))
            self._tell_waiters(record.key)
            for listener in self._listeners:
                listener(record, tuple(related))
        self.folded_to()

    def folded_to(self) -> int | None:
        """The sequence up to which every record, and none beyond, is folded; None while lanes overtake each other."""
        while self._folded_to + 1 in self._ahead:
            self._folded_to += 1
            self._ahead.discard(self._folded_to)
        return None if self._ahead else self._folded_to

    async def _step(
        self,
        command: c.Command,
        cause: Cause,
        secrets: ContainerSecrets | SandboxSecrets | None,
        most: int | None = LANE_WAITERS_MAX,
    ) -> Settled:
        async with self._lane(self.node.lane_of(command), most):
            now = self._clock.now()
            decision = self.node.decide(command, now)
            match decision:
                case Refused():
                    raise decision.error
                case Already():
                    key = self._subject(command)
                    return Settled(key, result=outcome(self.node, command, key) or Done())
                case Wait():
                    key = decision.key or self._subject(command)
                    return Settled(key, left=self._until_changed(key))
                case Join():
                    return self._await_outcome(command, decision.key or self._subject(command))
                case Accept():
                    key = decision.events[0][0]
                    urgent = not isinstance(command, GROWING)
                    await self._append(decision, cause, key, secrets, urgent)
                    return self._await_outcome(command, key)
        raise AssertionError(decision)

    async def _append(
        self,
        accepted: Accept,
        cause: Cause,
        key: str,
        secrets: ContainerSecrets | SandboxSecrets | None,
        urgent: bool,
    ) -> None:
        name = e.split_key(key)[1]
        drafts = [Draft(k, self.node.next_version(k), event) for k, event in accepted.events]
        self.node.claim(accepted)
        try:
            if secrets is not None:
                self._secrets.write(name, secrets)
            records = await self._durable(drafts, cause, urgent)
        except BaseException:
            self.node.release(accepted)
            # After a commit with an unknown outcome the intent may be on record: its side file belongs to it.
            if secrets is not None and key not in self.node.versions and not self._log.broken:
                self._secrets.remove(name)
            raise
        self.fold(records)
        self.node.settle(accepted)

    async def _durable(self, drafts: Sequence[Draft], cause: Cause, urgent: bool) -> Sequence[Record]:
        try:
            return await self._log.append(drafts, cause, self._clock.now(), urgent=urgent)
        except BaseException:
            if self._log.broken:
                self.broken.set()
            raise

    # --- clients that leave ------------------------------------------------------------------------------------------

    def _caller_left(self, command: c.Command, cause: Cause, step: "asyncio.Task[Settled]") -> None:
        """Whoever was the last to wait for a pull ends it; its decision may still be on its way into the log."""
        if isinstance(command, c.PullImage) and not self.ending:
            task = asyncio.ensure_future(self._give_up(command, cause, step))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _give_up(self, command: c.Command, cause: Cause, step: "asyncio.Task[Settled]") -> None:
        try:
            settled = await step
            if settled.pending is None:
                return
            settled.pending.cancel()
            async with self._lane(self.node.lane_of(command)):
                await self._give_up_unless_awaited(command, cause, settled.key)
        except errors.DaybookError as error:
            log.info("a pull that nobody waits for goes on: %s", error.text)

    async def _give_up_unless_awaited(self, command: c.Command, cause: Cause, key: str) -> None:
        """In the lane: whoever asks from now on meets a pull that has ended, and begins one anew."""
        end = given_up(self.node, command)
        if end is None or self.ending or any(not waiting.done() for _, waiting in self._waiters.get(key, ())):
            return
        decision = self.node.decide(end, self._clock.now())
        if isinstance(decision, Accept):
            await self._append(decision, cause, key, None, urgent=True)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _await_outcome(self, command: c.Command, key: str) -> Settled:
        result = outcome(self.node, command, key)
        if result is not None:
            return Settled(key, result=result)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, []).append((command, future))
        return Settled(key, pending=future)

    def _until_changed(self, key: str) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leaving.setdefault(key, []).append(future)
        return future

    def _tell_waiters(self, key: str) -> None:
        for future in self._leaving.pop(key, ()):
            if not future.done():
                future.set_result(None)
        still = []
        for command, waiting in self._waiters.pop(key, ()):
            if waiting.done():
                continue
            result = outcome(self.node, command, key)
            if result is None:
                still.append((command, waiting))
            else:
                waiting.set_result(result)
        if still:
            self._waiters[key] = still

    def _subject(self, command: c.Command) -> str:
        """The key of the aggregate that a command is about, where no event of its own names it."""
        match command:
            case c.RunSandbox():
                return e.sandbox_key(self.node.sandbox_named(sandbox_name(command.config)) or command.sandbox_id)
            case c.CreateContainer():
                name = (command.sandbox_id, command.config.name, command.config.attempt)
                return e.container_key(self.node.container_named(name) or command.container_id)
            case c.RemoveImage():
                image = self.node.find_image(command.image)
                return e.image_key(image.reference if image else command.image)
        if hasattr(command, "container_id"):
            return e.container_key(command.container_id)
        if hasattr(command, "sandbox_id"):
            return e.sandbox_key(command.sandbox_id)
        return e.image_key(command.reference) if hasattr(command, "reference") else e.NODE_KEY

    @asynccontextmanager
    async def _lane(self, name: str, most: int | None = LANE_WAITERS_MAX) -> AsyncIterator[None]:
        """`most` None: reports of what has happened. They are bounded by the aggregates and must not be turned away."""
        lane = self._lanes.setdefault(name, _Lane())
        if most is not None and lane.users >= most:
            raise errors.Busy(f"cannot take the command: {lane.users} others wait for {name}")
        lane.users += 1
        try:
            async with lane.lock:
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                self._lanes.pop(name, None)


def _reply(result: Outcome) -> str:
    if isinstance(result, Failed):
        raise result.error
    return result.value if isinstance(result, Done) else ""

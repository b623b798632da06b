"""Commands inside containers and log rotation: the calls that leave no record.

Exec probes come every few seconds for every container, so they are counted, not logged. The caller owns the work: when
it leaves, the command is ended. How many may run and wait is bounded.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from domain import errors
from domain.container import Container
from domain.node import Node
from domain.running import is_hook, running
from service.ports import ExecResult, Tasks

AT_ONCE_MAX = 64
"""Commands that run at the same time, in all containers."""

IN_ONE_MAX = 16
"""Commands of one container, running or waiting: nobody's probes wait behind another's."""

WAITING_MAX = 256


class Execs:
    """`drain` at the end of the daemon: what runs then is given its time, and ended."""

    def __init__(self, node: Node, tasks: Tasks) -> None:
        self._node = node
        self._port = tasks
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        self._of: Counter[str] = Counter()
        self._waiting = 0
        self._running: set[asyncio.Task[ExecResult]] = set()
        self._closed = False
        self.counts: Counter[str] = Counter()

    def info(self) -> Mapping[str, int]:
        """For Status: how many run and wait now, and how many have ended how since the start."""
        kinds = ("ended", "timedOut", "failed", "cancelled", "refused")
        told = {kind: self.counts[kind] for kind in kinds}
        return {"running": sum(self._of.values()) - self._waiting, "waiting": self._waiting, **told}

    async def exec_sync(self, container_id: str, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Runs a command and returns what it said. `timeout_s` 0: no limit; waiting for room does not count.

        Raises NotFound, WrongState, Quarantined, LimitReached, NotReady, TimedOut, ExecFailed, RuntimeFailed.
        """
        running(self._node, container_id, "exec in")
        async with self._turn(container_id):
            # Looked at again: it may have ended while this call waited.
            container = running(self._node, container_id, "exec in")
            task = asyncio.ensure_future(self._run(container, argv, timeout_s))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                task.cancel()
                # Its room is free when it has ended, not when its caller has left.
                await asyncio.wait([task])
                raise

    async def _run(self, container: Container, argv: Sequence[str], timeout_s: float) -> ExecResult:
        how = "cancelled"
        try:
            done = await self._port.exec_sync(container, argv, timeout_s, keep=is_hook(timeout_s))
            how = "ended"
            return done
        except errors.TimedOut as error:
            how = "timedOut"
            raise _named(error, container) from error
        except errors.Failure as error:
            how = "failed"
            raise _named(error, container) from error
        except Exception:
            how = "failed"
            raise
        finally:
            self.counts[how] += 1

    @asynccontextmanager
    async def _turn(self, container_id: str) -> AsyncIterator[None]:
        self._refuse_too_many(container_id)
        self._of[container_id] += 1
        self._waiting += 1
        waits = True
        try:
            async with self._room:
                self._waiting -= 1
                waits = False
                if self._closed:
                    raise errors.NotReady("cannot take the command: the daemon is stopping")
                yield
        finally:
            self._waiting -= waits
            self._of[container_id] -= 1
            if not self._of[container_id]:
                del self._of[container_id]

    def _refuse_too_many(self, container_id: str) -> None:
        if self._closed:
            raise errors.NotReady("cannot take the command: the daemon is stopping")
        why = ""
        if self._of[container_id] >= IN_ONE_MAX:
            why = f"{IN_ONE_MAX} commands run or wait in it"
        elif self._waiting >= WAITING_MAX:
            why = f"{WAITING_MAX} commands wait for room"
        if why:
            self.counts["refused"] += 1
            raise errors.LimitReached(f"cannot exec in container {container_id}: {why}")

    async def reopen_log(self, container_id: str) -> None:
        """Raises NotFound, WrongState, Quarantined, and what `Tasks.reopen_log` raises."""
        container = running(self._node, container_id, "reopen the log of")
        if not container.log_path:
            raise errors.WrongState(f"cannot reopen the log of container {container_id}: it has none")
        sandbox = self._node.sandboxes.get(container.sandbox_id)
        if sandbox is None:
            raise errors.WrongState(f"cannot reopen the log of container {container_id}: its sandbox is unknown")
        try:
            await self._port.reopen_log(container, sandbox)
        except errors.DaybookError as error:
            raise type(error)(f"cannot reopen the log of container {container_id}: {error.text}") from error

    async def drain(self, seconds: float) -> None:
        """Takes nothing new, waits for what runs within the bound, ends the rest."""
        self._closed = True
        if self._running:
            await asyncio.wait(set(self._running), timeout=seconds)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _named(error: errors.Failure, container: Container) -> errors.Failure:
    return type(error)(f"cannot exec in container {container.id}: {error.text}")

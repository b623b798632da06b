"""Kills for want of memory, told when they happen: the kernel rings, and what the container has outlived is recorded.

A kill that the container does not outlive is its end, and told with it; one that it outlived is not the reason of a
later end. So what was outlived is remembered here, also while the log is spared.
"""

import asyncio
import logging
from typing import Any

from domain import commands as c
from domain import errors
from domain.container import Container, oom_at_end
from domain.lifecycle import ContainerState
from domain.node import Node
from service.ports import Clock, TaskExit, Tasks
from service.runner import Report

log = logging.getLogger("daybook.ooms")

OUTLIVED_S = 1.0
"""How long a container must live after a kill for it not to be its end."""

PAUSE_NS = 60 * 10**9
"""Between two records of one container: one whose children are killed again and again does not fill the log."""


class Ooms:
    def __init__(self, node: Node, clock: Clock, tasks: Tasks) -> None:
        self._node, self._clock, self._tasks = node, clock, tasks
        self._outlived: dict[str, int] = {}

    async def tell(self, container: Container, report: Report) -> None:
        """Goes on until it is cancelled, with the watch of the container's end."""
        try:
            await self._watch(container, report)
        except errors.DaybookError as error:
            log.warning("kills for want of memory in container %s are told at its end: %s", container.id, error.text)

    async def _watch(self, container: Container, report: Report) -> None:
        known = self._node.containers.get(container.id, container)
        self._outlived.setdefault(container.id, max(known.oom_kills_at_start, known.oom_kills))
        next_ns = untold = 0
        while True:
            waiting = asyncio.ensure_future(self._tasks.wait_oom(container, self._outlived[container.id], OUTLIVED_S))
            pause: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if untold:
                pause = asyncio.ensure_future(self._clock.sleep_until(next_ns))
            try:
                await asyncio.wait({waiting, pause}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    untold = self._outlived[container.id] = waiting.result()
            finally:
                waiting.cancel()
                pause.cancel()
            if untold and (now_ns := self._clock.now().boot_ns) >= next_ns:
                next_ns, untold = now_ns + PAUSE_NS, await self._told(container, untold, report)

    async def _told(self, container: Container, kills: int, report: Report) -> int:
        """0 once it is on record; else what is still to be told."""
        try:
            await report(c.RecordOom(container.id, kills))
        except errors.DaybookError as error:
            log.warning("a kill for want of memory in container %s is not on record: %s", container.id, error.text)
            return kills
        known = self._node.containers.get(container.id)
        # Whose start is not on record yet is told later.
        return kills if known is not None and known.state is ContainerState.STARTING else 0

    def at_end(self, container: Container, ended: TaskExit) -> bool:
        known = self._node.containers.get(container.id, container)
        outlived = self._outlived.get(container.id)
        if outlived is None:
            outlived = self._outlived[container.id] = known.oom_kills
        return oom_at_end(known.oom_kills_at_start, ended.oom_kills, ended.oom, outlived)

    def forget(self, container_id: str) -> None:
        self._outlived.pop(container_id, None)

"""How many effects are at work at the same time, by what they wait for.

Each kind waits only for its own kind. A plugin that hangs holds a place for a minute, and so do the next ones: if those
were the places of everybody, a node whose CNI waits for its agent could not start that agent, which runs on the host's
network; and a stop must not wait for the set-ups that hang before it.
"""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager

from domain import effects as f
from domain.node import Node

PLACES = {"runtime": 32, "attach": 32, "release": 32, "leak": 4}
"""`runtime`: what starts processes of the runtime, mounts, removes. `attach`, `release`: CNI plugins of pods that come
and go. `leak`: DEL once more for what is in nobody's way."""


class Rooms:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._rooms = {kind: asyncio.Semaphore(places) for kind, places in PLACES.items()}

    def place(self, what: f.Effect) -> AbstractAsyncContextManager[None]:
        """`async with`: waits for a place, first come first served. Graces and downloads take none."""
        kind = self._kind(what)
        return self._rooms[kind] if kind else contextlib.nullcontext()

    def _kind(self, what: f.Effect) -> str:
        match what:
            case f.StopTask() | f.PullImage():
                return ""
            case f.SetUpSandbox() if self._node.sandboxes[what.sandbox_id].own_network:
                return "attach"
            case f.ReleaseNetwork():
                return "leak" if what.leaked else "release"
        return "runtime"

"""Network in memory, for property tests: the same contract suite as the real one.

`Net` is what outlives the daemon: the cache directory, the plugins' book of addresses, the interfaces in the pods'
namespaces. Each effect runs in named steps (`net.add.intent`, `net.del.freed`, ...); a script says at which step it
fails, hangs or does anything else, so an effect can be cut at every point where the real one can. `Net(step=...)`
takes the steps of a machine that has more than networks. Nothing is random, nothing looks at a clock.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from adapters.network.result import INTERFACE, Attached
from domain.errors import NetworkFailed
from domain.observations import Mark
from domain.sandbox import Sandbox

ADDRESSES = 250
NAME = "fake"


class Act(Enum):
    """HANG: the step never returns (until it is cancelled)."""

    HANG = "hang"


Scripted = BaseException | Act | Callable[[], None]


@dataclass(slots=True)
class FakeEntry:
    """A file of the cache. `complete`: the ADD came to its end."""

    mark: Mark
    netns: str
    complete: bool = False
    readable: bool = True


@dataclass
class Net:
    """The machine's side. `trouble`: what `ready` says. `held`: address -> sandbox id. `links`: id -> namespace."""

    pool: tuple[str, ...] = tuple(f"10.200.0.{n}" for n in range(2, 2 + ADDRESSES))
    trouble: str = ""
    collects: bool = True
    """Whether the network is used by nobody else."""
    entries: dict[str, FakeEntry] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    step: Callable[[str], Awaitable[None]] | None = None
    script: dict[str, deque[Scripted]] = field(default_factory=lambda: defaultdict(deque))
    steps: list[str] = field(default_factory=list)

    def at(self, step: str, *what: Scripted) -> None:
        """The next times this step is reached, these happen, in order."""
        self.script[step].extend(what)

    async def reach(self, name: str) -> None:
        self.steps.append(name)
        if self.step is not None:
            await self.step(name)
            return
        await asyncio.sleep(0)
        waiting = self.script.get(name)
        if not waiting:
            return
        scripted = waiting.popleft()
        if isinstance(scripted, BaseException):
            raise scripted
        if scripted is Act.HANG:
            await asyncio.get_running_loop().create_future()
        elif callable(scripted):
            scripted()

    # --- what can happen without the daemon --------------------------------------------------------------------------

    def reboot(self) -> None:
        """Namespaces and what was in them are gone; the cache and the plugins' book lie on disk."""
        self.links.clear()

    def lose_link(self, sandbox_id: str) -> None:
        self.links.pop(sandbox_id, None)

    def hold(self, address: str, sandbox_id: str) -> None:
        """Somebody's address of whom no cache entry knows."""
        self.held[address] = sandbox_id

    def leftovers(self) -> dict[str, list[str]]:
        found = {"entries": sorted(self.entries), "addresses": sorted(self.held), "links": sorted(self.links)}
        return {what: which for what, which in found.items() if which}


class FakeNetwork:
    """`service.ports.Network` on a `Net`. Holds nothing but whether it was started."""

    def __init__(self, net: Net, *, started: bool = False) -> None:
        self.net = net
        self._started = started

    def ready(self) -> str:
        return self.net.trouble if self._started else "the CNI plugins have not been looked at yet"

    async def start(self) -> None:
        self._started = True

    async def close(self) -> None:
        self._started = False

    async def add(
        self, sandbox: Sandbox, netns: str, annotations: Mapping[str, str], mark: Mapping[str, Any]
    ) -> Attached:
        net = self.net
        await self.delete(sandbox.id, netns)
        if self.ready():
            raise NetworkFailed(self.ready())
        await net.reach("net.add.before")
        entry = net.entries[sandbox.id] = FakeEntry(Mark(mark["log_id"], mark["seq"]), netns)
        await net.reach("net.add.intent")
        address = next((one for one in net.pool if one not in net.held), None)
        if address is None:
            raise NetworkFailed(f"network {NAME}: plugin fake: ADD: no address is free")
        net.held[address] = sandbox.id
        await net.reach("net.add.allocated")
        net.links[sandbox.id] = netns
        await net.reach("net.add.linked")
        entry.complete = True
        await net.reach("net.add.answer")
        return Attached((address,), _result(address, netns))

    async def check(self, sandbox_id: str, netns: str) -> None:
        await self.net.reach("net.check")
        entry = self.net.entries.get(sandbox_id)
        if entry is None or not entry.complete:
            raise NetworkFailed(f"no attachment of sandbox {sandbox_id} is known")
        if self.net.links.get(sandbox_id) != netns:
            raise NetworkFailed(f"network {NAME}: plugin fake: CHECK: {INTERFACE} is not there")

    async def delete(self, sandbox_id: str, netns: str) -> None:
        net = self.net
        if sandbox_id not in net.entries:
            return
        await net.reach("net.del.before")
        if not net.entries[sandbox_id].readable and self.ready():
            raise NetworkFailed(f"network {NAME}: DEL: the entry of {sandbox_id} cannot be read")
        net.links.pop(sandbox_id, None)
        await net.reach("net.del.unlinked")
        net.held = {address: who for address, who in net.held.items() if who != sandbox_id}
        await net.reach("net.del.freed")
        net.entries.pop(sandbox_id, None)
        await net.reach("net.del.answer")

    async def gc(self, valid: Collection[str]) -> None:
        net = self.net
        if not net.collects:
            return
        await net.reach("net.gc")
        known = {*valid, *net.entries}
        net.held = {address: who for address, who in net.held.items() if who in known}

    def observe(self) -> Mapping[str, Mark | None]:
        return {one: entry.mark if entry.readable else None for one, entry in self.net.entries.items()}


def _result(address: str, netns: str) -> str:
    made = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": INTERFACE, "sandbox": netns}],
        "ips": [{"interface": 0, "address": f"{address}/24"}],
    }
    return json.dumps(made, separators=(",", ":"))

"""`service.ports.Network` through CNI plugins.

The order of an attachment: what an earlier attempt left is released, `lo` comes up, the entry is on disk, then the
plugins run. So whatever a killed ADD may have allocated is known by its entry, and DEL needs nothing else.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.network import capabilities, conf, namespace, result
from adapters.network.cache import Cache, Entry, Found
from adapters.network.conf import FIRST_CHECK, FIRST_STATUS, Loaded, NetworkConfig
from adapters.network.plugin import Attachment, Budget, Plugins, Step
from adapters.network.process import Late, end_strays
from adapters.network.result import INTERFACE, Attached, BadResult
from adapters.network.threads import Threads
from adapters.network.watcher import Watcher
from domain.errors import Failure, InvalidRequest, NetworkFailed, TimedOut
from domain.observations import Mark
from domain.sandbox import Sandbox

_log = logging.getLogger(__name__)

LATE_S = 15.0
"""How long the DEL of an earlier daemon may go on before it is ended; below the limit of a thread."""
CONF_DIR = "/etc/cni/net.d"
BIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `plugin_s`: one run; `chain_s`: all runs of one ADD, DEL or CHECK; `poll_s`: between two looks.

    GC keeps all others waiting, and a stop may not wait long: `gc_wait_s` until those under way have ended, `gc_s` for
    all its runs.
    """

    plugin_s: float = 60.0
    chain_s: float = 120.0
    gc_wait_s: float = 5.0
    gc_s: float = 30.0
    status_s: float = 10.0
    poll_s: float = 10.0


class CniNetwork:
    """`cache_dir`: where libcni's `results` directory lies. `ip_preference`: cni, ipv4 or ipv6.

    `collects`: whether the network is ours alone. GC tells the plugins our attachments as all that there are, and they
    free those of everybody else.
    """

    def __init__(
        self,
        cache_dir: str,
        *,
        conf_dir: str = CONF_DIR,
        bin_dirs: Sequence[str] = BIN_DIRS,
        ip_preference: str = "cni",
        collects: bool = False,
        limits: Limits | None = None,
    ) -> None:
        if ip_preference not in result.PREFERENCES:
            raise InvalidRequest(f"the IP preference is one of {', '.join(result.PREFERENCES)}, not {ip_preference!r}")
        self._conf_dir, self._bin_dirs = conf_dir, tuple(bin_dirs)
        self._preference, self._limits = ip_preference, limits or Limits()
        self._collects = collects
        self._cache, self._late = Cache(cache_dir), Late(cache_dir)
        self._plugins = Plugins(self._bin_dirs, cache_dir)
        self._threads = Threads()
        self._gate = Gate()
        self.watcher = Watcher((conf_dir, *bin_dirs), self._look, self._status, self._limits.poll_s)

    async def start(self) -> None:
        """Returns when the configuration has been read once; STATUS is asked in the background."""
        await self._threads.call(self._cache.tidy)
        try:
            await self._threads.call(self._late.find)
        except Failure as error:
            _log.warning("%s", error.text)
        await self.watcher.start()

    async def close(self) -> None:
        await self.watcher.close()

    def ready(self) -> str:
        """Empty: pods can be attached; else why not. Never blocks."""
        return self.watcher.problem

    # --- attachments -------------------------------------------------------------------------------------------------

    async def add(
        self, sandbox: Sandbox, netns: str, annotations: Mapping[str, str], mark: Mapping[str, Any]
    ) -> Attached:
        """Raises NetworkFailed, TimedOut, InvalidRequest; what may be allocated then is in the cache, for `delete`."""
        async with self._gate.shared():
            await self._release(sandbox.id, netns)
            network = self._usable()
            args = capabilities.cni_args(sandbox)
            given = capabilities.capability_args(network, sandbox, annotations)
            await self._threads.call(namespace.loopback_up, netns)
            owner = Mark(mark["log_id"], mark["seq"])
            entry = Entry(sandbox.id, network, netns, args, given, mark=owner)
            await self._threads.call(self._write, entry, True)
            last, made = await self._add(entry)
            await self._threads.call(self._write, replace(entry, result=last), False)
            return made

    def _usable(self) -> NetworkConfig:
        """The configuration now. A failing STATUS does not hold an ADD up: the plugins themselves will say."""
        loaded = self.watcher.loaded
        if loaded.network is None or loaded.problem:
            raise NetworkFailed(loaded.problem)
        return loaded.network

    def _write(self, entry: Entry, durable: bool) -> None:
        self._cache.write(entry, durable=durable)

    async def _add(self, entry: Entry) -> tuple[Mapping[str, Any], Attached]:
        budget = self._budget()
        attachment = _attachment(entry, entry.netns)
        last: Mapping[str, Any] | None = None
        for plugin in entry.network.plugins:
            step = Step("ADD", entry.network, plugin, attachment, last)
            try:
                last = result.parse(await self._plugins.run(step, budget.next_s()))
            except BadResult as error:
                raise NetworkFailed(step.told(str(error))) from None
        assert last is not None
        last = result.in_version(last, entry.network.version)
        try:
            return last, result.attached(last, self._preference)
        except BadResult as error:
            raise NetworkFailed(f"network {entry.network.name}: ADD: {error}") from None

    async def check(self, sandbox_id: str, netns: str) -> None:
        """Raises NetworkFailed where a plugin says that the attachment is not as it was made, or nothing is known."""
        async with self._gate.shared():
            entries = [found.entry for found in await self._find(sandbox_id) if found.entry and found.entry.result]
            if not entries:
                raise NetworkFailed(f"no attachment of sandbox {sandbox_id} is known")
            for entry in entries:
                if entry is not None:
                    await self._check(entry, netns)

    async def _check(self, entry: Entry, netns: str) -> None:
        network = entry.network
        if network.disable_check or not network.speaks(FIRST_CHECK):
            return
        budget, attachment = self._budget(), _attachment(entry, netns)
        for plugin in network.plugins:
            step = Step("CHECK", network, plugin, attachment, entry.result)
            try:
                await self._plugins.run(step, budget.next_s())
            except NetworkFailed as error:
                await self._check_again(step, error, budget)

    async def _check_again(self, step: Step, first: NetworkFailed, budget: Budget) -> None:
        """Without the hardware addresses on the host's side, which others change: udev gives each veth a new one
        (MACAddressPolicy), a bridge takes the lowest of its ports. Only then: a plugin is asked as the specification
        has it first. Raises the first failure where it is not about these.
        """
        assert step.previous is not None
        eased = result.without_hosts_addresses(step.previous)
        if eased == step.previous:
            raise first
        try:
            await self._plugins.run(replace(step, previous=eased), budget.next_s())
        except Failure:
            raise first from None
        _log.debug("a hardware address on the host's side has changed: %s", first.text)

    async def delete(self, sandbox_id: str, netns: str) -> None:
        """From the cache alone. Raises NetworkFailed, TimedOut: the entry stays, for another try."""
        async with self._gate.shared():
            await self._release(sandbox_id, netns)

    async def _release(self, sandbox_id: str, netns: str) -> None:
        if sandbox_id in self._late.ids:
            await self._threads.call(self._late.settle, sandbox_id, min(self._limits.plugin_s, LATE_S))
        for found in await self._find(sandbox_id):
            if found.entry is None or found.entry.result is None:
                # An ADD that was cut; its plugin may run still, if the daemon was killed.
                await self._threads.call(end_strays, sandbox_id)
            await self._del(found, netns if netns and namespace.is_netns(netns) else "")
            await self._threads.call(self._cache.remove, found)

    async def _del(self, found: Found, netns: str) -> None:
        """In reverse, to the first plugin that fails: the specification's order, which later plugins rely on."""
        entry = found.entry or self._guessed(found)
        network = entry.network
        budget, attachment = self._budget(), _attachment(entry, netns)
        previous = entry.result if network.speaks(FIRST_CHECK) else None
        for plugin in reversed(network.plugins):
            await self._plugins.run(Step("DEL", network, plugin, attachment, previous), budget.next_s())

    def _guessed(self, found: Found) -> Entry:
        """An entry that cannot be read: the network of that name as it is now; plugins free by container id."""
        network = self.watcher.loaded.network
        if network is None or network.name != found.network:
            raise NetworkFailed(f"network {found.network}: DEL: {found.path} cannot be read: {found.text}")
        return Entry(found.container_id, network, "")

    async def gc(self, valid: Collection[str]) -> None:
        """Lets the plugins free what belongs to no known attachment. What has a cache entry is known: DEL is for that.

        Nothing else is attached or released meanwhile (the specification wants it so). Every plugin is asked; raises
        the first failure, and TimedOut where the others do not come to an end.
        """
        network = self.watcher.loaded.network
        if not self._collects or network is None or network.disable_gc or not network.speaks(FIRST_STATUS):
            return
        async with self._gate.exclusive(self._limits.gc_wait_s):
            known = sorted({*valid, *await self._threads.call(self._cache.ids)})
            attachments = [{"containerID": each, "ifname": INTERFACE} for each in known]
            # Both names: the specification's and the one that early plugins read.
            more = {"cni.dev/valid-attachments": attachments, "cni.dev/attachments": attachments}
            await self._every("GC", network, more)

    async def _every(self, command: str, network: NetworkConfig, more: Mapping[str, Any]) -> None:
        failed: Failure | None = None
        budget = Budget(self._limits.gc_s, self._limits.plugin_s)
        for plugin in network.plugins:
            try:
                await self._plugins.run(Step(command, network, plugin, more=more), budget.next_s())
            except Failure as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def observe(self) -> Mapping[str, Mark | None]:
        """Blocking. Raises NetworkFailed only where the cache directory itself cannot be read."""
        seen: dict[str, Mark | None] = {}
        for found in self._cache.every():
            seen[found.container_id] = (found.entry and found.entry.mark) or seen.get(found.container_id)
        return seen

    async def _find(self, sandbox_id: str) -> list[Found]:
        return await self._threads.call(self._cache.find, sandbox_id)

    def _budget(self) -> Budget:
        return Budget(self._limits.chain_s, self._limits.plugin_s)

    # --- what the watcher does ---------------------------------------------------------------------------------------

    async def _look(self) -> Loaded:
        return await self._threads.call(conf.load, self._conf_dir, self._bin_dirs)

    async def _status(self, loaded: Loaded) -> str:
        """Raises NetworkFailed, TimedOut where a plugin is not ready."""
        network = loaded.network
        if network is not None and loaded.asks_status:
            budget = Budget(self._limits.status_s, self._limits.status_s)
            for plugin in network.plugins:
                await self._plugins.run(Step("STATUS", network, plugin), budget.next_s())
        return ""


def _attachment(entry: Entry, netns: str) -> Attachment:
    return Attachment(entry.container_id, netns, entry.args, entry.capability_args)


class Gate:
    """Many may be inside, or one alone. Who waits to be alone goes before those who come after."""

    def __init__(self) -> None:
        self._shared = self._waiting = 0
        self._alone = False
        self._woken: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        await self._until(lambda: not self._waiting and not self._alone)
        self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            self._wake()

    @contextlib.asynccontextmanager
    async def exclusive(self, wait_s: float) -> AsyncIterator[None]:
        """Raises TimedOut where the others stay for longer than it may wait."""
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._until(lambda: not self._shared and not self._alone)
            self._alone = True
        except TimeoutError:
            raise TimedOut(f"others are attached or released for more than {wait_s:g} s") from None
        finally:
            self._waiting -= 1
            self._wake()
        try:
            yield
        finally:
            self._alone = False
            self._wake()

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._woken.append(future)
            await future

    def _wake(self) -> None:
        woken, self._woken = self._woken, []
        for future in woken:
            if not future.done():
                future.set_result(None)

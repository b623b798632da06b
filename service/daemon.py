"""The running daemon: what a front end may call (`service.api.Api`), and the order of start and stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from domain import commands as c
from domain import errors
from domain import events as e
from domain.config import ContainerSecrets, SandboxSecrets, Withheld
from domain.node import SCHEMA, Node
from domain.records import Cause, Head, Record, TaskUsage, Usage
from domain.recovery import Finding
from service.api import Change, Condition, Health
from service.dispatcher import Dispatcher
from service.execs import Execs
from service.handlers import Handlers
from service.ports import (
    Clock,
    EventLog,
    ExecResult,
    Images,
    Network,
    Sandboxes,
    Secrets,
    StateMark,
    Tasks,
)
from service.recovery import Observer, Offload, Recovery, fence, replay
from service.runner import Runner

log = logging.getLogger("daybook")


@dataclass(frozen=True, slots=True)
class Ports:
    """The world as the daemon sees it; the composition root fills it."""

    log: EventLog
    clock: Clock
    secrets: Secrets
    tasks: Tasks
    sandboxes: Sandboxes
    network: Network
    images: Images
    mark: StateMark
    offload: Offload = asyncio.to_thread


@dataclass(frozen=True, slots=True)
class Timing:
    """Named bounds. Seconds, except `checkpoint_every`, which counts records."""

    stop_wait_s: float = 10.0
    reconcile_s: float = 30.0
    tell_head_s: float = 3600.0
    checkpoint_every: int = 20_000


class Daemon:
    """`prepare` before the sockets open, `resume` after, `stop` at the end."""

    def __init__(self, ports: Ports, timing: Timing, version: str, pid: int) -> None:
        self._ports = ports
        self._timing = timing
        self._version = version
        self._pid = pid
        replayed = replay(ports.log)
        self.node: Node = replayed.node
        self.broken = replayed.broken
        self._dispatcher = Dispatcher(self.node, ports.log, ports.clock, ports.secrets)
        handlers = Handlers(
            self.node,
            ports.log,
            ports.clock,
            ports.secrets,
            ports.tasks,
            ports.sandboxes,
            ports.network,
            ports.images,
            self._dispatcher.credentials.of,
        )
        self.runner = Runner(
            self.node,
            ports.clock,
            handlers.handle,
            self._dispatcher.submit,
            self._dispatcher.record,
            lambda: ports.log.broken,
        )
        self._observer = Observer(ports.clock, ports.tasks, ports.sandboxes, ports.network, ports.images, ports.offload)
        self._recovery = Recovery(
            self._dispatcher,
            ports.log,
            ports.clock,
            self._observer,
            self.runner,
            ports.tasks,
            ports.sandboxes,
            ports.network,
            ports.images,
            handlers.drop_image,
            replayed.whole,
        )
        self._execs = Execs(self.node, ports.tasks)
        self._stopping = False
        self._routines: list[asyncio.Task[None]] = []
        self._checkpointed = ports.log.head().seq

    # --- start and stop ----------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Replay is done; observe, pass the fence, append the verdicts. Raises NotReady with the remedies."""
        for broken in self.broken:
            log.error("record %d (%s) is unreadable: %s", broken.seq, broken.key or "unknown", broken.why)
        world = await self._observer.look(self.node)
        why = fence(self._ports.log, self._ports.mark.read(), world)
        if why is not None:
            raise errors.NotReady(f"cannot start: {why}")
        self._drop_stale_secrets()
        runtime, monitor = self._ports.tasks.binaries()
        started = e.NodeStarted(self._version, self._pid, runtime, monitor)
        self._findings: list[Finding] = await self._recovery.start(world, started)
        self._dispatcher.listen(self._after_event)
        await self._ports.network.start()
        self._tell_head("start")

    def _drop_stale_secrets(self) -> None:
        """Side files whose aggregate never came onto the log, or left it just before the daemon died."""
        if self.broken or self.node.quarantined:
            return
        for name in self._ports.secrets.names():
            if name not in self.node.containers and name not in self.node.sandboxes:
                self._ports.secrets.remove(name)

    def resume(self) -> None:
        """The door is open: run what is due, and look again now and then."""
        self._recovery.resume()
        self._routines = [
            asyncio.ensure_future(self._recovery.first_clean(self._findings)),
            asyncio.ensure_future(self._every(self._timing.reconcile_s, self._reconcile)),
            asyncio.ensure_future(self._every(self._timing.tell_head_s, self._hourly)),
        ]

    async def stop(self) -> None:
        """Refuses new calls, waits for effects within the bound, leaves containers running, says so in the log."""
        self._stopping = True
        self._dispatcher.ending = True
        for routine in self._routines:
            routine.cancel()
        left, _ = await asyncio.gather(
            self.runner.drain(self._timing.stop_wait_s), self._execs.drain(self._timing.stop_wait_s)
        )
        await self._ports.network.close()
        text = f"{left} effects were left to the next start" if left else ""
        await self._dispatcher.record(c.RecordNode(e.NodeStopped(text)), Cause("admin", "stop"))
        self.checkpoint()
        self._tell_head("stop")

    async def until_broken(self) -> str:
        """Returns when the log takes no more, with the reason: the process must end and another one replay."""
        await self._dispatcher.broken.wait()
        return self._ports.log.broken

    def checkpoint(self) -> None:
        """Saves the folded node, unless something in it is quarantined: then every start shall read the whole log."""
        seq = self._dispatcher.folded_to()
        if seq is None or self.broken or self.node.quarantined:
            return
        self._ports.log.save_checkpoint(seq, SCHEMA, self.node.snapshot())
        self._checkpointed = seq

    # --- service.api.Api ---------------------------------------------------------------------------------------------

    async def submit(self, command: c.Command, cause: Cause, secrets: Withheld | None = None) -> str:
        if self._stopping:
            raise errors.NotReady("cannot take the command: the daemon is stopping")
        return await self._dispatcher.submit(command, cause, secrets)

    async def exec_sync(self, container_id: str, argv: Sequence[str], timeout_s: float) -> ExecResult:
        return await self._execs.exec_sync(container_id, argv, timeout_s)

    async def reopen_log(self, container_id: str) -> None:
        await self._execs.reopen_log(container_id)

    def secrets(self, name: str) -> ContainerSecrets | SandboxSecrets | None:
        return self._ports.secrets.read(name)

    def head(self) -> Head:
        return self._ports.log.head()

    def health(self) -> Health:
        """From memory: Status is asked every few seconds and must not wait for anything."""
        head = self._ports.log.head()
        info = {
            "log": {"id": self._ports.log.log_id, "seq": head.seq, "hash": head.hash.hex()},
            "quarantined": {key: q.why for key, q in self.node.quarantined.items()},
            "effects": {"inFlight": len(self.runner.in_flight()), "failures": self.runner.failures},
            "execs": self._execs.info(),
            "alarms": self._recovery.alarms,
            "runtimeDefault": dict(self._ports.tasks.protection()),
        }
        return Health(self._runtime_condition(), self._network_condition(), info)

    def _network_condition(self) -> Condition:
        why = self._ports.network.ready()
        return Condition(False, "NetworkPluginNotReady", why) if why else Condition(True)

    def _runtime_condition(self) -> Condition:
        runtime, monitor = self._ports.tasks.binaries()
        for name, found in (("OCI runtime", runtime), ("monitor", monitor)):
            if not found.version:
                return Condition(False, "RuntimeMissing", f"the {name} {found.path} cannot be run; see `daybook check`")
        return Condition(True)

    async def netns(self, sandbox_id: str) -> str:
        path: str = await self._ports.offload(self._ports.sandboxes.netns, sandbox_id)
        return path

    async def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskUsage]:
        used: Mapping[str, TaskUsage] = await self._ports.offload(self._ports.tasks.usage, container_ids)
        return used

    async def image_usage(self) -> Usage:
        return await self._ports.images.usage()

    def on_change(self, changed: Change) -> None:
        self._dispatcher.listen(lambda record, _: changed(record.key))

    # --- routines ----------------------------------------------------------------------------------------------------

    def _after_event(self, record: Record, related: Sequence[str]) -> None:
        self.runner.kick(related, record.seq)
        if record.seq - self._checkpointed >= self._timing.checkpoint_every:
            self.checkpoint()

    async def _every(self, seconds: float, routine: Callable[[], Awaitable[None]]) -> None:
        """`routine` again and again; one that fails is told and tried at the next turn."""
        while True:
            await self._ports.clock.sleep_until(self._ports.clock.now().boot_ns + int(seconds * 10**9))
            try:
                await routine()
            except errors.DaybookError as error:
                log.warning("%s failed: %s", routine.__name__, error.text)
            except Exception:
                log.exception("%s failed", routine.__name__)

    async def _reconcile(self) -> None:
        await self._recovery.reconcile()

    async def _hourly(self) -> None:
        self._tell_head("hourly")

    def _tell_head(self, when: str) -> None:
        """Into the journal, so that somebody else can prove what the log said."""
        head = self._ports.log.head()
        self._ports.mark.write(self._ports.log.log_id, head.seq)
        log.info("log head at %s: log %s record %d hash %s", when, self._ports.log.log_id, head.seq, head.hash.hex())

"""From the log to an open door, and the same look again while the daemon is up.

At start: replay, observe, reconcile, append all verdicts in one transaction; then the sockets open and `due` runs in
the background. A crash anywhere in between ends, after another start, in the same state: nothing before the append has
effects.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from domain import events as e
from domain import recovery
from domain.container import Container
from domain.errors import DaybookError
from domain.fence import objection
from domain.fold import Replayed, fold
from domain.lifecycle import ImageState, SandboxState
from domain.node import SCHEMA, Node
from domain.observations import Mark, SandboxObservation, World
from domain.records import Cause, Draft
from domain.recovery import Finding, LogFacts, Verdict
from domain.sandbox import Sandbox
from service.dispatcher import Dispatcher
from service.ports import Clock, EventLog, Images, Network, Sandboxes, Tasks
from service.runner import Runner

log = logging.getLogger("daybook.recovery")

CLEAN_LIMIT_S = 120.0
"""For each thing that is cleaned up; what hangs is given up until the next look."""

CHECK_PAUSE_NS = 10**9
"""Between the CNI CHECKs of two pods after a start."""

SECOND_LOOK_NS = 5 * 10**9
"""Between the two observations that a grave verdict needs while the daemon is up."""


READ_WHOLE_MAX = 20_000
"""Up to here every start reads the whole log, checkpoint or not: a quarter of a second, and it finds all damage."""


def replay(event_log: EventLog) -> Replayed:
    """The node as the log tells it: everything, or in a long log the newest fitting checkpoint and what came after."""
    checkpoint = event_log.load_checkpoint(SCHEMA) if event_log.head().seq > READ_WHOLE_MAX else None
    if checkpoint is None:
        return fold(event_log.read())
    seq, kept = checkpoint
    return fold(event_log.read(after=seq), Replayed(Node.restore(kept), seq))


Offload = Callable[..., Awaitable[Any]]
"""Calls a function with arguments off the loop: `asyncio.to_thread`, or at once in tests with virtual time."""


class Observer:
    """One read-only sweep over everything that the ports can see."""

    def __init__(
        self, clock: Clock, tasks: Tasks, sandboxes: Sandboxes, network: Network, images: Images, offload: Offload
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._sandboxes = sandboxes
        self._network = network
        self._images = images
        self._offload = offload

    async def look(self, node: Node) -> World:
        """Values only leave the loop: the sweep reads files and must not hold up calls."""
        containers, sandboxes = list(node.containers.values()), list(node.sandboxes.values())
        world: World = await self._offload(self._sweep, containers, sandboxes)
        return world

    def _sweep(self, containers: list[Container], sandboxes: list[Sandbox]) -> World:
        boot_id = self._clock.now().boot_id
        return World(
            boot_id=boot_id,
            tasks=self._tasks.observe(containers, boot_id),
            sandboxes=_with_cached(self._sandboxes.observe(sandboxes, boot_id), self._network.observe()),
            images=self._images.observe(),
        )


def _with_cached(
    seen: Mapping[str, SandboxObservation], cached: Mapping[str, Mark | None]
) -> dict[str, SandboxObservation]:
    """What CNI's cache knows may be all that is left of a sandbox: then its mark is the proof whose it was."""
    found = dict(seen)
    for sandbox_id, mark in cached.items():
        known = found.get(sandbox_id, SandboxObservation())
        found[sandbox_id] = replace(known, cached=True, mark=known.mark or mark)
    return found


def marks(world: World) -> list[Mark]:
    found = [t.mark for t in world.tasks.values()] + [s.mark for s in world.sandboxes.values()]
    return [mark for mark in found if mark is not None]


def fence(event_log: EventLog, state: Mark | None, world: World) -> str | None:
    """Why this log must not be used here, or None."""
    return objection(event_log.log_id, event_log.head(), state, marks(world))


async def remove_sandbox(network: Network, sandboxes: Sandboxes, sandbox_id: str) -> None:
    """What no record tells of. An address that cannot be released stays in the cache; it does not keep the rest."""
    try:
        await network.delete(sandbox_id, sandboxes.netns(sandbox_id))
    finally:
        await sandboxes.remove(sandbox_id)


class Recovery:
    def __init__(
        self,
        dispatcher: Dispatcher,
        event_log: EventLog,
        clock: Clock,
        observer: Observer,
        runner: Runner,
        tasks: Tasks,
        sandboxes: Sandboxes,
        network: Network,
        images: Images,
        drop_image: Callable[[str], Awaitable[None]],
        whole: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._log = event_log
        self._clock = clock
        self._observer = observer
        self._runner = runner
        self._tasks = tasks
        self._sandboxes = sandboxes
        self._network = network
        self._images = images
        self._drop_image = drop_image
        self._whole = whole
        self.alarms = 0

    # --- at start ----------------------------------------------------------------------------------------------------

    async def start(self, world: World, started: e.NodeStarted) -> list[Finding]:
        """Appends what the sweep means, all in one transaction, and returns the findings for `clean`."""
        node, now = self._dispatcher.node, self._clock.now()
        findings = recovery.reconcile(node, world, self._facts(), now)
        self._tell(findings)
        drafts = [Draft(e.NODE_KEY, node.next_version(e.NODE_KEY), started, Cause("recovery", "start"))]
        for finding in findings:
            drafts += self._drafts(finding, "recovery")
        self._dispatcher.fold(await self._log.append(drafts, Cause("recovery"), now, urgent=True))
        return findings

    def resume(self) -> None:
        """What sandboxes and containers owe, in the background. Images wait until broken pulls are cleaned up."""
        node = self._dispatcher.node
        self._runner.kick([e.sandbox_key(i) for i in node.sandboxes])
        self._runner.kick([e.container_key(i) for i in node.containers])

    async def first_clean(self, findings: Sequence[Finding]) -> None:
        """After the start: commands that a dead daemon left in containers, the clean-up, what images owe; then whether
        pods still have the network that they were given.
        """
        try:
            await self._clean_execs()
            await self.clean(findings)
        finally:
            self._runner.kick(self._image_keys())
        await self._tend_networks()

    async def _tend_networks(self) -> None:
        """GC, where the network is ours alone; then CHECK of one pod at a time: the plugins' time is the pods'."""
        node = self._dispatcher.node
        try:
            await self._network.gc([s.id for s in node.sandboxes.values() if s.held])
        except DaybookError as error:
            log.warning("CNI plugins could not be asked to collect garbage: %s", error.text)
        failed = []
        for sandbox_id in [s.id for s in node.sandboxes.values() if s.own_network]:
            await self._clock.sleep_until(self._clock.now().boot_ns + CHECK_PAUSE_NS)
            if why := await self._not_as_set_up(sandbox_id):
                failed.append(f"sandbox {sandbox_id}: {why}")
        if failed:
            log.warning("CNI CHECK failed for %d sandboxes; the first: %s", len(failed), failed[0])

    async def _not_as_set_up(self, sandbox_id: str) -> str:
        """Told, not acted upon: some plugins fail CHECK without a reason, and only a client may end a pod."""
        sandbox = self._dispatcher.node.sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.state is not SandboxState.READY:
            return ""
        try:
            await self._network.check(sandbox_id, self._sandboxes.netns(sandbox_id))
        except DaybookError as error:
            return error.text
        return ""

    async def clean(self, findings: Sequence[Finding]) -> None:
        """Removes what nobody knows and is provably ours, and what broken pulls left. Failures are told, not fatal."""
        jobs = [self._remove_orphan(f.key) for f in findings if f.verdict is Verdict.ORPHAN and f.ours]
        if not self._pulling():
            jobs.append(self._images.clean())
        for result in await asyncio.gather(*map(_bounded, jobs), return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("clean-up failed, it will be tried again: %s", str(result) or type(result).__name__)

    async def _clean_execs(self) -> None:
        """What cannot be ended now is ended with its container."""
        try:
            await _bounded(self._tasks.clean_execs())
        except (DaybookError, TimeoutError) as error:
            log.warning("commands of an earlier daemon are left: %s", str(error) or type(error).__name__)

    async def _remove_orphan(self, key: str) -> None:
        kind, name = e.split_key(key)
        if kind == "container":
            await self._tasks.remove(name)
        elif kind == "sandbox":
            await remove_sandbox(self._network, self._sandboxes, name)
        else:
            await self._drop_image(name)

    # --- while the daemon is up --------------------------------------------------------------------------------------

    async def reconcile(self) -> int:
        """One look at the world; returns how many events it led to. Nothing in flight is judged."""
        node = self._dispatcher.node
        versions = dict(node.versions)
        world = await self._observer.look(node)
        findings = recovery.reconcile(node, world, self._facts(), self._clock.now())
        fitting = [f for f in findings if self._may_judge(f, versions)]
        grave = [f for f in fitting if f.verdict in recovery.TWICE]
        fitting = [f for f in fitting if f.verdict not in recovery.TWICE]
        if grave:
            fitting += await self._second_look(grave, versions)
        self._tell(fitting)
        appended = sum([await self._append(f, versions.get(f.key, 0)) for f in fitting if f.events])
        for finding in fitting:
            if finding.verdict is Verdict.CONTRADICTION:
                self._runner.repeat(finding.key)
        await self.clean(fitting)
        return appended

    async def _second_look(self, first: Sequence[Finding], versions: dict[str, int]) -> list[Finding]:
        """The findings that are still the same at the same version after a pause."""
        await self._clock.sleep_until(self._clock.now().boot_ns + SECOND_LOOK_NS)
        node = self._dispatcher.node
        world = await self._observer.look(node)
        again = recovery.reconcile(node, world, self._facts(), self._clock.now())
        same = {(f.key, f.verdict) for f in first}
        return [f for f in again if (f.key, f.verdict) in same and self._may_judge(f, versions)]

    def _may_judge(self, finding: Finding, versions: dict[str, int]) -> bool:
        if finding.key.startswith("image-id/"):
            return not self._pulling()
        unchanged = self._dispatcher.node.versions.get(finding.key, 0) == versions.get(finding.key, 0)
        return unchanged and not self._runner.busy(finding.key)

    async def _append(self, finding: Finding, version: int) -> int:
        drafts = self._drafts(finding, "reconcile")
        lane = self._lane(finding.key)
        return len(drafts) if await self._dispatcher.append_if(version, drafts, lane, Cause("reconcile")) else 0

    def _lane(self, key: str) -> str:
        kind, name = e.split_key(key)
        node = self._dispatcher.node
        sandbox_id = node.containers[name].sandbox_id if kind == "container" and name in node.containers else name
        sandbox = node.sandboxes.get(sandbox_id)
        return f"pod/{sandbox.config.uid}" if sandbox else "images"

    # --- shared ------------------------------------------------------------------------------------------------------

    def _drafts(self, finding: Finding, kind: str) -> list[Draft]:
        first = self._dispatcher.node.next_version(finding.key)
        cause = Cause(kind, finding.row)
        return [Draft(finding.key, first + i, event, cause) for i, event in enumerate(finding.events)]

    def _facts(self) -> LogFacts:
        return LogFacts(self._log.log_id, self._log.head().seq, self._whole)

    def _pulling(self) -> bool:
        return any(image.state is ImageState.PULLING for image in self._dispatcher.node.images.values())

    def _image_keys(self) -> list[str]:
        return [e.image_key(reference) for reference in self._dispatcher.node.images]

    def _tell(self, findings: Sequence[Finding]) -> None:
        for line in recovery.readable(findings):
            log.info("%s", line)
        for finding in findings:
            if finding.verdict is Verdict.CONTRADICTION:
                self.alarms += 1
                log.error("%s %s: %s", finding.row, finding.key, finding.text)


async def _bounded(job: Awaitable[None]) -> None:
    async with asyncio.timeout(CLEAN_LIMIT_S):
        await job

"""Which port call each effect is, within which limit, and which command reports its outcome.

A failure that has an outcome event becomes that event; any other is raised, and the runner repeats the effect. A start
that failed or timed out is not believed: the world is looked at, and what it says is the outcome.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from domain import commands as c
from domain import effects as f
from domain import errors
from domain.config import ContainerSecrets, PullCredentials, SandboxSecrets
from domain.container import Container
from domain.lifecycle import ImageState
from domain.node import Node
from domain.observations import TaskState
from domain.records import Evidence, Process
from domain.sandbox import Sandbox
from service.ooms import Ooms
from service.ports import Attached, Clock, EventLog, Images, Network, Sandboxes, Secrets, TaskExit, Tasks
from service.runner import Report
from service.unforeseen import place, told

log = logging.getLogger("daybook.effects")

# fmt: off
LIMIT_S: Mapping[type, float] = {
    f.CreateTask:      120.0,
    f.UndoTask:         60.0,
    f.StartTask:        60.0,
    f.TidyTask:         60.0,
    f.RemoveTask:      120.0,
    f.SetUpSandbox:    180.0,
    f.ReleaseNetwork:  110.0,
    f.TearDownSandbox:  60.0,
    f.RemoveSandbox:    60.0,
    f.RemoveImage:     120.0,
}
# fmt: on
"""Seconds after which an effect is killed and the world looked at. A pull has its progress instead.

The kubelet waits 4 minutes for a sandbox to be set up and 2 for its stop: both have their answer before.
"""

RELEASE_TRIES = 5
RELEASE_PAUSE_NS = 250 * 10**6
"""CNI DEL while a stop waits for it; the pause doubles. What fails to the end is a leak, tried on in the background."""

KILLED_WITHIN_S = 60.0
"""How long after its deadline a stop is believed to be at work; then it is tried again."""

PULL_TRIES = 2
"""A pull that finds the image whole may lose it to a removal that was under way: then it is pulled once more."""

MONITOR_LAST_WORD_NS = 10**9
"""conmon ends right after its container: how long its end waits for init's before it counts as lost."""


class Handlers:
    """`handle` is what the runner calls for every effect and watch."""

    def __init__(
        self,
        node: Node,
        log: EventLog,
        clock: Clock,
        secrets: Secrets,
        tasks: Tasks,
        sandboxes: Sandboxes,
        network: Network,
        images: Images,
        credentials: Callable[[str, str], PullCredentials | None] = lambda reference, access: None,
    ) -> None:
        """`credentials`: of an open pull, by reference and keyed hash; None when nobody waits for it any more."""
        self._node = node
        self._log = log
        self._clock = clock
        self._secrets = secrets
        self._tasks = tasks
        self._sandboxes = sandboxes
        self._network = network
        self._images = images
        self._credentials = credentials
        self._store = asyncio.Lock()
        self._ooms = Ooms(node, clock, tasks)
        self._table: Mapping[type, Callable[[Any, Report], Awaitable[None]]] = {
            f.CreateTask: self._create_task,
            f.UndoTask: self._undo_task,
            f.StartTask: self._start_task,
            f.StopTask: self._stop_task,
            f.TidyTask: self._tidy_task,
            f.RemoveTask: self._remove_task,
            f.SetUpSandbox: self._set_up_sandbox,
            f.ReleaseNetwork: self._release_network,
            f.TearDownSandbox: self._tear_down_sandbox,
            f.RemoveSandbox: self._remove_sandbox,
            f.PullImage: self._pull_image,
            f.RemoveImage: self._remove_image,
            f.WatchTask: self._watch_task,
            f.WatchInfra: self._watch_infra,
        }

    async def handle(self, what: f.Effect | f.Watch, report: Report) -> None:
        """An error that nobody foresaw ends an effect that can fail, as any other error does: who asked for it has an
        answer, and what was made is undone. Effects that can only succeed are the runner's to repeat.
        """
        try:
            await self._table[type(what)](what, report)
        except errors.DaybookError:
            raise
        except Exception as error:
            failed = self._failed(what, errors.Unforeseen(place(error)))
            if failed is None:
                raise
            log.error("%s: %s", type(what).__name__, told(error))
            await report(failed)

    def _failed(self, what: f.Effect | f.Watch, error: errors.DaybookError) -> c.Command | None:
        """The report of a failure; None where the effect has no such outcome."""
        match what:
            case f.CreateTask():
                return c.RecordCreateFailed(what.container_id, *named(error))
            case f.StartTask():
                return self._start_as_seen(self._node.containers[what.container_id], error)
            case f.SetUpSandbox():
                return c.RecordRunFailed(what.sandbox_id, *named(error))
            case f.PullImage():
                return c.RecordPullFailed(what.reference, *named(error), what.access)
        return None

    def _mark(self) -> dict[str, Any]:
        """What the owner mark beside a bundle says: this log, at least this far."""
        return {"log_id": self._log.log_id, "seq": self._log.head().seq}

    # --- containers --------------------------------------------------------------------------------------------------

    async def _create_task(self, what: f.CreateTask, report: Report) -> None:
        container = self._node.containers[what.container_id]
        sandbox = self._node.sandboxes[container.sandbox_id]
        try:
            secrets = self._secrets.read(container.id)
            if not isinstance(secrets, ContainerSecrets):
                raise errors.StorageFailed(f"cannot create container {container.id}: its private side file is missing")
            async with limit(what):
                made = await self._tasks.create(container, sandbox, secrets, self._mark())
        except errors.DaybookError as error:
            await report(c.RecordCreateFailed(container.id, *named(error)))
            return
        await report(c.RecordCreated(container.id, made.init, made.monitor, made.user, made.runtime))

    async def _undo_task(self, what: f.UndoTask, report: Report) -> None:
        async with limit(what):
            await self._tasks.remove(what.container_id)

    async def _start_task(self, what: f.StartTask, report: Report) -> None:
        container = self._node.containers[what.container_id]
        try:
            async with limit(what):
                oom_kills = await self._tasks.start(container)
        except errors.DaybookError as error:
            await report(self._start_as_seen(container, error))
            return
        await report(c.RecordStarted(container.id, oom_kills))

    def _start_as_seen(self, container: Container, error: errors.DaybookError) -> c.Command:
        seen = self._tasks.observe([container], self._clock.now().boot_id)[container.id]
        if seen.task is TaskState.RUNNING or seen.started:
            return c.RecordStarted(container.id, seen.oom_kills)
        return c.RecordStartFailed(container.id, *named(error))

    async def _stop_task(self, what: f.StopTask, report: Report) -> None:
        container = self._node.containers[what.container_id]
        now, grace_s = self._clock.now(), 0.0
        if what.deadline.boot_id == now.boot_id:
            grace_s = max(0, what.deadline.boot_ns - now.boot_ns) / 1e9
        async with _Limit(what, grace_s + KILLED_WITHIN_S):
            await self._tasks.stop(container, what.deadline, self._clock.sleep_until)
        if container.id in self._node.containers:
            await self._report_exit(container, await self._tasks.wait_exit(container), report)

    async def _tidy_task(self, what: f.TidyTask, report: Report) -> None:
        async with limit(what):
            await self._tasks.tidy(self._node.containers[what.container_id])

    async def _remove_task(self, what: f.RemoveTask, report: Report) -> None:
        async with limit(what):
            await self._tasks.remove(what.container_id)
        self._secrets.remove(what.container_id)
        self._ooms.forget(what.container_id)
        await report(c.RecordContainerRemoved(what.container_id))

    async def _watch_task(self, what: f.WatchTask, report: Report) -> None:
        container = self._node.containers[what.container_id]
        ended = asyncio.ensure_future(self._tasks.wait_exit(container))
        ooms = asyncio.ensure_future(self._ooms.tell(container, report))
        try:
            if not what.monitor_lost and await self._monitor_goes_first(container, ended):
                await report(c.RecordMonitorLost(container.id))
                return
            await self._report_exit(container, await ended, report)
        finally:
            ended.cancel()
            ooms.cancel()

    async def _monitor_goes_first(self, container: Container, ended: "asyncio.Future[Any]") -> bool:
        monitor: asyncio.Future[Any] = asyncio.ensure_future(self._tasks.wait_monitor(container))
        try:
            await asyncio.wait({monitor, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return False
            until = self._clock.now().boot_ns + MONITOR_LAST_WORD_NS
            patience: asyncio.Future[Any] = asyncio.ensure_future(self._clock.sleep_until(until))
            await asyncio.wait({patience, ended}, return_when=asyncio.FIRST_COMPLETED)
            patience.cancel()
            return not ended.done()
        finally:
            monitor.cancel()

    async def _report_exit(self, container: Container, ended: TaskExit, report: Report) -> None:
        oom = self._ooms.at_end(container, ended)
        if ended.oom_kills > container.oom_kills_at_start:
            await report(c.RecordOom(container.id, ended.oom_kills))
        await report(_exit_command(container, ended, oom))

    # --- sandboxes ---------------------------------------------------------------------------------------------------

    async def _set_up_sandbox(self, what: f.SetUpSandbox, report: Report) -> None:
        sandbox = self._node.sandboxes[what.sandbox_id]
        try:
            async with limit(what):
                infra, attached = await self._make_sandbox(sandbox)
        except errors.DaybookError as error:
            await report(c.RecordRunFailed(sandbox.id, *named(error)))
            return
        if attached is not None:
            await report(c.RecordNetworkSet(sandbox.id, attached.ips, attached.result))
        await report(c.RecordSandboxReady(sandbox.id, infra))

    async def _make_sandbox(self, sandbox: Sandbox) -> tuple[Process | None, Attached | None]:
        """What an attempt before this one attached is released while its namespace is still there."""
        if not sandbox.own_network:
            return await self._sandboxes.set_up(sandbox.id, sandbox, self._mark()), None
        await self._network.delete(sandbox.id, self._sandboxes.netns(sandbox.id))
        infra = await self._sandboxes.set_up(sandbox.id, sandbox, self._mark())
        held_back = self._secrets.read(sandbox.id)
        annotations = {**sandbox.config.annotations}
        if isinstance(held_back, SandboxSecrets):
            annotations.update(held_back.annotations)
        netns = self._sandboxes.netns(sandbox.id)
        attached = await self._network.add(sandbox, netns, annotations, self._mark())
        await self._sandboxes.set_sysctls(sandbox.id, sandbox)
        return infra, attached

    async def _release_network(self, what: f.ReleaseNetwork, report: Report) -> None:
        if what.leaked:
            async with limit(what):
                await self._network.delete(what.sandbox_id, self._sandboxes.netns(what.sandbox_id))
                await self._sandboxes.tear_down(what.sandbox_id)
            await report(c.RecordNetworkReleased(what.sandbox_id))
            return
        tries, why = 0, ""
        try:
            async with limit(what):
                for tries in range(1, RELEASE_TRIES + 1):
                    if not (why := await self._not_released(what.sandbox_id)):
                        break
                    pause_ns = RELEASE_PAUSE_NS * 2**tries if tries < RELEASE_TRIES else 0
                    await self._clock.sleep_until(self._clock.now().boot_ns + pause_ns)
        except errors.TimedOut as error:
            why = f"{error.text}; before that: {why}" if why else error.text
        released = c.RecordNetworkReleased(what.sandbox_id)
        await report(c.RecordNetworkLeaked(what.sandbox_id, tries, why) if why else released)

    async def _not_released(self, sandbox_id: str) -> str:
        """Why one DEL failed; empty where it did not."""
        try:
            await self._network.delete(sandbox_id, self._sandboxes.netns(sandbox_id))
        except errors.DaybookError as error:
            return error.text
        except Exception as error:
            # A stop must come to its end, whatever a plugin answered: this is a failed DEL like others.
            log.error("DEL of sandbox %s: %s", sandbox_id, told(error))
            return place(error)
        return ""

    async def _tear_down_sandbox(self, what: f.TearDownSandbox, report: Report) -> None:
        async with limit(what):
            # Without the namespace a late DEL frees the address, but bridge and portmap leave their rules behind.
            leaked = self._node.sandboxes[what.sandbox_id].held
            await self._sandboxes.tear_down(what.sandbox_id, keep_network=leaked)
        await report(c.RecordSandboxStopped(what.sandbox_id))

    async def _remove_sandbox(self, what: f.RemoveSandbox, report: Report) -> None:
        async with limit(what):
            await self._sandboxes.remove(what.sandbox_id)
        self._secrets.remove(what.sandbox_id)
        await report(c.RecordSandboxRemoved(what.sandbox_id))

    async def _watch_infra(self, what: f.WatchInfra, report: Report) -> None:
        await self._sandboxes.wait_infra(self._node.sandboxes[what.sandbox_id])
        await report(c.RecordSandboxDied(what.sandbox_id, "its infra process ended"))

    # --- images ------------------------------------------------------------------------------------------------------

    async def _pull_image(self, what: f.PullImage, report: Report) -> None:
        """The store is looked at under the lock under which removals delete: a pull never records what is gone."""
        for _ in range(PULL_TRIES):
            try:
                credentials = self._credentials_of(what)
                pulled = await self._images.pull(what.reference, what.source, credentials=credentials)
            except errors.DaybookError as error:
                await report(c.RecordPullFailed(what.reference, *named(error), what.access))
                return
            async with self._store:
                if self._images.present(pulled.image_id):
                    await report(c.RecordPulled(what.reference, pulled, what.access))
                    return
        text = f"cannot pull image {what.reference}: it was removed meanwhile"
        await report(c.RecordPullFailed(what.reference, "PullFailed", text, what.access))

    def _credentials_of(self, what: f.PullImage) -> PullCredentials | None:
        """Raises Cancelled where those that the pull was asked for with are gone: it is never tried without them."""
        held = self._credentials(what.reference, what.access) if what.access else None
        if held is None and what.access:
            text = f"cannot pull image {what.reference}: its credentials went with the client that brought them"
            raise errors.Cancelled(text)
        return held

    async def _remove_image(self, what: f.RemoveImage, report: Report) -> None:
        async with self._store, limit(what):
            await self._images.remove(what.image_id)
            await report(c.RecordImageRemoved(what.image_id))

    async def drop_image(self, image_id: str) -> None:
        """Removes an image that nobody means, unless somebody has come to mean it."""
        async with self._store:
            meant = self._node.references(image_id) or self._node.image_users(image_id)
            pulling = any(image.state is ImageState.PULLING for image in self._node.images.values())
            if not meant and not pulling:
                await self._images.remove(image_id)


def limit(what: f.Effect) -> "_Limit":
    return _Limit(what, LIMIT_S[type(what)])


class _Limit:
    """`async with`: cancels the effect after its limit, and says so as TimedOut."""

    def __init__(self, what: f.Effect, seconds: float) -> None:
        self._what, self._seconds = what, seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            text = f"{type(self._what).__name__} did not end within {self._seconds:.0f} s and was killed"
            raise errors.TimedOut(text) from None


def named(error: errors.DaybookError) -> tuple[str, str]:
    """Name and text under which an event records a failure."""
    return type(error).__name__, error.text


def _exit_command(container: Container, ended: TaskExit, oom: bool) -> c.Command:
    evidence = Evidence(ended.source, ended.quote)
    text = "" if ended.code is not None else "its monitor left no exit code"
    return c.RecordExit(container.id, ended.code, ended.at_ns, evidence, oom, text)

"""Tasks and Sandboxes in memory, for property tests: the same contract suite as the real ones.

`World` is the machine: it survives the daemon. A daemon is killed by cancelling what it awaits and making new adapters
on the same world. Each effect runs in named steps (`create.mount`, `stop.kill`, ...); a script says at which step it
fails, hangs or does anything else, so an effect can be cut at every point where the real one can. Nothing is random,
nothing looks at a clock.
"""

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from adapters.oci import namespaces
from adapters.oci.execs import ExecResult
from adapters.oci.tasks import TaskCreated, TaskExit
from domain.config import ContainerSecrets
from domain.container import Container
from domain.errors import ExecFailed, InvalidRequest, NetworkFailed, RuntimeFailed, TimedOut, WrongState
from domain.events import Binary, Deadline, User
from domain.observations import (
    ExitFile,
    InfraState,
    Mark,
    MonitorState,
    NamespaceState,
    SandboxObservation,
    TaskObservation,
    TaskState,
)
from domain.records import Process, TaskUsage
from domain.sandbox import Sandbox

KILLED = 137
RUNC = Binary("/fake/runc", "runc 0", "")
CONMON = Binary("/fake/conmon", "conmon 0", "")


class Act(Enum):
    """HANG: the step never returns (until it is cancelled)."""

    HANG = "hang"


Scripted = BaseException | Act | Callable[[], None]


@dataclass(frozen=True, slots=True)
class Program:
    """What a container does. `exits`: at once, with it. `on_stop`: the code after the stop signal, None: ignores it."""

    exits: int | None = None
    on_stop: int | None = 143


@dataclass(frozen=True, slots=True)
class Command:
    """What a command inside a container does. `hangs`: it does not end. `missing`: there is no such program.

    `leaves`: it leaves a helper in the background, which has let go of its output.
    """

    out: bytes = b""
    err: bytes = b""
    code: int = 0
    hangs: bool = False
    missing: bool = False
    leaves: bool = False


@dataclass(slots=True)
class FakeTask:
    """Everything that exists under one container id."""

    mark: Mark | None
    program: Program = Program()
    mounted: bool = False
    init: Process | None = None
    init_alive: bool = False
    started: bool = False
    monitor: Process | None = None
    monitor_alive: bool = False
    known_to_runtime: bool = False
    exit: ExitFile | None = None
    oom: bool = False
    oom_kills: int = 0
    stop_sent: bool = False
    strays: int = 0
    execs: int = 0
    helpers: int = 0
    log_renamed: bool = False
    logs: int = 1


@dataclass(slots=True)
class FakePod:
    """Everything that exists under one sandbox id. `pinned`: the kinds of namespaces that are.

    `interfaces`: those of its network, once it was added. `sysctls`: what was set so far.
    """

    mark: Mark | None
    pinned: frozenset[str] = frozenset()
    interfaces: frozenset[str] = frozenset({"eth0"})
    sysctls: dict[tuple[str, ...], str] = field(default_factory=dict)
    infra: Process | None = None
    infra_alive: bool = False


@dataclass
class World:
    """The machine. `programs`: what the container with an id will do; others run until they are stopped.

    `commands`: what a command line does inside a container; others say nothing and end with 0.
    """

    boot_id: str = "boot-1"
    wall_ns: int = 10**18
    programs: dict[str, Program] = field(default_factory=dict)
    commands: dict[tuple[str, ...], Command] = field(default_factory=dict)
    tasks: dict[str, FakeTask] = field(default_factory=dict)
    pods: dict[str, FakePod] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    script: dict[str, deque[Scripted]] = field(default_factory=lambda: defaultdict(deque))
    steps: list[str] = field(default_factory=list)
    boot_ns: Callable[[], int] = lambda: 0
    _pids: Any = field(default_factory=lambda: itertools.count(1000))
    _waiting: list[tuple[Callable[[], bool], "asyncio.Future[None]"]] = field(default_factory=list)

    def at(self, step: str, *what: Scripted) -> None:
        """The next times this step is reached, these happen, in order."""
        self.script[step].extend(what)

    async def step(self, name: str) -> None:
        self.steps.append(name)
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

    async def until(self, true: Callable[[], bool]) -> None:
        if true():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (true, future)
        self._waiting.append(entry)
        try:
            await future
        finally:
            self._waiting = [one for one in self._waiting if one is not entry]

    def changed(self) -> None:
        for true, future in self._waiting:
            if not future.done() and true():
                future.set_result(None)

    def process(self) -> Process:
        pid = next(self._pids)
        return Process(pid, pid * 10, self.boot_id)

    # --- what can happen to a container without the daemon -----------------------------------------------------------

    def end(self, container_id: str, code: int, *, oom: bool = False) -> None:
        """init ends. Its monitor, where it lives, writes the code and ends too."""
        task = self.tasks[container_id]
        if not task.init_alive:
            return
        task.init_alive = False
        task.execs = task.helpers = 0
        task.oom, task.oom_kills = task.oom or oom, task.oom_kills + oom
        if task.monitor_alive:
            task.exit = ExitFile(code, self.wall_ns)
            task.monitor_alive = False
        self.changed()

    def kill_child(self, container_id: str) -> None:
        """The kernel kills one of its processes for want of memory; it goes on."""
        task = self.tasks[container_id]
        if task.init_alive:
            task.oom, task.oom_kills = True, task.oom_kills + 1
            self.changed()

    def kill_monitor(self, container_id: str) -> None:
        self.tasks[container_id].monitor_alive = False
        self.changed()

    def kill_infra(self, sandbox_id: str) -> None:
        self.pods[sandbox_id].infra_alive = False
        self.changed()

    def reboot(self, boot_id: str) -> None:
        """All processes, mounts and namespaces are gone; what lies on disk stays."""
        self.boot_id = boot_id
        for task in self.tasks.values():
            task.init_alive = task.monitor_alive = task.mounted = False
            task.strays = task.execs = task.helpers = 0
        for pod in self.pods.values():
            pod.infra_alive, pod.pinned = False, frozenset()
        self.changed()


class FakeTasks:
    """`service.ports.Tasks` on a `World`. Holds nothing itself."""

    def __init__(self, world: World) -> None:
        self.world = world

    def binaries(self) -> tuple[Binary, Binary]:
        return RUNC, CONMON

    def protection(self) -> Mapping[str, str]:
        return {"seccomp": "none", "appArmor": "none"}

    async def create(
        self, container: Container, sandbox: Sandbox, secrets: ContainerSecrets, mark: Mapping[str, Any]
    ) -> TaskCreated:
        world = self.world
        await self.remove(container.id)
        await world.step("create.bundle")
        program = world.programs.get(container.id, Program())
        task = world.tasks[container.id] = FakeTask(Mark(mark["log_id"], mark["seq"]), program)
        await world.step("create.mount")
        task.mounted = True
        await world.step("create.monitor")
        task.monitor, task.monitor_alive = world.process(), True
        try:
            await world.step("create.runtime")
            task.init, task.init_alive, task.known_to_runtime = world.process(), True, True
            await world.step("create.answer")
        except BaseException:
            # The real one kills conmon's group; the init process may stay behind.
            task.monitor_alive = False
            world.changed()
            raise
        return TaskCreated(task.init, task.monitor, User(0, 0), RUNC)

    async def start(self, container: Container) -> int:
        world = self.world
        await world.step("start.before")
        task = world.tasks.get(container.id)
        if task is None or not task.init_alive or task.started:
            raise RuntimeFailed("runc start: exit 1: cannot start a container that has stopped")
        task.started = True
        kills = task.oom_kills
        if task.program.exits is not None:
            world.end(container.id, task.program.exits)
        await world.step("start.after")
        return kills

    async def stop(
        self, container: Container, deadline: Deadline, sleep_until: Callable[[int], Awaitable[None]]
    ) -> None:
        world, task = self.world, self.world.tasks.get(container.id)
        if task is None or container.init is None or container.init != task.init:
            return
        await world.step("stop.before")
        time_left = deadline.boot_id == world.boot_id and deadline.boot_ns > world.boot_ns()
        if task.init_alive and task.started and time_left:
            if not task.stop_sent:
                if task.program.on_stop is not None:
                    world.end(container.id, task.program.on_stop)
                await world.step("stop.sent")
                task.stop_sent = True
            await self._wait(task, sleep_until, deadline)
        if task.init_alive:
            await world.step("stop.kill")
            task.strays = 0
            world.end(container.id, KILLED)
        await world.step("stop.after")

    async def _wait(self, task: FakeTask, sleep_until: Callable[[int], Awaitable[None]], deadline: Deadline) -> None:
        ended = asyncio.ensure_future(self.world.until(lambda: not task.init_alive))
        grace = asyncio.ensure_future(sleep_until(deadline.boot_ns))
        try:
            await asyncio.wait({ended, grace}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            grace.cancel()

    async def exec_sync(
        self, container: Container, argv: Sequence[str], timeout_s: float, *, keep: bool = False
    ) -> ExecResult:
        world, task = self.world, self.world.tasks.get(container.id)
        command = world.commands.get(tuple(argv), Command())
        await world.step("exec.before")
        if task is None or not task.init_alive or command.missing:
            raise ExecFailed("runc exec: cannot exec in a stopped container, or there is no such program")
        task.execs += 1
        try:
            async with asyncio.timeout(timeout_s or None):
                await world.step("exec.run")
                if command.hangs:
                    await world.until(lambda: not task.init_alive)
        except TimeoutError:
            raise TimedOut(f"command timed out: timeout {timeout_s:g}s exceeded") from None
        finally:
            task.execs = max(0, task.execs - 1)
        if not task.init_alive:
            raise ExecFailed("the container ended while the command ran")
        task.helpers += command.leaves and keep
        return ExecResult(command.out, command.err, command.code)

    async def clean_execs(self) -> None:
        await self.world.step("clean_execs")
        for task in self.world.tasks.values():
            task.execs = 0

    async def reopen_log(self, container: Container, sandbox: Sandbox) -> None:
        task = self.world.tasks.get(container.id)
        if task is None or not task.monitor_alive:
            raise WrongState("its monitor is gone, nobody writes its log")
        await self.world.step("reopen")
        task.logs += task.log_renamed
        task.log_renamed = False

    async def tidy(self, container: Container) -> None:
        await self.world.step("tidy.kill")
        task = self.world.tasks.get(container.id)
        if task is None:
            return
        task.strays = 0
        self.world.end(container.id, KILLED)
        await self.world.step("tidy.delete")
        task.known_to_runtime = False

    async def remove(self, container_id: str) -> None:
        world = self.world
        task = world.tasks.get(container_id)
        if task is None:
            return
        await world.step("remove.kill")
        task.monitor_alive = task.init_alive = task.known_to_runtime = False
        task.strays = task.execs = task.helpers = 0
        world.changed()
        await world.step("remove.unmount")
        task.mounted = False
        await world.step("remove.files")
        world.tasks.pop(container_id, None)
        world.unreadable.discard(container_id)

    async def wait_exit(self, container: Container) -> TaskExit:
        world = self.world

        def over() -> bool:
            task = world.tasks.get(container.id)
            return task is None or task.init != container.init or not task.init_alive

        await world.until(over)
        task = world.tasks.get(container.id)
        if task is None or task.exit is None:
            return TaskExit(None, world.wall_ns, oom=bool(task and task.oom), oom_kills=task.oom_kills if task else 0)
        source = "none" if task.exit.code is None else "exit-file"
        return TaskExit(task.exit.code, task.exit.at_ns, source, task.exit.quote, task.oom, task.oom_kills)

    async def wait_oom(self, container: Container, above: int, outlived_s: float) -> int:
        world = self.world

        def killed() -> bool:
            task = world.tasks.get(container.id)
            return task is not None and task.init_alive and task.init == container.init and task.oom_kills > above

        await world.until(killed)
        task = world.tasks[container.id]
        task.oom = False
        return task.oom_kills

    async def wait_monitor(self, container: Container) -> None:
        world = self.world

        def over() -> bool:
            task = world.tasks.get(container.id)
            return task is None or task.monitor != container.monitor or not task.monitor_alive

        await world.until(over)

    def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskUsage]:
        alive = [one for one in container_ids if one in self.world.tasks and self.world.tasks[one].init_alive]
        return {one: TaskUsage(self.world.wall_ns, cpu_ns=1, memory=1 << 20, working_set=1 << 20) for one in alive}

    def observe(self, containers: Sequence[Container], boot_id: str) -> Mapping[str, TaskObservation]:
        known = {container.id: container for container in containers}
        return {one: self._look(one, known.get(one)) for one in {**dict.fromkeys(known), **self.world.tasks}}

    def _look(self, container_id: str, container: Container | None) -> TaskObservation:
        task = self.world.tasks.get(container_id)
        if container_id in self.world.unreadable:
            return TaskObservation(TaskState.UNREADABLE, leftovers=True, text="scripted")
        if task is None:
            return TaskObservation()
        if task.init_alive and container and container.init not in (None, task.init):
            state = TaskState.UNREADABLE
        elif task.init_alive:
            state = TaskState.RUNNING if task.started else TaskState.CREATED
        else:
            state = TaskState.STOPPED if task.known_to_runtime else TaskState.ABSENT
        monitor = MonitorState.ALIVE if task.monitor_alive else MonitorState.DEAD
        started = task.started and task.known_to_runtime
        return TaskObservation(state, monitor, task.exit, task.oom, task.oom_kills, started, True, task.mark)


class FakeSandboxes:
    """`service.ports.Sandboxes` on a `World`."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def set_up(self, sandbox_id: str, sandbox: Sandbox, mark: Mapping[str, Any]) -> Process | None:
        world = self.world
        await self.remove(sandbox_id)
        await world.step("set_up.directory")
        pod = world.pods[sandbox_id] = FakePod(Mark(mark["log_id"], mark["seq"]))
        await world.step("set_up.pin")
        pod.pinned = frozenset(namespaces.kinds(sandbox.config)[:1])
        await world.step("set_up.pinned_one")
        pod.pinned = frozenset(namespaces.kinds(sandbox.config))
        pod.sysctls = {one.parts: one.value for one in namespaces.sysctls(sandbox.config)[0]}
        if sandbox.own_pid_namespace:
            await world.step("set_up.infra")
            pod.infra, pod.infra_alive = world.process(), True
        await world.step("set_up.answer")
        return pod.infra

    async def set_sysctls(self, sandbox_id: str, sandbox: Sandbox) -> None:
        later = namespaces.sysctls(sandbox.config)[1]
        if not later:
            return
        await self.world.step("set_sysctls")
        pod = self.world.pods.get(sandbox_id)
        if pod is None or "net" not in pod.pinned:
            raise NetworkFailed(f"sysctl {later[0].name}: the pod's network namespace is gone")
        for one in later:
            if one.interface not in pod.interfaces:
                why = f"the pod has no interface {one.interface} after its network was added"
                raise InvalidRequest(f"sysctl {one.name}: {why}")
            pod.sysctls[one.parts] = one.value

    async def tear_down(self, sandbox_id: str, *, keep_network: bool = False) -> None:
        await self.world.step("tear_down.kill")
        pod = self.world.pods.get(sandbox_id)
        if pod is None:
            return
        pod.infra_alive = False
        self.world.changed()
        await self.world.step("tear_down.unpin")
        pod.pinned, pod.infra = pod.pinned & {"net"} if keep_network else frozenset(), None

    async def remove(self, sandbox_id: str) -> None:
        if sandbox_id not in self.world.pods:
            return
        await self.tear_down(sandbox_id)
        await self.world.step("remove_sandbox.files")
        self.world.pods.pop(sandbox_id, None)

    async def wait_infra(self, sandbox: Sandbox) -> None:
        world = self.world

        def over() -> bool:
            pod = world.pods.get(sandbox.id)
            return pod is None or pod.infra != sandbox.infra or not pod.infra_alive

        if sandbox.infra is not None:
            await world.until(over)

    def netns(self, sandbox_id: str) -> str:
        pod = self.world.pods.get(sandbox_id)
        return f"/fake/netns/{sandbox_id}" if pod and "net" in pod.pinned else ""

    def observe(self, sandboxes: Sequence[Sandbox], boot_id: str) -> Mapping[str, SandboxObservation]:
        known = {sandbox.id: sandbox for sandbox in sandboxes}
        return {one: self._look(one, known.get(one)) for one in {**dict.fromkeys(known), **self.world.pods}}

    def _look(self, sandbox_id: str, sandbox: Sandbox | None) -> SandboxObservation:
        pod = self.world.pods.get(sandbox_id)
        recorded = sandbox.infra if sandbox else None
        if pod is None:
            return SandboxObservation(infra=InfraState.DEAD if recorded else InfraState.NONE)
        infra = recorded or pod.infra
        lives = infra is not None and infra == pod.infra and pod.infra_alive
        return SandboxObservation(
            namespace=_namespace_state(pod, sandbox),
            infra=InfraState.NONE if infra is None else InfraState.ALIVE if lives else InfraState.DEAD,
            leftovers=True,
            mark=pod.mark,
        )


def _namespace_state(pod: FakePod, sandbox: Sandbox | None) -> NamespaceState:
    expected = pod.pinned if sandbox is None else frozenset(namespaces.kinds(sandbox.config))
    if not expected & pod.pinned:
        return NamespaceState.ABSENT
    return NamespaceState.NSFS if expected == pod.pinned else NamespaceState.PLAIN

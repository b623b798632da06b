"""A machine around the whole service: the log, the worlds and the clock outlive daemons, and daemons can be killed.

One daemon is one event loop (`Life`). SIGKILL means that its loop is never turned again: not one line of that daemon
runs any more, no handler, no `finally`. Its tasks are kept as they stand until `close`.

Every place where the world answers a daemon is a *point* with a name: each step of the fakes (`create.mount`,
`stop.kill`, `pull.step`, ...), `append.before` (not durable yet), `append.after` (durable, not answered), `look.before`
and `look.after` (around a sweep), `secrets.write`, `secrets.remove`, `mark.write`, `resume` (between prepare and
resume). `kill_at` kills at the n-th point from now; `machine.at` and `machine.trouble` make one fail or hang; `pace` is how slow
they are.
Nothing is random and nothing looks at a real clock.
"""

import asyncio
import logging
import warnings
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from adapters.images.fake import FakeImages
from adapters.log.errors import LogFull
from adapters.log.memory import MemoryLog
from adapters.network.fake import FakeNetwork, Net
from adapters.oci.fake import Act, FakeSandboxes, FakeTasks, Program, World
from domain import commands as c
from domain.config import ContainerSecrets, SandboxSecrets
from domain.container import Container
from domain.errors import DaybookError
from domain.events import Deadline
from domain.fold import fold
from domain.image import PulledImage
from domain.node import AGGREGATES, Node
from domain.observations import Mark
from domain.records import Cause, Draft, Head, Now, Record, Unreadable
from domain.sandbox import Sandbox
from service import recovery
from service.daemon import Daemon, Ports, Timing
from tests.support.virtual import Stuck, VirtualClock, VirtualLoop

Secret = ContainerSecrets | SandboxSecrets

subject: ContextVar[str] = ContextVar("subject", default="")
"""Id of the container, sandbox or image that the running effect is about."""
kind: ContextVar[str] = ContextVar("kind", default="images")
"""What the image store is doing."""


class Killed(SystemExit):
    """Unwinds a synchronous call of a daemon that was killed inside it. Its ports are dead already."""


class Clock(VirtualClock):
    """Boot time starts anew with each boot; wall time goes on, or jumps by `wall_offset_ns`."""

    def __init__(self, world: "ServiceWorld") -> None:
        super().__init__()
        self._world = world
        self.base_ns = 100 * 10**9

    @property
    def boot_ns(self) -> int:
        return self.base_ns + int(self._world.passed * 1e9)

    def now(self) -> Now:
        wall_ns = self.WALL_AT_START + int(self._world.passed * 1e9) + self.wall_offset_ns
        return Now(wall_ns, self.boot_ns, self.boot_id)

    def reboot(self) -> None:
        super().reboot()
        self.base_ns = 5 * 10**9 - int(self._world.passed * 1e9)


class Machine(World):
    """The fake machine, whose steps are points. `told`: what the world really said of each end: code, or None."""

    def __init__(self, world: "ServiceWorld") -> None:
        self._service = world
        super().__init__(boot_id=world.clock.boot_id)
        self.boot_ns = lambda: world.clock.boot_ns
        self.told: dict[str, set[int]] = {}
        self.trace: list[tuple[str, str, int]] = []
        self.excused: Counter[str] = Counter()
        self.trouble: Callable[[str], BaseException | Act | None] = lambda _: None
        self._signalling: list[str] = []

    @property
    def wall_ns(self) -> int:
        return self._service.clock.now().wall_ns

    @wall_ns.setter
    def wall_ns(self, _: int) -> None: ...

    async def step(self, name: str) -> None:
        self.trace.append((name, subject.get(), self._service.clock.boot_ns))
        if name == "stop.sent":
            self._signalling.append(subject.get())
        await self._service.point(name)
        if (what := self.trouble(name)) is not None:
            self.at(name, what)
        await super().step(name)
        if name == "stop.sent":
            self._signalling.remove(subject.get())

    def excuse(self, whom: str = "") -> None:
        """Who (or everybody) was cut off between a stop signal and its mark may send it once more."""
        cut_off = [who for who in self._signalling if whom in ("", who)]
        self.excused.update(cut_off)
        self._signalling = [who for who in self._signalling if who not in cut_off]

    def news(self) -> float:
        return self._service.pace() + self._service.pace()

    def complain(self, text: str) -> None:
        self._service.complaints.append(text)

    def end(self, container_id: str, code: int, *, oom: bool = False) -> None:
        writes = self.tasks[container_id].init_alive and self.tasks[container_id].monitor_alive
        super().end(container_id, code, oom=oom)
        if writes:
            self.told.setdefault(container_id, set()).add(code)

    def times(self, name: str, about: str) -> list[int]:
        """Boot times at which a step was reached for something."""
        return [at for step, who, at in self.trace if (step, who) == (name, about)]

    def forget_waiters(self) -> None:
        self._waiting.clear()


class NamedTasks(FakeTasks):
    """The fake, saying which container an effect is about."""

    async def create(self, container: Container, *rest: Any) -> Any:
        subject.set(container.id)
        return await super().create(container, *rest)

    async def start(self, container: Container) -> int:
        subject.set(container.id)
        return await super().start(container)

    async def stop(
        self, container: Container, deadline: Deadline, sleep_until: Callable[[int], Awaitable[None]]
    ) -> None:
        subject.set(container.id)
        if container.stop is None or container.stop.deadline != deadline:
            self.world.complain(f"{container.id} is stopped by {deadline}, on record is {container.stop}")  # type: ignore[attr-defined]
        try:
            await super().stop(container, deadline, sleep_until)
        except BaseException:
            self.world.excuse(container.id)  # type: ignore[attr-defined]
            raise

    async def tidy(self, container: Container) -> None:
        subject.set(container.id)
        await super().tidy(container)

    async def remove(self, container_id: str) -> None:
        subject.set(container_id)
        await super().remove(container_id)

    async def wait_exit(self, container: Container) -> Any:
        """The news of an end takes its time, as everything does: a sweep may see it before."""
        ended = await super().wait_exit(container)
        await asyncio.sleep(self.world.news())  # type: ignore[attr-defined]
        return ended


class NamedSandboxes(FakeSandboxes):
    """The fake, saying which sandbox an effect is about."""

    async def set_up(self, sandbox_id: str, *rest: Any) -> Any:
        subject.set(sandbox_id)
        return await super().set_up(sandbox_id, *rest)

    async def tear_down(self, sandbox_id: str, **how: Any) -> None:
        subject.set(sandbox_id)
        await super().tear_down(sandbox_id, **how)

    async def wait_infra(self, sandbox: Sandbox) -> None:
        await super().wait_infra(sandbox)
        await asyncio.sleep(self.world.news())  # type: ignore[attr-defined]


class Store(FakeImages):
    """The fake image store; its steps are points `pull.step`, `remove_image.step` and `clean.step`."""

    def __init__(self, world: "ServiceWorld") -> None:
        super().__init__()
        self._service = world

    async def pull(self, reference: str, source: str = "", **more: Any) -> PulledImage:
        kind.set("pull")
        return await super().pull(reference, source, **more)

    async def remove(self, image_id: str) -> None:
        kind.set("remove_image")
        await super().remove(image_id)

    async def clean(self) -> None:
        kind.set("clean")
        await super().clean()

    async def _step(self) -> None:
        await self._service.machine.step(f"{kind.get()}.step")


@dataclass
class Life:
    """One daemon process. `up`: `resume` was called, clients are served."""

    world: "ServiceWorld"
    loop: VirtualLoop
    daemon: Daemon = field(init=False)
    dead: bool = False
    up: bool = False
    tasks: set["asyncio.Task[Any]"] = field(default_factory=set)


class LogPort:
    """The log as one daemon has it open. Answers come in the order of the records, as from one writer thread."""

    def __init__(self, life: Life) -> None:
        self._life, self._world = life, life.world
        self.log_id = life.world.log.log_id
        self._answered: asyncio.Future[None] | None = None

    def head(self) -> Head:
        return self._world.log.head()

    def read(self, after: int = 0) -> Iterator[Record | Unreadable]:
        return self._world.log.read(after)

    async def append(
        self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False
    ) -> Sequence[Record]:
        await self._world.point("append.before")
        self._world.take_room(len(drafts), urgent)
        before, mine = self._answered, self._life.loop.create_future()
        self._answered = mine
        try:
            records = self._world.log.append_sync(drafts, cause, now, urgent=urgent)
            await self._world.point("append.after")
            if before is not None:
                await asyncio.wait([before])
            return records
        finally:
            if not mine.done():
                mine.set_result(None)

    @property
    def broken(self) -> str:
        return self._world.log.broken

    def save_checkpoint(self, seq: int, schema: int, aggregates: Mapping[str, Any]) -> None:
        if not self._life.dead:
            self._world.log.save_checkpoint(seq, schema, aggregates)

    def load_checkpoint(self, schema: int) -> tuple[int, Mapping[str, Any]] | None:
        return self._world.log.load_checkpoint(schema)

    def close(self) -> None: ...


class SecretsPort:
    """The side files, which outlive daemons."""

    def __init__(self, life: Life) -> None:
        self._life, self._files = life, life.world.side_files

    def write(self, name: str, secrets: Secret) -> None:
        if not self._life.dead:
            self._life.world.sync_point("secrets.write")
            self._files[name] = secrets

    def read(self, name: str) -> Secret | None:
        return self._files.get(name)

    def remove(self, name: str) -> None:
        if not self._life.dead:
            self._life.world.sync_point("secrets.remove")
            self._files.pop(name, None)

    def names(self) -> Sequence[str]:
        return sorted(self._files)


class MarkPort:
    """The state directory's owner mark."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def read(self) -> Mark | None:
        return self._life.world.mark

    def write(self, log_id: str, seq: int) -> None:
        if not self._life.dead:
            self._life.world.sync_point("mark.write")
            self._life.world.mark = Mark(log_id, seq)


@dataclass
class Call:
    """A client's request and what became of it."""

    command: c.Command
    life: Life | None
    task: "asyncio.Task[str] | None"
    lost: bool = False
    given_up: bool = False

    @property
    def done(self) -> bool:
        return self.lost or self.task is None or self.task.done()

    @property
    def answered(self) -> bool:
        """With a yes."""
        return (
            self.task is not None
            and self.task.done()
            and not self.lost
            and not self.task.cancelled()
            and self.task.exception() is None
        )

    @property
    def value(self) -> str:
        assert self.task is not None
        return self.task.result()

    @property
    def error(self) -> BaseException | None:
        if self.lost or self.task is None or not self.task.done() or self.task.cancelled():
            return None
        return self.task.exception()

    def cancel(self) -> None:
        """The client goes away."""
        self.given_up = True
        if self.task is not None and not self.lost:
            self.task.cancel()


def is_ours(error: object) -> bool:
    return isinstance(error, DaybookError)


class Ear(logging.Handler):
    """Hears the tracebacks that the daemon tells its journal, but for those of our own errors."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], Exception) and not is_ours(record.exc_info[1]):
            text = self.formatter or logging.Formatter()
            self.heard.append(f"{record.getMessage()}\n{text.formatException(record.exc_info)}")


class ServiceWorld:
    """`checkpoints`: every start loads the newest checkpoint, however short the log is."""

    def __init__(self, timing: Timing | None = None, *, checkpoints: bool = False) -> None:
        self.timing = timing or Timing()
        self.checkpoints = checkpoints
        self._passed = 0.0
        self.life: Life | None = None
        self.lives: list[Life] = []
        self.clock = Clock(self)
        self.machine = Machine(self)
        self.tasks, self.sandboxes, self.images = NamedTasks(self.machine), NamedSandboxes(self.machine), Store(self)
        self.net = Net(step=self.machine.step)
        self.log = MemoryLog(aggregates=AGGREGATES)
        self.side_files: dict[str, Secret] = {}
        self.mark: Mark | None = None
        self.pace: Callable[[], float] = lambda: 0.0
        self.room: int | None = None
        self.reached: deque[str] = deque(maxlen=40)
        self.complaints: list[str] = []
        self.calls: list[Call] = []
        self.started = 0
        self.ends_where_broken = True
        self._strike: tuple[str, int] | None = None
        self._ids = 0
        self._requests = 0
        self._ear = Ear()
        logging.getLogger("daybook").addHandler(self._ear)

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def passed(self) -> float:
        return self.life.loop.passed if self.life else self._passed

    def turn(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            if self.life is not None:
                self._drive(self.life.loop.turn)

    def settle(self) -> None:
        if self.life is not None:
            self._drive(self.life.loop.settle)

    def let_pass(self, seconds: float) -> None:
        until = self.passed + seconds
        if self.life is not None:
            self._drive(lambda: self._running.loop.let_pass(seconds))
        self._passed = until
        if self.life is not None:
            self.life.loop.passed = max(self.life.loop.passed, until)

    @property
    def _running(self) -> Life:
        assert self.life is not None, "no daemon runs"
        return self.life

    def _drive(self, how: Callable[[], None]) -> None:
        life = self._running
        with suppress(Killed):
            how()
        if life.dead:
            self._passed = max(self._passed, life.loop.passed)

    def run(self, work: Any) -> Any:
        """Runs a coroutine on the daemon's loop to its end; None where the daemon dies before."""
        life = self._running
        task = life.loop.create_task(work)
        while not task.done() and not life.dead:
            self.settle()
            if task.done() or life.dead:
                break
            when = life.loop.next_timer()
            if when is None:
                raise Stuck(f"everybody waits for ever; last points: {list(self.reached)}")
            life.loop.passed = max(life.loop.passed, when)
            self.turn()
        return None if life.dead else task.result()

    def spawn(self, work: Any) -> "asyncio.Task[Any]":
        """Begins something on the daemon's loop. It is held, as a task that waits for ever would be collected."""
        task = self._running.loop.create_task(work)
        self._running.tasks.add(task)
        return task

    # --- points ------------------------------------------------------------------------------------------------------

    async def point(self, name: str) -> None:
        await asyncio.sleep(self.pace())
        self.reached.append(name)
        if self._strikes(name):
            self.kill()
            await asyncio.get_running_loop().create_future()

    def sync_point(self, name: str) -> None:
        self.reached.append(name)
        if self._strikes(name):
            self.kill()
            raise Killed

    def _strikes(self, name: str) -> bool:
        if self._strike is None or not name.startswith(self._strike[0]):
            return False
        where, left = self._strike
        self._strike = (where, left - 1) if left > 1 else None
        return left <= 1

    def kill_at(self, where: str = "", count: int = 1) -> None:
        """The daemon dies at the n-th point from now whose name begins so."""
        self._strike = (where, count)

    def spare(self) -> None:
        self._strike = None

    def take_room(self, records: int, urgent: bool) -> None:
        """A full disk: nothing but urgent records, as long as the ballast lasts."""
        if self.room is None:
            return
        if not urgent or self.room < records:
            raise LogFull("cannot append to log: no space left on device")
        self.room -= records

    # --- daemons -----------------------------------------------------------------------------------------------------

    def start(self, resume: bool = True) -> Daemon | None:
        """A new daemon on what is there; None where it was killed before it was up. Raises what `prepare` refuses."""
        assert self.life is None, "a daemon runs already"
        self.log.broken = ""
        life = self.life = Life(self, VirtualLoop(self._passed))
        self.lives.append(life)
        life.loop.set_exception_handler(lambda _, context: self._complain(context))
        self.started += 1
        kept, recovery.READ_WHOLE_MAX = recovery.READ_WHOLE_MAX, 0 if self.checkpoints else recovery.READ_WHOLE_MAX
        try:
            life.daemon = Daemon(self.ports(life), self.timing, "0-test", 1000 + self.started)
        finally:
            recovery.READ_WHOLE_MAX = kept
        try:
            self.run(self._boot(life, resume))
        except DaybookError:
            self.kill()
            raise
        return None if life.dead else life.daemon

    async def _boot(self, life: Life, resume: bool) -> None:
        await life.daemon.prepare()
        if life.daemon.node.snapshot() != self.folded().snapshot():
            self.complaints.append("the daemon that starts knows something else than the log tells")
        if resume:
            await self.point("resume")
            life.daemon.resume()
            life.up = True
            self.spawn(self._end_where_broken(life))

    async def _end_where_broken(self, life: Life) -> None:
        """What `main` does when the daemon says that its log takes no more."""
        await life.daemon.until_broken()
        if self.ends_where_broken:
            self.kill()
            await asyncio.get_running_loop().create_future()

    def _complain(self, context: dict[str, Any]) -> None:
        """What nobody waits for any more may fail in a way that the daemon has told already."""
        if not is_ours(context.get("exception")):
            self.complaints.append(repr(context))

    def ports(self, life: Life) -> Ports:
        return Ports(
            LogPort(life),
            self.clock,
            SecretsPort(life),
            self.tasks,
            self.sandboxes,
            FakeNetwork(self.net),
            self.images,
            MarkPort(life),
            self._offload,
        )

    async def _offload(self, function: Callable[..., Any], *given: Any) -> Any:
        await self.point("look.before")
        seen = function(*given)
        await self.point("look.after")
        return seen

    @property
    def daemon(self) -> Daemon:
        return self._running.daemon

    @property
    def up(self) -> bool:
        return self.life is not None and self.life.up

    def kill(self) -> None:
        """SIGKILL, now."""
        life = self._running
        life.dead, life.up = True, False
        life.tasks |= life.loop.halt()
        self._passed = life.loop.passed
        self.life = None
        self._strike = None
        self.machine.forget_waiters()
        self.machine.excuse()
        for call in self.calls:
            if call.life is life and not call.done:
                call.lost = True

    def stop(self) -> None:
        """SIGTERM: the daemon leaves by its own will, then its process ends."""
        if self.up:
            self.run(self.daemon.stop())
        if self.life is not None:
            self.kill()

    def restart(self) -> Daemon:
        if self.life is not None:
            self.kill()
        daemon = self.start()
        assert daemon is not None
        return daemon

    def reboot(self) -> None:
        if self.life is not None:
            self.kill()
        self.clock.reboot()
        self.machine.reboot(self.clock.boot_id)
        self.net.reboot()

    def close(self) -> None:
        """Unwinds what the dead left, with nobody to see it."""
        if self.life is not None:
            self.kill()
        logging.getLogger("daybook").removeHandler(self._ear)
        for life in self.lives:
            for task in life.tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a coroutine that was made and never begun
                    task.get_coro().close()  # type: ignore[union-attr]
            life.loop.close()

    @property
    def unforeseen(self) -> list[str]:
        """Tracebacks, whoever told them: there must be none."""
        return self.complaints + self._ear.heard

    # --- clients -----------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:064x}"

    def call(self, command: c.Command, secrets: Secret | None = None) -> Call:
        """A client asks; the answer comes when the loop is driven. Without a daemon the connection is lost."""
        if not self.up:
            call = Call(command, None, None, lost=True)
        else:
            life = self._running
            self._requests += 1
            cause = Cause("rpc", type(command).__name__, f"r-{self._requests}", self.clock.now().wall_ns)
            call = Call(command, life, life.loop.create_task(life.daemon.submit(command, cause, secrets)))
        self.calls.append(call)
        return call

    def ask(self, command: c.Command, secrets: Secret | None = None) -> str:
        """The answer, however long it takes; raises what the client gets."""
        call = self.call(command, secrets)
        assert call.task is not None, "no daemon is up"
        self.run(_end_of(call.task))
        assert not call.lost, "the daemon died"
        return call.value

    # --- what is there -----------------------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """As the running daemon has it, else as the log tells it."""
        return self.life.daemon.node if self.up else self.folded()

    def folded(self) -> Node:
        return fold(self.log.read()).node

    def history(self, key: str = "", after: int = 0) -> list[str]:
        """Names of the events on record, of one aggregate or of all."""
        records = [r for r in self.log.read(after) if isinstance(r, Record)]
        return [r.wire.rsplit("/", 1)[0] for r in records if not key or r.key == key]

    def leftovers(self) -> dict[str, list[str]]:
        """Everything that exists outside the log: nothing, after all was removed."""
        seen = self.images.observe()
        found = {
            "tasks": sorted(self.machine.tasks),
            "pods": sorted(self.machine.pods),
            "side files": sorted(self.side_files),
            "images": sorted(seen.images),
            "strays": list(seen.stray),
            **self.net.leftovers(),
        }
        return {what: which for what, which in found.items() if which}


async def _end_of(task: "asyncio.Task[str]") -> None:
    await asyncio.wait([task])


__all__ = ["Act", "Call", "Program", "ServiceWorld"]

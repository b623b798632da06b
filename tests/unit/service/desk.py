"""What the unit tests of `service` share: a dispatcher at its desk, with a log in memory and time that passes at will."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.log.memory import MemoryLog
from adapters.network.fake import FakeNetwork, Net
from adapters.oci.fake import FakeSandboxes, FakeTasks, World
from domain import commands as c
from domain import effects as f
from domain.config import ContainerSecrets, SandboxSecrets
from domain.decision import Accept
from domain.node import AGGREGATES, Node
from domain.records import Cause, Draft, Record
from service.dispatcher import Dispatcher
from service.handlers import Handlers
from service.runner import Runner
from tests.support.service_world import Store, kind
from tests.support.virtual import VirtualClock, run
from tests.unit.domain import builders as b

RPC = Cause("rpc", "Test")
HELD_BACK = SandboxSecrets({"kept": "out of the log"})


class Files:
    """Side files in a dict; `fail` is raised by the next write."""

    def __init__(self) -> None:
        self.files: dict[str, ContainerSecrets | SandboxSecrets] = {}
        self.fail: Exception | None = None

    def write(self, name: str, secrets: ContainerSecrets | SandboxSecrets) -> None:
        if self.fail is not None:
            raise self.fail
        self.files[name] = secrets

    def read(self, name: str) -> ContainerSecrets | SandboxSecrets | None:
        return self.files.get(name)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def names(self) -> Sequence[str]:
        return list(self.files)


@dataclass
class Desk:
    """A node, its log, the dispatcher; `put` writes history without any lane."""

    node: Node = field(default_factory=Node)
    log: MemoryLog = field(default_factory=lambda: MemoryLog(aggregates=AGGREGATES))
    clock: VirtualClock = field(default_factory=VirtualClock)
    files: Files = field(default_factory=Files)
    told: list[tuple[str, Sequence[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.node, self.log, self.clock, self.files)
        self.dispatcher.listen(lambda record, related: self.told.append((record.wire, related)))

    def put(self, key: str, *events: Any) -> "Desk":
        for event in events:
            draft = Draft(key, self.node.next_version(key), event)
            for record in self.log.append_sync([draft], RPC, b.NOW):
                self.node.apply(record.key, record.version, record.event)
        return self

    def with_image(self) -> "Desk":
        return self.put(f"image/{b.REF}", *b.IMAGE_PATH[b.I.PRESENT])

    def with_box(self, state: Any = b.B.READY) -> "Desk":
        return self.with_image().put(b.BOX_KEY, *b.sandbox_path(state))

    def with_con(self, state: Any = b.S.RUNNING) -> "Desk":
        return self.with_box().put(b.CON_KEY, *b.CONTAINER_PATH[state])

    def ask(self, command: c.Command, secrets: Any = None) -> "asyncio.Task[str]":
        """A client's call, begun at once."""
        return asyncio.ensure_future(self.dispatcher.submit(command, RPC, secrets))

    async def report(self, command: c.Command) -> None:
        await self.dispatcher.record(command, Cause("effect", "Test"))

    def events(self, key: str = "") -> list[str]:
        records = [r for r in self.log.read() if isinstance(r, Record)]
        return [r.wire.rsplit("/", 1)[0] for r in records if not key or r.key == key]


class Stand:
    """A desk with a runner beside it, whose effects are `handle`: a coroutine function, or a table of them by type."""

    def __init__(self, desk: Desk, handle: Callable[..., Awaitable[None]]) -> None:
        self.desk = desk
        self.asked: list[c.Command] = []
        self.causes: list[Cause] = []
        self.refuse: list[Exception] = []
        self.runner = Runner(desk.node, desk.clock, handle, self._submit, self._report)
        desk.dispatcher.listen(lambda record, related: self.runner.kick(related, record.seq))

    async def _submit(self, command: c.Command, cause: Cause) -> object:
        self.asked.append(command)
        self.causes.append(cause)
        if self.refuse:
            raise self.refuse.pop(0)
        return await self.desk.dispatcher.submit(command, cause)

    async def _report(self, command: c.Command, cause: Cause) -> None:
        self.causes.append(cause)
        await self.desk.dispatcher.record(command, cause)


class Bench:
    """Handlers over the fakes, with what they report."""

    def __init__(self, desk: Desk, credentials: Callable[[str, str], Any] = lambda reference, access: None) -> None:
        self.desk = desk
        self.world = World(boot_id=desk.clock.boot_id)
        self.tasks, self.sandboxes = FakeTasks(self.world), FakeSandboxes(self.world)
        self.images = PlainStore(self.world)
        self.net = Net(step=self.world.step)
        self.network = FakeNetwork(self.net, started=True)
        self.reported: list[c.Command] = []
        self.handlers = Handlers(
            desk.node,
            desk.log,
            desk.clock,
            desk.files,
            self.tasks,
            self.sandboxes,
            self.network,
            self.images,
            credentials,
        )

    async def do(self, what: f.Effect | f.Watch) -> list[c.Command]:
        """Runs one effect; what it reported is folded at once, as the dispatcher would do it."""
        before = len(self.reported)
        await self.handlers.handle(what, self.report)
        return self.reported[before:]

    async def report(self, command: c.Command) -> None:
        self.reported.append(command)
        decision = self.desk.node.decide(command, self.desk.clock.now())
        if isinstance(decision, Accept):
            for key, event in decision.events:
                self.desk.put(key, event)


class PlainStore(Store):
    """The image store on a world without a daemon."""

    def __init__(self, machine: World) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._machine = machine

    async def _step(self) -> None:
        await self._machine.step(f"{kind.get()}.step")


async def turns(rounds: int = 20) -> None:
    """Lets everybody go on who can; no time passes."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def virtual(main: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """The test is a coroutine on virtual time."""

    def test(**given: Any) -> None:
        run(main(**given))

    functools.update_wrapper(test, main)
    del test.__wrapped__  # type: ignore[attr-defined]
    test.__signature__ = inspect.signature(main)  # type: ignore[attr-defined]
    return test

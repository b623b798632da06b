"""A daemon without a world: the real domain decides and folds, and every effect that is due succeeds at once.

So what a client meets (idempotence, codes, states) is the domain's. `fail` makes effects of a class fail, `hold` leaves
them open until `release`. Events are kept, so that a test can look for what must not be in them.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from domain import commands as c
from domain import effects as f
from domain import errors
from domain import events as e
from domain.config import ContainerSecrets, SandboxSecrets
from domain.decision import Accept, Already, Join, Refused
from domain.due import due
from domain.image import PulledImage
from domain.names import sandbox_name
from domain.node import Node
from domain.outcome import Done, Failed, Outcome, outcome
from domain.records import Cause, Evidence, Head, Now, Process, TaskUsage, Usage
from domain.running import running

BOOT = "11111111-2222-3333-4444-555555555555"
START_NS = 1_700_000_000 * 10**9


@dataclass
class FakeCondition:
    ok: bool = True
    reason: str = ""
    message: str = ""


@dataclass
class FakeHealth:
    runtime: FakeCondition = field(default_factory=FakeCondition)
    network: FakeCondition = field(default_factory=FakeCondition)
    info: dict[str, Any] = field(default_factory=lambda: {"daybook": "fake"})


@dataclass
class FakeResult:
    stdout: bytes = b"out"
    stderr: bytes = b"err"
    code: int = 3


class FakeApi:
    def __init__(self) -> None:
        self.execs: list[tuple[str, tuple[str, ...], float]] = []
        self.said: FakeResult | errors.DaybookError = FakeResult()
        self.reopened: list[str] = []
        self.used: dict[str, TaskUsage] = {}
        self.node = Node()
        self.kept: dict[str, ContainerSecrets | SandboxSecrets] = {}
        self.events: list[tuple[str, Any, Cause]] = []
        self.causes: list[Cause] = []
        self.fail: dict[type, errors.DaybookError] = {}
        self.hold: set[type] = set()
        self.shown = FakeHealth()
        self.pulled = PulledImage("sha256:" + "ab" * 32, "sha256:" + "cd" * 32, ("sha256:" + "ef" * 32,), 4096)
        self._listeners: list[Any] = []
        self._changed = asyncio.Event()
        self._clock = START_NS

    # --- what the CRI asks -------------------------------------------------------------------------------------------

    async def submit(
        self, command: c.Command, cause: Cause, secrets: ContainerSecrets | SandboxSecrets | None = None
    ) -> str:
        self.causes.append(cause)
        decision = self.node.decide(command, self.now())
        match decision:
            case Refused():
                raise decision.error
            case Already():
                return reply(outcome(self.node, command, self._subject(command)) or Done())
            case Accept():
                key = decision.events[0][0]
                if secrets is not None:
                    self.kept[e.split_key(key)[1]] = secrets
                self.append(decision, cause)
            case Join():
                key = self._subject(command)
            case _:
                raise errors.Busy("the fake does not wait")
        while (result := outcome(self.node, command, key)) is None:
            self._changed.clear()
            await self._changed.wait()
        return reply(result)

    async def exec_sync(self, container_id: str, argv: Any, timeout_s: float) -> FakeResult:
        running(self.node, container_id, "exec in")
        self.execs.append((container_id, argv, timeout_s))
        if isinstance(self.said, errors.DaybookError):
            raise self.said
        return self.said

    async def reopen_log(self, container_id: str) -> None:
        running(self.node, container_id, "reopen the log of")
        self.reopened.append(container_id)

    def secrets(self, name: str) -> ContainerSecrets | SandboxSecrets | None:
        return self.kept.get(name)

    async def netns(self, sandbox_id: str) -> str:
        return f"/fake/netns/{sandbox_id}"

    def health(self) -> FakeHealth:
        return self.shown

    def head(self) -> Head:
        return Head(len(self.events), b"\1" * 16)

    async def usage(self, container_ids: Any) -> dict[str, TaskUsage]:
        return {one: self.used[one] for one in container_ids if one in self.used}

    async def image_usage(self) -> Usage:
        return Usage(START_NS, 12_345, 67, "/var/lib/daybook")

    def on_change(self, changed: Any) -> None:
        self._listeners.append(changed)

    # --- what a test does --------------------------------------------------------------------------------------------

    def now(self) -> Now:
        self._clock += 10**6
        return Now(self._clock, self._clock - START_NS, BOOT)

    def report(self, command: c.Command) -> None:
        """The outcome of an effect, or what a watcher saw."""
        decision = self.node.decide(command, self.now())
        if isinstance(decision, Accept):
            self.append(decision, Cause("effect"))

    def append(self, accepted: Accept, cause: Cause) -> None:
        self.node.claim(accepted)
        touched: dict[str, None] = {}
        for key, event in accepted.events:
            before = tuple(self.node.related(key))
            self.node.apply(key, self.node.next_version(key), event)
            self.events.append((key, event, cause))
            self._tell(key)
            touched |= dict.fromkeys((*before, *self.node.related(key)))
        self.node.settle(accepted)
        for key in touched:
            self._run_due(key)
        self._changed.set()

    def release(self, kind: type) -> None:
        """Lets the held effects of a class happen."""
        self.hold.discard(kind)
        for key in [*map(e.sandbox_key, self.node.sandboxes), *map(e.container_key, self.node.containers)]:
            self._run_due(key)
        for key in map(e.image_key, list(self.node.images)):
            self._run_due(key)

    def quarantine(self, key: str, why: str = "bad checksum") -> None:
        self.node.quarantine(key, self.node.versions.get(key, 0) + 1, 4711, why)
        self._tell(key)

    # --- the world ---------------------------------------------------------------------------------------------------

    def _tell(self, key: str) -> None:
        for changed in self._listeners:
            changed(key)

    def _run_due(self, key: str) -> None:
        owed = due(self.node, key)
        for command in owed.commands:
            self.report(command)
        if owed.effect is None or type(owed.effect) in self.hold or owed != due(self.node, key):
            return
        for command in self._done(owed.effect):
            self.report(command)

    def _done(self, effect: Any) -> list[c.Command]:
        if error := self.fail.get(type(effect)):
            return [_failed(effect, type(error).__name__, error.text)]
        init = Process(4242, 99, BOOT)
        match effect:
            case f.CreateTask():
                binary = e.Binary("/usr/sbin/runc", "1.1.5", "1.1.5+ds1")
                return [
                    c.RecordCreated(effect.container_id, init, Process(4241, 98, BOOT), e.User(0, 0, (0, 10)), binary)
                ]
            case f.StartTask():
                return [c.RecordStarted(effect.container_id)]
            case f.StopTask():
                return [c.RecordExit(effect.container_id, 137, 0, Evidence("exit-file"))]
            case f.RemoveTask():
                return [c.RecordContainerRemoved(effect.container_id)]
            case f.SetUpSandbox():
                return [c.RecordSandboxReady(effect.sandbox_id, None)]
            case f.TearDownSandbox():
                return [c.RecordSandboxStopped(effect.sandbox_id)]
            case f.RemoveSandbox():
                return [c.RecordSandboxRemoved(effect.sandbox_id)]
            case f.PullImage():
                return [c.RecordPulled(effect.reference, self.pulled)]
            case f.RemoveImage():
                return [c.RecordImageRemoved(effect.image_id)]
        return []

    def _subject(self, command: c.Command) -> str:
        match command:
            case c.RunSandbox():
                return e.sandbox_key(self.node.sandbox_named(sandbox_name(command.config)) or command.sandbox_id)
            case c.CreateContainer():
                name = (command.sandbox_id, command.config.name, command.config.attempt)
                return e.container_key(self.node.container_named(name) or command.container_id)
            case c.PullImage():
                return e.image_key(command.reference)
            case c.RemoveImage():
                image = self.node.find_image(command.image)
                return e.image_key(image.reference if image else command.image)
        name = getattr(command, "container_id", None)
        return e.container_key(name) if name else e.sandbox_key(command.sandbox_id)


def reply(result: Outcome) -> str:
    if isinstance(result, Failed):
        raise result.error
    return result.value if isinstance(result, Done) else ""


def _failed(effect: Any, kind: str, text: str) -> c.Command:
    match effect:
        case f.CreateTask():
            return c.RecordCreateFailed(effect.container_id, kind, text)
        case f.StartTask():
            return c.RecordStartFailed(effect.container_id, kind, text)
        case f.SetUpSandbox():
            return c.RecordRunFailed(effect.sandbox_id, kind, text)
        case f.PullImage():
            return c.RecordPullFailed(effect.reference, kind, text)
    raise AssertionError(effect)

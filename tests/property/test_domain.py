"""The node alone, under everything: clients, effects and watchers in any order, clocks that jump, reboots, lost appends.

After every step: no invariant is violated, replay and checkpoint give the same node, names and listing are those of the
naive ledger, and whatever recovery would observe now leads to a state without violations, once and for all.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain import commands as c
from domain import container as containers
from domain import effects as f
from domain import events as e
from domain import sandbox as sandboxes
from domain.decision import Accept, Already, Decision, Join, Refused, Wait
from domain.due import due
from domain.fold import fold
from domain.image import PulledImage
from domain.invariants import violations
from domain.lifecycle import ContainerState
from domain.names import sandbox_name
from domain.node import Node
from domain.observations import (
    ExitFile,
    ImageObservation,
    InfraState,
    Mark,
    MonitorState,
    NamespaceState,
    SandboxObservation,
    TaskObservation,
    TaskState,
    World,
)
from domain.observations import ImageState as StoreState
from domain.outcome import Failed, outcome
from domain.records import Cause, Evidence, Now, Process, Record
from domain.recovery import Finding, LogFacts, reconcile
from tests.property import domain_model as model
from tests.unit.domain import builders as b

PODS = ("u1", "u2")
REFS = (b.REF, b.REF_2, "docker.io/library/b:1")
IDS = (b.ID_A, b.ID_B)
HASHES = ("h1", "h2")
# fmt: off
CODES = st.sampled_from((0, 1, 137, None))
SEEDS = st.integers(0, 2**32)
# fmt: on


class NodeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.records: list[Record] = []
        self.ledger = model.Ledger()
        self.now = b.NOW
        self.fresh = 0
        self.random = Random(0)

    @initialize(seed=SEEDS, stage=st.sampled_from((4, 3, 2, 1, 0)))
    def begin(self, seed: int, stage: int) -> None:
        """Most histories begin with something that runs."""
        self.random = Random(seed)
        steps: tuple[c.Command, ...] = (
            c.PullImage(b.REF),
            b.run("box", "h1", uid="u1"),
            b.create("con", "h1", "box", name="k"),
            c.StartContainer("con"),
        )
        for command in steps[:stage]:
            self.ask(command)
            self.go_on(1)

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(pod=st.sampled_from(PODS), attempt=st.integers(0, 1), hash_=st.sampled_from(HASHES), pid=st.booleans())
    def run_sandbox(self, pod: str, attempt: int, hash_: str, pid: bool) -> None:
        command = b.run(self.id("s"), hash_, uid=pod, attempt=attempt, namespaces=b.modes(pid=pid))
        decision = self.ask(command)
        held = self.node.sandbox_named(sandbox_name(command.config))
        self.check_name(decision, command.sandbox_id, held, "sandbox", sandbox_name(command.config), hash_)

    @rule(data=st.data(), attempt=st.integers(0, 1), hash_=st.sampled_from(HASHES))
    def create_container(self, data: st.DataObject, attempt: int, hash_: str) -> None:
        present = [r for r, i in self.node.images.items() if i.held]
        image = data.draw(st.sampled_from((*present * 4, *REFS, *IDS)))
        box = self.pick(data, self.node.sandboxes)
        command = b.create(self.id("c"), hash_, box, image, name="k", attempt=attempt)
        decision = self.ask(command)
        name = (box, "k", attempt)
        self.check_name(decision, command.container_id, self.node.container_named(name), "container", name, hash_)

    def check_name(self, decision: Decision, fresh: str, held: str | None, kind: str, name: object, hash_: str) -> None:
        """A retry with the same request gets the id that holds the name; another request never gets it."""
        known = self.ledger.names.get((kind, name))
        assert held == (known.split("/")[1] if known else None)
        if isinstance(decision, Already | Join):
            assert known is not None
            assert held != fresh
            assert self.ledger.hashes[known] == hash_
        if isinstance(decision, Accept):
            assert decision.events[0][0] == known

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.ask(c.StartContainer(self.pick(data, self.node.containers)))

    @rule(data=st.data(), grace_s=st.sampled_from((0, 5, 60)))
    def stop(self, data: st.DataObject, grace_s: int) -> None:
        self.ask(c.StopContainer(self.pick(data, self.node.containers), grace_s))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.ask(c.RemoveContainer(self.pick(data, self.node.containers)))

    @rule(data=st.data(), removal=st.booleans())
    def stop_sandbox(self, data: st.DataObject, removal: bool) -> None:
        box = self.pick(data, self.node.sandboxes)
        self.ask(c.RemoveSandbox(box) if removal else c.StopSandbox(box))

    @rule(reference=st.sampled_from(REFS))
    def pull(self, reference: str) -> None:
        self.ask(c.PullImage(reference))

    @rule(image=st.sampled_from((*REFS, *IDS)))
    def remove_image(self, image: str) -> None:
        self.ask(c.RemoveImage(image))

    # --- the daemon itself -------------------------------------------------------------------------------------------

    @rule(data=st.data(), good=st.sampled_from((True, True, True, False)))
    def end_effect(self, data: st.DataObject, good: bool) -> None:
        """Some effect that is due comes to its end."""
        owed = [due(self.node, key).effect for key in sorted(self.node.versions)]
        running = [effect for effect in owed if effect is not None]
        if running:
            report = self.report(data.draw(st.sampled_from(running)), good)
            for command in report:
                self.ask(command)

    def report(self, effect: f.Effect, good: bool) -> Iterable[c.Command]:
        start = Process(self.random.randrange(2, 9999), self.random.randrange(9999), self.now.boot_id)
        match effect:
            case f.CreateTask(id_):
                if good:
                    return (c.RecordCreated(id_, start, start, b.USER, b.RUNTIME),)
                return (c.RecordCreateFailed(id_, "RuntimeFailed", "no"),)
            case f.StartTask(id_):
                return (c.RecordStarted(id_) if good else c.RecordStartFailed(id_, "RuntimeFailed", "no"),)
            case f.StopTask(id_):
                return (c.RecordExit(id_, 137 if good else None, 0, Evidence("exit-file" if good else "none")),)
            case f.RemoveTask(id_):
                return (c.RecordContainerRemoved(id_),)
            case f.SetUpSandbox(id_):
                if not good:
                    return (c.RecordRunFailed(id_, "NetworkFailed", "no"),)
                infra = start if self.node.sandboxes[id_].own_pid_namespace else None
                return (c.RecordNetworkSet(id_, ("10.0.0.2",), "{}"), c.RecordSandboxReady(id_, infra))
            case f.ReleaseNetwork(id_, leaked):
                if good:
                    return (c.RecordNetworkReleased(id_),)
                return () if leaked else (c.RecordNetworkLeaked(id_, 5, "no"),)
            case f.TearDownSandbox(id_):
                return (c.RecordSandboxStopped(id_),) if good else ()
            case f.RemoveSandbox(id_):
                return (c.RecordSandboxRemoved(id_),)
            case f.PullImage(reference):
                image = b.pulled(self.random.choice(IDS))
                return (
                    c.RecordPulled(reference, image) if good else c.RecordPullFailed(reference, "PullFailed", "no"),
                )
            case f.RemoveImage(_, image_id):
                return (c.RecordImageRemoved(image_id),)
        return ()

    @rule(turns=st.integers(1, 6))
    def go_on(self, turns: int) -> None:
        """Everything that is due goes well for a while."""
        for _ in range(turns):
            for key in sorted(self.node.versions):
                owed = due(self.node, key)
                for command in (*owed.commands, *(self.report(owed.effect, True) if owed.effect else ())):
                    self.ask(command)

    @rule(data=st.data(), code=CODES, what=st.sampled_from(("exit", "oom", "monitor", "infra", "lost")))
    def watch(self, data: st.DataObject, code: int | None, what: str) -> None:
        """A process is seen to end, an image to be gone; in any state, also too late."""
        name = self.pick(data, self.node.containers)
        match what:
            case "exit":
                evidence = Evidence("none" if code is None else "exit-file")
                self.ask(c.RecordExit(name, code, self.now.wall_ns - 10**9, evidence))
            case "oom":
                self.ask(c.RecordOom(name, self.random.randrange(1, 5)))
            case "monitor":
                self.ask(c.RecordMonitorLost(name))
            case "infra":
                self.ask(c.RecordSandboxDied(self.pick(data, self.node.sandboxes), "gone"))
            case "lost":
                self.ask(c.RecordImageLost(data.draw(st.sampled_from(REFS)), "gone"))

    @rule(data=st.data(), good=st.booleans(), kind=st.integers(0, 6))
    def stray_report(self, data: st.DataObject, good: bool, kind: int) -> None:
        """The outcome of an effect that is not due (any more)."""
        name = self.pick(data, self.node.containers)
        strays = (
            f.CreateTask(name),
            f.StartTask(name),
            f.RemoveTask(name),
            f.PullImage(b.REF, ""),
            f.RemoveImage(b.REF, b.ID_B),
        )
        effects: tuple[f.Effect, ...] = strays
        if self.node.sandboxes:
            box = data.draw(st.sampled_from(sorted(self.node.sandboxes)))
            effects += (f.SetUpSandbox(box), f.RemoveSandbox(box))
        wanted = effects[kind % len(effects)]
        if not isinstance(wanted, f.CreateTask | f.StartTask | f.SetUpSandbox) or self.begun(wanted):
            for command in self.report(wanted, good):
                if self.fits(command):
                    self.ask(command)

    def begun(self, effect: f.Effect) -> bool:
        return getattr(effect, "container_id", "") in self.node.containers or hasattr(effect, "sandbox_id")

    def fits(self, command: c.Command) -> bool:
        """A removal is only reported by the removal: it is never told to be done before it is."""
        match command:
            case c.RecordSandboxRemoved(box):
                return not self.node.of_sandbox(box)
        return True

    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """A command that follows from a state, or at a deadline."""
        owed = [due(self.node, key) for key in sorted(self.node.versions)]
        commands = [command for what in owed for command in (*what.commands, *((what.at[1],) if what.at else ()))]
        if commands:
            self.ask(data.draw(st.sampled_from(commands)))

    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        self.ask(c.RecordCreateInterrupted(self.pick(data, self.node.containers)))

    @rule(wall_s=st.sampled_from((-3600, -1, 0, 1, 3600)), boot_s=st.sampled_from((0, 1, 700)))
    def clocks(self, wall_s: int, boot_s: int) -> None:
        self.now = replace(
            self.now, wall_ns=self.now.wall_ns + wall_s * 10**9, boot_ns=self.now.boot_ns + boot_s * 10**9
        )

    @rule(seed=SEEDS)
    def crash_and_restart(self, seed: int) -> None:
        self.recover(adversary(self.node, self.now.boot_id, Random(seed), faithful=0.8))

    @rule(really=st.sampled_from((False, False, True)))
    def reboot(self, really: bool) -> None:
        if not really:
            return
        self.now = Now(self.now.wall_ns, 10**9, f"boot-{self.now.boot_id[5:]}-")
        images = {i.held.image_id: StoreState.COMPLETE for i in self.node.images.values() if i.held}
        names = {r: i.held for r, i in self.node.images.items() if i.held}
        self.recover(World(self.now.boot_id, images=ImageObservation(images, names)))
        assert not [k for k in self.node.containers.values() if k.live]

    def recover(self, world: World) -> None:
        for finding in reconcile(self.node, world, self.facts(), self.now):
            for event in finding.events:
                self.put(finding.key, event)

    # --- the log -----------------------------------------------------------------------------------------------------

    def ask(self, command: c.Command) -> Decision:
        before = b.fingerprint(self.node)
        decision = self.node.decide(command, self.now)
        assert b.shown(self.node.decide(command, self.now)) == b.shown(decision), "decide is deterministic"
        assert b.fingerprint(self.node) == before, "decide only reads"
        if not isinstance(decision, Accept):
            assert isinstance(decision, Refused | Already | Join | Wait)
            return decision
        note(f"{type(command).__name__} -> {b.shown(decision)}")
        if self.random.random() < 0.1:
            self.node.claim(decision)
            self.node.release(decision)
            assert b.fingerprint(self.node) == before, "a released claim leaves no trace"
        self.node.claim(decision)
        for key, event in decision.events:
            self.put(key, event)
        self.node.settle(decision)
        assert self.node._claims == []
        found = outcome(self.node, command, decision.events[0][0])
        assert not isinstance(found, Failed) or type(command) not in (c.StopContainer, c.RemoveContainer, c.StopSandbox)
        return decision

    def put(self, key: str, event: e.Event) -> None:
        version = self.node.next_version(key)
        wire = e.WIRE_NAME[type(event)]
        seq = len(self.records) + 1
        self.records.append(Record(seq, self.now, key, version, wire, event, Cause("rpc"), b"", 0))
        self.node.apply(key, version, event)
        if key.startswith("image/"):
            return
        if isinstance(event, e.SandboxRunRequested):
            self.ledger.claim(key, ("sandbox", sandbox_name(event.config)), event.request_hash)
        if isinstance(event, e.ContainerCreateRequested):
            name = (event.sandbox_id, event.config.name, event.config.attempt)
            self.ledger.claim(key, ("container", name), event.request_hash)
        self.ledger.saw(key, e.short_name(type(event)))

    def id(self, kind: str) -> str:
        """Ids in no order, so that nothing can lean on it."""
        self.fresh += 1
        return f"{kind}{self.random.randrange(100, 999)}{self.fresh}"

    def pick(self, data: st.DataObject, known: Iterable[str]) -> str:
        return data.draw(st.sampled_from([*sorted(known) * 4, "nobody"]))

    def facts(self) -> LogFacts:
        return LogFacts("log", len(self.records), True)

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_violated(self) -> None:
        assert violations(self.node) == []

    @invariant()
    def replay_and_checkpoint_give_the_same_node(self) -> None:
        here = b.fingerprint(self.node)
        replayed = fold(self.records)
        assert replayed.whole
        assert b.fingerprint(replayed.node) == here
        assert b.fingerprint(Node.restore(self.node.snapshot())) == here

    @invariant()
    def names_and_listing_are_the_ledgers(self) -> None:
        names: dict[Any, str] = {("sandbox", n): e.sandbox_key(i) for n, i in self.node._sandbox_names.items()}
        names |= {("container", n): e.container_key(i) for n, i in self.node._container_names.items()}
        assert names == self.ledger.names
        listed = {e.container_key(i): containers.view(k) for i, k in self.node.containers.items()}
        listed |= {e.sandbox_key(i): sandboxes.view(s) for i, s in self.node.sandboxes.items()}
        assert {key: view for key, view in listed.items() if view} == self.ledger.listed()

    @invariant()
    def exit_codes_never_change(self) -> None:
        for k in self.node.containers.values():
            if k.state in (ContainerState.EXITED, ContainerState.REMOVING) and k.finished_at:
                assert self.ledger.exit_codes.setdefault(k.id, k.exit_code) == k.exit_code

    @invariant()
    def created_at_never_decreases_within_a_sandbox(self) -> None:
        newest: dict[str, int] = {}
        for record in self.records:
            if isinstance(record.event, e.ContainerCreateRequested):
                box, at = record.event.sandbox_id, record.event.at
                alive = self.node.containers.get(record.key.split("/")[1])
                if alive is not None and alive.created_at == at:
                    assert at >= newest.get(box, 0)
                    newest[box] = at

    @invariant()
    def the_newest_sandbox_of_a_pod_is_the_last(self) -> None:
        newest: dict[str, int] = {}
        for record in self.records:
            if isinstance(record.event, e.SandboxRunRequested) and record.key.split("/")[1] in self.node.sandboxes:
                assert record.event.at >= newest.get(record.event.config.uid, 0)
                newest[record.event.config.uid] = record.event.at

    @invariant()
    def due_is_the_same_after_a_restore(self) -> None:
        restored = Node.restore(self.node.snapshot())
        for key in self.node.versions:
            assert due(restored, key) == due(self.node, key)

    @invariant()
    def due_is_never_at_a_loss(self) -> None:
        for key in self.node.versions:
            owed = due(self.node, key)
            for command in (*owed.commands, *((owed.at[1],) if owed.at else ())):
                assert not isinstance(self.node.decide(command, self.now), Refused)

    @invariant()
    def whatever_is_observed_now_recovers_once(self) -> None:
        for boot_id in (self.now.boot_id, "another-boot"):
            world = adversary(self.node, boot_id, self.random)
            node = Node.restore(self.node.snapshot())
            first = reconcile(node, world, self.facts(), self.now)
            assert first == reconcile(node, world, self.facts(), self.now)
            apply(node, first)
            assert violations(node) == []
            again = reconcile(node, world, self.facts(), self.now)
            assert [finding for finding in again if finding.events] == [], "twice is once"
            for key in node.versions:
                due(node, key)


def apply(node: Node, findings: Iterable[Finding]) -> None:
    for finding in findings:
        for event in finding.events:
            node.apply(finding.key, node.next_version(finding.key), event)


AS_RECORDED = {
    "CREATED": TaskState.CREATED,
    "STARTING": TaskState.RUNNING,
    "RUNNING": TaskState.RUNNING,
    "STOPPING": TaskState.RUNNING,
}


def adversary(node: Node, boot_id: str, random: Random, faithful: float = 0.0) -> World:
    """Anything may be seen of anything, also of what nobody knows; `faithful`: the share that is as the log says."""
    names = [*node.containers, "stranger"]
    tasks = {n: _task(random) for n in names if random.random() < 0.9}
    boxes = {n: _sandbox(random) for n in (*node.sandboxes, "stranger") if random.random() < 0.9}
    store = {i: random.choice(tuple(StoreState)) for i in IDS if random.random() < 0.8}
    shown: dict[str, PulledImage] = {r: b.pulled(random.choice(IDS)) for r in REFS if random.random() < 0.6}
    for k in node.containers.values():
        if random.random() < faithful:
            tasks[k.id] = TaskObservation(AS_RECORDED.get(k.state, TaskState.ABSENT), MonitorState.ALIVE)
    for box in node.sandboxes.values():
        if random.random() < faithful:
            boxes[box.id] = SandboxObservation(NamespaceState.NSFS, InfraState.ALIVE if box.infra else InfraState.NONE)
    for image in node.images.values():
        if image.held and random.random() < faithful:
            store[image.held.image_id] = StoreState.COMPLETE
    return World(boot_id, tasks, boxes, ImageObservation(store, shown, readable=random.random() < 0.9))


def _task(random: Random) -> TaskObservation:
    file = random.choice(
        (None, ExitFile(random.choice((0, 1, 137)), random.randrange(2 * b.WALL)), ExitFile(None, 1, "x?"))
    )
    return TaskObservation(
        random.choice(tuple(TaskState)),
        random.choice(tuple(MonitorState)),
        file,
        random.random() < 0.2,
        random.randrange(3),
        random.random() < 0.2,
        random.choice((None, Mark("log", 1), Mark("other", 1))),
    )


def _sandbox(random: Random) -> SandboxObservation:
    return SandboxObservation(
        random.choice(tuple(NamespaceState)),
        random.choice(tuple(InfraState)),
        random.random() < 0.3,
        random.random() < 0.3,
        random.random() < 0.9,
    )


NodeMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("DAYBOOK_EXAMPLES", "400")),
    stateful_step_count=40,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    print_blob=True,
)
TestNode = pytest.mark.timeout(400)(NodeMachine.TestCase)  # a failure is shrunk for minutes

"""The whole service over fakes, in virtual time: clients, processes that end, effects that fail and hang, kills anywhere.

After every step the naive model (`service_model`) finds no broken promise and the domain no violated invariant. At the
end the world is left in peace: every call has its answer, a reconcile has nothing to say, a second start adds nothing
but itself, every prefix of the history recovers, and after the removal of everything nothing is left anywhere.

Profiles: default; `CI` (the same examples in every run); `DAYBOOK_PROPERTY=long` for the nightly. A failure prints the
steps as a program and a `@reproduce_failure` line; both replay it.
"""

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapters.images.fake import fake_image
from adapters.log.errors import LogBroken
from adapters.oci.fake import Act, Program
from domain import commands as c
from domain.config import (
    ContainerConfig,
    ContainerSecrets,
    NamespaceMode,
    NamespaceOptions,
    SandboxConfig,
    SandboxSecrets,
)
from domain.errors import DaybookError, LimitReached, RegistryUnavailable, RuntimeFailed, StorageFailed
from domain.fold import fold
from domain.invariants import violations
from domain.observations import World as Seen
from domain.recovery import LogFacts, reconcile
from service.daemon import Timing
from tests.property.service_model import Promises, unlisted_names
from tests.support.service_world import Call, ServiceWorld

IMAGES = {f"q.io/{name}:1": fake_image(name[0], layers=2) for name in ("a", "a2", "b")}
"""The first two mean the same image."""
REFERENCES = tuple(IMAGES)
PROGRAMS = (Program(), Program(on_stop=None), Program(on_stop=0), Program(exits=0), Program(exits=3))
POD = NamespaceMode.POD
MODES = (NamespaceOptions(pid=NamespaceMode.CONTAINER), NamespaceOptions(pid=POD))
TASK_STEPS = (
    ("create.bundle", "create.mount", "create.monitor", "create.runtime", "create.answer")
    + ("start.before", "start.after", "stop.before", "stop.sent", "stop.kill", "stop.after")
    + ("tidy.kill", "tidy.delete", "remove.kill", "remove.unmount", "remove.files")
)
POD_STEPS = ("set_up.directory", "set_up.pin", "set_up.infra", "set_up.answer") + (
    "tear_down.kill",
    "tear_down.unpin",
    "remove_sandbox.files",
)
IMAGE_STEPS = ("pull.step", "remove_image.step", "clean.step")
STEPS = TASK_STEPS + POD_STEPS + IMAGE_STEPS
WHERE = ("", "append", "append.before", "append.after", "look", "secrets", "mark", "resume", *STEPS)
PEACE_S = 1500.0
"""Longer than any limit, grace, back-off and the time an interrupted create keeps its name, together."""
ACCEPTED_S = 200.0

TAMED: set[str] = {"checkpoint"}

some = st.integers(0, 7)
few = st.integers(1, 12)


class ServiceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = ServiceWorld(Timing(checkpoint_every=4), checkpoints=False)
        self.model = Promises()
        self.settled: set[int] = set()
        self.listed: dict[int, bool] = {}
        self.pulls: dict[int, bool] = {}
        self.sound = False
        self.tries_on_full_disk = 0
        for reference, image in IMAGES.items():
            self.world.images.offer(reference, image)

    @initialize(checkpoints=st.booleans(), seed=st.integers(0, 99), stage=st.integers(0, 4))
    def begin(self, checkpoints: bool, seed: int, stage: int) -> None:
        """Most histories begin with something that runs."""
        self.world.checkpoints = checkpoints and "checkpoint" not in TAMED
        self.world.start()
        if stage:
            self.ask(c.PullImage(REFERENCES[0]))
            self.world.let_pass(1)
        if stage > 1:
            self.run_sandbox(seed, 0, 0)
            self.world.let_pass(1)
        if stage > 2:
            self.create(seed, seed, 0, 0, 0)
            self.world.let_pass(1)
        if stage > 3:
            self.start(0)
            self.world.let_pass(1)
        self.take_answers()

    # --- clients -----------------------------------------------------------------------------------------------------

    def ask(self, command: c.Command, secrets: Any = None) -> Call:
        self.come_up()
        node = self.world.node
        known = getattr(command, "container_id", None) or getattr(command, "sandbox_id", "")
        shown = {known for known in (*node.containers, *node.sandboxes)} - {i for i, _ in unlisted_names(node)}
        call = self.world.call(command, secrets)
        number = len(self.world.calls) - 1
        self.listed[number] = known in shown
        image_id = ""
        if isinstance(command, c.RemoveImage):
            image_id = IMAGES[command.image].image_id if command.image in IMAGES else command.image
            # The rest of a pull that is open may come after the removal, or fall to it.
            self.pulls = dict.fromkeys(self.pulls, False)
        if isinstance(command, c.PullImage):
            self.pulls[number] = not self.going(IMAGES[command.reference].image_id)
        self.model.asked(command, image_id)
        return call

    def going(self, image_id: str) -> bool:
        """Whether a removal of the image may still be on its way: a pull beside it promises nothing."""
        for call in self.world.calls:
            if isinstance(call.command, c.RemoveImage) and (call.given_up or not call.done):
                named = call.command.image
                if image_id in (named, IMAGES[named].image_id if named in IMAGES else ""):
                    return True
        return any(i.state == "REMOVING" for i in self.world.node.images.values())

    def come_up(self) -> None:
        """The service manager starts what has died; a disk does not stay full for ever."""
        self.tries_on_full_disk -= 1
        if self.tries_on_full_disk < 0:
            self.world.room = None
        if not self.world.up:
            self.world.spare()
            self.world.room = None
            self.world.log._failures.clear()
            self.world.start()

    @rule(pod=some, wanted=st.sampled_from((True, True, False)), steps=st.integers(1, 6), grace_s=st.sampled_from((0, 10)))
    def kubelet(self, pod: int, wanted: bool, steps: int, grace_s: int) -> None:
        """Brings a pod nearer to where it shall be, a step at a time, as the kubelet would."""
        for _ in range(steps):
            self.come_up()
            self.ask(*self.next_step(pod % 3, wanted, grace_s))
            self.world.let_pass(0.4)
            self.no_promise_is_broken()

    def next_step(self, pod: int, wanted: bool, grace_s: int) -> tuple[Any, ...]:
        node = self.world.node
        image = REFERENCES[pod]
        if node.find_image(image) is None:
            return (c.PullImage(image),)
        boxes = [s for s in node.sandboxes.values() if s.config.name == f"p{pod}"]
        box = boxes[-1] if boxes else None
        if not wanted and box is not None:
            return (c.RemoveSandbox(box.id) if box.state == "STOPPED" else c.StopSandbox(box.id),)
        if box is None or (box.state != "READY" and box.config.attempt == 0):
            attempt = 0 if box is None else 1
            config = SandboxConfig(f"p{pod}", f"u{pod}", "ns", attempt, namespaces=MODES[pod % 2])
            return c.RunSandbox(self.world.new_id(), config, "h0"), SandboxSecrets({"held": "back"})
        return self.next_container_step(pod, box.id, image, grace_s)

    def next_container_step(self, pod: int, sandbox_id: str, image: str, grace_s: int) -> tuple[Any, ...]:
        held = self.world.node.of_sandbox(sandbox_id)
        if not held or held[-1].state in ("CREATING", "INTERRUPTED", "EXITED"):
            attempt = held[-1].config.attempt + (held[-1].state == "EXITED") if held else 0
            fresh = self.world.new_id()
            self.world.machine.programs[fresh] = PROGRAMS[(pod + attempt) % len(PROGRAMS)]
            config = ContainerConfig("k0", attempt % 2)
            secrets = ContainerSecrets(args=("x",))
            if len(held) > 1:
                return (c.RemoveContainer(held[0].id),)
            return c.CreateContainer(fresh, sandbox_id, image, config, "h0"), secrets
        if held[-1].state == "CREATED":
            return (c.StartContainer(held[-1].id),)
        return (c.StopContainer(held[-1].id, grace_s),)

    @rule(pod=some, attempt=st.integers(0, 1), other=st.sampled_from((0, 0, 0, 1)))
    def run_sandbox(self, pod: int, attempt: int, other: int) -> None:
        config = SandboxConfig(f"p{pod % 3}", f"u{pod % 3}", "ns", attempt, namespaces=MODES[pod % 2])
        secrets = SandboxSecrets({"held": "back"})
        self.ask(c.RunSandbox(self.world.new_id(), config, f"h{other}"), secrets)

    @rule(box=some, name=some, image=some, other=st.sampled_from((0, 0, 0, 1)), program=some)
    def create(self, box: int, name: int, image: int, other: int, program: int) -> None:
        sandbox_id = pick(self.world.node.sandboxes, box)
        if sandbox_id is None:
            return
        config = ContainerConfig(f"k{name % 2}", name % 4 // 2)
        command = c.CreateContainer(self.world.new_id(), sandbox_id, REFERENCES[image % 3], config, f"h{other}")
        self.world.machine.programs[command.container_id] = PROGRAMS[program % len(PROGRAMS)]
        self.ask(command, ContainerSecrets(args=("x",)))

    @rule(which=some)
    def start(self, which: int) -> None:
        self.about_container(which, lambda known: c.StartContainer(known))

    @rule(which=some, grace_s=st.sampled_from((0, 2, 10, 30)))
    def stop_container(self, which: int, grace_s: int) -> None:
        self.about_container(which, lambda known: c.StopContainer(known, grace_s))

    @rule(which=some)
    def remove_container(self, which: int) -> None:
        self.about_container(which, lambda known: c.RemoveContainer(known))

    def about_container(self, which: int, make: Any) -> None:
        known = pick(self.world.node.containers, which)
        if known is not None:
            self.ask(make(known))

    @rule(which=some, remove=st.booleans())
    def end_sandbox(self, which: int, remove: bool) -> None:
        known = pick(self.world.node.sandboxes, which)
        if known is not None:
            self.ask(c.RemoveSandbox(known) if remove else c.StopSandbox(known))

    @rule(which=some)
    def pull(self, which: int) -> None:
        self.ask(c.PullImage(REFERENCES[which % 3]))

    @rule(which=some, by_id=st.booleans())
    def remove_image(self, which: int, by_id: bool) -> None:
        reference = REFERENCES[which % 3]
        self.ask(c.RemoveImage(IMAGES[reference].image_id if by_id else reference))

    @rule(which=st.integers(0, 40))
    def ask_again(self, which: int) -> None:
        """The kubelet's retry: the same request, another fresh id."""
        if not self.world.calls:
            return
        command = self.world.calls[-1 - which % len(self.world.calls)].command
        secrets: Any = None
        if isinstance(command, c.CreateContainer):
            fresh = self.world.new_id()
            self.world.machine.programs[fresh] = self.world.machine.programs[command.container_id]
            command, secrets = replace(command, container_id=fresh), ContainerSecrets(args=("x",))
        elif isinstance(command, c.RunSandbox):
            command, secrets = replace(command, sandbox_id=self.world.new_id()), SandboxSecrets({"held": "back"})
        self.ask(command, secrets)

    @rule(which=some)
    def client_leaves(self, which: int) -> None:
        still = [call for call in self.world.calls if not call.done]
        if still:
            still[which % len(still)].cancel()

    # --- time --------------------------------------------------------------------------------------------------------

    @rule(rounds=few)
    def a_moment(self, rounds: int) -> None:
        self.world.turn(rounds)

    @rule(seconds=st.sampled_from((0.05, 1.0, 5.0, 31.0, 130.0)))
    def let_pass(self, seconds: float) -> None:
        self.world.let_pass(seconds)

    @rule(seed=st.integers(0, 2**16))
    def pace(self, seed: int) -> None:
        """From here on every step of the world takes its own time."""
        dice = random.Random(seed)
        self.world.pace = (lambda: dice.choice((0.0, 0.0, 0.003, 0.02, 0.3))) if seed % 3 else (lambda: 0.0)

    # --- the world ---------------------------------------------------------------------------------------------------

    @rule(which=some, code=st.sampled_from((0, 1, 137)), oom=st.booleans())
    def container_ends(self, which: int, code: int, oom: bool) -> None:
        known = pick(self.world.machine.tasks, which)
        if known is not None:
            self.world.machine.end(known, code, oom=oom and code == 137)

    @rule(which=some)
    def monitor_dies(self, which: int) -> None:
        known = pick(self.world.machine.tasks, which)
        if known is not None:
            self.world.machine.kill_monitor(known)

    @rule(which=some)
    def infra_dies(self, which: int) -> None:
        known = pick(self.world.machine.pods, which)
        if known is not None:
            self.world.machine.kill_infra(known)

    @rule(step=st.sampled_from(STEPS), hang=st.booleans())
    def step_goes_wrong(self, step: str, hang: bool) -> None:
        hang = hang and not ("stop-limit" in TAMED and step.startswith("stop."))
        self.world.machine.at(step, Act.HANG if hang else error_at(step))

    @rule(jump_s=st.sampled_from((-86_400, -5, 5, 86_400)))
    def wall_clock_jumps(self, jump_s: int) -> None:
        self.world.clock.wall_offset_ns += jump_s * 10**9

    @rule(which=some)
    def image_is_damaged(self, which: int) -> None:
        image_id = IMAGES[REFERENCES[which % 3]].image_id
        if self.world.images.present(image_id) and not self.users(image_id):
            self.pulls = dict.fromkeys(self.pulls, False)
            self.world.images.damage(image_id)
            self.model.damaged(image_id)

    def users(self, image_id: str) -> list[str]:
        return self.world.node.image_users(image_id)

    @rule(room=st.integers(0, 6))
    def disk_fills(self, room: int) -> None:
        self.world.room, self.tries_on_full_disk = room, 3

    @rule()
    def disk_is_cleared(self) -> None:
        self.world.room = None

    # --- the daemon --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.up)
    @rule()
    def reconcile(self) -> None:
        life = self.world.life
        assert life is not None
        life.loop.create_task(quietly(life.daemon._recovery.reconcile()))

    @precondition(lambda self: self.world.up)
    @rule(where=st.sampled_from(WHERE), count=few)
    def will_be_killed(self, where: str, count: int) -> None:
        self.world.kill_at(where, count)

    @precondition(lambda self: self.world.life is not None)
    @rule()
    def is_killed(self) -> None:
        self.world.kill()

    @precondition(lambda self: self.world.life is None)
    @rule(where=st.sampled_from(WHERE), count=few, dies=st.booleans())
    def starts(self, where: str, count: int, dies: bool) -> None:
        """Perhaps it is killed on its way up."""
        if dies:
            self.world.kill_at(where, count)
        try:
            self.world.start()
        except DaybookError:
            assert self.world.room is not None or self.world.log.broken
            return
        finally:
            if not dies:
                self.world.spare()

    @precondition(lambda self: self.world.up)
    @rule()
    def leaves(self) -> None:
        try:
            self.world.stop()
        except DaybookError:
            assert self.world.room is not None or self.world.log.broken
            self.world.kill()

    @rule()
    def machine_is_booted(self) -> None:
        self.world.reboot()

    @precondition(lambda self: self.world.up)
    @rule(written=st.booleans())
    def log_breaks(self, written: bool) -> None:
        """A commit whose outcome nobody knows: the daemon says so and its process ends."""
        self.world.log.fail_next(LogBroken("input/output error"), written=written)

    # --- after every step --------------------------------------------------------------------------------------------

    @invariant()
    def no_promise_is_broken(self) -> None:
        if self.world.started == 0:
            return
        self.end_where_broken()
        self.take_answers()
        node = self.world.node
        told = [*violations(node), *self.model.broken(node, self.world.machine), *self.world.unforeseen]
        told += self.signals()
        self.sound = not told
        assert not told, "\n".join(told)

    def end_where_broken(self) -> None:
        """What `main` does when the daemon says that its log broke."""
        if self.world.log.broken and self.world.life is not None:
            self.world.let_pass(31)
            if self.world.up:
                told = self.world.daemon._dispatcher.broken.is_set() or "broken" in TAMED
                assert told, "the log broke and the daemon does not say so"
                self.world.kill()

    def take_answers(self) -> None:
        for number, call in enumerate(self.world.calls):
            if number in self.settled or not call.done:
                continue
            self.settled.add(number)
            if call.answered:
                self.take_yes(number, call)
            elif call.error is not None:
                assert isinstance(call.error, DaybookError), f"{call.command}: {call.error!r}"

    def take_yes(self, number: int, call: Call) -> None:
        wrong = list(self.model.answered(call.command, call.value, self.listed[number]))
        assert not wrong, "\n".join(wrong)
        if isinstance(call.command, c.PullImage) and self.pulls.get(number):
            self.model.pulled[call.command.reference] = call.value

    def signals(self) -> Iterable[str]:
        machine = self.world.machine
        for known in {who for step, who, _ in machine.trace if step == "stop.sent"}:
            sent = len(machine.times("stop.sent", known))
            if sent > 1 + machine.excused[known]:
                yield f"the stop signal of {known} was sent {sent} times"

    # --- at the end --------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.sound:
                self.finish()
        finally:
            self.world.close()

    def finish(self) -> None:
        self.peace()
        self.nobody_waits()
        self.nothing_to_say()
        self.prefixes_recover()
        self.second_start_adds_nothing()
        self.all_is_removed()

    def peace(self) -> None:
        """No more faults; time for everything to come to its end."""
        world = self.world
        world.spare()
        world.pace = lambda: 0.0
        world.room = None
        world.machine.script.clear()
        world.log._failures.clear()
        if world.log.broken and world.life is not None:
            world.kill()
        stuck = [call for call in world.calls if not call.done and isinstance(call.command, c.PullImage)]
        if stuck and world.life is not None:
            # A hanging pull is ended by the adapter, which watches its progress; the fake's hangs for ever.
            world.kill()
        if world.life is None:
            world.start()
        world.let_pass(PEACE_S)
        self.no_promise_is_broken()

    def nobody_waits(self) -> None:
        waiting = [call.command for call in self.world.calls if not call.done]
        assert not waiting, f"these calls hang: {waiting}"
        node = self.world.node
        assert not (held := list(unlisted_names(node))), f"names are held for what is not listed: {held}"
        busy = [k.id for k in node.containers.values() if k.state in ("STARTING", "STOPPING", "REMOVING")]
        busy += [s.id for s in node.sandboxes.values() if s.state in ("STOPPING", "REMOVING")]
        busy += [i.reference for i in node.images.values() if i.state in ("PULLING", "REMOVING")]
        assert not busy, f"not at their end after {PEACE_S} s of peace: {busy}"
        assert self.world.daemon.health().info["alarms"] == 0, "the world contradicts the log"

    def nothing_to_say(self) -> None:
        before = self.world.log.head()
        appended = self.world.run(self.world.daemon._recovery.reconcile())
        assert appended == 0 and self.world.log.head() == before, self.world.history(after=before.seq)

    def prefixes_recover(self) -> None:
        """Wherever the history had ended: with the world as it is now, recovery leads to a valid state."""
        world, head = self.world, self.world.log.head().seq
        now = world.clock.now()
        for seq in range(1, head + 1, max(1, head // 12)):
            replayed = fold(world.log.prefix(seq).read())
            node = replayed.node
            seen = Seen(
                now.boot_id,
                world.tasks.observe(list(node.containers.values()), now.boot_id),
                world.sandboxes.observe(list(node.sandboxes.values()), now.boot_id),
                world.images.observe(),
            )
            facts = LogFacts(world.log.log_id, seq, replayed.whole)
            assert replayed.whole and not violations(node), (seq, replayed.broken, violations(node))
            for finding in reconcile(node, seen, facts, now):
                for event in finding.events:
                    node.apply(finding.key, node.next_version(finding.key), event)
            assert not (wrong := violations(node)), (seq, wrong)

    def second_start_adds_nothing(self) -> None:
        world = self.world
        for _ in range(2):
            world.kill()
            before = world.log.head().seq
            world.start(resume=False)
            assert world.history(after=before) == ["node.started"]
        world.restart()
        self.no_promise_is_broken()

    def all_is_removed(self) -> None:
        world = self.world
        calls = [self.ask(c.RemoveSandbox(known)) for known in list(world.node.sandboxes)]
        world.let_pass(ACCEPTED_S)
        calls += [self.ask(c.RemoveImage(image.image_id)) for image in IMAGES.values()]
        world.let_pass(ACCEPTED_S)
        assert all(call.answered for call in calls), [(k.command, k.error) for k in calls if not k.answered]
        self.no_promise_is_broken()
        world.run(world.daemon._recovery.reconcile())
        assert not (left := world.leftovers()), left
        assert not world.node.containers and not world.node.sandboxes


def pick(known: Iterable[str], which: int) -> str | None:
    """One of them, the newest first."""
    found = list(known)
    return found[-1 - which % len(found)] if found else None


def error_at(step: str) -> DaybookError:
    if step in POD_STEPS:
        return RuntimeFailed(f"scripted at {step}")
    if step == "pull.step":
        return RegistryUnavailable("RegistryUnavailable: scripted")
    return StorageFailed(f"scripted at {step}")


async def quietly(work: Any) -> None:
    """As the daemon's own routine does it: a refusal is told, the next turn tries again."""
    try:
        await work
    except DaybookError as error:
        note(f"reconcile: {error.text}")


LONG = os.environ.get("DAYBOOK_PROPERTY") == "long"
ServiceMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("DAYBOOK_EXAMPLES", "3000" if LONG else "150")),
    stateful_step_count=100 if LONG else 40,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestService = pytest.mark.timeout(0 if LONG else 600)(ServiceMachine.TestCase)

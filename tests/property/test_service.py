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
    PullCredentials,
    SandboxConfig,
    SandboxSecrets,
)
from domain.errors import DaybookError, NetworkFailed, RegistryUnavailable, RuntimeFailed, StorageFailed
from domain.fold import fold
from domain.invariants import violations
from domain.observations import World as Seen
from domain.records import Record
from domain.recovery import LogFacts, reconcile
from service.daemon import Timing
from tests.property.service_model import Promises, unlisted_names
from tests.support.service_world import Call, ServiceWorld

IMAGES = {f"q.io/{name}:1": fake_image(name[0], layers=2) for name in ("a", "a2", "b", "b2")}
"""The first two mean the same image, and so do the last two."""
*REFERENCES, LOCKED = IMAGES
"""The registry gives the last one to those who log in."""
LOGINS = {"right": PullCredentials("right", "me", "pw"), "wrong": PullCredentials("wrong", "me", "no"), "": None}
PROGRAMS = (Program(), Program(on_stop=None), Program(on_stop=0), Program(exits=0), Program(exits=3))
POD = NamespaceMode.POD
MODES = (NamespaceOptions(pid=NamespaceMode.CONTAINER), NamespaceOptions(pid=POD))
TASK_STEPS = (
    *("create.bundle", "create.mount", "create.monitor", "create.runtime", "create.answer"),
    *("start.before", "start.after", "stop.before", "stop.sent", "stop.kill", "stop.after"),
    *("tidy.kill", "tidy.delete", "remove.kill", "remove.unmount", "remove.files"),
)
POD_STEPS = (
    *("set_up.directory", "set_up.pin", "set_up.infra", "set_up.answer"),
    *("tear_down.kill", "tear_down.unpin", "remove_sandbox.files"),
)
NETWORK_STEPS = (
    *("net.add.before", "net.add.intent", "net.add.allocated", "net.add.linked", "net.add.answer"),
    *("net.del.before", "net.del.unlinked", "net.del.freed", "net.del.answer"),
)
IMAGE_STEPS = ("pull.step", "remove_image.step", "clean.step")
STEPS = TASK_STEPS + POD_STEPS + NETWORK_STEPS + IMAGE_STEPS
WHERE = ("", "append", "append.before", "append.after", "look", "secrets", "mark", "resume", *STEPS)
IN_FLIGHT = {"@D", "@F", "@G", "@IB", "@IC", "@SF"}
"""Rows about an effect that a dead daemon left: while one is up, that effect is its own."""
PEACE_S = 1500.0
"""Longer than any limit, grace, back-off and the time an interrupted create keeps its name, together."""
ACCEPTED_S = 200.0


HELD_BACK, ARGUMENTS = SandboxSecrets({"held": "back"}), ContainerSecrets(args=("x",))
PACES = ((), (0.0, 0.0, 0.003, 0.02, 0.3), (0.0, 0.1, 1.0, 4.0))
"""What a step may take, in seconds."""

some = st.integers(0, 7)
few = st.integers(1, 8)
SEEDS = st.integers(0, 2**16)
GRACES = st.sampled_from((0, 10))
# fmt: off
OPS = st.sampled_from((
    "run", "create", "create", "start", "start", "stop", "remove", "stop_pod", "remove_pod", "pull", "pull_locked",
    "remove_image",
    "again", "again", "leave",
))
EVENTS = ("container_ends", "child_is_killed", "everything_ends", "monitor_dies", "infra_dies", "wall_clock_jumps", "image_is_damaged")
# fmt: on


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
        self.world.images.logins[LOCKED] = ("me", "pw")

    @initialize(checkpoints=st.booleans(), pods=st.integers(0, 3), steps=st.integers(1, 4), pace=SEEDS, luck=SEEDS)
    def begin(self, checkpoints: bool, pods: int, steps: int, pace: int, luck: int) -> None:
        """Most histories begin with something that runs."""
        self.world.checkpoints = checkpoints
        self.world.start()
        for pod in range(pods):
            self.kubelet(pod, True, steps, 0, hurry=False)
        self.pace(pace)
        self.bad_luck(luck)

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

    @rule(pod=some, wanted=st.sampled_from((True, True, False)), steps=few, grace_s=GRACES, hurry=st.booleans())
    def kubelet(self, pod: int, wanted: bool, steps: int, grace_s: int, hurry: bool) -> None:
        """Brings a pod nearer to where it shall be, a step at a time, as the kubelet would."""
        for _ in range(steps):
            self.come_up()
            self.ask(*self.next_step(pod % 3, wanted, grace_s))
            self.world.turn(2) if hurry else self.world.let_pass(0.4)
            self.no_promise_is_broken()

    @rule(op=OPS, which=some, more=some)
    def client(self, op: str, which: int, more: int) -> None:
        getattr(self, f"do_{op}")(which, more)

    @rule(ops=st.lists(st.tuples(OPS, some), min_size=2, max_size=5), which=some, rounds=st.integers(0, 3))
    def clients_at_once(self, ops: list[tuple[str, int]], which: int, rounds: int) -> None:
        """Several of them, about the same thing, before anything is answered."""
        for op, more in ops:
            getattr(self, f"do_{op}")(which, more)
            self.world.turn(rounds)

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
            return c.RunSandbox(self.world.new_id(), config, "h0"), HELD_BACK
        return self.next_container_step(pod, box.id, image, grace_s)

    def next_container_step(self, pod: int, sandbox_id: str, image: str, grace_s: int) -> tuple[Any, ...]:
        held = self.world.node.of_sandbox(sandbox_id)
        if not held or held[-1].state in ("CREATING", "INTERRUPTED", "EXITED"):
            attempt = held[-1].config.attempt + (held[-1].state == "EXITED") if held else 0
            fresh = self.world.new_id()
            self.world.machine.programs[fresh] = PROGRAMS[(pod + attempt) % len(PROGRAMS)]
            config = ContainerConfig("k0", attempt % 2)
            if len(held) > 1:
                return (c.RemoveContainer(held[0].id),)
            return c.CreateContainer(fresh, sandbox_id, image, config, "h0"), ARGUMENTS
        if held[-1].state == "CREATED":
            return (c.StartContainer(held[-1].id),)
        return (c.StopContainer(held[-1].id, grace_s),)

    def do_run(self, which: int, more: int) -> None:
        config = SandboxConfig(f"p{which % 3}", f"u{which % 3}", "ns", more % 2, namespaces=MODES[which % 2])
        self.ask(c.RunSandbox(self.world.new_id(), config, f"h{more // 7}"), HELD_BACK)

    def do_create(self, which: int, more: int) -> None:
        sandbox_id = pick(self.world.node.sandboxes, which)
        if sandbox_id is not None:
            config = ContainerConfig(f"k{more % 2}", more % 4 // 2)
            self.create(sandbox_id, REFERENCES[which % 3], config, f"h{more // 7}", which + more)

    def create(self, sandbox_id: str, image: str, config: ContainerConfig, request_hash: str, program: int) -> None:
        fresh = self.world.new_id()
        self.world.machine.programs[fresh] = PROGRAMS[program % len(PROGRAMS)]
        self.ask(c.CreateContainer(fresh, sandbox_id, image, config, request_hash), ARGUMENTS)

    def do_start(self, which: int, more: int) -> None:
        self.about(self.world.node.containers, which, c.StartContainer)

    def do_stop(self, which: int, more: int) -> None:
        grace_s = (0, 2, 10, 30)[more % 4]
        self.about(self.world.node.containers, which, lambda known: c.StopContainer(known, grace_s))

    def do_remove(self, which: int, more: int) -> None:
        self.about(self.world.node.containers, which, c.RemoveContainer)

    def do_stop_pod(self, which: int, more: int) -> None:
        self.about(self.world.node.sandboxes, which, c.StopSandbox)

    def do_remove_pod(self, which: int, more: int) -> None:
        self.about(self.world.node.sandboxes, which, c.RemoveSandbox)

    def about(self, known: Iterable[str], which: int, make: Any) -> None:
        found = pick(known, which)
        if found is not None:
            self.ask(make(found))

    def do_pull(self, which: int, more: int) -> None:
        self.ask(c.PullImage(REFERENCES[which % 3]))

    def do_pull_locked(self, which: int, more: int) -> None:
        access = tuple(LOGINS)[more % 3]
        self.ask(c.PullImage(LOCKED, access=access), LOGINS[access])

    def do_remove_image(self, which: int, more: int) -> None:
        reference = REFERENCES[which % 3]
        self.ask(c.RemoveImage(IMAGES[reference].image_id if more % 2 else reference))

    def do_again(self, which: int, more: int) -> None:
        """The kubelet's retry of one of the last requests: the same request, another fresh id."""
        if not self.world.calls:
            return
        command = self.world.calls[-1 - more % len(self.world.calls)].command
        secrets: Any = None
        if isinstance(command, c.CreateContainer):
            fresh = self.world.new_id()
            self.world.machine.programs[fresh] = self.world.machine.programs[command.container_id]
            command, secrets = replace(command, container_id=fresh), ARGUMENTS
        elif isinstance(command, c.RunSandbox):
            command, secrets = replace(command, sandbox_id=self.world.new_id()), HELD_BACK
        elif isinstance(command, c.PullImage):
            secrets = LOGINS[command.access]
        self.ask(command, secrets)

    def do_leave(self, which: int, more: int) -> None:
        """A client goes away."""
        still = [call for call in self.world.calls if not call.done]
        if still:
            still[-1 - more % len(still)].cancel()

    # --- time --------------------------------------------------------------------------------------------------------

    @rule(rounds=few)
    def a_moment(self, rounds: int) -> None:
        self.world.turn(rounds)

    @rule(seconds=st.sampled_from((0.05, 1.0, 5.0, 31.0, 130.0)))
    def let_pass(self, seconds: float) -> None:
        self.world.let_pass(seconds)

    @rule(seed=SEEDS)
    def pace(self, seed: int) -> None:
        """From here on every step of the world takes its own time."""
        dice = random.Random(seed)
        self.world.pace = (lambda: dice.choice(PACES[seed % 3])) if seed % 3 else (lambda: 0.0)

    # --- the world ---------------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(EVENTS), which=some, more=some, seen=st.booleans())
    def happens(self, what: str, which: int, more: int, seen: bool) -> None:
        """`seen`: while the daemon looks at the world."""
        if seen and self.world.up:
            self.reconcile()
            self.world.turn(more % 4)
        getattr(self, what)(which, more)

    def container_ends(self, which: int, more: int) -> None:
        known = pick(self.world.machine.tasks, which)
        if known is not None:
            self.world.machine.end(known, (0, 1, 137, 137)[more % 4], oom=more % 4 == 3)

    def child_is_killed(self, which: int, more: int) -> None:
        """For want of memory; the container outlives it."""
        known = pick(self.world.machine.tasks, which)
        if known is not None:
            self.world.machine.kill_child(known)

    def everything_ends(self, which: int, more: int) -> None:
        """News of each comes in its own time."""
        for known in list(self.world.machine.tasks):
            self.world.machine.end(known, more % 3)
        for known in list(self.world.machine.pods):
            self.world.machine.kill_infra(known)

    def monitor_dies(self, which: int, more: int) -> None:
        known = pick(self.world.machine.tasks, which)
        if known is not None:
            self.world.machine.kill_monitor(known)

    def infra_dies(self, which: int, more: int) -> None:
        known = pick(self.world.machine.pods, which)
        if known is not None:
            self.world.machine.kill_infra(known)

    def wall_clock_jumps(self, which: int, more: int) -> None:
        self.world.clock.wall_offset_ns += (-86_400, -5, 5, 86_400)[more % 4] * 10**9

    def image_is_damaged(self, which: int, more: int) -> None:
        image_id = IMAGES[REFERENCES[which % 3]].image_id
        if self.world.images.present(image_id) and not self.world.node.image_users(image_id):
            self.pulls = dict.fromkeys(self.pulls, False)
            self.world.images.damage(image_id)
            self.model.damaged(image_id)

    # --- what goes wrong ---------------------------------------------------------------------------------------------

    @rule(seed=SEEDS)
    def bad_luck(self, seed: int) -> None:
        """From here on any step may go wrong, every tenth or so; or none."""
        dice = random.Random(seed)

        def trouble(step: str) -> BaseException | Act | None:
            throw = dice.random()
            return trouble_at(step, hang=throw < 0.02) if throw < 0.12 else None

        self.world.machine.trouble = trouble if seed % 2 else lambda _: None

    @rule(count=few, hang=st.booleans())
    def a_step_goes_wrong_soon(self, count: int, hang: bool) -> None:
        """Whichever step it is."""
        left = [count]

        def trouble(step: str) -> BaseException | Act | None:
            left[0] -= 1
            return None if left[0] else trouble_at(step, hang)

        self.world.machine.trouble = trouble

    @rule(step=st.sampled_from(STEPS), hang=st.booleans())
    def a_step_goes_wrong(self, step: str, hang: bool) -> None:
        self.world.machine.at(step, trouble_at(step, hang))

    @rule(what=st.sampled_from(("full", "full", "broken", "unknown")), room=st.integers(0, 6))
    def the_log_goes_wrong(self, what: str, room: int) -> None:
        """A full disk with some ballast left; a commit that failed; one whose outcome nobody knows."""
        if what == "full":
            self.world.room, self.tries_on_full_disk = room, 3
        elif self.world.up:
            self.world.log.fail_next(LogBroken("input/output error"), written=what == "unknown")

    # --- the daemon --------------------------------------------------------------------------------------------------

    @rule()
    def reconcile(self) -> None:
        if self.world.up:
            self.world.spawn(quietly(self.world.daemon._recovery.reconcile()))

    @rule(where=st.sampled_from(WHERE), count=few)
    def will_be_killed(self, where: str, count: int) -> None:
        if self.world.up:
            self.world.kill_at(where, count)

    @rule(what=st.sampled_from(("killed", "killed", "stopped", "booted")))
    def ends(self, what: str) -> None:
        if what == "booted":
            self.world.reboot()
        elif self.world.life is not None and what == "killed":
            self.world.kill()
        elif self.world.up:
            self.leave()

    def leave(self) -> None:
        try:
            self.world.stop()
        except DaybookError:
            assert self.world.room is not None or self.world.log.broken
            self.world.kill()

    @precondition(lambda self: self.world.life is None)
    @rule(where=st.sampled_from(WHERE), count=few)
    def starts_and_dies(self, where: str, count: int) -> None:
        """Killed on its way up, or soon after."""
        self.world.kill_at(where, count)
        try:
            self.world.start()
        except DaybookError:
            assert self.world.room is not None or self.world.log.broken

    # --- after every step --------------------------------------------------------------------------------------------

    @invariant()
    def no_promise_is_broken(self) -> None:
        self.end_where_broken()
        self.take_answers()
        node = self.world.node
        told = [
            *violations(node),
            *self.model.broken(node, self.world.machine, self.world.net, self.world.side_files),
            *self.world.unforeseen,
        ]
        told += self.signals()
        self.sound = not told
        assert not told, "\n".join(told)

    def end_where_broken(self) -> None:
        if self.world.log.broken and self.world.life is not None:
            self.world.let_pass(31)
            assert not self.world.up, "the log broke and the daemon does not say so"

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
        if isinstance(call.command, c.PullImage) and call.command.reference == LOCKED:
            assert call.command.access == "right", "a pull was answered by one with other credentials"
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
        world.machine.trouble = lambda _: None
        world.log._failures.clear()
        if world.log.broken and world.life is not None:
            world.kill()
        pulling = any(image.state == "PULLING" for image in world.node.images.values())
        if pulling and world.life is not None:
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
        held = {*node._sandbox_names.values(), *node._container_names.values()} - {*node.sandboxes, *node.containers}
        assert not held and not node._claims, f"names are held for what is not on record: {held} {node._claims}"
        assert not busy, f"not at their end after {PEACE_S} s of peace: {busy}"
        assert self.world.daemon.health().info["alarms"] == 0, "the world contradicts the log"
        live = {r.cause.what for r in self.world.log.read() if isinstance(r, Record) and r.cause.kind == "reconcile"}
        assert not live & IN_FLIGHT, f"a reconcile judged what was in flight: {live & IN_FLIGHT}"

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


def trouble_at(step: str, hang: bool) -> Act | DaybookError:
    return Act.HANG if hang else error_at(step)


def error_at(step: str) -> DaybookError:
    if step in POD_STEPS:
        return RuntimeFailed(f"scripted at {step}")
    if step in NETWORK_STEPS:
        return NetworkFailed(f"scripted at {step}")
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
    max_examples=int(os.environ.get("DAYBOOK_EXAMPLES", "5000" if LONG else "500")),
    stateful_step_count=100 if LONG else 40,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestService = pytest.mark.timeout(0 if LONG else 600)(ServiceMachine.TestCase)

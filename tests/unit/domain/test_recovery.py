"""recovery: the whole product of folded states and observations, each to exactly one row, against a naive model."""

from dataclasses import replace
from itertools import product

import pytest

from domain import events as e
from domain import recovery
from domain.due import due
from domain.invariants import violations
from domain.lifecycle import ContainerState, ImageState, SandboxState
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
from domain.recovery import Boot, Finding, Folded, LogFacts, SandboxEvidence, Verdict, reconcile
from tests.golden.domain import render
from tests.property import domain_model as model
from tests.unit.domain import builders as b

FACTS = render.FACTS


def apply(book: b.Book, finding: Finding) -> None:
    """Raises where a verdict's event is not a transition of the state it was given for."""
    book.put(finding.key, *finding.events, now=b.at(5))
    assert not book.broken or finding.verdict is Verdict.HOLD, book.broken


# --- containers ------------------------------------------------------------------------------------------------------

CONTAINER_CASES = list(product(render.CONTAINER_FOLDED, TaskState, MonitorState, render.EXIT_FILES))


@pytest.mark.parametrize("folded", render.CONTAINER_FOLDED)
def test_every_container_finding(folded: str) -> None:
    for case, task, monitor, file in CONTAINER_CASES:
        if case != folded:
            continue
        found = render.find_container(folded, task, monitor, render.EXIT_FILES[file])
        row, verdict, names = model.recover_container(folded, task, monitor)
        assert (found.row, found.verdict) == (row, verdict), (folded, task, monitor)
        assert tuple(e.short_name(type(event)) for event in found.events) == names, (folded, task, monitor)
        if verdict == "EXIT":
            event = found.events[0]
            assert (event.code, event.evidence.source) == model.exit_of(file, 7)
            assert event.evidence.quote == ("x?" if file == "garbage" else "")
            assert event.at >= b.WALL
        if verdict == "CONTRADICTION" and found.events:
            assert (found.events[0].code, found.events[0].evidence.source) == (255, "contradiction")
        _container_afterwards(folded, found)


def _container_afterwards(folded: str, found: Finding) -> None:
    book = render.container_book(folded)
    before = due(book.node, b.CON_KEY)
    apply(book, found)
    assert violations(book.node) == []
    known, owed = book.node.containers.get(b.CON), due(book.node, b.CON_KEY)
    if found.verdict in ("MATCH", "HOLD", "RESUME"):
        assert (owed.effect, owed.commands, owed.at) == (before.effect, before.commands, before.at)
    if found.verdict == "RESUME":
        assert owed.effect is not None
    if known and found.verdict in ("EXIT", "UNDO", "CONTRADICTION"):
        assert known.state is ContainerState.EXITED
        assert type(owed.effect).__name__ == "TidyTask"
    if found.verdict == "INTERRUPT":
        assert type(owed.effect).__name__ == "UndoTask"
        assert owed.at is not None
        assert b.CON in book.node.containers
    if found.verdict == "ADVANCE":
        assert known is not None
        assert known.state is ContainerState.RUNNING
        assert owed.watch is not None


def test_every_container_row_is_hit_and_only_one_fits() -> None:
    """Gate, and the product with states that no node holds. `container_row` asserts that one row fits."""
    states = [*Folded, *ContainerState]
    met = {recovery.container_row(s, t, m)[0] for s, t, m in product(states, TaskState, MonitorState)}
    assert met == {row[0] for row in recovery.CONTAINER_ROWS}
    for state, task, monitor in product(states, TaskState, MonitorState):
        row, verdict, _ = recovery.container_row(state, task, monitor)
        assert (row, verdict) == model.recover_container(state, task, monitor)[:2]
    for row in recovery.CONTAINER_ROWS:
        assert any(s in row[1] and t in row[2] and m in row[3] for s, t, m in product(states, TaskState, MonitorState))
    through_reconcile = {
        render.find_container(s, t, m, None).row
        for s, t, m in product(render.CONTAINER_FOLDED, TaskState, MonitorState)
    }
    assert met - through_reconcile == {"@N", "@O"}, "a removed container has no record in the node"


def test_leftovers_without_a_process_count_as_stopped() -> None:
    assert recovery.task_state(TaskObservation(leftovers=True)) is TaskState.STOPPED
    assert recovery.task_state(TaskObservation()) is TaskState.ABSENT
    assert recovery.task_state(TaskObservation(TaskState.RUNNING, leftovers=True)) is TaskState.RUNNING


def test_an_exit_seen_late_is_never_before_the_start() -> None:
    found = render.find_container("RUNNING", TaskState.ABSENT, MonitorState.DEAD, ExitFile(0, 5))
    assert found.events[0].at == b.WALL


def test_oom_evidence_survives() -> None:
    world = World(b.BOOT_ID, tasks={b.CON: TaskObservation(exit=ExitFile(137, b.WALL + 9), oom=True)})
    book = b.with_container(ContainerState.RUNNING)
    finding = render.find(book, world, b.CON_KEY)
    assert finding is not None
    apply(book, finding)
    assert book.node.containers[b.CON].reason == "OOMKilled"


def test_the_kernels_counter_is_on_record_before_the_exit_and_once() -> None:
    seen = TaskObservation(TaskState.STOPPED, exit=ExitFile(137, b.WALL + 9), oom_kills=2)
    world = World(b.BOOT_ID, tasks={b.CON: seen})
    book = b.with_container(ContainerState.RUNNING)
    finding = render.find(book, world, b.CON_KEY)
    assert finding is not None
    assert finding.events[0] == e.ContainerOom(0, 2) and isinstance(finding.events[1], e.ContainerExited)
    apply(book, finding)
    assert book.node.containers[b.CON].reason == "OOMKilled"
    told = b.with_container(ContainerState.RUNNING).put(b.CON_KEY, e.ContainerOom(0, 2))
    again = render.find(told, world, b.CON_KEY)
    assert again is not None and [type(event) for event in again.events] == [e.ContainerExited]


def test_a_monitor_is_lost_once() -> None:
    book = b.with_container(ContainerState.RUNNING).put(b.CON_KEY, e.ContainerMonitorLost(b.WALL))
    world = World(b.BOOT_ID, tasks={b.CON: TaskObservation(TaskState.RUNNING, MonitorState.DEAD)})
    finding = render.find(book, world, b.CON_KEY)
    assert finding is not None
    assert (finding.row, finding.events) == ("@U", ())


MARKS = [
    (Mark("log", 10), FACTS, True),
    (Mark("log", 1), FACTS, True),
    (Mark("log", 11), FACTS, False),
    (Mark("other", 1), FACTS, False),
    (None, FACTS, False),
    (Mark("log", 1), LogFacts("log", 10, whole=False), False),
]


@pytest.mark.parametrize(("mark", "facts", "ours"), MARKS)
def test_an_orphan_is_deleted_only_where_its_mark_proves_it_ours(mark: Mark, facts: LogFacts, ours: bool) -> None:
    world = World(
        b.BOOT_ID,
        tasks={"x": TaskObservation(TaskState.RUNNING, mark=mark)},
        sandboxes={"y": SandboxObservation(leftovers=True, mark=mark)},
    )
    found = {f.key: f for f in reconcile(b.Book().node, world, facts, b.NOW)}
    assert {f.verdict for f in found.values()} == {Verdict.ORPHAN}
    assert [f.ours for f in found.values()] == [ours, ours]


# --- sandboxes -------------------------------------------------------------------------------------------------------

NEEDS = list(product((False, True), (False, True)))


@pytest.mark.parametrize("folded", render.SANDBOX_FOLDED)
def test_every_sandbox_finding(folded: str) -> None:
    for network, pid in NEEDS:
        if folded == "QUARANTINED":
            book = b.with_sandbox(SandboxState.READY, network, pid).spoil(b.BOX_KEY)
        else:
            book = b.Book() if folded == "NO_RECORD" else b.with_sandbox(SandboxState(folded), network, pid)
        for seen, same_boot in product(_seen_sandboxes(), (True, False)):
            _check_sandbox(folded, book, network, pid, seen, same_boot)


def _seen_sandboxes() -> list[SandboxObservation]:
    seen = [
        SandboxObservation(namespace, infra, cached, left)
        for namespace, infra, cached, left in product(NamespaceState, InfraState, (False, True), (False, True))
    ]
    return [*seen, SandboxObservation(readable=False)]


def _check_sandbox(
    folded: str, book: b.Book, network: bool, pid: bool, seen: SandboxObservation, same_boot: bool
) -> None:
    boot_id = b.BOOT_ID if same_boot else "boot-2"
    found = render.find(book, World(boot_id, sandboxes={b.BOX: seen}), b.BOX_KEY)
    assert found is not None
    has_infra = pid and folded != "SETTING_UP"
    whole = model.sandbox_is_whole(network, has_infra, seen.namespace, seen.infra)
    left = seen.namespace != "absent" or seen.infra == "alive" or seen.cached or seen.leftovers
    if not seen.readable:
        wanted: tuple[str, tuple[str, ...]] = ("HOLD", ())
    else:
        wanted = model.recover_sandbox(folded, whole, left, same_boot)
    assert (found.verdict, tuple(e.short_name(type(ev)) for ev in found.events)) == wanted, (folded, seen, same_boot)
    if found.events:
        after = book.copy()
        apply(after, found)
        assert violations(after.node) == []
        following = due(after.node, b.BOX_KEY)
        assert (following.effect is not None) == (found.verdict is Verdict.RUN_FAILED)


def test_every_sandbox_row_is_hit_and_only_one_fits() -> None:
    states = [*Folded, *SandboxState]
    met = {recovery.sandbox_row(*cell)[0] for cell in product(states, SandboxEvidence, Boot)}
    assert met == {row[0] for row in recovery.SANDBOX_ROWS}
    assert len(met) == len(recovery.SANDBOX_ROWS)


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folded", "store"), list(product(render.IMAGE_FOLDED, StoreState)))
def test_every_image_finding(folded: str, store: StoreState) -> None:
    found = render.find_image(folded, store)
    if found is None:
        assert (folded, store) == ("NO_RECORD", "absent")
        return
    wanted = model.recover_image(folded.split()[0], store, store if folded == "PULLING again" else "")
    assert (found.verdict, tuple(e.short_name(type(event)) for event in found.events)) == wanted


@pytest.mark.parametrize(("folded", "store"), list(product(ImageState, StoreState)))
def test_image_verdicts_are_transitions(folded: ImageState, store: StoreState) -> None:
    book = b.with_image(folded)
    found = render.find_image(folded, store)
    assert found is not None
    apply(book, found)
    assert violations(book.node) == []
    effect = due(book.node, e.image_key(b.REF)).effect
    assert (effect is not None) == (folded is ImageState.REMOVING)


def test_every_image_row_is_hit_and_only_one_fits() -> None:
    states = [*Folded, *ImageState]
    met = {recovery.image_row(*cell)[0] for cell in product(states, StoreState)}
    assert met == {row[0] for row in recovery.IMAGE_ROWS}
    assert len(met) == len(recovery.IMAGE_ROWS)
    for state, store in product(states, StoreState):
        assert recovery.image_row(state, store)[1] == model.recover_image(state, store)[0]


def test_nothing_is_said_of_images_while_the_store_cannot_be_read() -> None:
    world = World(b.BOOT_ID, images=ImageObservation({b.ID_B: StoreState.COMPLETE}, readable=False))
    assert reconcile(b.with_image().node, world, FACTS, b.NOW) == []


def test_no_image_is_unclaimed_while_a_pull_is_open() -> None:
    world = World(b.BOOT_ID, images=ImageObservation({b.ID_B: StoreState.COMPLETE}))
    assert {f.key for f in reconcile(b.with_image(ImageState.PULLING).node, world, FACTS, b.NOW)} == {
        e.image_key(b.REF)
    }


def test_the_image_of_a_container_is_claimed_without_a_reference() -> None:
    """The reference was pulled anew and means something else now."""
    book = b.with_container(ContainerState.RUNNING)
    book.put(e.image_key(b.REF), e.ImagePullRequested(), replace(b.IMAGE_PULLED, image_id=b.ID_B))
    world = World(b.BOOT_ID, images=ImageObservation({b.ID_A: StoreState.COMPLETE, b.ID_B: StoreState.COMPLETE}))
    assert not [f for f in reconcile(book.node, world, FACTS, b.NOW) if f.verdict is Verdict.ORPHAN]


# --- all of it -------------------------------------------------------------------------------------------------------


def test_findings_come_in_one_order() -> None:
    world = World(b.BOOT_ID, tasks={n: TaskObservation(TaskState.RUNNING) for n in "cab"})
    keys = [f.key for f in reconcile(b.with_container().node, world, FACTS, b.NOW)]
    assert keys == sorted(keys, key=lambda k: (["container", "sandbox", "image"].index(k.split("/")[0]), k))


def test_a_line_for_a_person_where_it_is_more_than_a_match() -> None:
    world = World(b.BOOT_ID, tasks={"x": TaskObservation(TaskState.RUNNING, text="pid 7 runs")})
    lines = list(recovery.readable(reconcile(b.Book().node, world, FACTS, b.NOW)))
    assert lines == ["@C ORPHAN container/x: pid 7 runs"]


def test_what_needs_a_second_look() -> None:
    assert {Verdict.UNDO, Verdict.INTERRUPT, Verdict.CONTRADICTION} == recovery.TWICE


# --- found by hostile reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [TaskState.CREATED, TaskState.RUNNING])
def test_resume_records_a_dead_monitor(task: TaskState) -> None:
    found = render.find_container("STOPPING", task, MonitorState.DEAD, None)
    assert [type(event) for event in found.events] == [e.ContainerMonitorLost]


def test_advance_records_a_dead_monitor() -> None:
    book = b.with_container(ContainerState.STARTING)
    world = World(b.BOOT_ID, tasks={b.CON: TaskObservation(TaskState.RUNNING, MonitorState.DEAD)})
    first = render.find(book, world, b.CON_KEY)
    assert first is not None
    apply(book, first)
    again = render.find(book, world, b.CON_KEY)
    assert again is not None
    assert again.events == ()


def test_a_failed_pull_also_says_what_was_lost() -> None:
    book = b.with_image().put(e.image_key(b.REF), e.ImagePullRequested())
    world = World(b.BOOT_ID)
    first = render.find(book, world, e.image_key(b.REF))
    assert first is not None
    apply(book, first)
    again = render.find(book, world, e.image_key(b.REF))
    assert again is not None
    assert again.events == ()


def test_a_pod_that_needs_nothing_is_whole() -> None:
    known = b.with_sandbox(network=False, pid=False).node.sandboxes[b.BOX]
    assert recovery.sandbox_evidence(known, SandboxObservation()) is SandboxEvidence.WHOLE


def test_an_image_of_a_broken_log_is_no_orphan_of_ours() -> None:
    """The create of a container does not decode, so nobody knows that it uses the image: its root would be emptied."""
    book = b.with_sandbox().put(e.image_key(b.REF), e.ImagePullRequested(), replace(b.IMAGE_PULLED, image_id=b.ID_B))
    book.spoil(b.CON_KEY)
    world = World(b.BOOT_ID, images=ImageObservation({b.ID_A: StoreState.COMPLETE, b.ID_B: StoreState.COMPLETE}))
    findings = reconcile(book.node, world, LogFacts("log", book.seq, whole=False), b.NOW)
    assert not [f for f in findings if f.verdict is Verdict.ORPHAN and f.ours]


def test_advance_of_an_image_that_goes() -> None:
    book = b.with_image(ImageState.REMOVING).put(e.image_key(b.REF_2), e.ImagePullRequested())
    world = World(b.BOOT_ID, images=ImageObservation({b.ID_A: StoreState.COMPLETE}, {b.REF_2: b.pulled()}))
    finding = render.find(book, world, e.image_key(b.REF_2))
    assert finding is not None
    assert [type(event) for event in finding.events] == [e.ImagePullFailed]


@pytest.mark.parametrize("code", [0, 3, 137, 143])
def test_an_exit_after_a_kill_that_recovery_found_says_no_more_than_a_living_daemon(code: int) -> None:
    """The counter grew while no daemon was there: that is one event; the exit is made of the state after it."""
    book = b.with_container(ContainerState.RUNNING)
    file = ExitFile(code, b.WALL)
    seen = TaskObservation(task=TaskState.STOPPED, monitor=MonitorState.DEAD, exit=file, oom_kills=1)
    world = World(boot_id=b.BOOT_ID, tasks={b.CON: seen})
    (finding,) = [f for f in reconcile(book.node, world, FACTS, b.NOW) if f.key == b.CON_KEY]
    oom, exited = finding.events
    assert isinstance(oom, e.ContainerOom) and isinstance(exited, e.ContainerExited)
    assert (exited.code, exited.oom, exited.text) == (code, code == 137, "")

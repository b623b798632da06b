"""node: names, claims, rules between aggregates, quarantine, checkpoints, lanes, queries."""

import copy

import pytest

from domain import commands as c
from domain import errors
from domain import events as e
from domain.decision import Accept, Decision, Refused
from domain.due import due
from domain.invariants import violations
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node, NodeState
from tests.unit.domain import builders as b

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741
IMAGE_KEY = e.image_key(b.REF)


def accepted(decision: Decision) -> Accept:
    assert isinstance(decision, Accept), decision
    return decision


def refusal(decision: Decision) -> errors.Refusal:
    assert isinstance(decision, Refused), decision
    return decision.error


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [b.run("new", attempt=3), b.create("new", attempt=3), c.RemoveImage(b.REF)])
def test_a_released_claim_leaves_no_trace(command: c.Command) -> None:
    book = b.with_sandbox()
    before = b.fingerprint(book.node)
    pending = accepted(book.node.decide(command, b.NOW))
    assert b.fingerprint(book.node) == before, "decide only reads"
    book.node.claim(pending)
    assert b.fingerprint(book.node) != before
    book.node.release(pending)
    assert b.fingerprint(book.node) == before


def test_a_released_retry_of_an_interrupted_create_keeps_the_name() -> None:
    book = b.with_container(S.INTERRUPTED)
    before = b.fingerprint(book.node)
    pending = accepted(book.node.decide(b.create("other"), b.NOW))
    book.node.claim(pending)
    book.node.release(pending)
    assert b.fingerprint(book.node) == before


def test_claimed_names_are_told() -> None:
    book = b.with_sandbox()
    book.node.claim(accepted(book.node.decide(b.create(), b.NOW)))
    assert book.node.container_named((b.BOX, "k", 0)) == b.CON
    assert book.node.image_users(b.ID_A) == [b.CON]


@pytest.mark.parametrize("command", [b.run("new", attempt=3), b.create("new", attempt=3)])
def test_a_claimed_name_counts_for_the_next_decide(command: c.Command) -> None:
    book = b.with_sandbox()
    book.node.claim(accepted(book.node.decide(command, b.NOW)))
    assert not isinstance(book.node.decide(command, b.NOW), Accept)


# --- quarantine ------------------------------------------------------------------------------------------------------
def test_the_first_reason_stays() -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY, "first").spoil(b.CON_KEY, "second")
    assert book.node.quarantined[b.CON_KEY].why == "first"


def test_later_records_of_a_quarantined_aggregate_change_only_its_version() -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY).put(b.CON_KEY, b.EXITED)
    assert book.node.containers[b.CON].state is S.RUNNING
    assert book.node.versions[b.CON_KEY] == 6


@pytest.mark.parametrize("key", [b.CON_KEY, b.BOX_KEY, IMAGE_KEY])
def test_a_person_gives_up_what_is_quarantined(key: str) -> None:
    book = {b.CON_KEY: b.with_container, b.BOX_KEY: b.with_sandbox, IMAGE_KEY: b.with_image}[key]().spoil(key)
    assert accepted(book.ask(c.RecordNode(e.QuarantineReleased(key)))).events == (
        (e.NODE_KEY, e.QuarantineReleased(key)),
    )
    assert book.node.quarantined == {}
    assert b.fingerprint(book.copy().node) == b.fingerprint(book.node)
    again = {b.CON_KEY: b.create("new"), b.BOX_KEY: b.run("new"), IMAGE_KEY: c.PullImage(b.REF)}[key]
    assert isinstance(book.node.decide(again, b.NOW), Accept), "the name is free"


def test_giving_up_a_sandbox_with_containers() -> None:
    book = b.with_container(S.RUNNING).spoil(b.BOX_KEY)
    book.ask(c.RecordNode(e.QuarantineReleased(b.BOX_KEY)))
    assert violations(book.node) == []


def test_giving_up_an_unreadable_sandbox_with_containers() -> None:
    book = b.with_image().spoil(b.BOX_KEY).put(b.CON_KEY, *b.CONTAINER_PATH[S.RUNNING])
    book.ask(c.RecordNode(e.QuarantineReleased(b.BOX_KEY)))
    assert violations(book.node) == []


def test_an_unreadable_node_record_does_not_shut_out_the_node() -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY).spoil(e.NODE_KEY)
    book.ask(c.RecordNode(e.QuarantineReleased(b.CON_KEY)))
    assert b.CON_KEY not in book.node.quarantined


# --- node ------------------------------------------------------------------------------------------------------------


def test_the_node_remembers_the_newest_daemon() -> None:
    book = b.Book()
    assert book.node.state == NodeState()
    started = e.NodeStarted("1", 7, b.RUNTIME, e.Binary())
    assert book.ask(c.RecordNode(started)) == Accept(((e.NODE_KEY, started),))
    assert book.node.state == NodeState(started, stopped=False)
    book.ask(c.RecordNode(e.NodeAdopted("by hand")))
    book.ask(c.RecordNode(e.NodeStopped()))
    assert book.node.state == NodeState(started, stopped=True)


def test_an_event_that_does_not_fit_changes_nothing() -> None:
    book = b.with_container(S.RUNNING)
    before = copy.deepcopy(b.fingerprint(book.node))
    with pytest.raises(KeyError):
        book.node.apply(b.CON_KEY, 9, b.CREATED)
    assert b.fingerprint(book.node) == before


def test_versions_end_with_the_aggregate() -> None:
    assert b.CON_KEY not in b.with_container(S.REMOVED).node.versions
    assert Node().next_version("x") == 1
    assert b.with_container(S.RUNNING).node.next_version(b.CON_KEY) == 5


# --- checkpoint ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", S)
def test_restore_gives_the_same_node(state: ContainerState) -> None:
    book = b.with_container(state).put(e.NODE_KEY, e.NodeStopped())
    restored = Node.restore(book.node.snapshot())
    assert b.fingerprint(restored) == b.fingerprint(book.node)


def test_what_is_due_is_the_same_after_a_restore() -> None:
    book = b.with_sandbox()
    for id_ in ("z", "a"):
        book.ask(b.create(id_, name=id_)), book.put(e.container_key(id_), b.CREATED)
    book.put(b.BOX_KEY, e.SandboxStopRequested())
    restored = Node.restore(book.node.snapshot())
    assert due(restored, b.BOX_KEY) == due(book.node, b.BOX_KEY)


# --- queries ---------------------------------------------------------------------------------------------------------


def test_lanes() -> None:
    node = b.with_container(S.RUNNING).node
    for command in (
        b.run(),
        b.create(),
        c.StopContainer(b.CON, 1),
        c.StopSandbox(b.BOX),
        c.RecordSandboxStopped(b.BOX),
    ):
        assert node.lane_of(command) == "pod/u"
    for command in (c.PullImage(b.REF), c.RemoveImage(b.REF), c.RecordImageRemoved(b.ID_A)):
        assert node.lane_of(command) == "images"
    assert node.lane_of(c.RecordNode(e.NodeStopped())) == "node"
    assert node.lane_of(c.StopContainer("x", 1)) == "unknown/"
    assert node.lane_of(c.StopSandbox("x")) == "unknown/x"


def test_related() -> None:
    node = b.with_container(S.RUNNING).node
    assert list(node.related(b.CON_KEY)) == [b.CON_KEY, b.BOX_KEY]
    assert list(node.related(b.BOX_KEY)) == [b.BOX_KEY, b.CON_KEY]
    assert list(node.related(IMAGE_KEY)) == [IMAGE_KEY]
    assert list(node.related("container/x")) == ["container/x"]


def test_an_image_is_found_by_reference_and_by_id() -> None:
    node = b.with_image().put(e.image_key(b.REF_2), *b.IMAGE_PATH[I.PRESENT]).node
    found = node.find_image(b.REF_2)
    assert found is not None
    assert found.reference == b.REF_2
    found = node.find_image(b.ID_A)
    assert found is not None
    assert found.reference == b.REF
    assert node.find_image("x") is None
    ((held, references),) = node.present()
    assert (held.image_id, len(references)) == (b.ID_A, 2)


# --- a reference that comes to mean another image --------------------------------------------------------------------

MOVED = (e.ImagePullRequested(), e.ImagePulled(b.ID_B, "sha256:" + "e" * 64, ("l2",), 100))
ALONE = "sha256:" + "d" * 64


def listed(node: Node) -> dict[str, list[str]]:
    return {held.image_id: [i.reference for i in references] for held, references in node.present()}


@pytest.mark.parametrize("state", [s for s in S if s is not S.REMOVED])
def test_an_image_that_runs_and_lost_its_last_name_goes_on_under_its_digest(state: ContainerState) -> None:
    book = b.with_container(state).put(IMAGE_KEY, *MOVED)
    alone = f"{b.REF.rpartition(':')[0]}@{ALONE}"
    assert listed(book.node) == {b.ID_A: [alone], b.ID_B: [b.REF]}
    assert isinstance(refusal(book.ask(c.RemoveImage(b.ID_A))), errors.InUse)
    assert isinstance(refusal(book.ask(c.RemoveImage(alone))), errors.InUse)
    assert not violations(book.node)
    again = Node.restore(copy.deepcopy(book.node.snapshot()))
    assert b.fingerprint(again) == b.fingerprint(book.node)


def test_it_stays_until_somebody_removes_it() -> None:
    book = b.with_container(S.EXITED).put(IMAGE_KEY, *MOVED)
    book.put(b.CON_KEY, e.ContainerRemoveRequested(), e.ContainerRemoved())
    assert b.ID_A in listed(book.node)
    book.ask(c.RemoveImage(b.ID_A))
    book.ask(c.RecordImageRemoved(b.ID_A))
    assert listed(book.node) == {b.ID_B: [b.REF]}
    assert not violations(book.node)


def test_one_that_nobody_runs_or_that_has_another_name_does_not() -> None:
    assert listed(b.with_image().put(IMAGE_KEY, *MOVED).node) == {b.ID_B: [b.REF]}
    book = b.with_container().put(e.image_key("other.example/x:1"), *b.IMAGE_PATH[I.PRESENT]).put(IMAGE_KEY, *MOVED)
    assert listed(book.node) == {b.ID_A: ["other.example/x:1"], b.ID_B: [b.REF]}

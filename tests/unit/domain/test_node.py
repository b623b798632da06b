"""node: names, claims, rules between aggregates, quarantine, checkpoints, lanes, queries."""

import copy
from dataclasses import replace

import pytest

from domain import commands as c
from domain import errors
from domain import events as e
from domain.decision import ALREADY, Accept, Decision, Join, Refused, Wait
from domain.due import due
from domain.invariants import violations
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node, NodeState, absolute_log_path, repo_digest, repository, sandbox_name
from tests.unit.domain import builders as b

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741
IMAGE_KEY = e.image_key(b.REF)


def accepted(decision: Decision) -> Accept:
    assert isinstance(decision, Accept), decision
    return decision


def refusal(decision: Decision) -> errors.Refusal:
    assert isinstance(decision, Refused), decision
    return decision.error


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_is_namespace_name_uid_and_attempt() -> None:
    book = b.with_sandbox()
    assert book.node.sandbox_named(("default", "p", "u", 0)) == b.BOX
    for other in ({"attempt": 1}, {"uid": "v"}, {"name": "q"}):
        assert isinstance(book.node.decide(b.run("new", **other), b.NOW), Accept)


def test_a_container_name_is_sandbox_name_and_attempt() -> None:
    book = b.with_container(S.RUNNING)
    assert book.node.container_named((b.BOX, "k", 0)) == b.CON
    assert isinstance(book.node.decide(b.create("new", attempt=1), b.NOW), Accept)


def test_a_name_is_free_when_its_holder_is_gone() -> None:
    book = b.with_container(S.REMOVED).put(b.BOX_KEY, *b.sandbox_path(B.REMOVED)[3:])
    assert (book.node.sandboxes, book.node.containers, book.node._pods) == ({}, {}, {})
    assert book.node.container_named((b.BOX, "k", 0)) is None
    assert isinstance(book.node.decide(b.run("new"), b.NOW), Accept)


def test_a_retry_gets_the_same_id_and_uses_none_of_its_own() -> None:
    book = b.with_container(S.CREATED)
    assert book.node.decide(b.create("other-id"), b.NOW) is ALREADY
    assert book.node.decide(b.run("other-id"), b.NOW) is ALREADY
    assert isinstance(b.with_container(S.CREATING).node.decide(b.create("other-id"), b.NOW), Join)


def test_an_interrupted_create_goes_on_under_its_id_with_any_request() -> None:
    book = b.with_container(S.INTERRUPTED)
    ((key, event),) = accepted(book.ask(b.create("other-id", "other-hash", labels={"new": "1"}))).events
    assert (key, event.request_hash, event.config.labels) == (b.CON_KEY, "other-hash", {"new": "1"})
    assert book.node.containers[b.CON].state is S.CREATING


def test_an_interrupted_create_needs_its_sandbox_and_image_again() -> None:
    dead = b.with_container(S.INTERRUPTED).put(b.BOX_KEY, e.SandboxDied(1, "x"))
    assert isinstance(refusal(dead.node.decide(b.create(), b.NOW)), errors.WrongState)
    lost = b.with_container(S.INTERRUPTED).put(IMAGE_KEY, e.ImageLost("x"))
    assert isinstance(refusal(lost.node.decide(b.create(), b.NOW)), errors.NotFound)


# --- rules between aggregates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [s for s in B if s is not B.REMOVED])
def test_a_container_needs_a_ready_sandbox(state: SandboxState) -> None:
    decision = b.with_sandbox(state).node.decide(b.create(), b.NOW)
    if state is B.READY:
        assert isinstance(decision, Accept)
    else:
        assert refusal(decision).text.endswith(f": sandbox {b.BOX} is not ready (state {state})")


@pytest.mark.parametrize("state", [s for s in SandboxState if s not in (B.REMOVED, B.READY)])
def test_a_container_is_started_in_a_ready_sandbox_only(state: SandboxState) -> None:
    book = b.with_container(S.CREATED)
    assert isinstance(book.node.decide(c.StartContainer(b.CON), b.NOW), Accept)
    book.node.sandboxes[b.BOX] = replace(book.node.sandboxes[b.BOX], state=state)
    assert isinstance(refusal(book.node.decide(c.StartContainer(b.CON), b.NOW)), errors.WrongState)


def test_a_container_needs_a_sandbox_and_an_image() -> None:
    assert isinstance(refusal(Node().decide(b.create(), b.NOW)), errors.NotFound)
    assert isinstance(refusal(b.with_sandbox().node.decide(b.create(image="nope"), b.NOW)), errors.NotFound)


def test_the_intent_of_a_create_is_complete() -> None:
    event = accepted(b.with_sandbox().node.decide(b.create(image=b.ID_A), b.at(7))).events[0][1]
    assert (event.image_id, event.at, event.log_path) == (b.ID_A, b.at(7).wall_ns, "/var/log/pods/u/k/0.log")
    assert event.image_ref == "docker.io/library/a@sha256:" + "d" * 64


def test_what_was_present_can_be_used_while_it_is_pulled_again() -> None:
    book = b.with_sandbox().put(IMAGE_KEY, e.ImagePullRequested())
    assert isinstance(book.node.decide(b.create(), b.NOW), Accept)


@pytest.mark.parametrize("state", [s for s in S if s is not S.REMOVED])
def test_an_image_is_not_removed_while_a_container_has_it(state: ContainerState) -> None:
    book = b.with_container(state)
    assert isinstance(refusal(book.node.decide(c.RemoveImage(b.REF), b.NOW)), errors.InUse)


def test_an_image_is_not_removed_while_a_create_is_pending() -> None:
    book = b.with_sandbox()
    pending = accepted(book.node.decide(b.create(), b.NOW))
    book.node.claim(pending)
    error = refusal(book.node.decide(c.RemoveImage(b.ID_A), b.NOW))
    assert (type(error), error.text) == (errors.InUse, f"cannot remove image {b.ID_A}: container {b.CON} uses it")
    book.node.release(pending)
    assert isinstance(book.node.decide(c.RemoveImage(b.ID_A), b.NOW), Accept)


def test_no_create_is_decided_while_a_removal_of_its_image_is_pending() -> None:
    book = b.with_sandbox()
    pending = accepted(book.node.decide(c.RemoveImage(b.REF), b.NOW))
    book.node.claim(pending)
    assert isinstance(refusal(book.node.decide(b.create(), b.NOW)), errors.NotFound)
    book.node.release(pending)
    assert isinstance(book.node.decide(b.create(), b.NOW), Accept)


def test_all_references_of_an_image_go_in_one_transaction() -> None:
    book = b.with_image().put(e.image_key(b.REF_2), *b.IMAGE_PATH[I.PRESENT])
    gone = accepted(book.node.decide(c.RemoveImage(b.REF_2), b.NOW)).events
    assert [key for key, _ in gone] == [IMAGE_KEY, e.image_key(b.REF_2)]


def test_a_reference_that_is_being_pulled_again_makes_the_removal_wait() -> None:
    book = b.with_image().put(e.image_key(b.REF_2), *b.IMAGE_PATH[I.PRESENT], e.ImagePullRequested())
    assert book.node.decide(c.RemoveImage(b.ID_A), b.NOW) == Wait(e.image_key(b.REF_2)), "for the one that is pulled"
    assert b.with_image(I.PULLING).node.decide(c.RemoveImage(b.REF), b.NOW) == Wait()


def test_removing_what_is_not_there_is_done() -> None:
    node = b.with_image(I.ABSENT).node
    for command in (c.RemoveImage(b.REF), c.RemoveImage("x"), c.RemoveContainer("x"), c.StopContainer("x", 1)):
        assert node.decide(command, b.NOW) is ALREADY
    for command in (c.StopSandbox("x"), c.RemoveSandbox("x"), c.RecordSandboxStopped("x"), c.RecordStarted("x")):
        assert node.decide(command, b.NOW) is ALREADY
    assert isinstance(refusal(node.decide(c.StartContainer("x"), b.NOW)), errors.NotFound)


def test_a_pull_does_not_revive_an_image_that_goes() -> None:
    book = b.with_image(I.REMOVING).put(e.image_key(b.REF_2), e.ImagePullRequested())
    ((_, event),) = accepted(book.node.decide(c.RecordPulled(b.REF_2, b.pulled()), b.NOW)).events
    assert (type(event), event.error) == (e.ImagePullFailed, "PullFailed")
    ((_, event),) = accepted(book.node.decide(c.RecordPulled(b.REF_2, b.pulled(b.ID_B)), b.NOW)).events
    assert type(event) is e.ImagePulled


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


# --- time ------------------------------------------------------------------------------------------------------------


def test_created_at_never_decreases_within_a_sandbox() -> None:
    book = b.with_sandbox()
    for number, wall_s in enumerate([5, -900, 3, 9]):
        book.ask(b.create(f"c{number}", name=f"k{number}"), b.at(number, wall_s=wall_s))
    made = [k.created_at for k in book.node.of_sandbox(b.BOX)]
    assert made == [b.WALL + s * 10**9 for s in (5, 5, 5, 9)]
    first = b.with_sandbox()
    first.ask(b.create(), b.at(1, wall_s=-900))
    assert first.node.containers[b.CON].created_at == b.WALL, "not older than its sandbox"


def test_created_at_never_decreases_within_a_pod() -> None:
    book = b.with_sandbox(B.NOTREADY)
    book.ask(b.run("next", attempt=1), b.at(5, wall_s=-900))
    assert book.node.sandboxes["next"].created_at >= book.node.sandboxes[b.BOX].created_at


# --- quarantine ------------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_record_and_the_ways_out() -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY, "cut short")
    error = refusal(book.node.decide(c.StopContainer(b.CON, 1), b.NOW))
    assert isinstance(error, errors.Quarantined)
    for part in (f"record {book.seq} ", "cut short", f"`daybook replay why {b.CON}`"):
        assert part in error.text
    assert f"`daybook purge --quarantined {b.CON_KEY}`" in error.text


CONTAINER_COMMANDS = [
    c.StartContainer(b.CON),
    c.StopContainer(b.CON, 1),
    c.RemoveContainer(b.CON),
    c.RecordMonitorLost(b.CON),
    c.RecordContainerRemoved(b.CON),
    b.create(),
    b.create(hash_="other"),
]


@pytest.mark.parametrize("command", CONTAINER_COMMANDS)
def test_nothing_is_done_to_a_quarantined_container(command: c.Command) -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY)
    assert isinstance(refusal(book.node.decide(command, b.NOW)), errors.Quarantined)


@pytest.mark.parametrize(
    "command",
    [
        c.StopSandbox(b.BOX),
        c.RemoveSandbox(b.BOX),
        c.RecordSandboxDied(b.BOX, "x"),
        b.run(),
        b.create("new", attempt=9),
    ],
)
def test_nothing_is_done_to_a_quarantined_sandbox(command: c.Command) -> None:
    book = b.with_container(S.RUNNING).spoil(b.BOX_KEY)
    assert isinstance(refusal(book.node.decide(command, b.NOW)), errors.Quarantined)


def test_the_containers_of_a_quarantined_sandbox_can_be_stopped() -> None:
    book = b.with_container(S.RUNNING).spoil(b.BOX_KEY)
    assert isinstance(book.node.decide(c.StopContainer(b.CON, 1), b.NOW), Accept)


@pytest.mark.parametrize("command", [c.StopSandbox(b.BOX), c.RemoveSandbox(b.BOX)])
def test_a_sandbox_with_a_quarantined_container_is_not_stopped(command: c.Command) -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY)
    assert f"container {b.CON}" in refusal(book.node.decide(command, b.NOW)).text
    assert isinstance(book.node.decide(c.RecordSandboxDied(b.BOX, "x"), b.NOW), Accept), (
        "what is seen is still recorded"
    )
    assert isinstance(book.node.decide(b.create("new", attempt=1), b.NOW), Accept)


@pytest.mark.parametrize(
    "command", [c.PullImage(b.REF), c.RemoveImage(b.REF), c.RemoveImage(b.ID_A), c.RecordImageLost(b.REF, "x")]
)
def test_nothing_is_done_to_a_quarantined_image(command: c.Command) -> None:
    book = b.with_image().spoil(IMAGE_KEY)
    assert isinstance(refusal(book.node.decide(command, b.NOW)), errors.Quarantined)


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


def test_create_in_an_unreadable_sandbox() -> None:
    book = b.with_image().spoil(b.BOX_KEY)
    assert isinstance(refusal(book.node.decide(b.create(), b.NOW)), errors.Quarantined)


def test_remove_an_unreadable_image() -> None:
    book = b.Book().spoil(IMAGE_KEY)
    assert isinstance(refusal(book.node.decide(c.RemoveImage(b.REF), b.NOW)), errors.Quarantined)


def test_no_image_is_removed_while_a_container_is_unreadable() -> None:
    book = b.with_sandbox().spoil(b.CON_KEY)
    assert isinstance(book.node.decide(c.RemoveImage(b.REF), b.NOW), Refused)


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
    for command in (c.PullImage(b.REF), c.RemoveImage(b.REF), c.RecordImageRemoved(b.REF)):
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


def test_names_of_things() -> None:
    assert sandbox_name(b.box_config()) == ("default", "p", "u", 0)
    assert absolute_log_path("/a/", "/b.log") == "/a/b.log"
    assert absolute_log_path("", "b") == absolute_log_path("/a", "") == ""
    assert repository("localhost:5000/x/y:1@sha256:0") == "localhost:5000/x/y"
    assert repository("localhost:5000/x") == "localhost:5000/x"
    assert repo_digest(b.REF, "") == b.REF

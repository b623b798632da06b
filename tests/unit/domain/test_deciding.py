"""The rules between aggregates: names, images in use, ready sandboxes, quarantine, time."""

from dataclasses import replace

import pytest

from domain import commands as c
from domain import deciding, errors
from domain import effects as f
from domain import events as e
from domain.config import NamespaceMode, NamespaceOptions
from domain.decision import ALREADY, Accept, Decision, Join, Refused, Wait
from domain.due import due
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
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


TARGETED = NamespaceOptions(pid=NamespaceMode.TARGET, target_id=b.CON)


@pytest.mark.parametrize("state", [s for s in S if s is not S.REMOVED])
def test_a_target_must_run_when_it_is_joined(state: ContainerState) -> None:
    decision = b.with_container(state).node.decide(b.create("new", name="debug", namespaces=TARGETED), b.NOW)
    if state is S.RUNNING:
        assert isinstance(decision, Accept)
    else:
        error = refusal(decision)
        assert isinstance(error, errors.WrongState)
        assert error.text == f"cannot create container debug: target container con is not running (state {state})"


def test_a_target_must_be_of_the_same_pod() -> None:
    book = b.with_container().put(e.sandbox_key("other"), b.run_requested(name="o"), e.SandboxReady(None))
    for box, target in (("other", b.CON), (b.BOX, "nobody\n"), (b.BOX, "")):
        asked = replace(TARGETED, target_id=target)
        error = refusal(book.node.decide(b.create("new", box=box, name="debug", namespaces=asked), b.NOW))
        assert isinstance(error, errors.InvalidRequest)
        assert error.text.endswith(f"target container {target!r} is not in sandbox {box}")


def test_a_target_must_still_run_at_the_start() -> None:
    book = b.with_container().put("container/new", b.create_requested(name="debug", namespaces=TARGETED), b.CREATED)
    assert isinstance(book.node.decide(c.StartContainer("new"), b.NOW), Accept)
    book.put(b.CON_KEY, b.EXITED)
    assert isinstance(refusal(book.node.decide(c.StartContainer("new"), b.NOW)), errors.WrongState)
    book.put("container/new", e.ContainerStartRequested())
    assert isinstance(book.node.decide(c.StartContainer("new"), b.NOW), Join)


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


# --- pulls -----------------------------------------------------------------------------------------------------------

OPEN = c.PullImage(b.REF, access="h1")


def pulling(access: str = "h1", source: str = "") -> b.Book:
    return b.Book().put(IMAGE_KEY, e.ImagePullRequested(source, access))


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (OPEN, Join()),
        (replace(OPEN, access="h2"), Wait()),
        (replace(OPEN, access=""), Wait()),
        (replace(OPEN, source="oci:/x"), Wait()),
    ],
)
def test_a_pull_is_shared_by_those_with_its_credentials(command: c.Command, answer: Decision) -> None:
    assert pulling().node.decide(command, b.NOW) == answer


def test_whoever_waited_pulls_again_with_his_own() -> None:
    book = pulling().put(IMAGE_KEY, b.IMAGE_PULLED)
    assert accepted(book.node.decide(replace(OPEN, access="h2"), b.NOW)).events == (
        (IMAGE_KEY, e.ImagePullRequested("", "h2")),
    )


@pytest.mark.parametrize("access", ["", "h2"])
def test_the_outcome_of_an_earlier_pull_is_not_taken_for_this_ones(access: str) -> None:
    """One was given up when its work was done already; the next one brings other credentials."""
    node = pulling().node
    assert node.decide(c.RecordPulled(b.REF, b.pulled(), access), b.NOW) == ALREADY
    assert node.decide(c.RecordPullFailed(b.REF, "PullFailed", "no", access), b.NOW) == ALREADY
    assert isinstance(node.decide(c.RecordPulled(b.REF, b.pulled(), "h1"), b.NOW), Accept)


def test_what_is_due_names_the_credentials_by_their_hash() -> None:
    assert due(pulling().node, IMAGE_KEY).effect == f.PullImage(b.REF, "", "h1")


def test_pulls_are_bounded_and_shared_ones_do_not_count() -> None:
    book = pulling()
    for number in range(deciding.PULLS_MAX - 1):
        assert isinstance(book.ask(c.PullImage(f"q.io/x:{number}")), Accept)
    error = refusal(book.node.decide(c.PullImage("q.io/more:1"), b.NOW))
    assert (type(error), error.text) == (errors.Busy, "cannot pull image q.io/more:1: 256 pulls are open already")
    assert book.node.decide(OPEN, b.NOW) == Join()
    book.put(e.image_key("q.io/x:0"), e.ImagePullFailed("PullFailed", "no"))
    assert isinstance(book.node.decide(c.PullImage("q.io/more:1"), b.NOW), Accept)


def test_a_pull_that_nobody_waits_for_ends_as_cancelled() -> None:
    end = deciding.given_up(pulling().node, OPEN)
    assert isinstance(end, c.RecordPullFailed) and (end.error, end.access) == ("Cancelled", "h1")
    event = accepted(pulling().node.decide(end, b.NOW)).events[0][1]
    assert event == e.ImagePullFailed("Cancelled", end.text) and b.REF in end.text


@pytest.mark.parametrize(
    ("book", "command"),
    [
        (pulling(), replace(OPEN, access="h2")),
        (pulling().put(IMAGE_KEY, b.IMAGE_PULLED), OPEN),
        (b.Book(), OPEN),
        (b.with_container(S.CREATING), b.create()),
        (b.with_sandbox(B.SETTING_UP), b.run()),
        (b.with_image(I.REMOVING), c.RemoveImage(b.REF)),
    ],
)
def test_nothing_else_ends_with_its_clients(book: b.Book, command: c.Command) -> None:
    assert deciding.given_up(book.node, command) is None


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


def test_create_in_an_unreadable_sandbox() -> None:
    book = b.with_image().spoil(b.BOX_KEY)
    assert isinstance(refusal(book.node.decide(b.create(), b.NOW)), errors.Quarantined)


def test_remove_an_unreadable_image() -> None:
    book = b.Book().spoil(IMAGE_KEY)
    assert isinstance(refusal(book.node.decide(c.RemoveImage(b.REF), b.NOW)), errors.Quarantined)


def test_no_image_is_removed_while_a_container_is_unreadable() -> None:
    book = b.with_sandbox().spoil(b.CON_KEY)
    assert isinstance(book.node.decide(c.RemoveImage(b.REF), b.NOW), Refused)

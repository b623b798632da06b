"""fold: replay is exact; one bad record never stops it and touches its own aggregate alone."""

import pytest

from domain import events as e
from domain.fold import Replayed, fold
from domain.lifecycle import ContainerState, ImageState
from domain.node import Node
from domain.records import Cause, Record, Unreadable
from tests.unit.domain import builders as b

S = ContainerState


def test_an_empty_log_is_an_empty_node() -> None:
    done = fold([])
    assert (done.seq, done.whole, b.fingerprint(done.node)) == (0, True, b.fingerprint(Node()))


@pytest.mark.parametrize("cut", range(10))
def test_checkpoint_and_tail_are_the_whole(cut: int) -> None:
    records = b.with_container(S.REMOVING).records
    kept = fold(records[:cut])
    done = fold(records[cut:], Replayed(Node.restore(kept.node.snapshot()), kept.seq))
    whole = fold(records)
    assert b.fingerprint(done.node) == b.fingerprint(whole.node)
    assert done.seq == whole.seq == len(records)


def test_an_unreadable_record_quarantines_its_aggregate_alone() -> None:
    book = b.with_container(S.RUNNING)
    done = fold([*book.records, Unreadable(book.seq + 1, b.CON_KEY, 5, "checksum")])
    assert (done.whole, done.seq) == (False, book.seq + 1)
    assert set(done.node.quarantined) == {b.CON_KEY}
    assert done.node.quarantined[b.CON_KEY].seq == book.seq + 1
    assert done.node.containers[b.CON].state is S.RUNNING
    assert done.node.versions[b.CON_KEY] == 5


def test_an_unreadable_record_of_nobody_is_counted() -> None:
    done = fold([Unreadable(1, "", 0, "torn")])
    assert (done.whole, done.node.quarantined) == (False, {})


# fmt: off
ILL_FITTING = [
    (b.CON_KEY, b.CREATED,                      "a second creation"),
    (b.CON_KEY, e.ContainerRemoved(),           "a removal that nobody asked for"),
    (b.CON_KEY, e.ContainerStopMoved(0, b.LATER), "a moved stop without a stop"),
    (b.CON_KEY, e.SandboxReady(),               "another aggregate's event"),
    ("container/x", b.STARTED,                  "the start of an unknown container"),
    ("sandbox/x", e.SandboxStopped(),           "the stop of an unknown sandbox"),
    (e.image_key(b.REF), b.IMAGE_PULLED,        "a pull that nobody asked for"),
    (e.image_key(b.REF), b.EXITED,              "another aggregate's event"),
]
# fmt: on


@pytest.mark.parametrize(
    ("key", "event", "what"),
    ILL_FITTING,
    ids=[case[2].replace(" ", "-") + f"-{i}" for i, case in enumerate(ILL_FITTING)],
)
def test_a_record_that_does_not_fit_quarantines_its_aggregate_alone(key: str, event: e.Event, what: str) -> None:
    book = b.with_container(S.RUNNING)
    before = (dict(book.node.containers), dict(book.node.sandboxes), dict(book.node.images))
    book.put(key, event)
    assert set(book.node.quarantined) == {key}, what
    assert e.WIRE_NAME[type(event)] in book.node.quarantined[key].why
    assert book.broken[0].seq == book.seq
    assert (book.node.containers, book.node.sandboxes, book.node.images) == before


def test_the_rest_of_the_log_is_read() -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY).put(b.BOX_KEY, e.SandboxDied(1, "x"))
    book.put(e.image_key(b.REF_2), *b.IMAGE_PATH[ImageState.PRESENT])
    assert book.node.sandboxes[b.BOX].state == "NOTREADY"
    assert b.REF_2 in book.node.images


@pytest.mark.parametrize(("key", "event"), [(e.NODE_KEY, b.STARTED), ("volume/x", e.NodeStopped())])
def test_foreign_events_of_the_node(key: str, event: e.Event) -> None:
    record = Record(1, b.NOW, key, 1, e.WIRE_NAME[type(event)], event, Cause("rpc"), b"", 0)
    assert not fold([record]).whole


def test_an_unreadable_node_record_keeps_its_version() -> None:
    book = b.Book().put(e.NODE_KEY, e.NodeStopped()).spoil(e.NODE_KEY)
    assert book.node.next_version(e.NODE_KEY) == 3


def test_a_log_is_whole_again_when_all_is_given_up() -> None:
    book = b.with_container(S.RUNNING).spoil(b.CON_KEY).spoil(b.BOX_KEY)
    book.put(e.NODE_KEY, e.QuarantineReleased(b.BOX_KEY))
    assert book.node.quarantined == {}
    assert book.broken == ()

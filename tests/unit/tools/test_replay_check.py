"""`replay check` finds what it is there to find, and the judge of a neighbourhood finds what a whole look would."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.log.record import Entry
from domain import commands as c
from domain import events as e
from domain import invariants
from domain.config import ContainerConfig, SandboxConfig
from domain.invariants import INVARIANTS
from domain.lifecycle import CONTAINER_NEXT, IMAGE_NEXT, SANDBOX_NEXT, ContainerState, ImageState
from domain.node import SCHEMA, Node
from domain.records import Cause, Draft, Evidence, Now, Process, Record
from tests.support import histories
from tests.support.histories import CONTAINER, HERE, NGINX, OTHER_CONTAINER, SANDBOX, History
from tools.replay import judge
from tools.replay.check import PROBLEMS_SHOWN, check, text_of
from tools.replay.judge import Judge, judged
from tools.replay.walk import Walk, find

POD = e.sandbox_key(SANDBOX)
DUE = Cause("due")


def problems(history: History) -> list[tuple[int, str, str]]:
    return [(p.seq, p.kind, p.text.split(":")[0]) for p in check(history.log).problems]


def raw(history: History, key: str, event: Any, version: int = 0) -> int:
    """An event in the log whether the tables permit it or not."""
    draft = Draft(key, version or history.node.next_version(key), event)
    (record,) = history.log.append_sync([draft], DUE, history.now)
    return int(record.seq)


@pytest.mark.parametrize("name", sorted(set(histories.ALL) - {"released_quarantine"}))
def test_sound_histories(name: str) -> None:
    assert check(histories.ALL[name]().log).sound


def test_an_illegal_transition() -> None:
    h = histories.failed_start()
    seq = raw(h, HERE, e.ContainerStarted(5))
    assert problems(h) == [(seq, "fit", "container.started/1 does not fit what is recorded before it")]


def test_what_follows_an_illegal_transition_is_told_once() -> None:
    h = histories.failed_start()
    seq = raw(h, HERE, e.ContainerStarted(5))
    raw(h, HERE, e.ContainerStarted(6), h.node.next_version(HERE) + 1)
    assert [found for found, _, _ in problems(h)] == [seq]


@pytest.mark.parametrize(
    ("key", "event"),
    [
        ("node", e.ContainerStartRequested()),
        ("volume/x", e.NodeStopped()),
        (HERE, e.NodeStopped()),
        ("node/x", e.NodeStopped()),
        ("sandbox/", e.SandboxStopped()),
    ],
)
def test_an_event_under_a_key_of_another_kind(key: str, event: Any) -> None:
    h = History()
    seq = raw(h, key, event)
    assert [found[:2] for found in problems(h)] == [(seq, "fit")]


def test_a_version_that_was_left_out() -> None:
    h = histories.failed_start()
    seq = raw(h, HERE, e.ContainerRemoveRequested(), h.node.next_version(HERE) + 1)
    assert problems(h) == [(seq, "version", "it is event 6 of its aggregate, 5 was due")]


def test_an_event_of_an_unknown_kind() -> None:
    h = History()
    h.log.write([Entry(HERE, 1, "container.teleported/9", b"\x80")], DUE, h.now)
    assert [(kind, seq) for seq, kind, _ in problems(h)] == [("record", 1)]


def test_an_index_that_leads_elsewhere() -> None:
    h = histories.failed_pull()
    h.log.store.index["node", 7] = h.log.store.index.pop(("node", 1))
    assert [(seq, kind) for seq, kind, _ in problems(h)] == [(1, "index")]


# --- invariants ------------------------------------------------------------------------------------------------------


def remove_pod(h: History) -> int:
    for event in (e.SandboxStopRequested(), e.SandboxStopped(), e.SandboxRemoveRequested(), e.SandboxRemoved()):
        seq = raw(h, POD, event)
        h.node.versions[POD] += 1
    return seq


def another_of_the_name(h: History) -> int:
    known = h.node.containers[CONTAINER]
    event = e.ContainerCreateRequested(SANDBOX, "h", known.image_id, NGINX, h.wall_ns, "", "SIGTERM", known.config)
    return raw(h, e.container_key(OTHER_CONTAINER), event)


def another_pod_of_the_name(h: History) -> int:
    event = e.SandboxRunRequested("h", h.wall_ns, h.now.boot_id, h.node.sandboxes[SANDBOX].config)
    return raw(h, e.sandbox_key("5c" * 32), event)


def stop_pod(h: History) -> int:
    raw(h, POD, e.SandboxStopRequested())
    h.node.versions[POD] += 1
    return raw(h, POD, e.SandboxStopped())


PLANTED: list[tuple[Callable[..., Any], Callable[[History], int]]] = [
    (invariants.container_has_its_sandbox, remove_pod),
    (invariants.names_are_unique, another_of_the_name),
    (invariants.names_are_unique, another_pod_of_the_name),
    (invariants.stopped_sandbox_has_no_live_container, stop_pod),
    (invariants.times_are_in_order, lambda h: raw(h, HERE, e.ContainerExited(0, 5, Evidence("exit-file")))),
    (invariants.exit_codes_rest_on_evidence, lambda h: raw(h, HERE, e.ContainerExited(0, h.wall_ns, Evidence()))),
    (invariants.used_image_is_held, lambda h: raw(h, e.image_key(NGINX), e.ImageRemoveRequested())),
]
UNREACHABLE: dict[Callable[..., Any], Callable[[Node], None]] = {
    invariants.live_container_has_a_process: lambda n: change(n, init=None),
    invariants.stopping_has_a_deadline: lambda n: change(n, state=ContainerState.STOPPING, stop=None),
    invariants.present_image_is_known: lambda n: n.images.update({NGINX: replace(n.images[NGINX], held=None)}),
}
"""What no sequence of events leads to, because the fold's own types prevent it: shown on a node made by hand."""


def change(node: Node, **values: Any) -> None:
    node.containers[CONTAINER] = replace(node.containers[CONTAINER], **values)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(("invariant", "plant"), PLANTED, ids=lambda each: each.__name__)
def test_a_violation_is_found_where_it_begins(
    invariant: Any, plant: Any, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(judge, "WHOLE_UP_TO", -1)
    h = History().running()
    seq = plant(h)
    assert (seq, "invariant", invariant.__name__) in problems(h)


@pytest.mark.parametrize("invariant", UNREACHABLE, ids=lambda each: each.__name__)
def test_what_the_fold_prevents_is_judged_too(invariant: Any) -> None:
    node = History().running().node
    UNREACHABLE[invariant](node)
    assert [text.split(":")[0] for text in Judge().whole(node)] == [invariant.__name__]


def test_every_invariant_is_planted() -> None:
    assert {*(invariant for invariant, _ in PLANTED), *UNREACHABLE} == set(INVARIANTS)


def test_a_quarantined_pod_is_beyond_judgement() -> None:
    h = histories.failed_start()
    first = next(r.seq for r in h.log.read() if r.key == POD)
    h.log.store.records[first] = b"?" * 40
    assert {(seq, kind) for seq, kind, _ in problems(h)} == {(first, "record")}


IDS = ("a" * 64, "b" * 64)
PROCESS = Process(1, 1, "boot")
# fmt: off
EVENTS: list[tuple[str, Any]] = [
    *((e.sandbox_key(i), ev) for i in IDS for n in "xy" for ev in (
        e.SandboxRunRequested("h", 5, "boot", SandboxConfig(n, "u", "ns")), e.SandboxReady(), e.SandboxStopRequested(),
        e.SandboxStopped(), e.SandboxRemoveRequested(), e.SandboxRemoved())),
    *((e.container_key(i), ev) for i in ("c" * 64, "d" * 64, "e" * 64) for s in IDS for ev in (
        e.ContainerCreateRequested(s, "h", "sha256:1", "i", 4, "", "SIGTERM", ContainerConfig("n")),
        e.ContainerCreateRequested(s, "h", "sha256:2", "i", 6, "", "SIGTERM", ContainerConfig("n")),
        e.ContainerCreated(PROCESS, PROCESS, e.User(0, 0), e.Binary()), e.ContainerStartRequested(),
        e.ContainerStarted(7), e.ContainerExited(0, 6, Evidence()), e.ContainerExited(0, 9, Evidence("exit-file")),
        e.ContainerCreateInterrupted(e.Deadline(1, "boot")), e.ContainerRemoveRequested(), e.ContainerRemoved())),
    *((e.image_key(i), ev) for i in "pq" for ev in (
        e.ImagePullRequested(), e.ImagePulled("sha256:1", "", (), 1), e.ImagePulled("sha256:2", "", (), 1),
        e.ImageRemoveRequested(), e.ImageRemoved(), e.ImageLost(""))),
]
# fmt: on


def permitted(node: Node, key: str, event: Any) -> bool:
    kind = e.split_key(key)[0]
    table = {"container": CONTAINER_NEXT, "sandbox": SANDBOX_NEXT, "image": IMAGE_NEXT}[kind]
    known = find(node, key)
    return (known.state if known else ImageState.ABSENT if kind == "image" else None, type(event)) in table


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=60))
def test_a_neighbourhood_shows_all_that_is_new(choices: list[int]) -> None:
    walk, part = Walk(), Judge()
    whole: set[str] = set()
    told: set[str] = set()
    before, judge.WHOLE_UP_TO = judge.WHOLE_UP_TO, -1
    try:
        for seq, choice in enumerate(choices, 1):
            lawful = [each for each in EVENTS if permitted(walk.node, *each)]
            key, event = lawful[choice % len(lawful)]
            version = walk.node.versions.get(key, 0) + 1
            record = Record(seq, Now(0, 0, ""), key, version, e.WIRE_NAME[type(event)], event, DUE, b"", 0)
            found = set(part.after(walk.node, walk.take(record)))
            everything = set(judged(walk.node, [*map(str, walk.names.keys)]))
            # of three that share a name a part may name another pair than the whole; both are true
            assert everything - whole <= found | told
            assert {text for text in found - everything - told if "names_are_unique" not in text} == set()
            assert everything or not found
            whole |= everything
            told |= found
    finally:
        judge.WHOLE_UP_TO = before


# --- what is in progress, checkpoints --------------------------------------------------------------------------------


def test_what_is_in_progress() -> None:
    found = check(histories.in_progress().log).open
    assert [(each.state, each.effect, each.seq) for each in found] == [
        ("STOPPING", "StopTask", 11),
        ("CREATING", "CreateTask", 12),
        ("PULLING", "PullImage", 13),
    ]


def checkpointed(h: History, node: Node | None = None) -> History:
    h.log.save_checkpoint(h.log.head().seq, SCHEMA, (node or h.node).snapshot())
    return h


def test_a_checkpoint_that_agrees() -> None:
    h = checkpointed(History().running())
    h.stop()
    assert check(h.log).checkpoint.startswith("at record 10: agrees with the replay (")
    assert check(h.log).sound


def test_a_checkpoint_of_another_node() -> None:
    h = History().running()
    other = Node()
    checkpointed(h, other).stop()
    report = check(h.log)
    assert report.checkpoint == "at record 10: differs from the replay"
    assert [p.kind for p in report.problems] == ["checkpoint"]


def test_a_checkpoint_behind_damage_is_not_compared() -> None:
    h = checkpointed(History().running())
    h.log.store.records[5] = b"?" * 40
    assert check(h.log).checkpoint == "at record 10: not compared, the records up to it cannot all be used"


def test_a_checkpoint_of_nothing() -> None:
    h = checkpointed(History())
    assert "at record 0: agrees" in check(h.log).checkpoint


def test_a_log_of_nothing_but_damage_stays_readable() -> None:
    h = History()
    for _ in range(PROBLEMS_SHOWN + 5):
        h.ask(c.PullImage(NGINX)) if not h.node.images else raw(h, f"volume/{h.log.head().seq}", e.NodeStopped())
    lines = list(text_of(check(h.log)))
    assert lines[-1] == "  and 4 more"
    assert len(lines) == PROBLEMS_SHOWN + 8

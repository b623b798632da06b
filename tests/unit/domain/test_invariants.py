"""invariants: each finds what it is named for, and nothing in any ordinary state."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from domain import events as e
from domain.invariants import INVARIANTS, violations
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
from domain.records import Evidence
from tests.unit.domain import builders as b

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741


@pytest.mark.parametrize(("state", "box"), [*product(S, [B.READY, B.NOTREADY, B.STOPPING])])
def test_ordinary_states_violate_nothing(state: ContainerState, box: SandboxState) -> None:
    tail = {B.READY: (), B.NOTREADY: (e.SandboxDied(1, "x"),), B.STOPPING: (e.SandboxStopRequested(),)}[box]
    assert violations(b.with_container(state).put(b.BOX_KEY, *tail).node) == []


def change(node: Node, **fields: object) -> None:
    node.containers[b.CON] = replace(node.containers[b.CON], **fields)  # type: ignore[arg-type]


def second(node: Node) -> None:
    node.containers["con2"] = replace(node.containers[b.CON], id="con2")


def second_box(node: Node) -> None:
    node.sandboxes["box2"] = replace(node.sandboxes[b.BOX], id="box2")


def box_state(state: SandboxState) -> Callable[[Node], None]:
    def spoil(node: Node) -> None:
        node.sandboxes[b.BOX] = replace(node.sandboxes[b.BOX], state=state)

    return spoil


def image(**fields: object) -> Callable[[Node], None]:
    def spoil(node: Node) -> None:
        node.images[b.REF] = replace(node.images[b.REF], **fields)  # type: ignore[arg-type]

    return spoil


# fmt: off
BROKEN: list[tuple[str, ContainerState, Callable[[Node], None]]] = [
    ("container_has_its_sandbox",             S.RUNNING,  lambda n: n.sandboxes.clear()),
    ("names_are_unique",                      S.RUNNING,  second),
    ("names_are_unique",                      S.RUNNING,  second_box),
    ("stopped_sandbox_has_no_live_container", S.RUNNING,  box_state(B.STOPPED)),
    ("stopped_sandbox_has_no_live_container", S.CREATED,  box_state(B.REMOVING)),
    ("live_container_has_a_process",          S.RUNNING,  lambda n: change(n, init=None)),
    ("live_container_has_a_process",          S.CREATED,  lambda n: change(n, monitor=None)),
    ("stopping_has_a_deadline",               S.STOPPING, lambda n: change(n, stop=None)),
    ("times_are_in_order",                    S.EXITED,   lambda n: change(n, finished_at=0)),
    ("times_are_in_order",                    S.EXITED,   lambda n: change(n, started_at=b.WALL + 1)),
    ("times_are_in_order",                    S.RUNNING,  lambda n: change(n, created_at=1)),
    ("exit_codes_rest_on_evidence",           S.EXITED,   lambda n: change(n, evidence=Evidence())),
    ("exit_codes_rest_on_evidence",           S.EXITED,   lambda n: change(n, evidence=Evidence(), exit_code=255, reason="Error")),
    ("exit_codes_rest_on_evidence",           S.EXITED,   lambda n: change(n, reason="Unknown")),
    ("used_image_is_held",                    S.RUNNING,  image(state=I.REMOVING)),
    ("present_image_is_known",                S.REMOVED,  image(held=None)),
    ("present_image_is_known",                S.REMOVED,  image(held=None, state=I.REMOVING)),
]
# fmt: on


@pytest.mark.parametrize(("name", "state", "spoil"), BROKEN)
def test_each_finds_what_it_is_named_for(name: str, state: ContainerState, spoil: Callable[[Node], None]) -> None:
    node = b.with_container(state).node
    spoil(node)
    found = violations(node)
    assert {text.split(":")[0] for text in found} == {name}, found


def test_every_invariant_is_broken_once_here() -> None:
    assert {check.__name__ for check in INVARIANTS} <= {name for name, _, _ in BROKEN}


@pytest.mark.parametrize("case", ["the container", "its sandbox"])
def test_quarantined_aggregates_are_beyond_judgement(case: str) -> None:
    if case == "the container":
        book = b.with_container(S.RUNNING).spoil(b.CON_KEY)
        book.put(b.BOX_KEY, e.SandboxStopRequested(), e.SandboxStopped())
    else:
        book = b.with_image().spoil(b.BOX_KEY).put(b.CON_KEY, *b.CONTAINER_PATH[S.RUNNING])
    assert violations(book.node) == []

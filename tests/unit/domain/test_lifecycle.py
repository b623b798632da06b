"""lifecycle: the whole products states x commands and states x events, against golden copies and a naive model."""

from itertools import product

import pytest

from domain import commands as c
from domain import container as containers
from domain import events as e
from domain import image as images
from domain import lifecycle
from domain import sandbox as sandboxes
from domain.lifecycle import Already, ContainerState, ImageState, Join, Refuse, SandboxState, Wait
from tests.golden.domain import render
from tests.property import domain_model as model
from tests.unit.domain import builders as b

GOLDEN = render.everything()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_copy(name: str) -> None:
    """Wrong on purpose? `python -m tests.golden.domain`, then read the difference."""
    assert GOLDEN[name] == (render.HERE / name).read_text()


def test_no_golden_copy_without_a_table() -> None:
    assert {p.name for p in render.HERE.glob("*.txt")} == set(GOLDEN)


# --- states x commands -----------------------------------------------------------------------------------------------


def cell_text(cell: object) -> str:
    if isinstance(cell, Refuse):
        return f"refuse {cell.error.__name__}"
    return type(cell).__name__.lower() if isinstance(cell, Already | Join | Wait) else e.short_name(cell)  # type: ignore[arg-type]


def answered(text: str) -> str:
    """The golden copy's sentence without its explanation."""
    return "refuse " + text.split()[1].rstrip(":") if text.startswith("refused") else text


def the_hash(name: str) -> bool:
    return "other hash" not in name


MODEL_JOINS = {("STOPPING", "StopContainer (later)"), ("STOPPING", "RemoveContainer")}
"""Where a command's values decide: an event that would change nothing joins (rule 4)."""


@pytest.mark.parametrize(("state", "name"), list(product(render.LIVING_CONTAINER_STATES, render.CONTAINER_COMMANDS)))
def test_every_container_answer(state: ContainerState, name: str) -> None:
    got = answered(render.answer(b.with_container(state), render.CONTAINER_COMMANDS[name]))
    wanted = model.container_answer(state, name.split(" ")[0], the_hash(name))
    if (state, name) in MODEL_JOINS:
        assert got in (wanted, "join")
    else:
        assert got == wanted


@pytest.mark.parametrize(("state", "name"), list(product(render.LIVING_SANDBOX_STATES, render.SANDBOX_COMMANDS)))
def test_every_sandbox_answer(state: SandboxState, name: str) -> None:
    book = b.with_sandbox(state)
    if name == "RecordNetworkReleased" and state is SandboxState.REMOVING:
        book = b.with_image().put(b.BOX_KEY, *b.sandbox_path(SandboxState.SETTING_UP))
        book.put(b.BOX_KEY, e.SandboxNetworkSet((), "{}"), e.SandboxRunFailed("NetworkFailed", "no"))
    if name == "RecordNetworkReleased" and state is SandboxState.STOPPED:
        path = [event for event in b.sandbox_path(state) if not isinstance(event, e.SandboxNetworkReleased)]
        book = b.with_image().put(b.BOX_KEY, *path)
    got = answered(render.answer(book, render.SANDBOX_COMMANDS[name]))
    assert got == model.sandbox_answer(state, name.split(" ")[0], the_hash(name))


@pytest.mark.parametrize(("state", "name"), list(product(ImageState, render.IMAGE_COMMANDS)))
def test_every_image_answer(state: ImageState, name: str) -> None:
    got = answered(render.answer(b.with_image(state), render.IMAGE_COMMANDS[name]))
    assert got == model.image_answer(state, name)


TABLES = (
    (lifecycle.CONTAINER_PERMITTED, model.container_answer, render.CONTAINER_COMMANDS, render.LIVING_CONTAINER_STATES),
    (lifecycle.SANDBOX_PERMITTED, model.sandbox_answer, render.SANDBOX_COMMANDS, render.LIVING_SANDBOX_STATES),
    (lifecycle.IMAGE_PERMITTED, model.image_answer, render.IMAGE_COMMANDS, tuple(ImageState)),
)


@pytest.mark.parametrize(("cells", "answer", "commands", "states"), TABLES, ids=("container", "sandbox", "image"))
def test_permitted_is_total_and_as_the_prose(cells, answer, commands, states) -> None:  # type: ignore[no-untyped-def]
    """Gate: every cell of PERMITTED was asked above."""
    kinds = {type(command) for command in commands.values()}
    assert set(cells) == set(product(states, kinds))
    for (state, command), cell in cells.items():
        assert cell_text(cell) == answer(state, command.__name__), (state, command.__name__)


def test_every_command_has_a_table() -> None:
    asked = {type(k) for _, _, commands, _ in TABLES for k in commands.values()}
    everywhere = {k for k in vars(c).values() if isinstance(k, type) and k.__module__ == c.__name__}
    assert everywhere - asked == {c.RecordNode}


# --- states x events -------------------------------------------------------------------------------------------------


def rows_of(table: tuple[tuple[object, type, object, str], ...]) -> list[tuple[int, object, type, object]]:
    found = []
    for number, (froms, event, to, _) in enumerate(table):
        found += [(number, state, event, to) for state in (froms if isinstance(froms, tuple) else (froms,))]
    return found


def test_every_container_transition() -> None:
    """Gate: every row of CONTAINER_TRANSITIONS is hit, by one combination of its own."""
    hit = set()
    rows = {(state, event): number for number, state, event, _ in rows_of(lifecycle.CONTAINER_TRANSITIONS)}
    assert len(rows) == len(rows_of(lifecycle.CONTAINER_TRANSITIONS))
    for state, event in product((None, *ContainerState), render.CONTAINER_EVENTS):
        to = render.after(containers.evolve, render.container_in(state), event)
        assert to == (model.container_next(state, e.short_name(type(event))) or "-"), (state, event)
        if to != "-":
            hit.add(rows[state, type(event)])
    assert hit == set(range(len(lifecycle.CONTAINER_TRANSITIONS)))


def test_every_sandbox_transition() -> None:
    hit = set()
    rows = {(state, event): number for number, state, event, _ in rows_of(lifecycle.SANDBOX_TRANSITIONS)}
    assert len(rows) == len(rows_of(lifecycle.SANDBOX_TRANSITIONS))
    for state, event in product((None, *SandboxState), render.SANDBOX_EVENTS):
        to = render.after(sandboxes.evolve, render.sandbox_in(state), event)
        assert to == (model.sandbox_next(state, e.short_name(type(event))) or "-"), (state, event)
        if to != "-":
            hit.add(rows[state, type(event)])
    assert hit == set(range(len(lifecycle.SANDBOX_TRANSITIONS)))


def test_every_image_transition() -> None:
    hit = set()
    rows = {(state, event): number for number, state, event, _ in rows_of(lifecycle.IMAGE_TRANSITIONS)}
    for name, held in render.image_values():
        for event in render.IMAGE_EVENTS:
            state = "ABSENT" if name == "-" else name.split()[0]
            to = render.after(images.evolve, held, event)
            assert to == (
                model.image_next(None if name == "-" else state, e.short_name(type(event)), bool(held and held.held))
                or "-"
            )
            if to != "-":
                hit.add(rows[state, type(event)])
    assert hit == set(range(len(lifecycle.IMAGE_TRANSITIONS)))


def test_every_event_is_in_a_table() -> None:
    tables = (lifecycle.CONTAINER_TRANSITIONS, lifecycle.SANDBOX_TRANSITIONS, lifecycle.IMAGE_TRANSITIONS)
    named = {row[1] for table in tables for row in table}
    nodes = {e.NodeStarted, e.NodeStopped, e.NodeAdopted, e.QuarantineReleased}
    assert named | nodes == set(e.WIRE.values())
    assert named & nodes == set()


def test_every_event_of_a_permitted_cell_is_a_transition_and_can_be_built() -> None:
    for cells, following, build in (
        (lifecycle.CONTAINER_PERMITTED, lifecycle.CONTAINER_NEXT, containers.BUILD),
        (lifecycle.SANDBOX_PERMITTED, lifecycle.SANDBOX_NEXT, sandboxes.BUILD),
        (lifecycle.IMAGE_PERMITTED, lifecycle.IMAGE_NEXT, images.BUILD),
    ):
        for (state, _), cell in cells.items():
            if isinstance(cell, type):
                assert (state, cell) in following
                assert cell in build or cell is e.ContainerCreateRequested


@pytest.mark.parametrize("state", ContainerState)
@pytest.mark.parametrize("created", [False, True])
def test_container_view(state: ContainerState, created: bool) -> None:
    held = render.container_in(ContainerState.CREATED if created else ContainerState.CREATING)
    shown = containers.view(type(held)(**{**render.vars_of(held), "state": state}))  # type: ignore[arg-type]
    assert shown == model.container_view(state, created)


@pytest.mark.parametrize("state", SandboxState)
@pytest.mark.parametrize("ready", [False, True])
def test_sandbox_view(state: SandboxState, ready: bool) -> None:
    held = render.sandbox_in(SandboxState.READY if ready else SandboxState.SETTING_UP)
    shown = sandboxes.view(type(held)(**{**render.vars_of(held), "state": state}))  # type: ignore[arg-type]
    assert shown == model.sandbox_view(state, ready)


def test_terminal_states_have_no_way_out() -> None:
    assert not [k for k in lifecycle.CONTAINER_NEXT if k[0] is ContainerState.REMOVED]
    assert not [k for k in lifecycle.SANDBOX_NEXT if k[0] is SandboxState.REMOVED]


@pytest.mark.parametrize("table", [lifecycle.CONTAINER_NEXT, lifecycle.SANDBOX_NEXT], ids=["container", "sandbox"])
def test_every_state_is_reached_and_leads_to_the_end(table) -> None:  # type: ignore[no-untyped-def]
    reached = {to for (_, _), to in table.items()}
    assert {state for state, _ in table if state is not None} <= reached
    for start in reached:
        seen, todo = set(), [start]
        while todo:
            state = todo.pop()
            if state not in seen:
                seen.add(state)
                todo += [to for (origin, _), to in table.items() if origin is state]
        assert any(state == "REMOVED" for state in seen), start

"""`replay state`: the node as it was at a sequence, as tables; one aggregate in full."""

from collections.abc import Iterator, Mapping
from typing import Any

from domain import container as containers
from domain import events as e
from domain import sandbox as sandboxes
from domain.container import Container
from domain.lifecycle import ContainerState
from domain.sandbox import Sandbox
from tools.replay.text import instant, line, plain, printable, short, size, table
from tools.replay.walk import Aggregate, Walk, find
from tools.replay.words import code_words, fit_hash, fit_id


def value_of(walk: Walk, log_id: str) -> dict[str, Any]:
    """The whole node as JSON has it: aggregates by id, in the order of their ids."""
    node = walk.node
    return {
        "log": log_id,
        "seq": walk.done.seq,
        "daemon": plain(node.state),
        "sandboxes": [aggregate_value(walk, e.sandbox_key(i)) for i in sorted(node.sandboxes)],
        "containers": [aggregate_value(walk, e.container_key(i)) for i in sorted(node.containers)],
        "images": [aggregate_value(walk, e.image_key(i)) for i in sorted(node.images)],
        "quarantined": [
            {"key": plain(key), "seq": held.seq, "why": plain(held.why)}
            for key, held in sorted(node.quarantined.items())
        ],
    }


def aggregate_value(walk: Walk, key: str) -> dict[str, Any]:
    """One aggregate in full. `cri`: what the CRI shows, null where it is not listed."""
    found, held = find(walk.node, key), walk.node.quarantined.get(key)
    value = {
        "key": key,
        "name": walk.names.of(key),
        "version": walk.node.versions.get(key, 0),
        "cri": view(found),
        "quarantined": {"seq": held.seq, "why": held.why} if held else None,
        "state": str(found.state) if found else None,
        "aggregate": found,
    }
    return dict(plain(value))


def view(found: Aggregate | None) -> str | None:
    """The CRI's word for the state, without its prefix."""
    if isinstance(found, Container):
        shown = containers.view(found)
    else:
        shown = sandboxes.view(found) if isinstance(found, Sandbox) else None
    return shown.split("_", 1)[1] if shown else None


def text_of(walk: Walk, log_id: str) -> Iterator[str]:
    node = walk.node
    yield line(f"log {printable(log_id)}, node at record {walk.done.seq}")
    yield line(_daemon(walk))
    yield from _section("sandboxes", SANDBOX_HEAD, [_sandbox(walk, node.sandboxes[i]) for i in sorted(node.sandboxes)])
    known = sorted(node.containers.values(), key=lambda k: (walk.names.of(e.container_key(k.id)), k.id))
    yield from _section("containers", CONTAINER_HEAD, [_container(walk, each) for each in known])
    yield from _section("images", IMAGE_HEAD, [_image(node.images[i]) for i in sorted(node.images)])
    if node.quarantined:
        rows = [[key, str(held.seq), printable(held.why)] for key, held in sorted(node.quarantined.items())]
        yield from _section("quarantined", ("aggregate", "record", "why"), rows)


SANDBOX_HEAD = ("id", "name", "attempt", "state", "cri", "created", "addresses", "containers")
CONTAINER_HEAD = ("id", "name", "attempt", "state", "cri", "started", "finished", "exit", "image")
IMAGE_HEAD = ("reference", "state", "id", "size")


def _daemon(walk: Walk) -> str:
    state = walk.node.state
    if state.started is None:
        return "no daemon has opened this log"
    told = "stopped by its own will" if state.stopped else "running, or ended without a word"
    return f"daemon: daybook {printable(state.started.version, 40)}, pid {state.started.pid}, {told}"


def _section(title: str, head: tuple[str, ...], rows: list[list[str]]) -> Iterator[str]:
    yield ""
    yield f"{title}: {len(rows)}"
    if rows:
        yield from (f"  {each}" for each in table(head, rows))


def _sandbox(walk: Walk, found: Sandbox) -> list[str]:
    held = sum(k.sandbox_id == found.id for k in walk.node.containers.values())
    return [
        short(found.id),
        walk.names.of(e.sandbox_key(found.id)),
        str(found.config.attempt),
        found.state,
        view(found) or "-",
        instant(found.created_at),
        ", ".join(found.ips) or "-",
        str(held),
    ]


def _container(walk: Walk, found: Container) -> list[str]:
    return [
        short(found.id),
        walk.names.of(e.container_key(found.id)),
        str(found.config.attempt),
        found.state,
        view(found) or "-",
        instant(found.started_at),
        instant(found.finished_at),
        _exit(found),
        fit_hash(found.image_id),
    ]


def _exit(found: Container) -> str:
    if found.state not in (ContainerState.EXITED, ContainerState.REMOVING) or not found.finished_at:
        return "-"
    return f"{code_words(found.exit_code)[5:]} {printable(found.reason, 20)}"


def _image(found: Any) -> list[str]:
    held = found.held
    return [found.reference, found.state, fit_hash(held.image_id) if held else "-", size(held.size) if held else "-"]


# --- one aggregate ---------------------------------------------------------------------------------------------------


def aggregate_text(walk: Walk, key: str) -> Iterator[str]:
    """Every field that says something, one per line; times also as a person reads them."""
    value = aggregate_value(walk, key)
    kind, name = e.split_key(key)
    yield line(f"{kind} {fit_id(name)} at record {walk.done.seq}")
    yield from _lines({field: each for field, each in value.items() if field != "aggregate"}, "  ")
    if value["aggregate"] is None:
        yield "  it does not exist at this record"
        return
    yield from _lines(value["aggregate"], "  ")


def _lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for field, each in value.items():
        yield from _field(printable(field, 120), each, indent)


def _field(field: str, value: Any, indent: str) -> Iterator[str]:
    if value is None or value == "" or value == {} or value == []:
        return
    if isinstance(value, dict):
        yield line(f"{indent}{field}:")
        yield from _lines(value, indent + "  ")
    elif isinstance(value, list):
        yield line(f"{indent}{field}:")
        for number, item in enumerate(value):
            yield from _field(f"{number}", item, indent + "  ")
    elif field.endswith("_at") and isinstance(value, int):
        yield line(f"{indent}{field}: {instant(value)}")
    else:
        yield line(f"{indent}{field}: {printable(str(value))}")

"""The lifecycle as the code behaves, as text: what the golden copies beside this file hold.

Nothing is read off the tables of `domain`: every line is what `decide`, `evolve`, `due` or `reconcile` answered.
`python -m tests.golden.domain` writes the copies anew; read the difference before you keep it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from domain import commands as c
from domain import container as containers
from domain import events as e
from domain import image as images
from domain import recovery
from domain import sandbox as sandboxes
from domain.due import due
from domain.image import PulledImage
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.observations import (
    ExitFile,
    ImageObservation,
    InfraState,
    MonitorState,
    NamespaceState,
    SandboxObservation,
    TaskObservation,
    TaskState,
    World,
)
from domain.observations import ImageState as StoreState
from domain.records import Evidence
from domain.recovery import Finding, LogFacts
from tests.unit.domain import builders as b

HERE = Path(__file__).parent
FACTS = LogFacts("log", 10, True)

# fmt: off
CONTAINER_COMMANDS: Mapping[str, c.Command] = {
    "CreateContainer":              b.create(),
    "CreateContainer (other hash)": b.create(hash_="other"),
    "StartContainer":               c.StartContainer(b.CON),
    "StopContainer":                c.StopContainer(b.CON, 5),
    "StopContainer (later)":        c.StopContainer(b.CON, 60),
    "RemoveContainer":              c.RemoveContainer(b.CON),
    "RecordAdjusted":               c.RecordAdjusted(b.CON, "nri", (object(),)),
    "RecordCreated":                c.RecordCreated(b.CON, b.INIT, b.MONITOR, b.USER, b.RUNTIME),
    "RecordCreateFailed":           c.RecordCreateFailed(b.CON, "RuntimeFailed", "no"),
    "RecordCreateInterrupted":      c.RecordCreateInterrupted(b.CON),
    "RecordStarted":                c.RecordStarted(b.CON),
    "RecordStartFailed":            c.RecordStartFailed(b.CON, "RuntimeFailed", "no"),
    "RecordExit":                   c.RecordExit(b.CON, 0, 0, Evidence("exit-file")),
    "RecordOom":                    c.RecordOom(b.CON, 1),
    "RecordMonitorLost":            c.RecordMonitorLost(b.CON),
    "RecordContainerRemoved":       c.RecordContainerRemoved(b.CON),
}
SANDBOX_COMMANDS: Mapping[str, c.Command] = {
    "RunSandbox":                   b.run("new"),
    "RunSandbox (other hash)":      b.run("new", "other"),
    "StopSandbox":                  c.StopSandbox(b.BOX),
    "RemoveSandbox":                c.RemoveSandbox(b.BOX),
    "RecordNetworkSet":             c.RecordNetworkSet(b.BOX, ("10.0.0.9",), "{}"),
    "RecordSandboxReady":           c.RecordSandboxReady(b.BOX, None),
    "RecordRunFailed":              c.RecordRunFailed(b.BOX, "NetworkFailed", "no"),
    "RecordSandboxDied":            c.RecordSandboxDied(b.BOX, "gone"),
    "RecordNetworkReleased":        c.RecordNetworkReleased(b.BOX),
    "RecordNetworkLeaked":          c.RecordNetworkLeaked(b.BOX, 5, "no plugin"),
    "RecordSandboxStopped":         c.RecordSandboxStopped(b.BOX),
    "RecordSandboxRemoved":         c.RecordSandboxRemoved(b.BOX),
}
IMAGE_COMMANDS: Mapping[str, c.Command] = {
    "PullImage":                    c.PullImage(b.REF),
    "RemoveImage":                  c.RemoveImage(b.REF),
    "RecordPulled":                 c.RecordPulled(b.REF, b.pulled(b.ID_B)),
    "RecordPullFailed":             c.RecordPullFailed(b.REF, "PullFailed", "no"),
    "RecordImageRemoved":           c.RecordImageRemoved(b.ID_A),
    "RecordImageLost":              c.RecordImageLost(b.REF, "gone"),
}
CONTAINER_EVENTS: Sequence[e.Event] = (
    b.create_requested(), e.ContainerAdjusted("nri", ()), b.CREATED, e.ContainerCreateFailed("RuntimeFailed", "no"),
    b.INTERRUPTED, e.ContainerStartRequested(), b.STARTED, e.ContainerStartFailed(b.WALL, "RuntimeFailed", "no"), b.STOP,
    e.ContainerStopMoved(0, b.LATER), b.EXITED, e.ContainerOom(0, 1), e.ContainerMonitorLost(b.WALL),
    e.ContainerResourcesUpdated(None), e.ContainerRemoveRequested(), e.ContainerRemoved(),  # type: ignore[arg-type]
)
SANDBOX_EVENTS: Sequence[e.Event] = (
    b.run_requested(), e.SandboxNetworkSet((), "{}"), e.SandboxReady(), e.SandboxRunFailed("NetworkFailed", "no"),
    e.SandboxDied(b.WALL, "gone"), e.SandboxStopRequested(), e.SandboxNetworkReleased(), e.SandboxNetworkLeaked(5, "no"),
    e.SandboxStopped(), e.SandboxResourcesUpdated(None, None), e.SandboxRemoveRequested(), e.SandboxRemoved(),
)
IMAGE_EVENTS: Sequence[e.Event] = (
    e.ImagePullRequested(), b.IMAGE_PULLED, e.ImagePullFailed("PullFailed", "no"), e.ImageRemoveRequested(),
    e.ImageRemoved(), e.ImageLost("gone"),
)
# fmt: on

LIVING_CONTAINER_STATES = tuple(s for s in ContainerState if s is not ContainerState.REMOVED)
LIVING_SANDBOX_STATES = tuple(s for s in SandboxState if s is not SandboxState.REMOVED)

Row = Sequence[str]


def table(header: Row, rows: Iterable[Row]) -> str:
    """Aligned columns, the last one ragged."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) - 1)]
    return "".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip() + "\n"
        for line in lines
    )


# --- commands and events ---------------------------------------------------------------------------------------------


def answer(book: b.Book, command: c.Command) -> str:
    return b.shown(book.copy().ask(command))


def permitted() -> dict[str, str]:
    con = [
        (s, n, answer(b.with_container(s), k)) for n, k in CONTAINER_COMMANDS.items() for s in LIVING_CONTAINER_STATES
    ]
    box = [(s, n, answer(b.with_sandbox(s), k)) for n, k in SANDBOX_COMMANDS.items() for s in LIVING_SANDBOX_STATES]
    img = [(s, n, answer(b.with_image(s), k)) for n, k in IMAGE_COMMANDS.items() for s in ImageState]
    header = ("state", "command", "answer")
    return {
        "permitted_container": table(header, con),
        "permitted_sandbox": table(header, box),
        "permitted_image": table(header, img),
    }


def after(evolve: Callable[..., object], held: object, event: e.Event) -> str:
    try:
        return str(evolve(held, event, "x").state)  # type: ignore[attr-defined]
    except KeyError:
        return "-"


def container_in(state: ContainerState | None) -> containers.Container | None:
    """The value in a state, REMOVED included, which no node holds."""
    held = None
    for event in b.CONTAINER_PATH[state] if state else ():
        held = containers.evolve(held, event, b.CON)
    return held


def sandbox_in(state: SandboxState | None) -> sandboxes.Sandbox | None:
    held = None
    for event in b.sandbox_path(state) if state else ():
        held = sandboxes.evolve(held, event, b.BOX)
    return held


def image_in(state: ImageState | None, again: bool = False) -> images.Image | None:
    """`again`: the reference meant an image before the pull."""
    held = None
    path = (
        (*b.IMAGE_PATH[ImageState.PRESENT], e.ImagePullRequested()) if again else b.IMAGE_PATH[state] if state else ()
    )
    for event in path:
        held = images.evolve(held, event, b.REF)
    return held


def transitions() -> dict[str, str]:
    con = [
        (s or "-", e.short_name(type(ev)), after(containers.evolve, container_in(s), ev))
        for s in (None, *ContainerState)
        for ev in CONTAINER_EVENTS
    ]
    box = [
        (s or "-", e.short_name(type(ev)), after(sandboxes.evolve, sandbox_in(s), ev))
        for s in (None, *SandboxState)
        for ev in SANDBOX_EVENTS
    ]
    img = [
        (name, e.short_name(type(ev)), after(images.evolve, held, ev))
        for name, held in image_values()
        for ev in IMAGE_EVENTS
    ]
    header = ("from", "event", "to")
    return {
        "transitions_container": table(header, con),
        "transitions_sandbox": table(header, box),
        "transitions_image": table(header, img),
    }


def image_values() -> list[tuple[str, images.Image | None]]:
    named: list[tuple[str, images.Image | None]] = [("-", None)]
    named += [(s, image_in(s)) for s in ImageState]
    return [*named, ("PULLING again", image_in(None, again=True))]


# --- due and views ---------------------------------------------------------------------------------------------------


def owed(book: b.Book, key: str) -> str:
    what = due(book.node, key)
    words = [f"effect {type(what.effect).__name__}"] if what.effect else []
    words += [f"watch {type(what.watch).__name__}"] if what.watch else []
    words += [f"command {type(k).__name__} {next(iter(vars_of(k).values()))}" for k in what.commands]
    words += [f"at {what.at[0].boot_ns // 10**9} s {type(what.at[1]).__name__}"] if what.at else []
    return ", ".join(words) or "nothing"


def vars_of(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined]


def states() -> dict[str, str]:
    rows = []
    for s in LIVING_CONTAINER_STATES:
        book = b.with_container(s)
        rows.append((f"container {s}", containers.view(book.node.containers[b.CON]) or "-", owed(book, b.CON_KEY)))
    for s in LIVING_SANDBOX_STATES:
        for pid in (False, True):
            book = b.with_sandbox(s, pid=pid)
            name = f"sandbox {s}{' with infra' if pid else ''}"
            rows.append((name, sandboxes.view(book.node.sandboxes[b.BOX]) or "-", owed(book, b.BOX_KEY)))
    for i in ImageState:
        rows.append(
            (
                f"image {i}",
                "listed" if list(b.with_image(i).node.present()) else "-",
                owed(b.with_image(i), e.image_key(b.REF)),
            )
        )
    return {"states": table(("state", "view", "due"), rows)}


def pods() -> dict[str, str]:
    """What a sandbox owes with one container in each state, and once a removal waits for the stop."""
    rows = []
    stops = {
        "READY": (),
        "STOPPING": (e.SandboxStopRequested(),),
        "STOPPING then remove": (e.SandboxStopRequested("remove"),),
    }
    for s in LIVING_CONTAINER_STATES:
        for name, events in stops.items():
            rows.append((name, str(s), owed(b.with_container(s).put(b.BOX_KEY, *events), b.BOX_KEY)))
    for s in (ContainerState.INTERRUPTED, ContainerState.EXITED, ContainerState.REMOVING):
        events = (e.SandboxStopRequested("remove"), e.SandboxStopped())
        book = b.with_container(s).put(b.BOX_KEY, *events)
        rows.append(("STOPPED then remove", str(s), owed(book, b.BOX_KEY)))
        book.put(b.BOX_KEY, e.SandboxRemoveRequested())
        rows.append(("REMOVING", str(s), owed(book, b.BOX_KEY)))
    return {"due_pod": table(("sandbox", "its container", "due of the sandbox"), rows)}


# --- recovery --------------------------------------------------------------------------------------------------------

EXIT_FILES: Mapping[str, ExitFile | None] = {
    "code": ExitFile(7, b.WALL + 1),
    "garbage": ExitFile(None, b.WALL + 1, "x?"),
    "absent": None,
}


def container_book(folded: str) -> b.Book:
    """A log that folds to a state, NO_RECORD or QUARANTINED."""
    if folded == "QUARANTINED":
        return b.with_container(ContainerState.RUNNING).spoil(b.CON_KEY)
    return b.with_sandbox() if folded in ("NO_RECORD", "REMOVED") else b.with_container(ContainerState(folded))


def find(book: b.Book, world: World, key: str) -> Finding | None:
    return next((f for f in recovery.reconcile(book.node, world, FACTS, b.at(5)) if f.key == key), None)


CONTAINER_FOLDED = ("NO_RECORD", "QUARANTINED", *LIVING_CONTAINER_STATES)
SANDBOX_FOLDED = ("NO_RECORD", "QUARANTINED", *LIVING_SANDBOX_STATES)


def find_container(folded: str, task: TaskState, monitor: MonitorState, file: ExitFile | None) -> Finding:
    world = World(b.BOOT_ID, tasks={b.CON: TaskObservation(task, monitor, file)})
    found = find(container_book(folded), world, b.CON_KEY)
    assert found is not None
    return found


def told(event: e.Event) -> str:
    if isinstance(event, e.ContainerExited):
        return f"container.exited {event.code} {event.evidence.source}{f' {event.evidence.quote!r}' * bool(event.evidence.quote)}"
    return e.short_name(type(event))


def recovered_containers() -> str:
    rows = []
    for folded, task, monitor in product(CONTAINER_FOLDED, TaskState, MonitorState):
        found = {name: find_container(folded, task, monitor, file) for name, file in EXIT_FILES.items()}
        lines = {name: " ".join(map(told, f.events)) for name, f in found.items()}
        first = found["code"]
        text = lines["code"] if len(set(lines.values())) == 1 else "; ".join(f"{n}: {t}" for n, t in lines.items())
        rows.append((folded, task, monitor, first.row, str(first.verdict), text))
    for task, monitor in product(TaskState, MonitorState):
        row, verdict, _ = recovery.container_row(ContainerState.REMOVED, task, monitor)
        rows.append(("REMOVED", task, monitor, row, str(verdict), ""))
    return table(("folded", "task", "monitor", "row", "verdict", "events"), rows)


def evidence() -> str:
    rows = []
    needs = [("nothing", False, False), ("namespace", True, False), ("infra", False, True), ("both", True, True)]
    for (name, network, pid), namespace, infra, cached, left in product(
        needs, NamespaceState, InfraState, (False, True), (False, True)
    ):
        known = b.with_sandbox(SandboxState.READY, network, pid).node.sandboxes[b.BOX]
        seen = SandboxObservation(namespace, infra, cached, left)
        row = (name, namespace, infra, "cached" if cached else "-", "left" if left else "-")
        rows.append((*row, str(recovery.sandbox_evidence(known, seen))))
    return table(("needs", "namespace", "infra", "CNI cache", "directory", "evidence"), rows)


def recovered_sandboxes() -> str:
    worlds = {
        "whole": SandboxObservation(NamespaceState.NSFS),
        "broken": SandboxObservation(NamespaceState.PLAIN),
        "gone": SandboxObservation(),
        "unreadable": SandboxObservation(readable=False),
    }
    rows = []
    for folded, (name, seen), boot_id in product(SANDBOX_FOLDED, worlds.items(), (b.BOOT_ID, "boot-2")):
        if folded == "QUARANTINED":
            book = b.with_sandbox().spoil(b.BOX_KEY)
        else:
            book = b.with_image() if folded == "NO_RECORD" else b.with_sandbox(SandboxState(folded))
        found = find(book, World(boot_id, sandboxes={b.BOX: seen}), b.BOX_KEY)
        assert found is not None
        boot = "same" if boot_id == b.BOOT_ID else "other"
        rows.append((folded, name, boot, found.row, str(found.verdict), " ".join(map(told, found.events))))
    return table(("folded", "evidence", "boot", "row", "verdict", "events"), rows)


def find_image(folded: str, store: StoreState) -> Finding | None:
    """Of "PULLING again" the reference means in the store what it meant before."""
    book = {
        "NO_RECORD": b.Book,
        "QUARANTINED": lambda: b.with_image().spoil(e.image_key(b.REF)),
        "PULLING again": lambda: b.with_image().put(e.image_key(b.REF), e.ImagePullRequested()),
    }.get(folded, lambda: b.with_image(ImageState(folded)))()
    names: dict[str, PulledImage] = {} if store is StoreState.ABSENT else {b.REF: b.pulled()}
    shown = {} if store is StoreState.ABSENT else {b.ID_A: store}
    world = World(b.BOOT_ID, images=ImageObservation(shown, names))
    return find(book, world, f"image-id/{b.ID_A}" if folded == "NO_RECORD" else e.image_key(b.REF))


IMAGE_FOLDED = ("NO_RECORD", "QUARANTINED", *ImageState, "PULLING again")


def recovered_images() -> str:
    rows = []
    for folded, store in product(IMAGE_FOLDED, StoreState):
        found = find_image(folded, store)
        if found is None:
            rows.append((folded, store, "-", "-", ""))
        else:
            rows.append((folded, store, found.row, str(found.verdict), " ".join(map(told, found.events))))
    return table(("folded", "store", "row", "verdict", "events"), rows)


def everything() -> dict[str, str]:
    """All golden copies by file name."""
    found = {**permitted(), **transitions(), **states(), **pods()}
    found |= {
        "recovery_container": recovered_containers(),
        "recovery_sandbox_evidence": evidence(),
        "recovery_sandbox": recovered_sandboxes(),
        "recovery_image": recovered_images(),
    }
    return {f"{name}.txt": text for name, text in found.items()}

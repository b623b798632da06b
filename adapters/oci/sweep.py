"""One read-only look at containers and sandboxes: /proc and our files, never the runtime's program.

One broken object becomes UNREADABLE with its text; it never spoils the others.
"""

import os
from collections.abc import Iterable, Sequence

from adapters.oci import cgroups, files, namespaces, process
from adapters.oci.layout import ID, ContainerPaths, Layout, SandboxPaths
from adapters.oci.monitor import read_exit, recorded, running
from adapters.oci.oom import at_end
from domain.container import Container
from domain.errors import StorageFailed
from domain.observations import (
    InfraState,
    Mark,
    MonitorState,
    NamespaceState,
    SandboxObservation,
    TaskObservation,
    TaskState,
)
from domain.records import Process
from domain.sandbox import Sandbox

COMM_WAITING = "runc:["
"""runc's init is called `runc:[2:INIT]` until it executes the container's program."""


def tasks(layout: Layout, containers: Sequence[Container], boot_id: str) -> dict[str, TaskObservation]:
    """Every container asked for, and every id that the disk or the runtime knows besides."""
    known = {container.id: container for container in containers}
    found = {**dict.fromkeys(known), **dict.fromkeys(ids_in(*layout.containers_known))}
    out = {one: _task(layout.container(one), known.get(one), boot_id) for one in found}
    for one, stray in running(layout.exits):
        if one not in out or not out[one].leftovers:
            text = f"a monitor without a bundle: pid {stray.pid}"
            out[one] = TaskObservation(monitor=MonitorState.ALIVE, leftovers=True, text=text)
    return out


def ids_in(*directories: str) -> Iterable[str]:
    for directory in directories:
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        yield from (name for name in names if ID.fullmatch(name))


def _task(paths: ContainerPaths, container: Container | None, boot_id: str) -> TaskObservation:
    try:
        return _look(paths, container, boot_id)
    except (StorageFailed, OSError, ValueError) as error:
        return TaskObservation(TaskState.UNREADABLE, leftovers=True, text=process.printable(str(error)))


def _look(paths: ContainerPaths, container: Container | None, boot_id: str) -> TaskObservation:
    mark, made_in = files.read_owner(paths.owner)
    init = container.init if container else None
    # state.json is large and holds nothing new where the recorded init lives.
    own = init if _lives(init, boot_id) else files.runtime_init(paths.state, made_in or boot_id)
    init = init or own
    monitor = container.monitor if container and container.monitor else recorded(paths)
    state, text = _state(paths, init, own, boot_id)
    cgroup = (files.read(paths.cgroup) or b"").decode(errors="replace")
    kills = cgroups.oom_counter(cgroup) if cgroup and state is not TaskState.ABSENT else None
    ended = read_exit(paths)
    # Of one whose end is on record nothing more is asked.
    gone = kills is None and container is not None and container.live
    return TaskObservation(
        task=state,
        monitor=MonitorState.ALIVE if _lives(monitor, boot_id) else MonitorState.DEAD,
        exit=ended,
        oom=gone and at_end(init, ended.code if ended else None, paths.oom),
        oom_kills=kills or 0,
        started=os.path.isdir(paths.task) and not os.path.lexists(paths.fifo),
        leftovers=any(map(os.path.lexists, (paths.directory, paths.task, paths.exit_copy, paths.attach_link))),
        mark=mark,
        text=text,
    )


def _state(paths: ContainerPaths, init: Process | None, own: Process | None, boot_id: str) -> tuple[TaskState, str]:
    """`init`: on record. `own`: by the runtime's file; the same unless somebody else was at work."""
    if _lives(init, boot_id):
        assert init is not None
        return (TaskState.CREATED if waits_for_start(paths, init) else TaskState.RUNNING), ""
    if own != init and _lives(own, boot_id):
        assert own is not None and init is not None
        return TaskState.UNREADABLE, f"the runtime's init is {own.pid}, on record is {init.pid}"
    if os.path.isdir(paths.task):
        return TaskState.STOPPED, ""
    if init is not None and init.boot_id == boot_id and process.start_time(init.pid) is not None:
        return TaskState.OTHER_PID, f"pid {init.pid} is another process now"
    return TaskState.ABSENT, ""


def _lives(found: Process | None, boot_id: str) -> bool:
    return found is not None and found.boot_id == boot_id and process.start_time(found.pid) == found.start


def waits_for_start(paths: ContainerPaths, init: Process) -> bool:
    """Whether the init process still is the runtime's, waiting in its fifo.

    The fifo alone does not tell: a `runc start` killed half way leaves it behind a program that runs.
    """
    if not os.path.lexists(paths.fifo):
        return False
    comm = (files.read(f"/proc/{init.pid}/comm") or b"").decode(errors="replace")
    return comm.startswith(COMM_WAITING)


# --- sandboxes -------------------------------------------------------------------------------------------------------


def sandboxes(layout: Layout, known: Sequence[Sandbox], boot_id: str) -> dict[str, SandboxObservation]:
    """Every sandbox asked for, and every id that the disk, the runtime or a pin of ours knows besides."""
    by_id = {sandbox.id: sandbox for sandbox in known}
    places = (layout.sandboxes, layout.sandboxes_run, layout.infra_root)
    found = {**dict.fromkeys(by_id), **dict.fromkeys(ids_in(*places)), **dict.fromkeys(pinned(layout))}
    return {one: _sandbox(layout, by_id.get(one), one, boot_id) for one in found}


def pinned(layout: Layout) -> Iterable[str]:
    """The sandboxes after which network pins of our log are named."""
    try:
        names = os.listdir(layout.netns)
    except OSError:
        # Whatever it is: it is the machine's directory, and each known pin is looked at by itself.
        return
    yield from filter(None, map(layout.pinned_by, names))


def _sandbox(layout: Layout, sandbox: Sandbox | None, sandbox_id: str, boot_id: str) -> SandboxObservation:
    paths = layout.sandbox(sandbox_id)
    try:
        mark, made_in = files.read_owner(paths.owner)
        if mark is None and os.path.lexists(paths.net):
            # Where nothing else is left of a sandbox: the pin's name tells the log, though no record of it.
            mark = Mark(layout.log_id, 0)
        infra = sandbox.infra if sandbox and sandbox.infra else files.runtime_init(paths.infra_state, made_in)
        return SandboxObservation(
            namespace=namespace_state(paths, sandbox),
            infra=_infra_state(infra, boot_id),
            leftovers=any(map(os.path.lexists, paths.places)),
            mark=mark,
        )
    except (StorageFailed, OSError, ValueError) as error:
        return SandboxObservation(leftovers=True, readable=False, text=process.printable(str(error)))


def _infra_state(infra: Process | None, boot_id: str) -> InfraState:
    if infra is None:
        return InfraState.NONE
    return InfraState.ALIVE if _lives(infra, boot_id) else InfraState.DEAD


def namespace_state(paths: SandboxPaths, sandbox: Sandbox | None) -> NamespaceState:
    """NSFS only where every namespace that the pod should have is pinned; PLAIN where one is not."""
    states = {_pin_state(paths, kind) for kind in expected_pins(paths, sandbox)}
    if states == {NamespaceState.NSFS}:
        return NamespaceState.NSFS
    return NamespaceState.ABSENT if states <= {NamespaceState.ABSENT} else NamespaceState.PLAIN


def expected_pins(paths: SandboxPaths, sandbox: Sandbox | None) -> tuple[str, ...]:
    """The kinds of namespaces; of a sandbox that nobody knows those that there are files for."""
    if sandbox is None:
        return tuple(kind for kind in namespaces.FLAGS if any(map(os.path.lexists, places_of(paths, kind))))
    return namespaces.kinds(sandbox.config)


def places_of(paths: SandboxPaths, kind: str) -> tuple[str, ...]:
    return namespaces.network_places(paths) if kind == "net" else (paths.pin(kind),)


def _pin_state(paths: SandboxPaths, kind: str) -> NamespaceState:
    states = {_state_at(path) for path in places_of(paths, kind)}
    return next(
        (state for state in (NamespaceState.NSFS, NamespaceState.PLAIN) if state in states), NamespaceState.ABSENT
    )


def _state_at(path: str) -> NamespaceState:
    try:
        return NamespaceState.NSFS if namespaces.is_pinned(path) else NamespaceState.PLAIN
    except FileNotFoundError:
        return NamespaceState.ABSENT

"""The sandbox aggregate: `decide` (state, command -> decision) and `evolve` (state, event -> state)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from domain import commands as c
from domain import events as e
from domain.config import NamespaceMode, SandboxConfig
from domain.decision import JOIN, Accept, Already, Decision, Join, Refused, Wait
from domain.errors import NameTaken
from domain.lifecycle import SANDBOX_NEXT, SANDBOX_PERMITTED, SANDBOX_VIEW, Refuse, SandboxState
from domain.records import Now, Process


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Everything the log says about one sandbox. Times are wall ns, 0 where it has not happened.

    `held`: what the CNI plugins gave, or may have given, is not released yet.
    """

    id: str
    state: SandboxState
    config: SandboxConfig
    request_hash: str
    created_at: int
    boot_id: str
    ready: bool = False
    infra: Process | None = None
    ips: tuple[str, ...] = ()
    network: str = ""
    held: bool = False
    leak: str = ""
    then: str = ""
    error: str = ""
    text: str = ""

    @property
    def own_network(self) -> bool:
        """Whether the pod has a network of its own, set up and released by CNI plugins."""
        return self.config.namespaces.network is NamespaceMode.POD

    @property
    def own_namespaces(self) -> bool:
        """Whether the pod has namespaces of its own pinned (network and UTS, or IPC)."""
        modes = self.config.namespaces
        return NamespaceMode.POD in (modes.network, modes.ipc)

    @property
    def own_pid_namespace(self) -> bool:
        """Whether an infra process holds the pod's pid namespace."""
        return self.config.namespaces.pid is NamespaceMode.POD


def view(sandbox: Sandbox) -> str | None:
    """The CRI state's name, or None where the sandbox is not listed."""
    if sandbox.state is SandboxState.REMOVING and not sandbox.ready:
        return None
    return SANDBOX_VIEW[sandbox.state]


TAKEN = SANDBOX_PERMITTED[SandboxState.NOTREADY, c.RunSandbox]
"""The refusal of a name that another request holds."""


# --- decide ----------------------------------------------------------------------------------------------------------


def decide(sandbox: Sandbox, command: c.Command, now: Now) -> Decision:
    """The decision on a command to an existing sandbox."""
    cell = SANDBOX_PERMITTED[sandbox.state, type(command)]
    if isinstance(cell, Refuse):
        return refused(sandbox, command, cell)
    if isinstance(cell, Already | Join | Wait):
        return cell
    event = BUILD[cell](sandbox, command, now)
    if evolve(sandbox, event) == sandbox:
        return JOIN
    return Accept(((e.sandbox_key(sandbox.id), event),))


def refused(sandbox: Sandbox, command: c.Command, cell: Refuse) -> Refused:
    verb = c.COMMAND_NAME.get(type(command), "record")
    text = f"cannot {verb} sandbox {sandbox.id}: {cell.why} (state {sandbox.state})"
    if cell.error is NameTaken:
        name = sandbox.config
        text = (
            f"cannot run sandbox {name.namespace}/{name.name} (attempt {name.attempt}): "
            f"the name belongs to {sandbox.id} (state {sandbox.state})"
        )
    return Refused(cell.error(text))


def _stop(sandbox: Sandbox, command: c.Command, now: Now) -> e.Event:
    return e.SandboxStopRequested("remove" if isinstance(command, c.RemoveSandbox) else sandbox.then)


Builder = Callable[[Sandbox, Any, Now], e.Event]

BUILD: Mapping[type, Builder] = {
    e.SandboxNetworkSet: lambda _, cmd, now: e.SandboxNetworkSet(cmd.ips, cmd.result),
    e.SandboxReady: lambda _, cmd, now: e.SandboxReady(cmd.infra),
    e.SandboxRunFailed: lambda _, cmd, now: e.SandboxRunFailed(cmd.error, cmd.text),
    e.SandboxDied: lambda _, cmd, now: e.SandboxDied(now.wall_ns, cmd.text),
    e.SandboxStopRequested: _stop,
    e.SandboxNetworkReleased: lambda _, cmd, now: e.SandboxNetworkReleased(),
    e.SandboxNetworkLeaked: lambda _, cmd, now: e.SandboxNetworkLeaked(cmd.attempts, cmd.text),
    e.SandboxStopped: lambda _, cmd, now: e.SandboxStopped(),
    e.SandboxRemoveRequested: lambda _, cmd, now: e.SandboxRemoveRequested(),
    e.SandboxRemoved: lambda _, cmd, now: e.SandboxRemoved(),
}
"""How each event that a command may lead to gets its values."""


# --- evolve ----------------------------------------------------------------------------------------------------------


def evolve(sandbox: Sandbox | None, event: e.Event, sandbox_id: str = "") -> Sandbox:
    """The sandbox after the event. Raises KeyError where the table has no such row: the log is not ours."""
    state = SANDBOX_NEXT[sandbox.state if sandbox else None, type(event)]
    if isinstance(event, e.SandboxRunRequested):
        fresh = Sandbox(sandbox_id, state, event.config, event.request_hash, event.at, event.boot_id)
        return replace(fresh, held=fresh.own_network)
    assert sandbox is not None
    changed = CHANGES[type(event)](sandbox, event) if type(event) in CHANGES else {}
    return replace(sandbox, state=state, **changed)


Change = Callable[[Sandbox, Any], dict[str, Any]]

CHANGES: Mapping[type, Change] = {
    e.SandboxNetworkSet: lambda _, ev: {"ips": ev.ips, "network": ev.result},
    e.SandboxReady: lambda _, ev: {"ready": True, "infra": ev.infra},
    e.SandboxRunFailed: lambda _, ev: {"error": ev.error, "text": ev.text},
    e.SandboxDied: lambda _, ev: {"text": ev.text},
    e.SandboxStopRequested: lambda _, ev: {"then": ev.then},
    e.SandboxNetworkReleased: lambda _, ev: {"held": False, "leak": ""},
    e.SandboxNetworkLeaked: lambda _, ev: {"leak": ev.text},
    e.SandboxResourcesUpdated: lambda sb, ev: {
        "config": replace(sb.config, overhead=ev.overhead, resources=ev.resources)
    },
}
"""What a state remembers of each event, besides the state itself."""

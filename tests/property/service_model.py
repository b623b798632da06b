"""What clients were promised, as plain dicts: the naive model of the whole service.

It knows nothing of states or tables. It notes what was asked and what was answered, and says of a node and a machine
which promise is broken. An id is *doomed* once anybody asked for its removal: from then on it may go at any time.
"""

from collections.abc import Container, Iterator
from typing import Any

from domain import commands as c
from domain import container as containers
from domain import sandbox as sandboxes
from domain.names import sandbox_name
from domain.node import Node

LIVE = ("CREATED", "STARTING", "RUNNING", "STOPPING")
INTERRUPTED_S = 600
"""The documented time for which an interrupted create keeps its name."""


class Promises:
    def __init__(self) -> None:
        self.ids: dict[object, tuple[str, str]] = {}
        self.pod_of: dict[str, str] = {}
        self.doomed: set[str] = set()
        self.created: set[str] = set()
        self.started: set[str] = set()
        self.stopped: set[str] = set()
        self.removed: set[str] = set()
        self.pulled: dict[str, str] = {}
        self.exits: dict[str, tuple[Any, ...]] = {}
        self.deadlines: dict[str, tuple[str, int]] = {}

    # --- what is asked -----------------------------------------------------------------------------------------------

    def asked(self, command: c.Command, image_id: str = "") -> None:
        match command:
            case c.RemoveSandbox():
                self.doomed.add(command.sandbox_id)
            case c.RemoveContainer():
                self.doomed.add(command.container_id)
            case c.RemoveImage():
                self.pulled = {r: i for r, i in self.pulled.items() if i != image_id and r != command.image}
            case c.PullImage():
                self.pulled.pop(command.reference, None)

    def damaged(self, image_id: str) -> None:
        self.pulled = {r: i for r, i in self.pulled.items() if i != image_id}

    # --- what is answered --------------------------------------------------------------------------------------------

    def answered(self, command: c.Command, value: str, listed: bool) -> Iterator[str]:
        """Takes a yes down; yields what is wrong with it already. `listed`: the client could know what it named."""
        match command:
            case c.RunSandbox():
                yield from self._made(sandbox_name(command.config), command.request_hash, value)
            case c.CreateContainer():
                self.pod_of[value] = command.sandbox_id
                name = (command.sandbox_id, command.config.name, command.config.attempt)
                yield from self._made(name, command.request_hash, value)
            case c.StartContainer():
                self.started.add(command.container_id)
            case c.StopContainer() if listed:
                self.stopped.add(command.container_id)
            case c.StopSandbox() if listed:
                self.stopped.add(command.sandbox_id)
            case c.RemoveContainer():
                self.removed.add(command.container_id)
            case c.RemoveSandbox():
                self.removed.add(command.sandbox_id)

    def _made(self, name: object, request_hash: str, value: str) -> Iterator[str]:
        held = self.ids.get(name)
        if held is not None and not self._is_doomed(held[0]):
            if held[0] != value:
                yield f"{name} was answered with {held[0]}, now with {value}"
            if held[1] != request_hash:
                yield f"{name} was made by request {held[1]}, request {request_hash} got it too"
        if value in self.removed:
            yield f"{name} was answered with {value}, which is removed"
        self.ids[name] = (value, request_hash)
        self.created.add(value)

    def _is_doomed(self, known: str) -> bool:
        return known in self.doomed or self.pod_of.get(known, "") in self.doomed

    # --- held against what is there ----------------------------------------------------------------------------------

    def broken(self, node: Node, machine: Any, net: Any, side_files: Container[str]) -> Iterator[str]:
        yield from self._lost(node, side_files)
        yield from self._undead(node, machine)
        yield from self._images(node)
        yield from self._exits(node, machine)
        yield from self._stops(node)
        yield from self._addresses(node, net)

    def _lost(self, node: Node, side_files: Container[str]) -> Iterator[str]:
        for known in self.created:
            if self._is_doomed(known):
                continue
            box, con = node.sandboxes.get(known), node.containers.get(known)
            if box is None and con is None:
                yield f"{known} was acknowledged and is lost"
            elif (box and sandboxes.view(box)) is None and (con and containers.view(con)) is None:
                yield f"{known} was acknowledged and is not listed"
            elif known not in side_files:
                yield f"what {known} holds back from the log is lost"
        for known in self.started & set(node.containers):
            if not node.containers[known].started_at:
                yield f"the start of {known} was acknowledged and is forgotten"

    def _addresses(self, node: Node, net: Any) -> Iterator[str]:
        """What a pod was told is its own is its own; what a stop gave back is free, or told to have leaked."""
        for box in node.sandboxes.values():
            mine = {address for address, who in net.held.items() if who == box.id}
            if box.own_network and box.state == "READY" and set(box.ips) != mine:
                yield f"{box.id} was told to have {box.ips}, it has {mine}"
            if box.id in self.stopped and box.held and not box.leak:
                yield f"{box.id} was stopped with its network neither released nor told to have leaked"
            if box.id in self.stopped and not box.held and mine:
                yield f"{box.id} was released and still has {mine}"

    def _undead(self, node: Node, machine: Any) -> Iterator[str]:
        for known in self.stopped & set(node.containers):
            if node.containers[known].state in LIVE:
                yield f"{known} was stopped, its state is {node.containers[known].state}"
        for known in self.stopped & set(node.sandboxes):
            if node.sandboxes[known].state in ("SETTING_UP", "READY", "STOPPING", "NOTREADY"):
                yield f"{known} was stopped, its state is {node.sandboxes[known].state}"
            for held in node.of_sandbox(known):
                if held.state in LIVE:
                    yield f"{known} was stopped, its container {held.id} is {held.state}"
        for known in self.stopped & set(machine.tasks):
            if machine.tasks[known].init_alive and machine.tasks[known].started:
                yield f"{known} was stopped, its process lives"
        for known in self.removed:
            if known in node.containers or known in node.sandboxes:
                yield f"{known} was removed and is on record again"
            if known in machine.tasks or known in machine.pods:
                yield f"{known} was removed and something of it exists"

    def _images(self, node: Node) -> Iterator[str]:
        for reference, image_id in self.pulled.items():
            image = node.images.get(reference)
            if image is None or image.held is None or image.held.image_id != image_id:
                yield f"the pull of {reference} was acknowledged and it is not there"

    def _exits(self, node: Node, machine: Any) -> Iterator[str]:
        for known in node.containers.values():
            if known.state != "EXITED" or known.id in self.exits:
                continue
            told, task = machine.told.get(known.id, set()), machine.tasks.get(known.id)
            if known.evidence.source == "exit-file" and known.exit_code not in told:
                yield f"{known.id} has exit code {known.exit_code}, the world told {told}"
            if known.evidence.source == "none" and task is not None and task.exit is not None:
                yield f"{known.id} has an unknown code, its exit file says {task.exit.code}"
            if known.evidence.source == "start-error" and task is not None and task.started:
                yield f"{known.id} failed to start by the log, yet it was started (world: {task.exit})"
            if known.evidence.source not in ("exit-file", "none", "start-error"):
                yield f"{known.id} ended by {known.evidence.source}"
        for known in node.containers.values():
            if known.state != "EXITED":
                continue
            now = (known.exit_code, known.reason, known.finished_at, known.evidence)
            if self.exits.setdefault(known.id, now) != now:
                yield f"the exit of {known.id} was {self.exits[known.id]}, now it is {now}"

    def _stops(self, node: Node) -> Iterator[str]:
        """A deadline once on record never moves away."""
        for known in node.containers.values():
            if known.state != "STOPPING" or known.stop is None:
                continue
            boot_id, boot_ns = known.stop.deadline.boot_id, known.stop.deadline.boot_ns
            held = self.deadlines.setdefault(known.id, (boot_id, boot_ns))
            if (held[0] == boot_id and held[1] < boot_ns) or held[0] != boot_id:
                yield f"the deadline of {known.id} was {held}, now it is {boot_id} {boot_ns}"
            self.deadlines[known.id] = (boot_id, boot_ns)


def unlisted_names(node: Node) -> Iterator[tuple[str, str]]:
    """Id and state of everything that holds a name and is not shown by List."""
    for box in node.sandboxes.values():
        if sandboxes.view(box) is None:
            yield box.id, box.state
    for con in node.containers.values():
        if containers.view(con) is None:
            yield con.id, con.state

"""What a front end (the CRI) may ask of the daemon. Structural: adapters never import it, `Daemon` fulfils it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from domain.commands import Command
from domain.config import ContainerSecrets, SandboxSecrets, Withheld
from domain.node import Node
from domain.records import Cause, Head, TaskUsage, Usage
from service.ports import ExecResult


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of Status. `ok` False needs a reason (CamelCase word) and a message a person can act on."""

    ok: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """`runtime` and `network` are the CRI's two conditions; `info` is the verbose part, JSON values by name."""

    runtime: Condition
    network: Condition
    info: Mapping[str, Any]


Change = Callable[[str], None]
"""Called synchronously with the key of each aggregate that changed, after its event is durable and folded."""


class Api(Protocol):
    """`node` may be read at any time and never changed. Everything raises `domain.errors`."""

    node: Node

    async def submit(self, command: Command, cause: Cause, secrets: Withheld | None = None) -> str:
        """Decides, appends, waits for the outcome. Returns the id that the reply carries, or an empty string.

        Cancelling ends the wait, never the work; only a pull ends with the last client that waited for it. `secrets`
        belong to CreateContainer, RunSandbox and PullImage.
        """
        ...

    async def exec_sync(self, container_id: str, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Runs a command in a running container. The caller owns this work: cancelling ends the command."""
        ...

    async def reopen_log(self, container_id: str) -> None:
        """After the log was renamed: on return a new one is there and the old one grows no more."""
        ...

    def secrets(self, name: str) -> ContainerSecrets | SandboxSecrets | None: ...

    async def netns(self, sandbox_id: str) -> str:
        """The file on which the pod's own network namespace is pinned; empty where none is."""
        ...

    def health(self) -> Health: ...

    def head(self) -> Head: ...

    async def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskUsage]:
        """Of those of them that have cgroups."""
        ...

    async def image_usage(self) -> Usage: ...

    def on_change(self, changed: Change) -> None: ...

"""What the CRI asks of the daemon. Structural: `service` fulfils it and is never imported here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from domain.commands import Command
from domain.config import ContainerConfig, ContainerSecrets, SandboxConfig, SandboxSecrets, Withheld
from domain.node import Node
from domain.records import Cause, Head, TaskUsage, Usage

Digester = Callable[[bytes], str]
"""Keyed hash of a value that must not be known: 32 hex digits."""

Check = Callable[[ContainerConfig, SandboxConfig], None]
"""Raises InvalidRequest or Unsupported for a container that could never be made in this sandbox."""

Normalise = Callable[[str], str]
"""An image reference in its full form; raises InvalidRequest."""


class Condition(Protocol):
    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...


class Health(Protocol):
    """`info` holds JSON values by name, for people."""

    @property
    def runtime(self) -> Condition: ...
    @property
    def network(self) -> Condition: ...
    @property
    def info(self) -> Mapping[str, Any]: ...


class ExecResult(Protocol):
    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...
    @property
    def code(self) -> int: ...


class Api(Protocol):
    """`node` may be read at any time and never changed. Everything raises `domain.errors`."""

    @property
    def node(self) -> Node: ...

    async def submit(self, command: Command, cause: Cause, secrets: Withheld | None = None) -> str:
        """Returns the id that the reply carries. Cancelling ends the wait, not the work (a pull's: see `given_up`)."""
        ...

    async def exec_sync(self, container_id: str, argv: Sequence[str], timeout_s: float) -> ExecResult:
        """Cancelling ends the command. `timeout_s` 0: no limit."""
        ...

    async def reopen_log(self, container_id: str) -> None: ...

    def secrets(self, name: str) -> ContainerSecrets | SandboxSecrets | None: ...

    async def netns(self, sandbox_id: str) -> str: ...

    def health(self) -> Health: ...

    def head(self) -> Head: ...

    async def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskUsage]:
        """Of those of them that have cgroups."""
        ...

    async def image_usage(self) -> Usage: ...

    def on_change(self, changed: Callable[[str], None]) -> None: ...

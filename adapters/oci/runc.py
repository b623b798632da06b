"""The OCI runtime as a program: its path, what it says about itself, and its commands' arguments."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.oci import process, words
from domain.errors import Failure, RuntimeFailed
from domain.events import Binary

QUERY_LIMIT_S = 10.0
DPKG_INFO = "/var/lib/dpkg/info"
LIST_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Runtime:
    """runc (or one that takes the same arguments) with its state directory."""

    path: str
    root: str
    limit_s: float = 60.0
    arguments: tuple[str, ...] = field(default=())

    def argv(self, *line: str, log: str = "") -> tuple[str, ...]:
        """`log`: where the runtime's own messages go, as JSON lines; else they stand on its stderr."""
        return (self.path, *self.options(log), *line)

    def options(self, log: str = "") -> tuple[str, ...]:
        said = (f"--log={log}", "--log-format=json") if log else ()
        return (f"--root={self.root}", *said, *self.arguments)

    async def run(self, *line: str) -> process.Finished:
        """One command. Raises RuntimeFailed with what the runtime said, TimedOut."""
        done = await process.run(self.argv(*line), limit_s=self.limit_s)
        if done.code != 0:
            raise RuntimeFailed(failure_text(self.path, line[0], done))
        return done

    async def start(self, container_id: str) -> None:
        await self.run("start", container_id)

    async def delete(self, container_id: str) -> None:
        await self.run("delete", "--force", container_id)

    async def kill(self, container_id: str, signal: str) -> None:
        await self.run("kill", container_id, signal)

    async def state(self, container_id: str) -> dict[str, Any]:
        """For a person or a test; the daemon reads /proc and state.json instead (3 ms against 0.1)."""
        found = json.loads((await self.run("state", container_id)).out)
        if not isinstance(found, dict):
            raise RuntimeFailed(f"{self.path} state: not an object")
        return found


def failure_text(path: str, command: str, done: process.Finished) -> str:
    how = f"exit {done.code}" if done.code >= 0 else f"signal {-done.code}"
    return f"{os.path.basename(path)} {command}: {how}: {words.of_stderr(done.err) or 'said nothing'}"


def features(path: str) -> Mapping[str, Any]:
    """What `runc features` says; empty where the runtime has no such command (crun 1.8.1)."""
    try:
        done = process.run_blocking((path, "features"), limit_s=QUERY_LIMIT_S)
        found = json.loads(done.out) if done.code == 0 else {}
    except (Failure, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def binary(path: str) -> Binary:
    """The program as it is now: where, which version, from which Debian package. What is unknown stays empty."""
    try:
        done = process.run_blocking((path, "--version"), limit_s=QUERY_LIMIT_S)
        version = (done.out.split("\n", 1)[0].split() or [""])[-1][:64] if done.code == 0 else ""
    except Failure:
        version = ""
    return Binary(path, process.printable(version), package(path))


def package(path: str) -> str:
    """`runc 1.1.5+ds1-1+deb12u1`: Debian repairs runc without a new version number, so this is what tells."""
    name = os.path.basename(path)
    try:
        with open(f"{DPKG_INFO}/{name}.list") as file:
            owned = file.read(LIST_MAX).split("\n")
        if path not in owned and f"/usr{path}" not in owned and path.removeprefix("/usr") not in owned:
            return ""
        query = ("/usr/bin/dpkg-query", "-W", "-f=${Package} ${Version}", name)
        done = process.run_blocking(query, limit_s=QUERY_LIMIT_S)
    except (OSError, Failure):
        return ""
    return process.printable(done.out.strip()) if done.code == 0 else ""

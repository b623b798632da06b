"""One run of one plugin: environment and input as the CNI specification has them, its failure as one clear line."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.network import process
from adapters.network.capabilities import runtime_config
from adapters.network.conf import NetworkConfig, find
from adapters.network.result import INTERFACE, error_of, in_version
from domain.errors import NetworkFailed, TimedOut

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INPUT_MAX = 4 << 20
TEXT_MAX = 1000


class Budget:
    """The time that all plugins of one command have together, and each alone. Seconds of the loop's clock."""

    def __init__(self, whole_s: float, each_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + whole_s
        self._each_s = each_s

    def next_s(self) -> float:
        return max(0.0, min(self._each_s, self._until - self._loop.time()))


@dataclass(frozen=True, slots=True)
class Attachment:
    """Whom a run is about. `netns`: a path, or empty where the namespace is gone."""

    container_id: str
    netns: str
    args: Sequence[tuple[str, str]] = ()
    capability_args: Mapping[str, Any] | None = None

    def environment(self) -> dict[str, str]:
        return {
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in self.args),
        }


@dataclass(frozen=True, slots=True)
class Step:
    """A command to one plugin of a network. STATUS and GC are about no attachment."""

    command: str
    network: NetworkConfig
    plugin: Mapping[str, Any]
    attachment: Attachment | None = None
    previous: Mapping[str, Any] | None = None
    more: Mapping[str, Any] | None = None

    def input(self) -> bytes:
        """Raises NetworkFailed where it is too large."""
        value = {**self.plugin, "name": self.network.name, "cniVersion": self.network.version, **(self.more or {})}
        given = runtime_config(self.plugin, (self.attachment and self.attachment.capability_args) or {})
        if given:
            value["runtimeConfig"] = given
        if self.previous is not None:
            value["prevResult"] = in_version(self.previous, self.network.version)
        data = json.dumps(value, separators=(",", ":")).encode()
        if len(data) > INPUT_MAX:
            raise NetworkFailed(self.told(f"its input would have {len(data)} bytes"))
        return data

    def told(self, why: str) -> str:
        """A sentence for a person: network, plugin, command, cause."""
        text = f"network {self.network.name}: plugin {self.plugin['type']}: {self.command}: {why}"
        return "".join(char if char.isprintable() else " " for char in text[:TEXT_MAX])


@dataclass(frozen=True, slots=True)
class Plugins:
    """`owner`: the cache directory, by which a later daemon knows what this one left running."""

    bin_dirs: Sequence[str]
    owner: str

    async def run(self, step: Step, limit_s: float) -> bytes:
        """What the plugin answered. Raises NetworkFailed, TimedOut."""
        program = find(step.plugin["type"], self.bin_dirs)
        if program is None:
            raise NetworkFailed(step.told(f"it is not in {', '.join(self.bin_dirs)}"))
        try:
            done = await process.run([program], env=self._environment(step), stdin=step.input(), limit_s=limit_s)
        except TimedOut as error:
            raise TimedOut(step.told(error.text)) from None
        except NetworkFailed as error:
            raise NetworkFailed(step.told(error.text)) from None
        if done.code != 0:
            raise NetworkFailed(step.told(_why(done)))
        if done.cut:
            raise NetworkFailed(step.told(f"it answered more than {process.OUTPUT_MAX} bytes"))
        return done.out

    def _environment(self, step: Step) -> dict[str, str]:
        about = {} if step.attachment is None else step.attachment.environment()
        ours = {"PATH": PATH, process.OWNER: self.owner}
        return {**ours, "CNI_COMMAND": step.command, "CNI_PATH": ":".join(self.bin_dirs), **about}


def _why(done: process.Finished) -> str:
    ended = f"killed by signal {-done.code}" if done.code < 0 else f"exit {done.code}"
    return error_of(done.out) or (f"{ended}: {done.last_words}" if done.last_words else ended)

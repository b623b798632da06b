"""What was attached, in files of libcni's layout: `<directory>/results/<network>-<container id>-eth0`. Blocking.

An entry is made before the first plugin runs and holds all that a DEL needs, so that nothing else must be known. Our
own key `daybook` is the owner mark; libcni and its tools pass over it.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapters.network.capabilities import Arguments
from adapters.network.conf import DEPTH_MAX, BadConfig, NetworkConfig, from_list, json_object
from adapters.network.result import INTERFACE
from domain.errors import NetworkFailed
from domain.observations import Mark

KIND = "cniCacheV1"
HALF = ".new"
ENTRY_MAX = 4 << 20
ENTRY_DEPTH = DEPTH_MAX + 8
"""What a file or a plugin said, with what an entry has around it."""
FILE = re.compile(rf"(?P<network>[A-Za-z0-9][A-Za-z0-9_.-]{{0,149}})-(?P<id>[0-9a-f]{{64}})-{INTERFACE}")
SANDBOX_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One attachment. `result` None: the ADD has not come to its end."""

    container_id: str
    network: NetworkConfig
    netns: str
    args: Arguments = ()
    capability_args: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    mark: Mark | None = None

    def encoded(self) -> bytes:
        value: dict[str, Any] = {
            "kind": KIND,
            "containerId": self.container_id,
            "config": base64.b64encode(self.network.as_json()).decode(),
            "ifName": INTERFACE,
            "networkName": self.network.name,
            "netns": self.netns,
            "cniArgs": self.args,
            "capabilityArgs": self.capability_args or {},
        }
        if self.result is not None:
            value["result"] = self.result
        if self.mark is not None:
            value["daybook"] = {"log_id": self.mark.log_id, "seq": self.mark.seq}
        return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the cache. `entry` None: it cannot be read, and `text` says why."""

    path: str
    network: str
    container_id: str
    entry: Entry | None = None
    text: str = ""


class Cache:
    def __init__(self, directory: str) -> None:
        self.results = os.path.join(directory, "results")

    def write(self, entry: Entry, *, durable: bool) -> None:
        """The whole entry or the one before; 0600. `durable`: on disk on return. Raises NetworkFailed."""
        data = entry.encoded()
        if len(data) > ENTRY_MAX:
            raise NetworkFailed(f"network {entry.network.name}: the attachment takes {len(data)} bytes in the cache")
        path = self._path(entry.network.name, entry.container_id)
        try:
            os.makedirs(self.results, 0o700, exist_ok=True)
            _replace(path, data, durable)
        except OSError as error:
            raise NetworkFailed(f"cannot write {path}: {os.strerror(error.errno or 0)}") from error

    def _path(self, network: str, container_id: str) -> str:
        if not SANDBOX_ID.fullmatch(container_id):
            raise NetworkFailed(f"not a sandbox id: {container_id[:80]!r}")
        return os.path.join(self.results, f"{network}-{container_id}-{INTERFACE}")

    def find(self, container_id: str) -> list[Found]:
        """Every entry of a sandbox: more than one only where the network was renamed between two attempts."""
        suffix = f"-{container_id}-{INTERFACE}"
        names = [name for name in self._names() if name.endswith(suffix)]
        return [found for name in names if (found := self._read(name))]

    def every(self) -> Iterator[Found]:
        return (found for name in self._names() if (found := self._read(name)))

    def ids(self) -> set[str]:
        """Sandbox ids with an entry, readable or not."""
        return {match["id"] for name in self._names() if (match := FILE.fullmatch(name))}

    def tidy(self) -> None:
        """Removes what a daemon left that was killed while it wrote. Before any `write`."""
        for name in self._names():
            if name.endswith(HALF) and FILE.fullmatch(name.removesuffix(HALF)):
                self._unlink(os.path.join(self.results, name))

    def _names(self) -> list[str]:
        """Raises NetworkFailed where the directory is there and cannot be read: nothing is known then."""
        try:
            return sorted(os.listdir(self.results))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NetworkFailed(f"cannot read {self.results}: {os.strerror(error.errno or 0)}") from error

    def _read(self, name: str) -> Found | None:
        """None for what is no entry for eth0, and for one that has gone meanwhile."""
        match = FILE.fullmatch(name)
        if match is None:
            return None
        found = Found(os.path.join(self.results, name), match["network"], match["id"])
        try:
            fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                entry = _decoded(file.read(ENTRY_MAX + 1))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return Found(found.path, found.network, found.container_id, text=str(error)[:200])
        if (entry.network.name, entry.container_id) != (found.network, found.container_id):
            return Found(found.path, found.network, found.container_id, text="it is about another attachment")
        return Found(found.path, found.network, found.container_id, entry)

    def remove(self, found: Found) -> None:
        """Raises NetworkFailed."""
        self._unlink(found.path)

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise NetworkFailed(f"cannot remove {path}: {os.strerror(error.errno or 0)}") from error


def _replace(path: str, data: bytes, durable: bool) -> None:
    fd = os.open(f"{path}{HALF}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(fd)
    os.rename(f"{path}{HALF}", path)
    if durable:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _decoded(data: bytes) -> Entry:
    """Raises ValueError."""
    raw = json_object(data, ENTRY_MAX, ENTRY_DEPTH)
    if raw.get("kind") != KIND or raw.get("ifName") != INTERFACE:
        raise BadConfig(f"it is no {KIND} of {INTERFACE}")
    config, netns, container_id = raw.get("config"), raw.get("netns", ""), raw.get("containerId")
    if not isinstance(config, str) or not isinstance(netns, str) or not isinstance(container_id, str):
        raise BadConfig("a key is missing")
    result, capability_args = raw.get("result"), raw.get("capabilityArgs") or {}
    if not isinstance(capability_args, dict) or not (result is None or isinstance(result, dict)):
        raise BadConfig("a key is not an object")
    network = from_list(json_object(base64.b64decode(config, validate=True), ENTRY_MAX, ENTRY_DEPTH))
    return Entry(container_id, network, netns, _arguments(raw.get("cniArgs")), capability_args, result, mark_of(raw))


def _arguments(raw: object) -> Arguments:
    pairs = raw or []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair) for pair in pairs
    ):
        raise BadConfig("cniArgs is not a list of pairs")
    return tuple((name, value) for name, value in pairs)


def mark_of(raw: Mapping[str, Any]) -> Mark | None:
    """The owner mark; None where another runtime made the entry."""
    mark = raw.get("daybook")
    if not isinstance(mark, dict):
        return None
    log_id, seq = mark.get("log_id"), mark.get("seq")
    return Mark(log_id, seq) if isinstance(log_id, str) and type(seq) is int else None

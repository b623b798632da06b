"""The pod networks of a machine: Debian's plugins in a namespace that they take for the host's, each behind a stand-in
that notes its calls and breaks on demand; or the scripted plugins, for what Debian's do not do.
"""

import json
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.support.cni_lab import BridgeLab, ScriptedLab
from tests.support.daemon import STANDIN

CHAIN = ("bridge", "portmap")
"""In the order of ADD; bridge calls host-local."""
PROGRAMS = (*CHAIN, "host-local")
PORT = 8080


class Debian(BridgeLab):
    """bridge with masquerading, host-local, portmap: links, addresses and rules are real."""

    masquerade = True

    def make_plugins(self) -> None:
        super().make_plugins()
        (self.path / "real").mkdir()
        for script in list(self.bin.iterdir()):
            real = script.rename(self.path / "real" / script.name)
            script.symlink_to(STANDIN)
            script.with_suffix(".real").write_text(f"{real}\n")
        (self.bin / "lock").symlink_to(self.path.parent / "run" / "lock")

    def plugins(self) -> list[dict[str, Any]]:
        """IPv4 alone: IPv6 addresses settle for a second or two."""
        bridge, portmap = super().plugins()
        bridge["ipam"] |= {"ranges": [[{"subnet": f"{self.v4}.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
        return [bridge, portmap]

    def book(self) -> dict[str, list[str]]:
        """Sandbox id -> the addresses that host-local holds for it; "": it has made the file and not yet said for whom."""
        found: dict[str, list[str]] = {}
        directory = self.path / "ipam" / "pods"
        for file in directory.glob("[0-9]*") if directory.exists() else ():
            with suppress(FileNotFoundError):
                found.setdefault((file.read_text().split() or [""])[0], []).append(file.name)
        return found

    def inside(self, netns: str) -> list[str]:
        """The IPv4 addresses of eth0 as the kernel has them."""
        shown = json.loads(self.run("ip", "-json", "address", "show", "eth0", where=netns))
        return [a["local"] for a in shown[0]["addr_info"] if a["family"] == "inet"]

    def calls(self) -> list[tuple[str, str, str]]:
        """Command, plugin, sandbox id."""
        file = self.path / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(w[0], w[1], w[2]) for w in map(str.split, lines) if len(w) == 3]

    def check_calls(self, sandbox_id: str) -> None:
        """Every plugin that was told to ADD was told to DEL after that."""
        last: dict[str, str] = {}
        for command, plugin, who in self.calls():
            if who == sandbox_id and command in ("ADD", "DEL"):
                last[plugin] = command
        assert set(CHAIN) <= set(last) and set(last.values()) == {"DEL"}, last

    def held(self) -> set[str]:
        return set(self.book())


class Scripted(ScriptedLab):
    """alpha gives addresses, beta comes after it; both do what the test says."""

    @contextmanager
    def hangs(self) -> Iterator[Callable[[], bool]]:
        """In the block: whether a plugin has said that it hangs from now on."""
        fd = os.open(self.bin / "hanging", os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield lambda: bool(select.select([fd], [], [], 0)[0] and os.read(fd, 1))
        finally:
            os.close(fd)

    def held(self) -> set[str]:
        return set(self.book())

    def book(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file in (self.bin / "pool").iterdir():
            with suppress(FileNotFoundError):
                found.setdefault(file.read_text(), []).append(f"10.99.0.{file.name}")
        return found

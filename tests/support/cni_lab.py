"""Machines on which pods get networks: the fake, scripted plugins, and Debian's plugins in namespaces of their own.

Debian's plugins believe that a namespace of ours is the host's: bridge, addresses, packet filter and sysctls all come
and go with it, and nothing of this machine is touched.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from adapters import mountinfo
from adapters.network import namespace
from adapters.network.fake import Act, FakeNetwork, Net
from adapters.network.network import CniNetwork, Limits
from adapters.oci import kernel
from adapters.oci.namespaces import make as pin
from domain.config import SandboxConfig
from domain.lifecycle import SandboxState
from domain.sandbox import Sandbox
from tests.support.limits import SLOWNESS

T = TypeVar("T")

MARK = {"log_id": "log-1", "seq": 7}
POOL = 3
"""Addresses that each machine has to give."""
PLUGIN = Path(__file__).with_name("cni_plugin.py")
DEBIAN = Path("/usr/lib/cni")


class FakeLab:
    """The machine in memory."""

    async def settled(self, network: Any) -> None: ...

    hangs = collects = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.net = Net(pool=tuple(f"10.99.0.{n}" for n in range(10, 10 + POOL)))

    def network(self, **options: Any) -> Any:
        return FakeNetwork(self.net)

    def netns(self, sandbox_id: str) -> str:
        return f"/netns/{sandbox_id}"

    def drop_netns(self, sandbox_id: str) -> None:
        self.net.lose_link(sandbox_id)

    def held(self) -> set[str]:
        return set(self.net.held.values())

    def lose_link(self, sandbox_id: str) -> None:
        self.net.lose_link(sandbox_id)

    def hold_unknown(self, sandbox_id: str) -> None:
        self.net.hold(self.net.pool[-1], sandbox_id)

    def break_configuration(self) -> None:
        self.net.trouble = "broken"

    def spoil_entry(self, sandbox_id: str) -> None:
        self.net.entries[sandbox_id].readable = False

    def hang_in_add(self) -> None:
        self.net.at("net.add.allocated", Act.HANG)

    async def hanging(self) -> None:
        while "net.add.allocated" not in self.net.steps:
            await asyncio.sleep(0)

    def left(self) -> Any:
        return self.net.leftovers()

    def close(self) -> None: ...


class RealLab:
    """What scripted and Debian's plugins have in common: directories, pinned namespaces."""

    version = "1.1.0"
    hangs = collects = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.conf, self.bin, self.cache = path / "net.d", path / "bin", path / "cache"
        self.namespaces = path / "ns"
        for directory in (self.conf, self.bin, self.namespaces):
            directory.mkdir()
        self.make_plugins()
        self.configure(self.plugins())

    def make_plugins(self) -> None:
        raise NotImplementedError

    def plugins(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def configure(self, plugins: list[dict[str, Any]], file: str = "10-net.conflist", **more: Any) -> None:
        """Renamed into place, as those who write there do."""
        (self.conf / "new").write_text(
            json.dumps({"cniVersion": self.version, "name": "pods", "plugins": plugins, **more})
        )
        (self.conf / "new").rename(self.conf / file)

    def network(self, **options: Any) -> CniNetwork:
        limits = Limits(plugin_s=20 * SLOWNESS, chain_s=30 * SLOWNESS, status_s=5 * SLOWNESS, poll_s=60)
        given: dict[str, Any] = {"conf_dir": str(self.conf), "bin_dirs": [str(self.bin)], "limits": limits}
        given |= {"collects": True, **options}
        return CniNetwork(str(self.cache), **given)

    async def settled(self, network: Any) -> None:
        """Until the network has told what it thinks of what lies there now."""
        network.watcher.wake()
        await asyncio.wait_for(network.watcher.looked(), 20)

    def netns(self, sandbox_id: str) -> str:
        path = str(self.namespaces / sandbox_id)
        if not os.path.exists(path):
            pin({"net": path})
        return path

    def drop_netns(self, sandbox_id: str) -> None:
        path = str(self.namespaces / sandbox_id)
        kernel.unmount(path, kernel.MNT_DETACH)
        os.unlink(path)

    def entries(self) -> list[Path]:
        return sorted((self.cache / "results").glob("*")) if self.cache.exists() else []

    def break_configuration(self) -> None:
        (self.conf / "10-net.conflist").unlink()

    def spoil_entry(self, sandbox_id: str) -> None:
        (entry,) = (path for path in self.entries() if sandbox_id in path.name)
        entry.write_text("{ garbage")

    def left(self) -> Any:
        found = {"entries": [path.name for path in self.entries()], "addresses": sorted(self.held())}
        return {what: which for what, which in found.items() if which}

    def held(self) -> set[str]:
        raise NotImplementedError

    def close(self) -> None:
        for point in mountinfo.points_below(str(self.path)):
            kernel.unmount(point, kernel.MNT_DETACH)


class ScriptedLab(RealLab):
    """Two plugins that do what the test says: alpha gives addresses, beta comes after it."""

    def make_plugins(self) -> None:
        for kind in ("alpha", "beta"):
            shutil.copy(PLUGIN, self.bin / kind)
        (self.bin / "pool").mkdir()
        os.mkfifo(self.bin / "hanging")

    def plugins(self) -> list[dict[str, Any]]:
        return [{"type": "alpha"}, {"type": "beta"}]

    def behave(self, kind: str, command: str, **how: Any) -> None:
        (self.bin / f"{kind}.{command}").write_text(json.dumps(how))

    def behave_well(self) -> None:
        for path in self.bin.glob("*.[A-Z]*"):
            path.unlink()

    def calls(self, *commands: str) -> list[dict[str, Any]]:
        path = self.bin / "calls.jsonl"
        every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in every if not commands or call["command"] in commands]

    def order(self, *commands: str) -> list[str]:
        return [f"{call['command']} {call['type']}" for call in self.calls(*commands)]

    def held(self) -> set[str]:
        return {path.read_text() for path in (self.bin / "pool").iterdir()}

    def lose_link(self, sandbox_id: str) -> None:
        for path in (self.bin / "pool").iterdir():
            if path.read_text() == sandbox_id:
                path.unlink()

    def hold_unknown(self, sandbox_id: str) -> None:
        (self.bin / "pool/12").write_text(sandbox_id)

    def hang_in_add(self) -> None:
        self.behave("beta", "ADD", hang=True)

    async def hanging(self) -> None:
        """Until a plugin says that it hangs from now on."""
        fd = os.open(self.bin / "hanging", os.O_RDONLY | os.O_NONBLOCK)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(fd, lambda: future.done() or future.set_result(None))
        try:
            await asyncio.wait_for(future, 20)
        finally:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        super().close()
        for call in self.calls():
            assert not Path(f"/proc/{call['ids'][0]}").exists(), f"{call['type']} {call['command']} still runs"


class BridgeLab(RealLab):
    """bridge with host-local, portmap and bandwidth, in a namespace that they take for the host's."""

    version = "1.0.0"
    hangs = collects = masquerade = False
    bridge = "dbtest0"
    v4, v6 = "10.88.7", "fd00:88:7:"

    def make_plugins(self) -> None:
        self.host = str(self.path / "host")
        pin({"net": self.host})
        inside(self.host, lambda: namespace.loopback_up(self.host))
        for kind in ("bridge", "host-local", "portmap", "bandwidth"):
            text = f"#!/bin/sh\nexec /usr/bin/nsenter --net={self.host} -- {DEBIAN}/{kind}\n"
            (self.bin / kind).write_text(text)
            (self.bin / kind).chmod(0o755)

    def plugins(self) -> list[dict[str, Any]]:
        ranges = [
            [{"subnet": f"{self.v4}.0/24", "rangeStart": f"{self.v4}.10", "rangeEnd": f"{self.v4}.{9 + POOL}"}],
            [{"subnet": f"{self.v6}:/64", "rangeStart": f"{self.v6}:10", "rangeEnd": f"{self.v6}:{9 + POOL}"}],
        ]
        ipam = {"type": "host-local", "dataDir": str(self.path / "ipam"), "ranges": ranges}
        ipam["routes"] = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        bridge = {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipMasq": self.masquerade, "ipam": ipam}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return [bridge, portmap]

    def held(self) -> set[str]:
        directory = self.path / "ipam/pods"
        files = [p for p in directory.iterdir() if p.name[0].isdigit() or ":" in p.name] if directory.exists() else []
        return {path.read_text().split()[0] for path in files}

    def lose_link(self, sandbox_id: str) -> None:
        self.run("ip", "link", "delete", "eth0", where=self.netns(sandbox_id))

    def run(self, *argv: str, where: str = "") -> str:
        """A command in the namespace given, or in the one that is taken for the host's."""
        argv = ("nsenter", f"--net={where or self.host}", "--", *argv)
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20 * SLOWNESS).stdout

    def left(self) -> Any:
        found = super().left()
        rules = [line for table in ("nat", "filter") for line in self.run("iptables-save", "-t", table).splitlines()]
        rules += self.run("ip6tables-save", "-t", "nat").splitlines()
        if named := [line for line in rules if "id:" in line or "--to-destination" in line]:
            found["rules"] = named
        if links := [line.split()[1] for line in self.run("ip", "-o", "link").splitlines() if "veth" in line]:
            found["links"] = links
        return found


def inside(path: str, call: Callable[[], T]) -> T:
    """Calls from a thread that has entered a network namespace and is thrown away; a socket made there stays there."""
    outcome: list[Any] = []

    def body() -> None:
        try:
            namespace.enter(path)
            outcome.extend((call(), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]  # type: ignore[no-any-return]


def reach(server: str, client: str, address: str, port: int, *, at: tuple[str, int] | None = None) -> bool:
    """Whether bytes come through from one namespace to a listener in another. `at`: what the client connects to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        inside(server, lambda: socket.socket(family)) as listener,
        inside(client, lambda: socket.socket(family)) as out,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        listener.settimeout(10 * SLOWNESS)
        out.settimeout(10 * SLOWNESS)
        out.connect(at or (address, port))
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"hello")
            return out.recv(5) == b"hello"


def sandbox(annotations: Mapping[str, str] | None = None, **values: Any) -> Sandbox:
    config = SandboxConfig("web-0", "uid-1", "default", annotations=annotations or {}, **values)
    return Sandbox(os.urandom(32).hex(), SandboxState.SETTING_UP, config, "", 1, boot_id="boot")


LABS = {"fake": FakeLab, "scripted": ScriptedLab, "bridge": BridgeLab}

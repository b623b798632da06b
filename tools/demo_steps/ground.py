"""The demo's own pod network: a subnet that nobody uses, a bridge of its own, Debian's CNI plugins; and its removal.

The plugins leave three things behind, as they do everywhere: the bridge, portmap's chains for the whole machine, and
forwarding switched on; the daemon a shared mount of the directory of network namespaces, as `ip netns` does. What was
not there before, the demo removes or switches back.
"""

import contextlib
import ipaddress
import json
import os
import random
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tools.demo_steps.outside import NETNS, SHARED_CHAINS, Seen, command, ip, look, newer
from tools.demo_steps.saying import Wrong

PLUGINS = ("bridge", "host-local", "portmap")
BIN_DIRS = ("/usr/lib/cni", "/opt/cni/bin")
POOLS = ("10.213.0.0/16", "172.29.0.0/16", "192.168.0.0/16", "198.18.0.0/15")
"""Where a /24 is looked for, in this order; the last is for tests of networks (RFC 2544)."""

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
BRIDGE_NAME_MAX = 15


@dataclass(frozen=True, slots=True)
class Ground:
    """`name` is the CNI network's; iptables rules carry it in their comments."""

    name: str
    bridge: str
    subnet: IPv4Network
    bin_dirs: tuple[str, ...]

    def conflist(self, data_dir: Path) -> str:
        ipam = {
            "type": "host-local",
            "dataDir": str(data_dir),
            "ranges": [[{"subnet": str(self.subnet)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipMasq": True, "ipam": ipam}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return json.dumps({"cniVersion": "1.0.0", "name": self.name, "plugins": [bridge, portmap]}, indent=2)

    @property
    def gateway(self) -> str:
        return str(self.subnet[1])

    @property
    def marks(self) -> list[str]:
        """What the bridge, addresses, routes and rules of this network bear."""
        return [self.bridge, f'"{self.name}"', str(self.subnet[0]).removesuffix("0")]


def ground_for(name: str, bin_dirs: Sequence[str] = BIN_DIRS) -> Ground:
    """`name` is the demo's directory: the bridge has its random end. Raises Wrong where no subnet is free."""
    bridge = f"dbdemo-{name.rpartition('-')[2]}"[:BRIDGE_NAME_MAX]
    return Ground(name, bridge, free_subnet(taken()), tuple(bin_dirs))


def free_subnet(used: Iterable[IPv4Network], pools: Sequence[str] = POOLS) -> IPv4Network:
    """A /24 that overlaps no other, at random: two demos at once shall not meet. Raises Wrong."""
    networks = [each for each in used if each.prefixlen > 1]  # 0 is the default route, 1 a VPN's half of it
    for pool in map(IPv4Network, pools):
        free = [each for each in pool.subnets(new_prefix=24) if not any(map(each.overlaps, networks))]
        if free:
            return random.choice(free)
    raise Wrong(f"no subnet for pods is free in {', '.join(pools)}")


def taken() -> Iterator[IPv4Network]:
    """What this machine has an address in, or a route to."""
    for each in ip("address", family="-4"):
        for address in each.get("addr_info", []):
            yield IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
    for route in ip("route", "show", "table", "all", family="-4"):
        with contextlib.suppress(ipaddress.AddressValueError, ValueError):
            yield IPv4Network(route["dst"], strict=False)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


# --- removal ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plugins may change for the whole machine, as it was before."""

    seen: Seen
    forwarding: str

    @classmethod
    def now(cls, seen: Seen) -> "Machine":
        return cls(seen, FORWARDING.read_text())

    def restore(self, ground: Ground) -> list[str]:
        """Says what it did. A step that is not possible is left out: others have come to need it."""
        bridge = _remove_bridge(ground)
        return [*bridge, *self._remove_shared_chains(), *self._forward_as_before(), *self._unshare_pins()]

    def _remove_shared_chains(self) -> list[str]:
        """In one transaction for all three, which fails as a whole where another pod has come to use them."""
        came = newer(look(["rules"]), self.seen)["rules"]
        made = {chain for chain in SHARED_CHAINS if f"ip nat -N {chain}" in came}
        if made != set(SHARED_CHAINS):
            return []
        jumps = [line for line in came if _jumps(line) and "ip nat -A CNI-" not in line]
        lines = [line.replace("ip nat -A", "-D", 1) for line in jumps]
        lines += [f"-F {chain}" for chain in SHARED_CHAINS[1:]]
        lines += [f"-X {chain}" for chain in SHARED_CHAINS]
        return ["portmap's three chains"] if _apply("ip", "nat", lines) else []

    def _unshare_pins(self) -> list[str]:
        """The directory of network namespaces, unless others have pinned one there."""
        if not os.path.isdir(NETNS) or os.listdir(NETNS):
            return []
        came = [line for line in newer(look(["mounts"]), self.seen)["mounts"] if line.startswith(f"{NETNS} ")]
        for _ in came:
            subprocess.run(["umount", NETNS], capture_output=True)
        if NETNS in newer(look(["files"]), self.seen)["files"]:
            with contextlib.suppress(OSError):
                os.rmdir(NETNS)
        return [f"the shared mount of {NETNS}"] if came else []

    def _forward_as_before(self) -> list[str]:
        if FORWARDING.read_text() == self.forwarding or any(newer(look(["links"]), self.seen).values()):
            return []
        FORWARDING.write_text(self.forwarding)
        return ["net.ipv4.ip_forward"]


def _jumps(line: str) -> bool:
    return line.startswith("ip nat -A ") and line.partition(" -j ")[2].split(" ")[0] in SHARED_CHAINS


def _remove_bridge(ground: Ground) -> list[str]:
    if not any(line.startswith(f"{ground.bridge} ") for line in look(["links"])["links"]):
        return []
    remove_links([ground.bridge])
    return ["the bridge"]


def remove_links(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Wrong):
            command("ip", "link", "delete", name)


def remove_rules(rules: Iterable[str]) -> None:
    """Rules and chains, as `outside` names them."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for rule in rules:
        family, table, words = rule.split(" ", 2)
        lines.setdefault((family, table), []).append(words)
    for (family, table), found in lines.items():
        chains = [words.removeprefix("-N ") for words in found if words.startswith("-N ")]
        kept = [words for words in found if words.startswith("-A ") and words.split(" ")[1] not in chains]
        script = [words.replace("-A", "-D", 1) for words in kept]
        _apply(family, table, [*script, *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)])


def _apply(family: str, table: str, lines: Sequence[str]) -> bool:
    script = "\n".join([f"*{table}", *lines, "COMMIT", ""])
    try:
        command(f"{family}tables-restore", "--noflush", "--wait", told=script)
    except Wrong:
        return False
    return True

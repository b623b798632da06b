"""Which kernel parameters a pod may set: those of a namespace of its own, by a strict grammar.

A parameter of a namespace that the pod shares with the host would change the host (CVE-2022-0532); a lax grammar lets
one setting carry another (CVE-2022-0811). So a name is one of a closed set or of the network's, and a value is
printable ASCII without `+`.

What is about one interface of the pod can only be written once the interface is there: after the network was added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.errors import InvalidRequest

SYSCTLS_MAX = 256
VALUE_MAX = 1024
NAME_MAX = 256

WORD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
"""What the names of directories and files below /proc/sys are made of, but for the dot of some interfaces."""

NETWORK = "net"
OF_INTERFACES = ("conf", "neigh")
"""net.FAMILY.conf.INTERFACE.NAME, and likewise neigh: of IPv4, IPv6 and MPLS."""
FROM_THE_BEGINNING = ("all", "default", "lo")
"""What stands in an interface's place and is there with the namespace. `default` is what later ones begin with."""
IPC = frozenset(
    [("kernel", name) for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")]
    + [("kernel", "shm_rmid_forced"), ("fs", "mqueue", "queues_max")]
    + [("fs", "mqueue", name) for name in ("msg_default", "msg_max", "msgsize_default", "msgsize_max")]
)
"""All that an IPC namespace has of its own and a pod may set. A literal list: the kernel may add others beside them."""

NETWORK_DEFAULTS: Mapping[str, str] = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""For a pod with a network of its own, unless the client gives its own values: as containerd 2 has them, so that a
server on port 80 and ping need no capability."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value to write. `parts`: the names of the directories and the file; `asked`: by the client, no default."""

    name: str
    parts: tuple[str, ...]
    value: str
    asked: bool

    @property
    def interface(self) -> str:
        """The one of the pod's own interfaces that this is about; empty: about none that has to be made first."""
        named = self._named
        return "" if named in FROM_THE_BEGINNING else named

    @property
    def order(self) -> int:
        """The more general first: `ip_forward` writes over every `forwarding`, `all` over some of each interface."""
        return FROM_THE_BEGINNING.index(self._named) + 1 if self._named in FROM_THE_BEGINNING else 0

    @property
    def _named(self) -> str:
        network = len(self.parts) > 4 and self.parts[0] == NETWORK and self.parts[2] in OF_INTERFACES
        return self.parts[3] if network else ""


def settings(asked: Mapping[str, str], own_network: bool, own_ipc: bool) -> tuple[Setting, ...]:
    """What is to be set in the pod's namespaces, defaults first, then the more general before the particular.

    Raises InvalidRequest naming the parameter.
    """
    if len(asked) > SYSCTLS_MAX:
        raise InvalidRequest(f"{len(asked)} sysctls are more than {SYSCTLS_MAX}")
    found: dict[tuple[str, ...], Setting] = {}
    for name, value in sorted(asked.items()):
        parts = _checked(name, own_network, own_ipc)
        if not _is_value(value):
            raise InvalidRequest(f"sysctl {name}: its value must be 1 to {VALUE_MAX} printable characters without '+'")
        if parts in found:
            raise InvalidRequest(f"sysctl {name} is given twice, also as {found[parts].name}")
        found[parts] = Setting(name, parts, value, True)
    defaults = [Setting(k, parts_of(k), v, False) for k, v in NETWORK_DEFAULTS.items()] if own_network else []
    given = sorted(found.values(), key=lambda one: one.order)
    return (*(one for one in defaults if one.parts not in found), *given)


def split(every: Sequence[Setting]) -> tuple[tuple[Setting, ...], tuple[Setting, ...]]:
    """Those for the making of the namespaces, and those for when the pod's network has been added."""
    return tuple(one for one in every if not one.interface), tuple(one for one in every if one.interface)


def _checked(name: str, own_network: bool, own_ipc: bool) -> tuple[str, ...]:
    shown = ascii(name[:80])
    words = name.replace("/", ".").split(".")
    if len(name) > NAME_MAX or len(words) < 2 or not all(word and WORD.issuperset(word) for word in words):
        raise InvalidRequest(f"sysctl {shown} is not the name of one")
    parts = parts_of(name)
    if parts[0] != NETWORK and parts not in IPC:
        raise InvalidRequest(f"sysctl {shown} does not belong to a namespace of the pod")
    if parts[0] == NETWORK and not own_network:
        raise InvalidRequest(f"sysctl {shown} would change the host: the pod uses the host's network")
    if parts in IPC and not own_ipc:
        raise InvalidRequest(f"sysctl {shown} would change the host: the pod uses the host's IPC namespace")
    return parts


def _is_value(value: str) -> bool:
    """Tabs are how the kernel itself shows several numbers."""
    printable = all(" " <= char <= "~" or char == "\t" for char in value)
    return printable and "+" not in value and bool(value.strip()) and len(value) <= VALUE_MAX


def parts_of(name: str) -> tuple[str, ...]:
    """The first separator separates, as in sysctl(8); where that is the dot, a slash stands for one (`eth0/100`)."""
    first = next((char for char in name if char in "./"), ".")
    return tuple(part.replace("/", ".") for part in name.split(first))

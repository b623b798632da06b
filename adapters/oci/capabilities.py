"""Capability sets: the defaults, add and drop with ALL, and the five sets that the OCI spec wants, all explicit."""

from collections.abc import Sequence

from domain.config import Capabilities
from domain.errors import InvalidRequest

DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
"""containerd's 14, which Kubernetes' documentation and images expect."""

# fmt: off
BY_NUMBER = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
    "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
# fmt: on


def held(mask: int) -> tuple[str, ...]:
    """The names of a mask as /proc/PID/status shows it."""
    return tuple(name for number, name in enumerate(BY_NUMBER) if mask >> number & 1)


def named(name: str) -> str:
    bare = name.strip().upper().removeprefix("CAP_")
    return bare if bare == "ALL" else f"CAP_{bare}"


def effective(asked: Capabilities, privileged: bool, known: Sequence[str]) -> tuple[str, ...]:
    """What init gets, in kernel order. `known`: all that the daemon itself holds. Raises InvalidRequest."""
    if privileged:
        return tuple(known)
    add, drop = [named(name) for name in asked.add], [named(name) for name in asked.drop]
    for name in (*add, *drop):
        if name != "ALL" and name not in BY_NUMBER:
            raise InvalidRequest(f"unknown capability {name[:80]!r}")
    result = set(known) if "ALL" in add else set(DEFAULT)
    if "ALL" in drop:
        result = set(known) if "ALL" in add else set()
    result -= set(drop)
    # Drop, then add: a capability named in both lists is there, and "drop ALL, add X" leaves X.
    result |= {name for name in add if name != "ALL"}
    for name in sorted(result - set(known)):
        if name in add:
            raise InvalidRequest(f"capability {name} is not held by the daemon itself")
    return tuple(name for name in BY_NUMBER if name in result and name in known)


def sets(names: Sequence[str]) -> dict[str, list[str]]:
    """Inheritable and ambient stay empty: a non-root process starts with none (CVE-2022-24769, CVE-2018-1000400)."""
    return {
        "bounding": list(names),
        "effective": list(names),
        "permitted": list(names),
        "inheritable": [],
        "ambient": [],
    }

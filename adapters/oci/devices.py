"""Devices of the OCI spec and the cgroup's device rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.oci.mounts import clean
from domain.config import Device
from domain.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Node:
    """A device node on the host. `path`: where the container finds it; `asked`: the container_path it came from."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    asked: str = ""


ALWAYS = (
    ("c", 1, 3),
    ("c", 1, 5),
    ("c", 1, 7),
    ("c", 1, 8),
    ("c", 1, 9),
    ("c", 5, 0),
    ("c", 5, 1),
    ("c", 136, None),
    ("c", 5, 2),
)
"""null zero full random urandom tty console, pts/*, ptmx. runc makes their nodes itself."""

RUNTIME_MADE = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"})


def check(device: Device) -> None:
    if not device.host_path.startswith("/"):
        raise InvalidRequest(f"device {device.host_path[:200]!r} is not an absolute path")
    if set(device.permissions) - set("rwm"):
        raise InvalidRequest(f"device permissions {device.permissions[:20]!r} are not of r, w, m")


def build(asked: Sequence[Device], nodes: Sequence[Node], privileged: bool) -> list[dict[str, Any]]:
    """The nodes to make. Privileged: all of the host's that were found, the client's among them."""
    for device in asked:
        check(device)
    out = []
    for node in nodes:
        path = clean(node.path)
        if path in RUNTIME_MADE:
            continue
        out.append(
            {
                "path": path,
                "type": node.kind,
                "major": node.major,
                "minor": node.minor,
                "fileMode": node.mode,
                "uid": node.uid,
                "gid": node.gid,
            }
        )
    return out


def rules(asked: Sequence[Device], nodes: Sequence[Node], privileged: bool) -> list[dict[str, Any]]:
    """Deny all, allow the usual, allow what was asked for. Privileged: everything."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    out: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor in ALWAYS:
        out.append(_rule(kind, major, minor, "rwm"))
    permissions = {device.container_path or device.host_path: device.permissions for device in asked}
    for node in nodes:
        out.append(_rule(node.kind, node.major, node.minor, permissions.get(node.asked, "") or "rwm"))
    return out


def _rule(kind: str, major: int, minor: int | None, access: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": True, "type": kind, "major": major, "access": access}
    if minor is not None:
        rule["minor"] = minor
    return rule

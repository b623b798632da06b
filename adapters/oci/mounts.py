"""Mounts of the OCI spec: the base set, the pod's /dev/shm, and the client's, in the order that runc needs."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.config import ContainerConfig, Mount, Propagation
from domain.errors import InvalidRequest, Unsupported

PROPAGATION = {
    Propagation.PRIVATE: "rprivate",
    Propagation.HOST_TO_CONTAINER: "rslave",
    Propagation.BIDIRECTIONAL: "rshared",
}
EXTRA_OPTIONS = frozenset({"noexec", "nodev", "nosuid"})


@dataclass(frozen=True, slots=True)
class Source:
    """A host path as found: symlinks resolved; how the mount that holds it propagates."""

    path: str
    shared: bool = False
    slave: bool = False


def clean(path: str) -> str:
    """An absolute path without `.`, `..` and double slashes."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def check(mount: Mount, recursive_read_only: bool) -> None:
    """Raises Unsupported or InvalidRequest for a mount that cannot be."""
    where = f"mount of {mount.container_path[:200]!r}"
    if mount.image:
        raise Unsupported(f"{where}: image volumes are not supported yet")
    if mount.idmapped:
        raise Unsupported(f"{where}: id-mapped mounts are not supported")
    if not mount.container_path or clean(mount.container_path) == "/":
        raise InvalidRequest(f"{where}: a mount needs a path below the container's root")
    if not mount.host_path.startswith("/"):
        raise InvalidRequest(f"{where}: host path {mount.host_path[:200]!r} is not absolute")
    if "\0" in mount.container_path + mount.host_path:
        raise InvalidRequest(f"{where}: a path contains a NUL byte")
    for option in mount.options:
        if option not in EXTRA_OPTIONS:
            raise InvalidRequest(f"{where}: unknown option {option[:80]!r}")
    if mount.recursive_read_only:
        if not mount.readonly:
            raise InvalidRequest(f"{where}: recursive_read_only without readonly")
        if mount.propagation is not Propagation.PRIVATE:
            raise InvalidRequest(f"{where}: recursive_read_only needs propagation PRIVATE")
        if not recursive_read_only:
            raise Unsupported(f"RROUnsupported: {where}: the runtime does not know recursive read-only mounts")


def build(
    config: ContainerConfig,
    sources: Mapping[str, Source],
    shm: str,
    etc: Sequence[tuple[str, str]] = (),
    volumes: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """The client's mounts replace base ones at or below the same place; then parents come before children.

    `etc`, `volumes`: (place in the container, source on the host).
    """
    asked = [_bind(mount, sources) for mount in config.mounts]
    taken = {entry["destination"] for entry in asked}
    bound = [_entry(path, "bind", source, ["rbind", "rprivate", "rw"]) for path, source in volumes]
    base = [*_base(shm, config.security.privileged), *bound, *_etc(etc, config.security.readonly_rootfs)]
    kept = [entry for entry in base if not _covered(entry["destination"], taken)]
    # The sort is stable: of two mounts at one place the later one ends on top, as the client ordered them.
    return sorted([*kept, *asked], key=lambda entry: entry["destination"].count("/"))


def _covered(destination: str, taken: set[str]) -> bool:
    if destination in taken:
        return True
    return any(top in taken and destination.startswith(f"{top}/") for top in ("/dev", "/sys", "/proc"))


def _base(shm: str, privileged: bool) -> list[dict[str, Any]]:
    access = "rw" if privileged else "ro"
    system = ["nosuid", "noexec", "nodev"]
    return [
        _entry("/proc", "proc", "proc", system),
        _entry("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _entry(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        _entry("/dev/mqueue", "mqueue", "mqueue", system),
        _entry("/dev/shm", "bind", shm, ["rbind", "rw", "rprivate", *system]),
        _entry("/sys", "sysfs", "sysfs", [*system, access]),
        _entry("/sys/fs/cgroup", "cgroup", "cgroup", [*system, "relatime", access]),
    ]


def _etc(files: Sequence[tuple[str, str]], readonly: bool) -> list[dict[str, Any]]:
    access = "ro" if readonly else "rw"
    return [_entry(path, "bind", source, ["rbind", "rprivate", access]) for path, source in files]


def _entry(destination: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _bind(mount: Mount, sources: Mapping[str, Source]) -> dict[str, Any]:
    source = sources.get(mount.host_path) or Source(mount.host_path, shared=True)
    _check_propagation(mount, source)
    read_only = ["rro"] if mount.recursive_read_only else ["ro"] if mount.readonly else ["rw"]
    options = ["rbind", PROPAGATION[mount.propagation], *read_only, *mount.options]
    return _entry(clean(mount.container_path), "bind", source.path, options)


def _check_propagation(mount: Mount, source: Source) -> None:
    """A mount can only pass on what the host's own mount passes on."""
    if mount.propagation is Propagation.BIDIRECTIONAL and not source.shared:
        raise InvalidRequest(f"host path {mount.host_path[:200]} is not on a shared mount")
    if mount.propagation is Propagation.HOST_TO_CONTAINER and not (source.shared or source.slave):
        raise InvalidRequest(f"host path {mount.host_path[:200]} is not on a shared or slave mount")


def root_propagation(mounts: Sequence[Mount]) -> str:
    """The strongest that a mount asks for: the root must let through what its mounts are to receive or send."""
    asked = {mount.propagation for mount in mounts}
    if Propagation.BIDIRECTIONAL in asked:
        return "rshared"
    return "rslave" if Propagation.HOST_TO_CONTAINER in asked else "rprivate"

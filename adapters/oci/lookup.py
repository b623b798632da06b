"""What the spec needs to know of the machine and of the container's files. Blocking; run in a thread of an effect.

Client paths on the host are resolved here, once; what lies inside the root file system is `inside`'s.
"""

import contextlib
import os
import resource
import stat
from collections.abc import Sequence

from adapters import children, mountinfo
from adapters.oci import capabilities, cgroups, default_seccomp, kernel, runc, seccomp, seccomp_file
from adapters.oci.devices import Node
from adapters.oci.mounts import Source
from adapters.oci.spec import Host
from domain.config import Device, Mount, ProfileType, SecurityContext
from domain.errors import InvalidRequest, RuntimeFailed, StorageFailed, Unsupported

NODES_MAX = 4096
SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
"""Of the host's /dev: what the container has of its own."""

MOUNT_SETATTR = (5, 12)
"""The kernel from which a whole tree of mounts can be made read-only at once."""


def host(runtime: str) -> Host:
    """The machine as it is now; asks the runtime once what it can do."""
    status = _first_lines("/proc/self/status")
    mask = next((line.split()[1] for line in status if line.startswith("CapBnd:")), "0")
    found = cgroups.hierarchies()
    uname = os.uname()
    version = seccomp.version(uname.release)
    options = runc.features(runtime).get("mountOptions")
    memory = found.v1.get("memory", "")
    controllers = " ".join(_first_lines(f"{found.unified}/cgroup.controllers")).split()
    return Host(
        capabilities=capabilities.held(int(mask, 16)),
        machine=uname.machine,
        kernel=version,
        hostname=uname.nodename,
        cgroup_v2=found.v2,
        swap=found.v2 or os.path.exists(f"{memory}/memory.memsw.limit_in_bytes"),
        huge_pages="hugetlb" in (controllers if found.v2 else found.v1),
        selinux=os.path.exists("/sys/fs/selinux/enforce"),
        oom_score_floor=oom_score_floor(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        recursive_read_only=isinstance(options, list) and "rro" in options and version >= MOUNT_SETATTR,
    )


def oom_score_floor() -> int:
    """The lowest oom_score_adj that runc may give: any with CAP_SYS_RESOURCE, else what it begins with itself."""
    status = _first_lines("/proc/self/status")
    mask = next((line.split()[1] for line in status if line.startswith("CapEff:")), "0")
    if "CAP_SYS_RESOURCE" in capabilities.held(int(mask, 16)):
        return -1000
    return children.score()


def seccomp_profile(security: SecurityContext, configured: str) -> seccomp.Profile | None:
    """The profile that a container asked for, None for unconfined: no profile at all means that, as does privileged.

    `configured`: the file of RuntimeDefault, empty for our own. Raises InvalidRequest, Unsupported; RuntimeFailed where
    the configured one cannot be used: that is not the client's fault.
    """
    asked = security.seccomp
    if asked is None or security.privileged or asked.type is ProfileType.UNCONFINED:
        return None
    path = configured if asked.type is ProfileType.RUNTIME_DEFAULT else asked.localhost_ref
    if not path and asked.type is ProfileType.RUNTIME_DEFAULT:
        return default_seccomp.PROFILE
    if not path.startswith("/"):
        raise InvalidRequest(f"seccomp profile {path[:200]!r} is not an absolute path")
    try:
        profile = seccomp_file.load(path)
        seccomp_file.require_known(profile, kernel.knows_syscall() or default_seccomp.NAMES.__contains__)
    except (InvalidRequest, Unsupported) as error:
        if asked.type is ProfileType.RUNTIME_DEFAULT:
            raise RuntimeFailed(f"runtime.seccomp_profile of the node's configuration: {error.text}") from error
        raise
    return profile


def sources(mounts: Sequence[Mount]) -> dict[str, Source]:
    """Host paths with their symlinks resolved; a missing one becomes a directory, as containerd and CRI-O do."""
    if not mounts:
        return {}
    told = mountinfo.read()
    out = {}
    for mount in mounts:
        path = os.path.realpath(mount.host_path)
        try:
            if not os.path.lexists(path):
                os.makedirs(path, 0o755)
        except OSError as error:
            raise StorageFailed(f"mount source {mount.host_path}: {os.strerror(error.errno or 0)}") from error
        out[mount.host_path] = propagating(path, told)
    return out


def propagating(path: str, told: bytes) -> Source:
    """How the mount that holds a path propagates."""
    found = mountinfo.holding(path, told)
    return Source(path, found is not None and found.shared, found is not None and found.slave)


# --- devices ---------------------------------------------------------------------------------------------------------


def nodes(devices: Sequence[Device], privileged: bool) -> tuple[Node, ...]:
    """The client's devices, directories expanded; all of the host's where the container is privileged."""
    out: dict[str, Node] = {}
    if privileged:
        for node in _below("/dev", "/dev", ""):
            out[node.path] = node
    for device in devices:
        host_path = os.path.realpath(device.host_path)
        target = device.container_path or device.host_path
        try:
            found = os.stat(host_path)
        except OSError as error:
            raise InvalidRequest(f"device {device.host_path}: {os.strerror(error.errno or 0)}") from error
        if stat.S_ISDIR(found.st_mode):
            expanded = list(_below(host_path, target, target))
        else:
            single = _node(target, found, target)
            expanded = [single] if single else []
        if not expanded:
            raise InvalidRequest(f"device {device.host_path} is not a device")
        out.update((node.path, node) for node in expanded)
    return tuple(out.values())


def _below(directory: str, target: str, asked: str) -> list[Node]:
    out: list[Node] = []
    waiting = [(directory, target)]
    while waiting:
        here, there = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(here) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if here == "/dev" and entry.name in SKIPPED:
                    continue
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    waiting.append((entry.path, f"{there}/{entry.name}"))
                elif node := _node(f"{there}/{entry.name}", found, asked):
                    out.append(node)
        if len(out) > NODES_MAX:
            raise InvalidRequest(f"more than {NODES_MAX} devices below {directory}")
    return out


def _node(path: str, found: os.stat_result, asked: str) -> Node | None:
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
    if not kind or path == "/dev/console":
        return None
    number = found.st_rdev
    mode = stat.S_IMODE(found.st_mode)
    return Node(path, kind, os.major(number), os.minor(number), mode, found.st_uid, found.st_gid, asked)


def _first_lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read(64 * 1024).splitlines()
    except OSError:
        return []

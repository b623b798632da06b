"""What the spec needs to know of the machine and of the container's files. Blocking; run in a thread of an effect.

Client paths on the host are resolved here, once; paths inside the root file system only through openat2.
"""

import contextlib
import os
import resource
import stat
from collections.abc import Sequence

from adapters import children
from adapters.oci import capabilities, cgroups, kernel, runc, seccomp
from adapters.oci.devices import Node
from adapters.oci.mounts import Source
from adapters.oci.spec import Host
from domain.config import Device, Mount
from domain.errors import InvalidRequest, StorageFailed

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
        apparmor="".join(_first_lines("/sys/module/apparmor/parameters/enabled")).startswith("Y"),
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


def sources(mounts: Sequence[Mount]) -> dict[str, Source]:
    """Host paths with their symlinks resolved; a missing one becomes a directory, as containerd and CRI-O do."""
    if not mounts:
        return {}
    with open("/proc/self/mountinfo", "rb") as file:
        mountinfo = file.read()
    out = {}
    for mount in mounts:
        path = os.path.realpath(mount.host_path)
        try:
            if not os.path.lexists(path):
                os.makedirs(path, 0o755)
        except OSError as error:
            raise StorageFailed(f"mount source {mount.host_path}: {os.strerror(error.errno or 0)}") from error
        out[mount.host_path] = propagating(path, mountinfo)
    return out


def propagating(path: str, mountinfo: bytes) -> Source:
    """How the mount that holds a path propagates: the last of the longest mount points above it."""
    wanted, best, fields = path.encode(), b"", b""
    for line in mountinfo.splitlines():
        before = line.partition(b" - ")[0]
        point = kernel.unescaped(before.split(b" ", 5)[4])
        above = point == b"/" or wanted == point or wanted.startswith(point + b"/")
        if above and len(point) >= len(best):
            best, fields = point, before.split(b" ", 6)[-1] if before.count(b" ") > 5 else b""
    return Source(path, b"shared:" in fields, b"master:" in fields)


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


# --- inside the root file system -------------------------------------------------------------------------------------


def open_root(rootfs: str) -> int:
    """A descriptor of the mounted root, after the check that runc needs (CVE-2026-41579, CVE-2023-28642).

    Raises InvalidRequest where the image's /dev, /proc or /sys is a symlink or anything else but a directory.
    """
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    for name in ("dev", "proc", "sys"):
        try:
            found = os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(found.st_mode):
            os.close(root)
            raise InvalidRequest(f"the image's /{name} is not a directory")
    return root


def make_working_directory(root: int, path: str) -> None:
    """Makes the working directory inside the root where it is missing; a symlink cannot lead out of the root.

    Each part is opened in the root and the next made relative to that descriptor: no path string is used twice.
    """
    here = os.dup(root)
    done = ""
    try:
        for part in [part for part in path.split("/") if part]:
            done = f"{done}/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            following = kernel.open_in_root(root, done, os.O_PATH | os.O_DIRECTORY)
            os.close(here)
            here = following
    except OSError as error:
        raise InvalidRequest(f"working directory {path[:200]!r}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(here)


def _first_lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read(64 * 1024).splitlines()
    except OSError:
        return []

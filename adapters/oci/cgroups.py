"""Control groups of containers, v1 and v2: paths, who is in them, killing, removing, the OOM counter.

Blocking, but each call is a few reads of kernel files. Nothing here decides what should live.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from adapters import mountinfo
from adapters.oci import process

DEFAULT_PARENT = "/daybook"
MONITORS = "monitors"
SCOPE_PREFIX = "daybook"
DELEGATED = ("trusted.delegate", "user.delegate")
"""How systemd marks the cgroup of a unit with Delegate=yes."""

FILE_MAX = 1024 * 1024
REMOVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the kernel's hierarchies are mounted: `v1` controller name -> directory; `unified` empty if absent."""

    v1: dict[str, str]
    unified: str

    @property
    def v2(self) -> bool:
        """Whether the unified hierarchy is the one with the controllers."""
        return not self.v1

    @property
    def roots(self) -> tuple[str, ...]:
        return (*dict.fromkeys(self.v1.values()), *((self.unified,) if self.unified else ()))


@cache
def hierarchies() -> Hierarchies:
    return parsed(mountinfo.read())


def parsed(told: bytes) -> Hierarchies:
    """The hierarchies in a mountinfo; of several mounts of one, the first."""
    v1: dict[str, str] = {}
    unified = ""
    for found in mountinfo.mounts(told):
        point = os.fsdecode(found.point)
        if found.kind == b"cgroup2" and not unified:
            unified = point
        elif found.kind == b"cgroup":
            for option in os.fsdecode(found.super_options).split(","):
                name = option.removeprefix("name=")
                if name not in ("rw", "ro", "xattr", "clone_children", "noprefix") and "=" not in name:
                    v1.setdefault(name, point)
    return Hierarchies(v1, unified)


def path_for(parent: str, identifier: str) -> str:
    """`cgroupsPath` of the OCI spec: `parent/id`, or `slice:prefix:id` where the parent is a systemd slice."""
    parent = parent or DEFAULT_PARENT
    name = parent.rstrip("/").rsplit("/", 1)[-1]
    if name.endswith(".slice"):
        return f"{name}:{SCOPE_PREFIX}:{identifier}"
    return f"{'/' + parent.strip('/') if parent.strip('/') else ''}/{identifier}"


def directory_for(cgroups_path: str) -> str:
    """The directory below a hierarchy's root that a `cgroupsPath` means, with a leading slash."""
    if cgroups_path.count(":") != 2:
        return cgroups_path
    name, prefix, identifier = cgroups_path.split(":")
    return f"{slice_directory(name)}/{prefix}-{identifier}.scope"


def slice_directory(name: str) -> str:
    """`a-b.slice` lies in `a.slice`; `-.slice` is the root."""
    stem = name.removesuffix(".slice")
    if stem in ("", "-"):
        return ""
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: n + 1])}.slice" for n in range(len(parts)))


def directories(cgroups_path: str) -> tuple[str, ...]:
    """Every existing directory of this cgroup, over all hierarchies."""
    below = directory_for(cgroups_path)
    if not below.strip("/") or "/../" in f"{below}/":
        return ()
    found = (root + below for root in hierarchies().roots)
    return tuple(path for path in found if os.path.isdir(path))


def members(cgroups_path: str) -> set[int]:
    """The pids in a cgroup and in those below it."""
    pids: set[int] = set()
    for top in directories(cgroups_path):
        for directory in tree(top):
            pids.update(_procs(directory))
    pids.discard(0)
    return pids


def kill(cgroups_path: str) -> set[int]:
    """Sends SIGKILL to all members, frozen meanwhile so that none forks away; returns who was there."""
    tops = directories(cgroups_path)
    seen = members(cgroups_path)
    if not seen:
        return seen
    for top in tops:
        _write(f"{top}/cgroup.kill", "1") or _write(f"{top}/freezer.state", "FROZEN")
    held = {}
    try:
        for pid in members(cgroups_path):
            with contextlib.suppress(OSError):
                held[pid] = os.pidfd_open(pid)
        # Read again: a pid that is still a member now is the process that the descriptor holds.
        for pid in members(cgroups_path) & set(held):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held[pid], signal.SIGKILL)
    finally:
        for fd in held.values():
            os.close(fd)
        for top in tops:
            _write(f"{top}/freezer.state", "THAWED")
    return seen | set(held)


async def empty(cgroups_path: str) -> None:
    """Kills until nobody is left. Unbounded by itself: the caller has the limit."""
    while pids := kill(cgroups_path):
        for pid in pids:
            found = process.identity(pid)
            if found is not None and pid in members(cgroups_path):
                await process.gone(found)
        # One that has ended may be listed a moment longer.
        await asyncio.sleep(0)


def remove(cgroups_path: str) -> list[str]:
    """Removes the directories, deepest first, in all hierarchies; returns those that would not go.

    A task that has ended counts in its cgroup a moment longer than its pidfd says: EBUSY is tried again for a while.
    """
    deadline = time.monotonic() + REMOVAL_S
    pause_s = 0.001
    while stuck := _remove_once(cgroups_path):
        if time.monotonic() > deadline:
            break
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
    return stuck


def _remove_once(cgroups_path: str) -> list[str]:
    stuck = []
    for top in directories(cgroups_path):
        for directory in reversed(list(tree(top))):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:
                stuck.append(directory)
    return stuck


def divide(cgroups_path: str, name: str) -> tuple[str, str]:
    """Makes a cgroup for a command inside a container's: (its path, what `runc exec --cgroup` must be told).

    In v1 the freezer's hierarchy alone is divided: it is enough to find and end all, and the limits stay the
    container's. Both empty where it cannot be made: no such container, no freezer, a read-only hierarchy.
    """
    found = hierarchies()
    root = found.unified if found.v2 else found.v1.get("freezer", "")
    below = directory_for(cgroups_path)
    if not root or not below.strip("/") or "/../" in f"{below}/":
        return "", ""
    try:
        os.mkdir(f"{root}{below}/{name}", 0o755)
    except OSError:
        return "", ""
    return f"{below}/{name}", name if found.v2 else f"freezer:{name}"


def prune(*paths: str) -> None:
    """Removes cgroups of ours that hold neither a process nor another cgroup; any other stays."""
    for path in paths:
        for top in directories(path):
            with contextlib.suppress(OSError):
                os.rmdir(top)


def tree(top: str) -> Iterator[str]:
    """A cgroup directory and those below it, parents first."""
    yield top
    try:
        with os.scandir(top) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for directory in below:
        yield from tree(directory)


def oom_kills(cgroups_path: str) -> int:
    """How often the kernel killed for want of memory in this cgroup; 0 where it is gone."""
    return oom_counter(cgroups_path) or 0


def oom_counter(cgroups_path: str) -> int | None:
    """The same; None where it is gone."""
    below = directory_for(cgroups_path)
    found = hierarchies()
    if not found.v2:
        text = _read(f"{found.v1.get('memory', '')}{below}/memory.oom_control")
    else:
        text = _read(f"{found.unified}{below}/memory.events")
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal():
            return int(value)
    return None


def lies_in(pid: int, cgroups_path: str) -> bool:
    """Whether a process is where it was asked to be, in the hierarchies that limit anything (CVE-2025-47291)."""
    wanted = directory_for(cgroups_path)
    found = hierarchies()
    lines = _memberships(str(pid))
    if found.v2:
        return any(number == "0" and path == wanted for number, _, path in lines)
    judged = [path for _, names, path in lines if set(names.split(",")) & {"memory", "pids", "cpu", "devices"}]
    return bool(judged) and all(path == wanted for path in judged)


# --- the monitors' cgroup --------------------------------------------------------------------------------------------


def monitors_home() -> str:
    """Where conmons live: `monitors` in the daemon's own cgroup where systemd delegated that, else in DEFAULT_PARENT.

    What systemd did not delegate it may clear away or count for itself. In v2 no controller may be enabled in the
    unit's own cgroup, else systemd cannot put the next daemon into it while a monitor lives (219/CGROUP): so there are
    only monitors below it, and containers, which need controllers, are below their pods' cgroups or DEFAULT_PARENT.
    """
    found = hierarchies()
    for root in filter(None, (found.unified, found.v1.get("systemd", ""))):
        below = own(root)
        if below.strip("/") and _delegated(root + below):
            return f"{below}/{MONITORS}"
    return f"{DEFAULT_PARENT}/{MONITORS}"


def own(root: str) -> str:
    """The daemon's own cgroup below the root of the unified hierarchy or of systemd's own; empty where it has none."""
    controllers = "" if root == hierarchies().unified else "name=systemd"
    return next((path for _, names, path in _memberships("self") if names == controllers), "")


def _memberships(pid: str) -> list[tuple[str, str, str]]:
    """(number, controllers, path) of each hierarchy. A path has any character but a newline."""
    lines = (line.split(":", 2) for line in _read(f"/proc/{pid}/cgroup").split("\n"))
    return [(fields[0], fields[1], fields[2]) for fields in lines if len(fields) == 3]


def _delegated(directory: str) -> bool:
    for name in DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def join(pid: int, below: str) -> str:
    """Puts a process into a cgroup of ours in every hierarchy; returns why not, where it did not work everywhere."""
    failed = []
    for root in hierarchies().roots:
        directory = root + below
        try:
            if not os.path.isdir(directory):
                make(root, below)
            with open(f"{directory}/cgroup.procs", "w") as file:
                file.write(str(pid))
        except OSError as error:
            failed.append(f"{directory}: {os.strerror(error.errno or 0)}")
    return "; ".join(failed)


def make(root: str, below: str) -> None:
    """Makes a cgroup directory and its parents; a cpuset must be given its parent's CPUs and memory nodes first."""
    path = root
    for part in below.strip("/").split("/"):
        parent, path = path, f"{path}/{part}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if root == hierarchies().v1.get("cpuset") and not _read(f"{path}/{name}").strip():
                _write(f"{path}/{name}", _read(f"{parent}/{name}"))


def _procs(directory: str) -> list[int]:
    return [int(line) for line in _read(f"{directory}/cgroup.procs").split()]


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(FILE_MAX)
    except OSError:
        return ""


def _write(path: str, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True

"""What of a set of ids exists on this machine, seen from outside: mounts, processes, cgroups, files, and namespaces that
a process of theirs holds.

before = inventory(ids, roots)      ...      assert inventory(ids, roots) == NOTHING
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inventory:
    mounts: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()


NOTHING = Inventory()
KINDS = ("net", "uts", "ipc")


def inventory(ids: Collection[str], roots: Collection[str] = ()) -> Inventory:
    """`roots`: directories that are searched for names; mounts, processes and cgroups are searched everywhere."""
    processes = _processes(ids)
    namespaces = tuple(held for line in processes for held in _namespaces(line.split(" ", 1)[0]))
    return Inventory(_mounts(ids), processes, _cgroups(ids), _paths(ids, roots), namespaces)


def _named(text: str, ids: Collection[str]) -> bool:
    return any(one in text for one in ids)


def _mounts(ids: Collection[str]) -> tuple[str, ...]:
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        return tuple(line.split(" ")[4] for line in file if _named(line, ids))


def _processes(ids: Collection[str]) -> tuple[str, ...]:
    """By command line, working directory, cgroup; our own and zombies excepted."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace")
            with open(f"/proc/{name}/cgroup", errors="surrogateescape") as file:
                cgroup = file.read()
            with open(f"/proc/{name}/stat", errors="surrogateescape") as file:
                state = file.read().rpartition(")")[2].split()[0]
            directory = os.readlink(f"/proc/{name}/cwd") if state != "Z" else ""
        except OSError:
            continue
        if state != "Z" and _named(command + cgroup + directory, ids):
            found.append(f"{name} {command[:200]}")
    return tuple(found)


def _namespaces(pid: str) -> Iterator[str]:
    """Other namespaces than ours that a thread of a process is in, or that it holds open: "PID KIND:[INODE]"."""
    ours = {os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        links = [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return
    links += [f"/proc/{pid}/task/{thread}/ns/{kind}" for thread in threads for kind in KINDS]
    for link in links:
        try:
            held = os.readlink(link)
        except OSError:
            continue
        if held.startswith(tuple(f"{kind}:[" for kind in KINDS)) and held not in ours:
            yield f"{pid} {held}"


def _cgroups(ids: Collection[str]) -> tuple[str, ...]:
    return tuple(path for path, _, _ in os.walk("/sys/fs/cgroup") if _named(path, ids))


def _paths(ids: Collection[str], roots: Collection[str]) -> tuple[str, ...]:
    found = []
    for root in roots:
        for directory, below, names in os.walk(root):
            hits = [name for name in (*below, *names) if _named(name, ids)]
            found += [os.path.join(directory, name) for name in hits]
            below[:] = [name for name in below if name not in hits]
    return tuple(sorted(found))

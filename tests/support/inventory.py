"""What of a set of ids exists on this machine, seen from outside: mounts, processes, cgroups, files.

before = inventory(ids, roots)      ...      assert inventory(ids, roots) == NOTHING
"""

import os
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inventory:
    mounts: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


NOTHING = Inventory()


def inventory(ids: Collection[str], roots: Collection[str] = ()) -> Inventory:
    """`roots`: directories that are searched for names; mounts, processes and cgroups are searched everywhere."""
    return Inventory(_mounts(ids), _processes(ids), _cgroups(ids), _paths(ids, roots))


def _named(text: str, ids: Collection[str]) -> bool:
    return any(one in text for one in ids)


def _mounts(ids: Collection[str]) -> tuple[str, ...]:
    with open("/proc/self/mountinfo") as file:
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
            with open(f"/proc/{name}/cgroup") as file:
                cgroup = file.read()
            with open(f"/proc/{name}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
            directory = os.readlink(f"/proc/{name}/cwd") if state != "Z" else ""
        except OSError:
            continue
        if state != "Z" and _named(command + cgroup + directory, ids):
            found.append(f"{name} {command[:200]}")
    return tuple(found)


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

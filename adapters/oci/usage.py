"""What a container uses, from its cgroups: a few reads of kernel files. Blocking."""

import time
from collections.abc import Iterator

from adapters.oci import cgroups
from domain.records import TaskUsage

FILE_MAX = 64 * 1024
UNLIMITED = 1 << 60
"""cgroup v1 tells "no limit" as the largest multiple of a page that fits 63 bits."""


def read(cgroups_path: str) -> TaskUsage | None:
    """None where the cgroup is gone."""
    found = cgroups.hierarchies()
    below = cgroups.directory_for(cgroups_path)
    if not below.strip("/"):
        return None
    try:
        return _unified(found.unified + below) if found.v2 else _legacy(found.v1, below)
    except (OSError, KeyError):
        return None


def _legacy(roots: dict[str, str], below: str) -> TaskUsage:
    """cgroup v1. Raises OSError, KeyError where a controller is not mounted."""
    memory = roots["memory"] + below
    told = dict(_pairs(_text(f"{memory}/memory.stat")))
    used, limit = int(_text(f"{memory}/memory.usage_in_bytes")), int(_text(f"{memory}/memory.limit_in_bytes"))
    return TaskUsage(
        at_ns=time.time_ns(),
        cpu_ns=int(_text(f"{roots['cpuacct']}{below}/cpuacct.usage")),
        memory=used,
        working_set=max(0, used - told.get("total_inactive_file", 0)),
        rss=told.get("total_rss", 0),
        limit=limit if limit < UNLIMITED else 0,
        page_faults=told.get("total_pgfault", 0),
        major_page_faults=told.get("total_pgmajfault", 0),
    )


def _unified(directory: str) -> TaskUsage:
    """cgroup v2. Raises OSError."""
    told = dict(_pairs(_text(f"{directory}/memory.stat")))
    used, limit = int(_text(f"{directory}/memory.current")), _text(f"{directory}/memory.max").strip()
    return TaskUsage(
        at_ns=time.time_ns(),
        cpu_ns=dict(_pairs(_text(f"{directory}/cpu.stat")))["usage_usec"] * 1000,
        memory=used,
        working_set=max(0, used - told.get("inactive_file", 0)),
        rss=told.get("anon", 0),
        limit=int(limit) if limit.isdigit() else 0,
        page_faults=told.get("pgfault", 0),
        major_page_faults=told.get("pgmajfault", 0),
    )


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.isdigit():
            yield name, int(number)


def _text(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read(FILE_MAX).decode()

"""Limits of the OCI spec. 0 and empty mean "not set", as in the CRI: what is not set is not in the spec."""

import re
from typing import Any

from domain.config import Resources
from domain.errors import InvalidRequest

CPUS = re.compile(r"[0-9]{1,6}(-[0-9]{1,6})?")
PAGE_SIZE = re.compile(r"[0-9]{1,6}[KMGT]?i?B")
UNIFIED = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9_]+)+")
MEMORY_MIN = 6 * 1024 * 1024
"""Below this runc's own init does not come up: an early, clear refusal instead of an odd failure."""


def check(asked: Resources | None) -> None:
    """Raises InvalidRequest for limits that no kernel takes."""
    if asked is None:
        return
    limit, swap = asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes
    if 0 < limit < MEMORY_MIN:
        raise InvalidRequest(f"memory limit {limit} is below the minimum of {MEMORY_MIN} bytes")
    if swap > 0 and limit > 0 and swap < limit:
        raise InvalidRequest(f"memory and swap limit {swap} is below the memory limit {limit}")
    for name, value in (("cpuset_cpus", asked.cpuset_cpus), ("cpuset_mems", asked.cpuset_mems)):
        if not all(CPUS.fullmatch(part) for part in _listed(value)):
            raise InvalidRequest(f"{name} {value[:80]!r} is not a list of numbers and ranges")
    for size in asked.hugepage_limits:
        if not PAGE_SIZE.fullmatch(size):
            raise InvalidRequest(f"page size {size[:80]!r} is not one")
    for key, value in asked.unified.items():
        # runc joins the key to the cgroup's directory: nothing but a controller's file name may pass.
        if not UNIFIED.fullmatch(key) or "\0" in value:
            raise InvalidRequest(f"unified key {key[:80]!r} is not a cgroup file")


def build(asked: Resources | None, swap_counted: bool, huge_counted: bool = True) -> dict[str, Any]:
    """`swap_counted`: the kernel accounts swap; then a memory limit without a swap limit means: no swap.

    `huge_counted`: there is a hugetlb controller; without one a limit of 0 is dropped, since there is nothing to take.
    """
    if asked is None:
        return {}
    cpu = {
        "shares": asked.cpu_shares,
        "quota": asked.cpu_quota,
        "period": asked.cpu_period,
        "cpus": ",".join(_listed(asked.cpuset_cpus)),
        "mems": ",".join(_listed(asked.cpuset_mems)),
    }
    memory = {"limit": asked.memory_limit_in_bytes}
    if swap_counted:
        memory["swap"] = asked.memory_swap_limit_in_bytes or asked.memory_limit_in_bytes
    out: dict[str, Any] = {}
    for name, values in (("cpu", cpu), ("memory", memory)):
        given = {key: value for key, value in values.items() if value}
        if given:
            out[name] = given
    # A limit of 0 is a limit here: the kubelet sends it for every page size that a pod does not ask for.
    huge = [{"pageSize": size.replace("iB", "B"), "limit": n} for size, n in sorted(asked.hugepage_limits.items())]
    if huge and (huge_counted or any(asked.hugepage_limits.values())):
        out["hugepageLimits"] = huge
    if asked.unified:
        out["unified"] = dict(sorted(asked.unified.items()))
    return out


def _listed(cpuset: str) -> list[str]:
    """The parts of a cpuset. Spaces around them and empty ones mean nothing to the kernel."""
    return [part.strip() for part in cpuset.split(",") if part.strip()]

"""What a seccomp profile permits: as its author means it, and as runc and libseccomp take the OCI form of it.

Both answer with a severity (0: permitted), so that "never fewer restrictions than the file" is one comparison.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from adapters.oci.seccomp import SEVERITY

ARGUMENTS = (0, 0, 0, 0, 0, 0)


def done(oci: Mapping[str, Any], name: str, arguments: Sequence[int] = ARGUMENTS) -> tuple[int, int]:
    """(severity, errno) of a call. Where libseccomp's order is not defined, the laxest of what may be."""
    default = SEVERITY[oci["defaultAction"]], _errno(oci["defaultAction"], oci.get("defaultErrnoRet"))
    rules = [rule for rule in oci["syscalls"] if name in rule["names"]]
    outcomes = []
    for rule in rules:
        outcome = SEVERITY[rule["action"]], _errno(rule["action"], rule.get("errnoRet"))
        if outcome == default:
            continue
        if not rule.get("args"):
            return outcome
        conditions = rule["args"]
        # runc makes a rule of each where one argument has two conditions.
        together = any if len({one["index"] for one in conditions}) < len(conditions) else all
        if together(_holds(one, arguments) for one in conditions):
            outcomes.append(outcome)
    return min(outcomes, default=default)


def meant(
    document: Mapping[str, Any], capabilities: Collection[str], name: str, arguments: Sequence[int] = ARGUMENTS
) -> int:
    """The severity that a well-formed document asks for, on amd64 and kernel 6.1: of rules that match the strictest."""
    found = []
    for rule in document["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if not all(cap in capabilities for cap in includes.get("caps", ())):
            continue
        if any(cap in capabilities for cap in excludes.get("caps", ())):
            continue
        if "amd64" not in (includes.get("arches") or ["amd64"]) or "amd64" in excludes.get("arches", ()):
            continue
        if name in rule["names"] and all(_holds(one, arguments) for one in rule.get("args", ())):
            found.append(SEVERITY[rule["action"]])
    return max(found, default=SEVERITY[document["defaultAction"]])


def _errno(action: str, number: int | None) -> int:
    return (1 if number is None else number) if action == "SCMP_ACT_ERRNO" else 0


def _holds(condition: Mapping[str, Any], arguments: Sequence[int]) -> bool:
    found, value = arguments[condition["index"]], condition["value"]
    match condition["op"].removeprefix("SCMP_CMP_"):
        case "LT":
            return bool(found < value)
        case "LE":
            return bool(found <= value)
        case "EQ":
            return bool(found == value)
        case "GE":
            return bool(found >= value)
        case "GT":
            return bool(found > value)
        case "NE":
            return bool(found != value)
    return bool(found & value == condition.get("valueTwo", 0))

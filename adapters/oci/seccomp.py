"""Seccomp profiles as values, and the OCI `linux.seccomp` that one of them becomes for one container. Pure.

`default_seccomp` has the profile of RuntimeDefault, `seccomp_file` reads those of files. Both know more than the OCI
form: rules that hold only with or without a capability, on some architectures, from some kernel on.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from domain.errors import InvalidRequest

ALLOW, ERRNO, LOG, TRACE, NOTIFY = (f"SCMP_ACT_{name}" for name in ("ALLOW", "ERRNO", "LOG", "TRACE", "NOTIFY"))
SEVERITY = {
    "SCMP_ACT_KILL_PROCESS": 7,
    "SCMP_ACT_KILL": 6,
    "SCMP_ACT_KILL_THREAD": 6,
    "SCMP_ACT_TRAP": 5,
    ERRNO: 4,
    NOTIFY: 3,
    TRACE: 2,
    LOG: 1,
    ALLOW: 0,
}
"""Every action of the OCI specification; the higher, the less is left to the program (seccomp(2) orders them so)."""

LT, LE, EQ, GE, GT, NE, MASKED = (f"SCMP_CMP_{n}" for n in ("LT", "LE", "EQ", "GE", "GT", "NE", "MASKED_EQ"))
OPERATORS = (LT, LE, EQ, GE, GT, NE, MASKED)

MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64", ("SCMP_ARCH_ARM",)),
    "armv7l": ("arm", "SCMP_ARCH_ARM", ()),
    "armv8l": ("arm", "SCMP_ARCH_ARM", ()),
    "i686": ("x86", "SCMP_ARCH_X86", ()),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64", ()),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE", ()),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64", ()),
    "s390x": ("s390x", "SCMP_ARCH_S390X", ("SCMP_ARCH_S390",)),
}
"""`uname -m` -> the name in conditions of profiles, libseccomp's own name, those whose programs run here as well."""

EPERM = 1
"""What ERRNO means without a number."""
KERNEL = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Argument:
    """A condition on one argument of a system call, as 64 bits without sign. MASKED_EQ: arg & value == value_two."""

    index: int
    op: str
    value: int
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """Empty: no condition. As `includes` all capabilities are needed, as `excludes` one is enough."""

    arches: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    kernel: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """`errno` None: the runtime's own (EPERM)."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    arguments: tuple[Argument, ...] = ()
    includes: Condition = Condition()
    excludes: Condition = Condition()


@dataclass(frozen=True, slots=True)
class Profile:
    """`architectures` for every machine, or `arch_map`: libseccomp's name of the machine -> the others."""

    name: str
    default: str
    default_errno: int | None
    rules: tuple[Rule, ...]
    architectures: tuple[str, ...] = ()
    arch_map: tuple[tuple[str, tuple[str, ...]], ...] = ()
    flags: tuple[str, ...] = ()

    def in_force(self, capabilities: Collection[str], machine: str, kernel: tuple[int, int]) -> tuple[Rule, ...]:
        """The rules whose conditions hold for a container with these capabilities, on this machine."""
        short = MACHINES[machine][0] if machine in MACHINES else machine
        return tuple(rule for rule in self.rules if _applies(rule, capabilities, short, kernel))


def convert(
    profile: Profile, capabilities: Collection[str], machine: str, kernel: tuple[int, int] = (6, 1)
) -> dict[str, Any]:
    """The OCI form for one container. Raises InvalidRequest where the runtime would make less of it than it says."""
    rules = _settled(profile.in_force(capabilities, machine, kernel))
    _check(profile, rules)
    out: dict[str, Any] = {"defaultAction": profile.default}
    if profile.default_errno is not None:
        out["defaultErrnoRet"] = profile.default_errno
    architectures = _architectures(profile, machine)
    if architectures:
        out["architectures"] = architectures
    if profile.flags:
        out["flags"] = list(profile.flags)
    out["syscalls"] = [_rule(rule) for rule in rules if not _says_the_default(rule, profile)]
    return out


def _architectures(profile: Profile, machine: str) -> list[str]:
    if profile.architectures:
        return list(profile.architectures)
    native = MACHINES[machine][1] if machine in MACHINES else ""
    return [native, *dict(profile.arch_map)[native]] if native in dict(profile.arch_map) else []


def _applies(rule: Rule, capabilities: Collection[str], arch: str, kernel: tuple[int, int]) -> bool:
    includes, excludes = rule.includes, rule.excludes
    if (includes.arches and arch not in includes.arches) or arch in excludes.arches:
        return False
    if not all(name in capabilities for name in includes.caps):
        return False
    if any(name in capabilities for name in excludes.caps):
        return False
    if includes.kernel is not None and kernel < includes.kernel:
        return False
    return not (excludes.kernel is not None and kernel >= excludes.kernel)


def _says_the_default(rule: Rule, profile: Profile) -> bool:
    """runc leaves such a rule out, libseccomp refuses it (EACCES)."""
    mine, its = (EPERM if number is None else number for number in (rule.errno, profile.default_errno))
    return rule.action == profile.default and (rule.action != ERRNO or mine == its)


def _rule(rule: Rule) -> dict[str, Any]:
    out: dict[str, Any] = {"names": list(rule.names), "action": rule.action}
    if rule.errno is not None:
        out["errnoRet"] = rule.errno
    if rule.arguments:
        out["args"] = [
            {"index": one.index, "value": one.value, "valueTwo": one.value_two, "op": one.op} for one in rule.arguments
        ]
    return out


# --- what a runtime would not do as it is written --------------------------------------------------------------------


def _settled(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """A rule without conditions on arguments ends the laxer ones for the same system call.

    libseccomp would keep the first of two such rules, and runc leaves out whatever says the same as the default.
    """
    worst: dict[str, int] = {}
    for rule in rules:
        for name in () if rule.arguments else rule.names:
            worst[name] = max(worst.get(name, 0), SEVERITY[rule.action])
    out = []
    for rule in rules:
        names = tuple(name for name in rule.names if SEVERITY[rule.action] >= worst.get(name, 0))
        if names:
            out.append(replace(rule, names=names))
    return tuple(out)


def _check(profile: Profile, rules: Sequence[Rule]) -> None:
    permitted = any("execve" in rule.names and permits(rule.action) for rule in rules)
    if not permits(profile.default) and not permitted:
        raise InvalidRequest(f"seccomp profile {profile.name} permits no execve: no program can be started under it")
    for lax, strict, name in _contradictions(rules):
        how = f"{lax.action} and {strict.action} may both be meant, and which of them holds is not defined"
        raise InvalidRequest(f"seccomp profile {profile.name}: rules for {name} contradict each other: {how}")


def permits(action: str) -> bool:
    return SEVERITY[action] <= SEVERITY[LOG]


def _contradictions(rules: Sequence[Rule]) -> Iterator[tuple[Rule, Rule, str]]:
    """Pairs of rules for one system call that may both match, a laxer one and a stricter one with conditions.

    libseccomp drops the latter in silence where the former has none, and else takes them in an order of its own.
    """
    of: dict[str, list[Rule]] = {}
    for rule in rules:
        for name in rule.names:
            of.setdefault(name, []).append(rule)
    for name, same in of.items():
        for lax, strict in itertools.permutations(same, 2) if len({rule.action for rule in same}) > 1 else ():
            if SEVERITY[lax.action] < SEVERITY[strict.action] and strict.arguments and not _apart(lax, strict):
                yield lax, strict, name


def _apart(one: Rule, other: Rule) -> bool:
    """True where no call can match both: whatever holds, the conditions on some argument exclude each other."""
    return all(
        any(mine.index == theirs.index and _exclusive(mine, theirs) for mine, theirs in itertools.product(some, others))
        for some, others in itertools.product(_alternatives(one), _alternatives(other))
    )


def _alternatives(rule: Rule) -> Sequence[tuple[Argument, ...]]:
    """Conditions of which all must hold, together one of several: runc makes a rule of each where two are on one
    argument (libcontainer's matchCall)."""
    if len({argument.index for argument in rule.arguments}) == len(rule.arguments):
        return (rule.arguments,)
    return [(argument,) for argument in rule.arguments]


def _exclusive(one: Argument, other: Argument) -> bool:
    if one.op == MASKED and other.op == MASKED:
        return bool((one.value_two ^ other.value_two) & one.value & other.value)
    for mine, theirs in ((one, other), (other, one)):
        if mine.op == EQ:
            return not holds(theirs, mine.value)
    ranges = [_range(argument) for argument in (one, other)]
    return max(low for low, _ in ranges) > min(high for _, high in ranges)


def _range(argument: Argument) -> tuple[int, int]:
    """The lowest and the highest value that a condition can hold for."""
    value = argument.value
    highest = {LT: value - 1, LE: value}.get(argument.op, (1 << 64) - 1)
    return {GT: value + 1, GE: value}.get(argument.op, 0), highest


def holds(argument: Argument, value: int) -> bool:
    """What the kernel makes of a condition."""
    match argument.op:
        case "SCMP_CMP_MASKED_EQ":
            return value & argument.value == argument.value_two
        case "SCMP_CMP_NE":
            return value != argument.value
        case "SCMP_CMP_EQ":
            return value == argument.value
    low, high = _range(argument)
    return low <= value <= high


def version(text: str) -> tuple[int, int]:
    """`6.18.2-1` -> (6, 18)."""
    found = KERNEL.match(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)

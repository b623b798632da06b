"""A seccomp profile from a file, read strictly: whatever would make it permit more than it says is refused.

Two forms are taken: the OCI specification's (what containerd reads) and Docker's with conditions (what CRI-O reads).
Keys are folded as Go's JSON does it: `Syscalls` is `syscalls`; a key twice, or one that nobody knows, is refused, for
a rule that is left out in silence permits what it was written against.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from adapters.oci.capabilities import BY_NUMBER
from adapters.oci.seccomp import (
    ERRNO,
    KERNEL,
    MACHINES,
    MASKED,
    NOTIFY,
    OPERATORS,
    SEVERITY,
    TRACE,
    Argument,
    Condition,
    Profile,
    Rule,
)
from domain.errors import InvalidRequest, Unsupported

PROFILE_MAX = 4 * 1024 * 1024
SHOWN_MAX = 80


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PROFILE_KEYS = words(
    "defaultAction defaultErrnoRet defaultErrno architectures archMap flags listenerPath listenerMetadata syscalls "
    "comment $schema"
)
ARCH_KEYS = words("architecture subArchitectures")
RULE_KEYS = words("names name action errnoRet errno args includes excludes comment")
ARGUMENT_KEYS = words("index value valueTwo op")
CONDITION_KEYS = words("arches caps minKernel")

ARCHITECTURES = frozenset(
    "SCMP_ARCH_" + name
    for name in words(
        "X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 "
        "PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB"
    )
)
"""The OCI specification's."""
FLAGS = tuple("SECCOMP_FILTER_FLAG_" + name for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
ARCHES = frozenset(short for short, _, _ in MACHINES.values()) | frozenset(
    words("x32 386 mips mips64 mips64n32 mipsel mipsel64 mipsel64n32 ppc ppc64 s390 parisc parisc64 m68k sh sheb")
)

NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
NUMBER_64 = (1 << 64) - 1
ERRNO_MAX, MESSAGE_MAX = 4095, 65535
"""What the kernel takes as an errno, and as the message to a tracer."""


class _Wrong(Exception):
    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}" if place else why)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its keys, also those that stand there twice."""


def load(path: str) -> Profile:
    """Raises InvalidRequest naming file and place; Unsupported where the profile wants somebody to decide for it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidRequest(f"seccomp profile {path} is not a regular file")
            data = file.read(PROFILE_MAX + 1)
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise InvalidRequest(f"seccomp profile {path}: {why}") from error
    if len(data) > PROFILE_MAX:
        raise InvalidRequest(f"seccomp profile {path} is larger than {PROFILE_MAX} bytes")
    return parse(path, data)


def parse(name: str, data: bytes) -> Profile:
    """Raises as `load` does."""
    try:
        document = json.loads(data.decode(), object_pairs_hook=_Pairs, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"seccomp profile {name} is not JSON: {str(error)[:200]}") from error
    try:
        return _profile(name, document)
    except _Wrong as error:
        raise InvalidRequest(f"seccomp profile {name}: {error}") from error
    except Unsupported as error:
        raise Unsupported(f"seccomp profile {name}: {error.text}") from error


def require_known(profile: Profile, known: Callable[[str], bool]) -> None:
    """A rule stricter than the default action, on a name that nobody knows, would be left out by the runtime.

    Raises InvalidRequest. Other unknown names do no harm: the default action is for them.
    """
    for position, rule in enumerate(profile.rules):
        if SEVERITY[rule.action] > SEVERITY[profile.default]:
            for name in rule.names:
                if not known(name):
                    why = f"{name!r} is no system call that libseccomp knows here: the rule would not hold"
                    raise InvalidRequest(f"seccomp profile {profile.name}: syscalls[{position}].names: {why}")


# --- the parts of a profile ------------------------------------------------------------------------------------------


def _profile(name: str, document: Any) -> Profile:
    given = _object("", document, PROFILE_KEYS)
    for key in ("listenerPath", "listenerMetadata"):
        if given.get(key):
            raise Unsupported(f"{key}: decisions of a listener are not supported")
    default = _action("defaultAction", given.get("defaultAction"))
    architectures, arch_map = _listed("architectures", given), _listed("archMap", given)
    if architectures and arch_map:
        raise _Wrong("archMap", "stands beside architectures: which of them counts?")
    return Profile(
        name,
        default,
        _errno(given, "defaultErrnoRet", "defaultErrno", "", default),
        tuple(_rule(f"syscalls[{n}]", rule, default) for n, rule in enumerate(_listed("syscalls", given))),
        tuple(_one_of(f"architectures[{n}]", arch, ARCHITECTURES) for n, arch in enumerate(architectures)),
        _arch_map(arch_map),
        tuple(_one_of(f"flags[{n}]", flag, FLAGS) for n, flag in enumerate(_listed("flags", given))),
    )


def _arch_map(entries: list[Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    out: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(entries):
        place = f"archMap[{number}]"
        given = _object(place, entry, ARCH_KEYS)
        native = _one_of(f"{place}.architecture", given.get("architecture"), ARCHITECTURES)
        if native in out:
            raise _Wrong(place, f"{native} stands there twice")
        others = _listed("subArchitectures", given, place)
        out[native] = tuple(_one_of(f"{place}.subArchitectures", other, ARCHITECTURES) for other in others)
    return tuple(out.items())


def _rule(place: str, value: Any, default: str) -> Rule:
    given = _object(place, value, RULE_KEYS)
    action = _action(f"{place}.action", given.get("action"))
    arguments = tuple(_argument(f"{place}.args[{n}]", arg) for n, arg in enumerate(_listed("args", given, place)))
    twice = len({one.index for one in arguments}) < len(arguments)
    if twice and SEVERITY[action] < SEVERITY[default]:
        raise _Wrong(f"{place}.args", "two conditions on one argument: the runtime takes them as alternatives")
    return Rule(
        _names(place, given),
        action,
        _errno(given, "errnoRet", "errno", place, action),
        arguments,
        _condition(f"{place}.includes", given.get("includes")),
        _condition(f"{place}.excludes", given.get("excludes")),
    )


def _names(place: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    names = _listed("names", given, place)
    if given.get("name"):
        if names:
            raise _Wrong(f"{place}.name", "stands beside names: use one of them")
        names, where = [given["name"]], f"{place}.name"
    else:
        where = f"{place}.names"
    if not names:
        raise _Wrong(where, "a rule needs system calls that it is for")
    for name in names:
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise _Wrong(where, f"{_shown(name)} is not a system call's name")
    return tuple(names)


def _argument(place: str, value: Any) -> Argument:
    given = _object(place, value, ARGUMENT_KEYS)
    op = _one_of(f"{place}.op", given.get("op"), OPERATORS)
    two = given.get("valueTwo")
    argument = Argument(
        _number(f"{place}.index", given.get("index"), 5),
        op,
        _number(f"{place}.value", given.get("value"), NUMBER_64),
        0 if two is None else _number(f"{place}.valueTwo", two, NUMBER_64),
    )
    if op == MASKED and argument.value_two & ~argument.value:
        raise _Wrong(f"{place}.valueTwo", "has bits that the mask (value) has not: the condition can never hold")
    return argument


def _condition(place: str, value: Any) -> Condition:
    if value is None:
        return Condition()
    given = _object(place, value, CONDITION_KEYS)
    arches = [_one_of(f"{place}.arches[{n}]", a, ARCHES) for n, a in enumerate(_listed("arches", given, place))]
    caps = [_one_of(f"{place}.caps[{n}]", c, BY_NUMBER) for n, c in enumerate(_listed("caps", given, place))]
    kernel = given.get("minKernel") or None
    if kernel is not None and not (isinstance(kernel, str) and re.fullmatch(r"\d{1,5}\.\d{1,5}(\.\d{1,5})?", kernel)):
        raise _Wrong(f"{place}.minKernel", f"{_shown(kernel)} is not a kernel's version, as in 4.8")
    found = KERNEL.match(kernel) if kernel else None
    return Condition(
        tuple("x86" if a == "386" else a for a in arches),
        tuple(caps),
        (int(found[1]), int(found[2])) if found else None,
    )


def _action(place: str, value: Any) -> str:
    action = _one_of(place, value, SEVERITY)
    if action == NOTIFY:
        raise Unsupported(f"{place}: {NOTIFY} is not supported: nobody would answer, the first such call would hang")
    return action


def _errno(given: Mapping[str, Any], number: str, text: str, place: str, action: str) -> int | None:
    """The number of an action ERRNO or TRACE, which may be given as a number, by its name, or both alike."""
    before = f"{place}." if place else ""
    value, name = given.get(number), given.get(text)
    most = MESSAGE_MAX if action == TRACE else ERRNO_MAX
    told = None if value is None else _number(f"{before}{number}", value, most)
    if not name:
        return told if action in (ERRNO, TRACE) else None
    named = getattr(errno, name, None) if isinstance(name, str) and re.fullmatch(r"E[A-Z0-9]+", name) else None
    if named is None:
        raise _Wrong(f"{before}{text}", f"{_shown(name)} is not an error's name, as in EPERM")
    if told not in (None, named):
        raise _Wrong(f"{before}{text}", f"{name} is {named}, but {number} says {told}")
    return int(named) if action in (ERRNO, TRACE) else None


# --- JSON ------------------------------------------------------------------------------------------------------------


def _object(place: str, value: Any, keys: Iterable[str]) -> dict[str, Any]:
    """An object's values under their proper keys. null is as good as absent, as in Go."""
    if not isinstance(value, _Pairs):
        raise _Wrong(place, f"{_shown(value)} where an object belongs")
    proper = {key.casefold(): key for key in keys}
    out: dict[str, Any] = {}
    for key, inner in value:
        name = proper.get(key.casefold())
        if name is None:
            raise _Wrong(place, f"unknown key {_shown(key)}; known are {', '.join(proper.values())}")
        if name in out:
            raise _Wrong(place, f"key {name} stands there twice (upper and lower case are the same)")
        out[name] = inner
    return {key: inner for key, inner in out.items() if inner is not None}


def _listed(key: str, given: Mapping[str, Any], place: str = "") -> list[Any]:
    value = given.get(key, [])
    if not isinstance(value, list) or isinstance(value, _Pairs):
        raise _Wrong(f"{place}.{key}" if place else key, f"{_shown(value)} where a list belongs")
    return value


def _one_of(place: str, value: Any, known: Iterable[str]) -> str:
    if value is None:
        raise _Wrong(place, "is missing")
    if not isinstance(value, str) or value not in known:
        raise _Wrong(place, f"{_shown(value)} is not known; known are {', '.join(sorted(known))}")
    return value


def _number(place: str, value: Any, most: int) -> int:
    if value is None:
        raise _Wrong(place, "is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _Wrong(place, f"{_shown(value)} is not a whole number from 0 to {most}")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _shown(value: Any) -> str:
    text = json.dumps(dict(value) if isinstance(value, _Pairs) else value, ensure_ascii=True)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."

"""Seccomp: docker's profile format (as Debian's containers-common installs it) to the OCI `linux.seccomp`."""

import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from typing import Any

from domain.config import ProfileType, SecurityProfile
from domain.errors import InvalidRequest

DEFAULT_PROFILE = "/usr/share/containers/seccomp.json"
PROFILE_MAX = 4 * 1024 * 1024
KERNEL = re.compile(r"(\d+)\.(\d+)")
ARCHES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("x86", "SCMP_ARCH_X86"),
}
"""`uname -m` -> the profile's own name of it, libseccomp's name."""


def load(path: str) -> Mapping[str, Any]:
    """A profile file. Raises InvalidRequest where it is missing, too big or not an object."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidRequest(f"seccomp profile {path} is not a regular file")
            data = file.read(PROFILE_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"seccomp profile {path}: {os.strerror(error.errno or 0)}") from error
    if len(data) > PROFILE_MAX:
        raise InvalidRequest(f"seccomp profile {path} is larger than {PROFILE_MAX} bytes")
    try:
        profile = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"seccomp profile {path} is not JSON: {str(error)[:200]}") from error
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise InvalidRequest(f"seccomp profile {path} has no defaultAction")
    return profile


def wanted(asked: SecurityProfile | None, privileged: bool, default: str = DEFAULT_PROFILE) -> str:
    """The profile file to load, empty for unconfined. No profile at all means unconfined, as does privileged."""
    if asked is None or privileged or asked.type is ProfileType.UNCONFINED:
        return ""
    if asked.type is ProfileType.RUNTIME_DEFAULT:
        return default
    if not asked.localhost_ref.startswith("/"):
        raise InvalidRequest(f"seccomp profile {asked.localhost_ref[:200]!r} is not an absolute path")
    return asked.localhost_ref


def convert(
    profile: Mapping[str, Any], capabilities: Collection[str], machine: str, kernel: tuple[int, int]
) -> dict[str, Any]:
    """The OCI form for one container: rules whose conditions hold for its capabilities, this machine, this kernel."""
    short, native = ARCHES.get(machine, (machine, ""))
    out: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        out["defaultErrnoRet"] = profile["defaultErrnoRet"]
    architectures = _architectures(profile, native)
    if architectures:
        out["architectures"] = architectures
    for key in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(key):
            out[key] = profile[key]
    rules = []
    for rule in profile.get("syscalls") or ():
        if not isinstance(rule, dict) or not _applies(rule, capabilities, short, kernel):
            continue
        names = list(rule.get("names") or ([rule["name"]] if rule.get("name") else ()))
        if names:
            rules.append(_rule(rule, names))
    out["syscalls"] = rules
    return out


def _architectures(profile: Mapping[str, Any], native: str) -> list[str]:
    if profile.get("architectures"):
        return list(profile["architectures"])
    for entry in profile.get("archMap") or ():
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return []


def _applies(rule: Mapping[str, Any], capabilities: Collection[str], arch: str, kernel: tuple[int, int]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    if not all(name in capabilities for name in includes.get("caps") or ()):
        return False
    if any(name in capabilities for name in excludes.get("caps") or ()):
        return False
    if includes.get("minKernel") and kernel < version(includes["minKernel"]):
        return False
    return not (excludes.get("minKernel") and kernel >= version(excludes["minKernel"]))


def _rule(rule: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"names": names, "action": rule["action"]}
    if rule.get("errnoRet") is not None:
        out["errnoRet"] = rule["errnoRet"]
    arguments = [
        {"index": arg["index"], "value": arg["value"], "valueTwo": arg.get("valueTwo", 0), "op": arg["op"]}
        for arg in rule.get("args") or ()
    ]
    if arguments:
        out["args"] = arguments
    return out


def version(text: str) -> tuple[int, int]:
    """`6.18.2-1` -> (6, 18)."""
    found = KERNEL.match(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)

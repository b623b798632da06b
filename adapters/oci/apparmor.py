"""AppArmor's RuntimeDefault: the profile's text (pure), and its way into the kernel at the start of a daemon.

Rule 1: the text is written anew and replaces what the kernel has: what an older daemon loaded is never taken for it.
Rule 2: a machine that cannot (no AppArmor, no parser, in a container) keeps no daemon from starting: what is missing
is told, and containers that asked for nothing run without.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from adapters.oci import files, process
from domain.errors import DaybookError

NAME = "daybook-default"
ENABLED = "/sys/module/apparmor/parameters/enabled"
SECURITYFS = "/sys/kernel/security/apparmor"
ABI = "/etc/apparmor.d/abi/3.0"
LABELS = ("/proc/self/attr/apparmor/current", "/proc/self/attr/current")
PARSER, PARSER_LIMIT_S = "apparmor_parser", 10.0
LABEL_MAX = 1024
SENDERS = ("unconfined", "runc", "crun", "conmon", "daybook")
"""Who may signal a container: programs of the host, and those of its tools that have a profile (AppArmor 4)."""


@dataclass(frozen=True, slots=True)
class State:
    """`profile`: what RuntimeDefault is here, empty where there is none; `problem` then says why and what helps."""

    profile: str = ""
    problem: str = "this machine has no AppArmor"
    enabled: bool = False


# --- the text --------------------------------------------------------------------------------------------------------


def text(label: str, *, abi: bool, name: str = NAME) -> str:
    """The profile. `label`: the daemon's own, which may signal too; `abi`: whether this machine has ABI 3.0's file.

    ABI 3.0 is named since without it a kernel of 6.17 or newer mediates unix sockets, which `network` does not cover.
    """
    lines = ["abi <abi/3.0>,", ""] if abi else []
    lines += [f"profile {name} flags=(attach_disconnected,mediate_deleted) {{"]
    lines += [f"  {rule}," for rule in ("capability", "file", "network", "umount", "unix")]
    lines += [f"  signal (receive) peer={_quoted(sender)}," for sender in dict.fromkeys((*SENDERS, label))]
    # Where a profile is stacked or privileges were given up, the kernel tells the second form.
    for peer in (name, f"{name}//&unconfined"):
        lines += [f"  signal (send,receive) peer={peer},", f"  ptrace (trace,read,tracedby,readby) peer={peer},"]
    lines += [f"  deny {rule}," for rule in _denied()]
    return "\n".join([*lines, "}", ""])


def _denied() -> Iterator[str]:
    yield "mount"
    # 32-bit programs make sockets by `socketcall`, where seccomp sees no family.
    yield "network alg"
    yield "/proc/* w"
    for path in (*_all_but("/proc", "sys", "0-9"), *_all_but("/proc/sys", "kernel")):
        yield f"{path} w"
    for path in _all_but("/proc/sys/kernel", "shm", longer=False):
        yield f"{path} w"
    for path in ("/proc/kcore", "/proc/sysrq-trigger"):
        yield f"{path} rwklx"
    for path in (*_all_but("/sys", "fs"), *_all_but("/sys/fs", "cgroup")):
        yield f"{path} wklx"
    for path in ("/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/security"):
        yield f"{path}/** rwklx"


def _all_but(parent: str, kept: str, first: str = "", *, longer: bool = True) -> Iterator[str]:
    """Globs for all that lies in directories of `parent` but in `kept`, and but in those that begin as `first` says.

    Names that differ at some letter, names that are only its beginning, and, where `longer`, names that go on.
    """
    for position, letter in enumerate(kept):
        begins = kept[:position]
        yield f"{parent}/{begins}[^{letter}{first if not position else ''}/]{{,**}}"
        if begins:
            yield f"{parent}/{begins}{{,/**}}"
    if longer:
        yield f"{parent}/{kept}[^/]**"


def _quoted(label: str) -> str:
    return label if re.fullmatch(r"[A-Za-z0-9_.-]+", label) else f'"{label}"'


# --- the machine -----------------------------------------------------------------------------------------------------


def enabled() -> bool:
    try:
        with open(ENABLED) as file:
            return file.read(8).startswith("Y")
    except OSError:
        return False


def own_label() -> str:
    """The daemon's label as peers see it: `unconfined` where nothing else is told, or what cannot stand in a rule."""
    for path in LABELS:
        try:
            with open(path) as file:
                label = file.read(LABEL_MAX).rstrip("\0\n").rpartition(" (")
        except OSError:
            continue
        found = label[0] or label[2]  # the part behind is the mode, which `unconfined` does not have
        return found if re.fullmatch(r"[^\s\"{},]+", found) else "unconfined"
    return "unconfined"


def load(path: str) -> State:
    """Writes the profile to `path` and puts it into the kernel. Blocking, bounded; raises nothing."""
    return _with_parser(path, "--replace")


def tried(path: str) -> State:
    """As `load`, but the kernel is left alone: whether the parser takes the profile."""
    return _with_parser(path, "--skip-kernel-load")


def _with_parser(path: str, how: str) -> State:
    if not enabled():
        return State()
    parser = shutil.which(PARSER, path=process.ENVIRONMENT["PATH"])
    if parser is None:
        return State(problem=f"{PARSER} is not there: apt-get install apparmor, then restart Daybook", enabled=True)
    if not os.path.isdir(SECURITYFS):
        return State(problem="securityfs is not mounted at /sys/kernel/security", enabled=True)
    problem = ""
    # A parser older than 3.0 does not know `abi`; its machine has a kernel for which none is needed.
    for abi in (True, False) if os.path.exists(ABI) else (False,):
        problem = _parsed(parser, how, path, text(own_label(), abi=abi))
        if not problem:
            return State(NAME, "", enabled=True)
    return State(problem=f"profile {NAME} cannot be loaded: {problem}", enabled=True)


def _parsed(parser: str, how: str, path: str, profile: str) -> str:
    """Empty where the parser was content, else what it said."""
    try:
        files.write(path, profile.encode())
        done = process.run_blocking((parser, how, "--skip-cache", path), limit_s=PARSER_LIMIT_S)
    except (DaybookError, OSError) as error:
        return str(error)
    if done.code == 0:
        return ""
    return done.last_line or f"{PARSER}: exit {done.code}"

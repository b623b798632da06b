"""What exists on this machine: by the kernel, the disk and the packet filter, never by the daemon's word.

A look is a set of lines for each kind of thing. A line names a thing so that nothing else ever has the same line: a
process with its start time, a link with its index. So what came is a difference of two looks, and what is ours bears
one of our marks: a directory's name, an id, a bridge, a subnet.
"""

import ipaddress
import json
import os
import re
import select
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tools.demo_steps.saying import Wrong

Seen = Mapping[str, frozenset[str]]

COMMAND_S = 20
NAMESPACES = ("net", "ipc", "uts", "mnt", "pid")
HELD = re.compile(rf"({'|'.join(NAMESPACES)}):\[\d+\]")
ID = re.compile(r"[0-9a-f]{64}")
SHARED_CHAINS = ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ")
"""portmap makes them once for the whole machine and never removes them (its source, chain.go: no teardown)."""

NETNS = "/run/netns"
"""Everybody's: who pins a network there first makes it a shared mount of itself."""

PLACES = (
    "/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", NETNS, "/run/cni", "/run/runc", "/run/containers",
    "/var/lib", "/var/lib/cni", "/var/lib/cni/networks", "/var/lib/cni/results", "/var/lib/containers", "/etc/cni",
    "/etc/cni/net.d",
)  # fmt: skip
"""Where the programs that a daemon runs would leave things if they did not keep to its directories."""


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Process:
    """`about`: command line, cgroups, and of a CNI plugin also for whom it runs."""

    pid: int
    started: int
    about: str

    def __str__(self) -> str:
        return f"process {self.pid} (started {self.started}) {self.about}"


def processes() -> list[Process]:
    """All but this one, kernel threads and zombies."""
    own = os.getpid()
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != own)
    return [found for pid in pids if (found := _process(pid))]


def _process(pid: int) -> Process | None:
    try:
        if _stat(pid)[0] == "Z" or not (command := Path(f"/proc/{pid}/cmdline").read_bytes()):
            return None
        cgroups = {
            line.split(":", 2)[2]
            for line in Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
        }
        told = [word for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if word.startswith(b"CNI_")]
        about = b" ".join([*command.rstrip(b"\0").split(b"\0"), *told]).decode(errors="replace")
        return Process(pid, started_at(pid), " ".join([about, *sorted(cgroups - {"/"})]))
    except (OSError, IndexError):
        return None


def _stat(pid: int) -> list[str]:
    """From the state on: the command's name before it may contain anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="surrogateescape").rpartition(")")[2].split()


def started_at(pid: int) -> int:
    """The process's start in clock ticks since boot: pid and this number name a process for as long as the boot."""
    return int(_stat(pid)[19])


def wait_end(handle: int, limit_s: float) -> bool:
    """Whether the process behind a pidfd ended within the limit."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))


# --- mounts and namespaces -------------------------------------------------------------------------------------------


def _mounts(running: Sequence[Process]) -> Iterator[str]:
    """In every mount namespace that a process is in."""
    own = os.readlink("/proc/self/ns/mnt")
    for namespace, pid in {own: os.getpid(), **_one_of_each(running)}.items():
        for point, root, kind, options in _mountinfo(pid):
            yield f"{point} ({kind} {root} {options})" + ("" if namespace == own else f" in {namespace}")


def _one_of_each(running: Sequence[Process]) -> dict[str, int]:
    found = {link: each.pid for each in running if (link := _link(f"/proc/{each.pid}/ns/mnt"))}
    found.pop(os.readlink("/proc/self/ns/mnt"), None)
    return found


def _mountinfo(pid: int) -> Iterator[tuple[str, str, str, str]]:
    """Mount point, root within its file system, type, and source with options."""
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        yield before.split(" ")[4], before.split(" ")[3], kind, options


def _namespaces(running: Sequence[Process]) -> Iterator[str]:
    """Those that are not this process's own: who is in them, has them open, or where they are pinned."""
    own = {_link(f"/proc/self/ns/{kind}") for kind in NAMESPACES}
    for point, root, kind, _ in _mountinfo(os.getpid()):
        if kind == "nsfs":
            yield f"{root} pinned on {point}"
    for each in running:
        inside = {_link(f"/proc/{each.pid}/ns/{kind}") for kind in NAMESPACES} - own - {""}
        yield from (f"{link} of {each}" for link in inside)
        opened = {link for link in _open_files(each.pid) if HELD.fullmatch(link)} - own - inside
        yield from (f"{link} open in {each}" for link in opened)


def _open_files(pid: int) -> list[str]:
    try:
        return [_link(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


# --- the network -----------------------------------------------------------------------------------------------------


def _links(_: Sequence[Process]) -> Iterator[str]:
    for each in ip("link"):
        master = f" in bridge {each['master']}" if "master" in each else ""
        yield f"{each['ifname']} (index {each['ifindex']}){master}"


def _addresses(_: Sequence[Process]) -> Iterator[str]:
    for each in ip("address"):
        for address in each.get("addr_info", []):
            if "local" in address:
                yield f"{address['local']}/{address['prefixlen']} on {each['ifname']} (index {each['ifindex']})"


def _routes(_: Sequence[Process]) -> Iterator[str]:
    for family in ("-4", "-6"):
        for each in ip("route", "show", "table", "all", family=family):
            via = " ".join(f"{key} {each[key]}" for key in ("type", "gateway", "dev", "table") if key in each)
            yield f"{each['dst']} {via}"


def ip(*words: str, family: str = "") -> list[dict[str, Any]]:
    """What `ip` tells. Raises Wrong."""
    said = command("ip", *filter(None, [family]), "-json", *words)
    found: list[dict[str, Any]] = [each for each in json.loads(said or "[]") if each]
    return found


def _rules(_: Sequence[Process]) -> Iterator[str]:
    for family, program in (("ip", "iptables-save"), ("ip6", "ip6tables-save")):
        yield from rules_of(family, command(program))


def rules_of(family: str, saved: str) -> Iterator[str]:
    """`ip nat -A CHAIN ...`: rules, chains that somebody made, and policies that are not ACCEPT."""
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A"):
            yield f"{family} {table} {line}"
        elif line.startswith(":"):
            chain, policy = line[1:].split(" ")[:2]
            if policy != "ACCEPT":
                yield f"{family} {table} " + (f"-N {chain}" if policy == "-" else f"-P {chain} {policy}")


def command(*words: str, told: str = "") -> str:
    """What a program printed. Raises Wrong where it cannot do it."""
    try:
        done = subprocess.run(words, input=told, capture_output=True, text=True, timeout=COMMAND_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Wrong(f"cannot run {words[0]}: {error}") from None
    if done.returncode:
        raise Wrong(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


# --- cgroups and files -----------------------------------------------------------------------------------------------


def _cgroups(_: Sequence[Process]) -> Iterator[str]:
    return (path for path, _, _ in os.walk("/sys/fs/cgroup"))


def daemon_cgroups() -> set[str]:
    """The cgroups in which daemons keep the monitors of their containers."""
    return {path for path in _cgroups(()) if path.endswith(("/daybook", "/daybook/monitors"))}


def _files(_: Sequence[Process]) -> Iterator[str]:
    for place in PLACES:
        with_name = partial(os.path.join, place)
        try:
            yield from map(with_name, os.listdir(place))
        except OSError:
            continue


def belongings(*roots: Path) -> Iterator[str]:
    """Below these directories, what is named after a pod, a container, a layer or an address."""
    for root in roots:
        for path, below, plain in os.walk(root):
            yield from (os.path.join(path, name) for name in (*below, *plain) if ID.search(name) or is_address(name))


def is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


# --- a look ----------------------------------------------------------------------------------------------------------

KINDS: Mapping[str, Callable[[Sequence[Process]], Iterable[str]]] = {
    "processes": lambda running: map(str, running),
    "mounts": _mounts,
    "namespaces": _namespaces,
    "links": _links,
    "addresses": _addresses,
    "routes": _routes,
    "rules": _rules,
    "cgroups": _cgroups,
    "files": _files,
}


NETWORK_KINDS = ("links", "addresses", "routes", "rules")


def look(kinds: Collection[str] = tuple(KINDS)) -> Seen:
    """Raises Wrong where something cannot be looked at."""
    running = processes()
    return {kind: frozenset(KINDS[kind](running)) for kind in KINDS if kind in kinds}


def newer(now: Seen, before: Seen) -> Seen:
    return {kind: lines - before.get(kind, frozenset()) for kind, lines in now.items()}


def bearing(seen: Seen, names: Collection[str], network: Collection[str] = ()) -> Seen:
    """What bears one of the names; in the network's kinds also what bears one of its marks, and what hangs on that.

    That is a link's addresses and routes, and the chains that a rule leads to.
    """
    marks = [*names, *network]
    links = {line.split(" ")[0] for line in _marked(seen.get("links", ()), marks)}
    marks += [*(f" {name} (index " for name in links), *(f"dev {name}" for name in links)]
    marks += chains_of(_marked(seen.get("rules", ()), marks))
    return {kind: frozenset(_marked(lines, marks if kind in NETWORK_KINDS else names)) for kind, lines in seen.items()}


def _marked(lines: Iterable[str], marks: Collection[str]) -> list[str]:
    return [line for line in lines if any(mark in line for mark in marks)]


def chains_of(rules: Iterable[str]) -> Iterator[str]:
    """The chains to which these rules lead, but for those of the kernel and of all pods."""
    for rule in rules:
        target = rule.partition(" -j ")[2].split(" ")[0]
        if target.startswith("CNI-") and target not in SHARED_CHAINS:
            yield target


def count(kind: str, lines: Collection[str]) -> int:
    """How many things these lines are about: several processes may be in one namespace."""
    return len({line.split(" ")[0] for line in lines} if kind == "namespaces" else lines)


def told(seen: Seen) -> list[str]:
    """Every line with its kind, in order."""
    return [f"{kind}: {line}" for kind, lines in seen.items() for line in sorted(lines)]

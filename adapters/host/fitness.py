"""Is this machine fit to run Daybook, and what to do about each thing that is not. Reads, and runs `--version`."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

OK, WARN, FAIL = "ok", "warn", "FAIL"
VERSION_LIMIT_S = 10
FREE_BYTES_MIN = 1 << 30
RUNC_FLOOR = (1, 1, 5)
"""Older ones lack fixes that the rootfs rules rely on. Distributions backport, so below the floor is only a warning."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `daybook check`. `remedy` is empty where nothing is to be done."""

    level: str
    what: str
    found: str
    remedy: str = ""


def facts(data: Path, run: Path, programs: dict[str, str], files: dict[str, str]) -> Iterator[Fact]:
    """`programs`: role -> name or path. `files`: role -> path."""
    yield _root()
    for role, name in programs.items():
        yield _program(role, name)
    for role, path in files.items():
        yield _file(role, path)
    yield from _kernel()
    yield from (_directory(path) for path in (data, run))
    yield _space(data)


def network(name: str, problem: str, directories: Iterable[Path]) -> Iterator[Fact]:
    """`name`: of the pod network that would be used; `problem`: why there is none. `directories`: of files and plugins.

    Without one the daemon still serves pods on the host's network, so that much is no failure.
    """
    if problem:
        remedy = "apt-get install containernetworking-plugins, and put a conflist there; until then host network only"
        yield Fact(WARN, "pod network", problem, remedy)
    else:
        yield Fact(OK, "pod network", name)
        if shutil.which("iptables") is None:
            found = "is not there; host ports and masquerading of pods need it"
            yield Fact(WARN, "iptables", found, "apt-get install iptables")
    for directory in directories:
        if directory.is_dir() and directory.stat().st_mode & 0o022:
            yield Fact(FAIL, str(directory), "others may write what root will run", f"chmod go-w {directory}")


def pins(directory: Path) -> Fact:
    """Whether network namespaces can be pinned where `ip netns` has them. Changes nothing."""
    where = Path(os.path.realpath(directory))
    nearest = next(path for path in (where, *where.parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        remedy = f"move {nearest} away: pods with a network of their own need the directory"
        return Fact(FAIL, str(directory), f"{nearest} is no directory", remedy)
    if os.statvfs(nearest).f_flag & os.ST_RDONLY:
        remedy = f"mount -o remount,rw what {nearest} lies on, or unmount what covers it; until then host network only"
        return Fact(FAIL, str(directory), f"{nearest} is read-only", remedy)
    return Fact(OK, str(directory), "there" if nearest == where else "will be made")


def _root() -> Fact:
    if os.geteuid() == 0:
        return Fact(OK, "user", "root")
    return Fact(FAIL, "user", f"uid {os.geteuid()}", "run Daybook as root: it makes namespaces, mounts and cgroups")


def _program(role: str, name: str) -> Fact:
    path = shutil.which(name)
    if path is None:
        package = {"OCI runtime": "runc", "monitor": "conmon", "infra": "catatonit", "image tool": "skopeo"}[role]
        return Fact(
            FAIL, role, f"{name} is not there", f"apt-get install {package}, or name another in the configuration"
        )
    version = version_of(path)
    if not version:
        return Fact(FAIL, role, f"{path} does not answer to --version", "see what `--version` says by hand")
    if Path(path).name == "runc" and _numbers(version) < RUNC_FLOOR:
        return Fact(WARN, role, f"{path} {version}", f"runc {'.'.join(map(str, RUNC_FLOOR))} or newer is advised")
    return Fact(OK, role, f"{path} {version}")


def version_of(path: str) -> str:
    """The last word of the first line of `--version`; empty where the program cannot be run."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, timeout=VERSION_LIMIT_S, stdin=subprocess.DEVNULL, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    words = (done.stdout.decode(errors="replace").splitlines() or [""])[0].split()
    return words[-1][:64] if words else ""


def _numbers(version: str) -> tuple[int, ...]:
    digits = version.split("+")[0].split("~")[0].split("-")[0].split(".")
    return tuple(int(part) for part in digits if part.isdigit())


def _file(role: str, path: str) -> Fact:
    if Path(path).is_file():
        return Fact(OK, role, path)
    remedy = "apt-get install golang-github-containers-common, or name another in the configuration"
    return Fact(FAIL, role, f"{path} is not there", remedy)


def _kernel() -> Iterator[Fact]:
    filesystems = _read("/proc/filesystems")
    if "overlay" in filesystems.split():
        yield Fact(OK, "overlayfs", "known to the kernel")
    else:
        yield Fact(FAIL, "overlayfs", "unknown to the kernel", "modprobe overlay, and add it to /etc/modules-load.d")
    yield _cgroups()
    if Path("/proc/self/ns/net").exists() and hasattr(os, "pidfd_open"):
        yield Fact(OK, "kernel", os.uname().release)
    else:
        yield Fact(FAIL, "kernel", os.uname().release, "a kernel of 5.4 or newer with namespaces and pidfd is needed")


def _cgroups() -> Fact:
    mounts = [line.split() for line in _read("/proc/self/mountinfo").splitlines()]
    kinds = {parts[parts.index("-") + 1] for parts in mounts if "-" in parts}
    if "cgroup" in kinds:
        return Fact(OK, "cgroups", "v1 or hybrid hierarchy")
    if "cgroup2" in kinds:
        return Fact(OK, "cgroups", "v2 hierarchy")
    return Fact(FAIL, "cgroups", "none mounted", "mount cgroup2 on /sys/fs/cgroup, or start with systemd")


def _directory(path: Path) -> Fact:
    nearest = next(p for p in (path, *path.parents) if p.exists())
    if not os.access(nearest, os.W_OK):
        return Fact(FAIL, str(path), f"{nearest} cannot be written", "choose another directory under [paths]")
    if nearest == path and path.stat().st_mode & 0o022:
        return Fact(WARN, str(path), "others may write into it", f"chmod go-w {path}")
    return Fact(OK, str(path), "there" if nearest == path else "will be made")


def _space(data: Path) -> Fact:
    nearest = next(p for p in (data, *data.parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{free >> 20} MiB free below {nearest}"
    if free < FREE_BYTES_MIN:
        return Fact(WARN, "disk", found, "images need room; free some, or choose another directory under [paths]")
    return Fact(OK, "disk", found)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

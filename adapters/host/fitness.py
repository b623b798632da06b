"""Is this machine fit to run Daybook, and what to do about each thing that is not.

What depends on the kernel is not read but tried (`trial`): the composition root hands in what the adapters do
themselves, so that what is tried is what will be done.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from domain.errors import DaybookError

OK, WARN, FAIL = "ok", "warn", "FAIL"
VERSION_LIMIT_S = 10
TRIAL_LIMIT_S = 20.0
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


def pin_directory(directory: Path) -> Fact:
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


def trial(what: str, attempt: Callable[[], str], remedy: str, limit_s: float = TRIAL_LIMIT_S) -> Fact:
    """Tries it, in a thread that is given up at the limit. What it returns was found; what it raises is the failure."""
    found: list[Fact] = []

    def body() -> None:
        try:
            found.append(Fact(OK, what, attempt()))
        except DaybookError as error:
            found.append(Fact(FAIL, what, error.text, remedy))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            found.append(Fact(FAIL, what, f"{where}{error.strerror or error}", remedy))

    thread = threading.Thread(target=body, name=f"trial of {what}", daemon=True)
    thread.start()
    thread.join(limit_s)
    return found[0] if found else Fact(FAIL, what, f"no answer within {limit_s:g} s", remedy)


def file_system(directory: Path, magic: Callable[[str], int]) -> Fact:
    """What cannot be promised on the data's file system. `magic`: its number in statfs(2)."""
    nearest = _nearest(directory)
    name, why = UNSURE.get(magic(str(nearest)) & 0xFFFFFFFF, ("", ""))
    if not name:
        return Fact(OK, "file system", f"of {nearest}: room that is kept back on it stays")
    return Fact(
        WARN, "file system", f"{nearest} is on {name}: {why}", "put paths.data on ext4 or xfs where that matters"
    )


_COPIES = (
    "it writes every block anew, so that room kept back for a full disk is not sure: ends may not be recorded there"
)
UNSURE: Mapping[int, tuple[str, str]] = {
    0x9123683E: ("btrfs", _COPIES),
    0x2FC12FC1: ("ZFS", _COPIES),
    0xCA451A4E: ("bcachefs", _COPIES),
    0x794C7630: ("overlay", "what holds is the file system below it, and roots over it may be refused"),
    0x01021994: ("tmpfs", "all is gone after a boot, the log too"),
    0x858458F6: ("ramfs", "all is gone after a boot, the log too"),
    0x6969: ("NFS", "locks, and syncs that last, depend on a server"),
}
"""By magic number of statfs(2)."""


def mount_namespace(daemon: int) -> Fact:
    """The machine's own, of this process and of the daemon that runs (0: none).

    In another one mounts of pods are seen by nobody else, and what is pinned is gone at the next start (systemd makes
    one for PrivateTmp=, ProtectSystem= and the like).
    """
    # Where process 1 may not be looked at (in some containers), this command stands for the machine.
    machine = _link("/proc/1/ns/mnt") or _link(f"/proc/{os.getpid()}/ns/mnt")
    for pid, whose in ((os.getpid(), "this process"), (daemon, f"the daemon (pid {daemon})")):
        seen = _link(f"/proc/{pid}/ns/mnt") if pid else ""
        if seen and seen != machine:
            found = f"{whose} has one of its own: pods would lose their namespaces and mounts at a restart"
            remedy = "take PrivateTmp=, PrivateMounts=, ProtectSystem=, ReadOnlyPaths= and the like out of the unit"
            return Fact(FAIL, "mount namespace", found, remedy)
    return Fact(OK, "mount namespace", "the machine's own")


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def registries(problem: str) -> Fact:
    """`problem`: why a pull could not read its files."""
    if problem:
        return Fact(FAIL, "pull files", problem, "mend the file: no image can be pulled until then")
    return Fact(OK, "pull files", "policy.json and registries.conf can be read")


def _directory(path: Path) -> Fact:
    nearest = _nearest(path)
    if not os.access(nearest, os.W_OK):
        return Fact(FAIL, str(path), f"{nearest} cannot be written", "choose another directory under [paths]")
    if nearest == path and path.stat().st_mode & 0o022:
        return Fact(WARN, str(path), "others may write into it", f"chmod go-w {path}")
    return Fact(OK, str(path), "there" if nearest == path else "will be made")


def _space(data: Path) -> Fact:
    nearest = _nearest(data)
    free = shutil.disk_usage(nearest).free
    found = f"{free >> 20} MiB free below {nearest}"
    if free < FREE_BYTES_MIN:
        return Fact(WARN, "disk", found, "images need room; free some, or choose another directory under [paths]")
    return Fact(OK, "disk", found)


def _nearest(path: Path) -> Path:
    """The path itself, or the directory that is there already in which it would be made."""
    return next(p for p in (path, *path.parents) if p.exists())

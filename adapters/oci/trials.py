"""What containers need of this machine, really done and undone: for `daybook check`. Versions prove nothing.

Each returns what was seen, and raises OSError or a DaybookError where it does not work. Nothing is left: mounts and
namespaces are those of a thread that is thrown away, the rest lies in the directory that is given, or in a cgroup and
a child that are gone before it returns. Blocking; whoever calls sets a limit.
"""

import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from adapters import children
from adapters.oci import cgroups, kernel, namespaces, process
from domain.errors import DaybookError

KILLED_S = 5.0
"""How long a killed child may take to end."""

CONTROLLERS = ("cpu", "memory", "pids")
"""Without these no limit that a kubelet sends can be kept."""


def privately(work: Callable[[], str]) -> str:
    """In a thread with a mount namespace of its own: what it mounts goes with the thread, also if we are killed."""
    said: list[str] = []
    failed: list[OSError | DaybookError] = []

    def body() -> None:
        try:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
            said.append(work())
        except (OSError, DaybookError) as error:
            failed.append(error)

    thread = threading.Thread(target=body, name="oci trial", daemon=True)
    thread.start()
    thread.join()
    if not said:
        raise failed[0] if failed else OSError(errno.EIO, "the thread ended without a word")
    return said[0]


def own_namespaces(scratch: Path) -> str:
    """A pod's namespaces, with a name set inside and each pinned on a file."""
    pins = {kind: str(scratch / kind) for kind in namespaces.FLAGS}

    def work() -> str:
        namespaces.make(pins, (), "daybook-check")
        missing = [kind for kind, path in pins.items() if not namespaces.is_pinned(path)]
        if missing:
            raise OSError(errno.EINVAL, f"not pinned: {', '.join(missing)}")
        return f"{', '.join(pins)}: made and pinned"

    return privately(work)


def paths_in_a_root(scratch: Path) -> str:
    """A link in a container's file system leads into that file system, never to the host's."""
    (scratch / "root" / "etc").mkdir(parents=True)
    (scratch / "root" / "link").symlink_to("/etc")
    root = os.open(scratch / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = kernel.open_in_root(root, "link", os.O_PATH | os.O_DIRECTORY)
        inside = os.path.samestat(os.fstat(found), os.stat(scratch / "root" / "etc"))
        os.close(found)
    finally:
        os.close(root)
    if not inside:
        raise OSError(errno.EINVAL, "a link led out of the root")
    return "openat2 keeps links inside"


def processes_by_descriptor() -> str:
    """A process is found, signalled and waited for by pidfd."""
    with _child() as child:
        known = process.identity(child.pid)
        if known is None or not process.send_signal(known, signal.SIGKILL):
            raise OSError(errno.ESRCH, "a child was not found by its start time")
        child.wait(KILLED_S)
    return "pidfd signals and tells the end"


def cgroup_moves() -> str:
    """A cgroup where containers without a parent are, in every hierarchy, and a process in it."""
    found = cgroups.hierarchies()
    if not found.roots:
        raise OSError(errno.ENODEV, "no hierarchy is mounted")
    have = _controllers(found)
    if missing := [name for name in CONTROLLERS if name not in have]:
        raise OSError(errno.ENODEV, f"no controller {', '.join(missing)}")
    with _child() as child:
        path = f"{cgroups.DEFAULT_PARENT}/check-{child.pid}"
        try:
            if failed := cgroups.join(child.pid, path):
                raise OSError(errno.EPERM, failed)
            if not cgroups.lies_in(child.pid, path):
                raise OSError(errno.EINVAL, f"a process moved to {path} is not in it")
        finally:
            child.kill()
            child.wait(KILLED_S)
            cgroups.remove(path)
            cgroups.prune(cgroups.DEFAULT_PARENT)
    return f"{'v2' if found.v2 else 'v1 or both'}: made, a process moved, removed"


def _controllers(found: cgroups.Hierarchies) -> list[str]:
    if not found.v2:
        return list(found.v1)
    return Path(f"{found.unified}/cgroup.controllers").read_text().split()


@contextlib.contextmanager
def _child() -> Iterator["subprocess.Popen[bytes]"]:
    child = children.start(["/bin/sleep", "60"], env={})
    try:
        yield child
    finally:
        process.kill_group(child)

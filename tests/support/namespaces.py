"""Namespaces seen from outside: who holds one, which file pins which; and a look from inside a network."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from adapters import mountinfo
from adapters.oci import kernel
from adapters.oci.layout import NETNS, SandboxPaths

T = TypeVar("T")
KINDS = ("net", "uts", "ipc", "pid")
PINS = os.path.realpath(NETNS)
FOUND = (os.path.isdir(PINS), mountinfo.count_at(PINS))
"""Whether the machine has the directory of network namespaces, and how many mounts at it, before the first test."""


def as_found() -> None:
    """Takes back what the first pin made of the directory, once nobody has a pin there."""
    there, mounts = FOUND
    if not os.path.isdir(PINS) or os.listdir(PINS):
        return
    for _ in range(mountinfo.count_at(PINS) - mounts):
        kernel.unmount(PINS, kernel.MNT_DETACH)
    if not there:
        os.rmdir(PINS)


def held() -> set[int]:
    """The inodes of all namespaces that a process or a mount holds, as lsns lists them."""
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        for kind in KINDS:
            try:
                found.add(os.stat(f"/proc/{name}/ns/{kind}").st_ino)
            except OSError:
                continue
    return found | {inode for _, _, inode in _mounted()}


def pins(paths: SandboxPaths) -> dict[str, int]:
    """Kind -> inode of each namespace pinned for a sandbox. Each is mounted once.

    Where /run is a shared mount, as under systemd, its bind on itself is its peer: what is mounted there shows in both,
    as what `ip netns add` mounts there does.
    """
    net = f"{PINS}/{os.path.basename(paths.net)}"
    found = [(kind, inode) for point, kind, inode in _mounted() if point == net or point.startswith(f"{paths.run}/")]
    assert len(dict(found)) == len(set(found) if _run_is_shared() else found), found
    return dict(found)


def _run_is_shared() -> bool:
    """Whether the mount that holds /run is shared: proc(5), the optional fields of mountinfo."""
    with open("/proc/self/mountinfo") as file:
        holders = [fields for line in file if (fields := line.split(" "))[4] in ("/", "/run")]
    return any(word.startswith("shared:") for word in max(holders, key=lambda fields: len(fields[4]))[6:])


def _mounted() -> Iterator[tuple[str, str, int]]:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            root, point = line.split(" ")[3:5]
            kind, _, rest = root.partition(":[")
            if " - nsfs " in line and rest.endswith("]"):
                yield point, kind, int(rest[:-1])


@contextmanager
def inside(path: str) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Runs functions in a thread of their own that has entered the network namespace pinned at a path."""

    def run(function: Callable[[], T]) -> T:
        out: list[Any] = []

        def work() -> None:
            try:
                kernel.enter(path, kernel.CLONE_NEWNET)
                out.append((function(), None))
            except BaseException as error:
                out.append((None, error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        result, error = out[0]
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    yield run

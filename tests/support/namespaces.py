"""Namespaces seen from outside: who holds one, which file pins which; and a look from inside a network."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from adapters.oci import kernel

T = TypeVar("T")
KINDS = ("net", "uts", "ipc", "pid")


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


def pins(directory: str) -> dict[str, int]:
    """Kind -> inode of each namespace pinned below a directory."""
    return {kind: inode for point, kind, inode in _mounted() if point.startswith(f"{directory}/")}


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
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    kernel._checked(kernel._libc.setns(fd, kernel.CLONE_NEWNET), path)
                finally:
                    os.close(fd)
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

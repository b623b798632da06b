"""Debian 13 without a machine of its own: its user space as a root on this kernel, entered by pivot_root.

Everything that is mounted, started or linked there is in namespaces of the command (mount, pid, net) and goes with it;
its files are in a temporary directory above the layers. Only cgroups are this machine's: see `OWN_CGROUPS`.
"""

import codecs
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.guest.qemu import TREE, Said
from tests.guest.roots import PATH, Root, entering

TIMED_OUT = 124
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = ("life",)
"""Below these nobody else has anything: the pods of inside/life.py."""
SHARED_CGROUPS = ("daybook/monitors", "daybook")
"""Every daemon of this machine uses them; they go with the last one."""


@dataclass(frozen=True, slots=True)
class Rooted:
    root: Root
    place: Path

    def run(self, command: str, limit_s: float, tell: Callable[[str], object] | None = None) -> Said:
        """A shell's text, run by root in TREE; killed with all that it started at its limit."""
        argv = entering(
            self.root, self.place / "upper", ["sh", "-c", f"cd {TREE} && {command}"],
            DATA=str(self.place / "data"), NETWORK="own",
        )  # fmt: skip
        environment = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        late = threading.Timer(limit_s, child.kill)
        late.start()
        try:
            text = _told(child, tell or str)
            status = child.wait()
        finally:
            child.kill()
            child.wait()
            timed_out = not late.is_alive()
            late.cancel()
        return Said(TIMED_OUT if timed_out else status, text)


def _told(child: "subprocess.Popen[bytes]", tell: Callable[[str], object]) -> str:
    parts, decoder = [], codecs.getincrementaldecoder("utf-8")("replace")
    assert child.stdout is not None
    while data := os.read(child.stdout.fileno(), 65536):
        parts.append(decoder.decode(data))
        tell(parts[-1])
    return "".join(parts)


@contextmanager
def entered(root: Root, files: Mapping[str, bytes]) -> Iterator[Rooted]:
    """A writable root with these files in TREE. Afterwards nothing of it is left."""
    place = Path(tempfile.mkdtemp(prefix="rooted-"))
    try:
        for name, data in files.items():
            path = place / "upper" / TREE.lstrip("/") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755)
        yield Rooted(root, place)
    finally:
        for path in (*own_cgroups(), *shared_cgroups()):
            with contextlib.suppress(OSError):
                path.rmdir()
        shutil.rmtree(place)


def own_cgroups() -> list[Path]:
    """What pods have left in any hierarchy, the innermost first."""
    tops = [top / name for top in (CGROUPS, *CGROUPS.iterdir()) for name in OWN_CGROUPS]
    return [Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


def shared_cgroups() -> list[Path]:
    return [top / name for top in (CGROUPS, *CGROUPS.iterdir()) for name in SHARED_CGROUPS]

"""A guest that runs: boots an image in qemu and has the agent inside it run commands.

Software emulation always: a /dev/kvm that opens need not boot a guest, and a test must not depend on which it is.
A guest dies with the thread that started it, at the end of its block, and at its limits. Its disk is thrown away.
"""

import io
import json
import os
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.guest.image import Image, overlay
from tests.guest.inside.agent import TIMED_OUT
from tests.support.limits import SLOWNESS

BOOT_LIMIT_S = 240.0 * SLOWNESS
OFF_LIMIT_S = 30.0 * SLOWNESS
COMMAND_LIMIT_S = 120.0 * SLOWNESS
ANSWER_MARGIN_S = 20.0 * SLOWNESS
"""How much later than a command's own limit the agent may tell that it was reached."""

MEMORY_MIB, CPUS = 2048, 2
# mitigations=off: what they cost is multiplied by the emulation; a third of a boot.
KERNEL_LINE = "console=ttyS0 root=/dev/vda rw quiet panic=-1 systemd.show_status=0 net.ifnames=0 mitigations=off"
TREE = "/root/tree"
"""Where the files given to `boot` are in the guest."""


class GuestFailed(RuntimeError):
    """The guest does not do what it must; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    text: str


class Guest:
    """One command at a time; not for several threads."""

    def __init__(self, child: "subprocess.Popen[bytes]", place: Path) -> None:
        self._child, self._place = child, place
        self._waiting, self._number = b"", 0

    def run(self, command: str, limit_s: float = COMMAND_LIMIT_S, tell: Callable[[str], object] | None = None) -> Said:
        """A shell's text, run by root. `tell` gets what it says as it comes. Raises GuestFailed where nobody answers."""
        self._number += 1
        request = {"id": self._number, "cmd": command, "limit_s": limit_s}
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(request).encode() + b"\n")
        self._child.stdin.flush()
        end, parts = time.monotonic() + limit_s + ANSWER_MARGIN_S, []
        while True:
            answer = self._answer(end, command)
            if "out" in answer:
                parts.append(answer["out"])
                (tell or str)(answer["out"])
            elif answer["id"] == self._number:
                return Said(answer["status"], "".join(parts))

    def check(self, command: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """As `run`; what it said. Raises GuestFailed where its status is not 0."""
        done = self.run(command, limit_s)
        if done.status:
            late = f" (killed after {limit_s:g} s)" if done.status == TIMED_OUT else ""
            raise GuestFailed(f"in the guest, status {done.status}{late}: {command}\n{done.text[-4000:]}")
        return done.text.strip()

    def _answer(self, end: float, about: str) -> dict[str, "str | int"]:
        assert self._child.stdout is not None
        fd = self._child.stdout.fileno()
        while b"\n" not in self._waiting:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise GuestFailed(f"the guest does not answer: {about}\n{self.console()}")
            if not (data := os.read(fd, 65536)):
                raise GuestFailed(f"the guest has ended: {about}\n{self.console()}")
            self._waiting += data
        line, self._waiting = self._waiting.split(b"\n", 1)
        return json.loads(line)  # type: ignore[no-any-return]

    def booted(self) -> None:
        """Waits for the agent's first words."""
        self._answer(time.monotonic() + BOOT_LIMIT_S, "it boots")

    def off(self) -> None:
        """Powers it off in order; by force where that takes too long."""
        self.run("systemctl --no-block poweroff")
        try:
            self._child.wait(OFF_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.cut()

    def cut(self) -> None:
        """Cuts its power."""
        self._child.kill()
        self._child.wait()

    def console(self) -> str:
        """The end of what kernel and qemu said."""
        files = [self._place / name for name in ("console", "qemu")]
        return "".join(file.read_text(errors="replace")[-3000:] for file in files if file.exists())


@contextmanager
def boot(image: Image, files: Mapping[str, bytes] | None = None, memory_mib: int = MEMORY_MIB) -> Iterator[Guest]:
    """A guest with a throw-away disk and, in TREE, these files. Ended whatever happens. Raises GuestFailed."""
    place = Path(tempfile.mkdtemp(prefix="guest-"))
    guest = None
    try:
        disks = [overlay(image, place / "disk.qcow2")]
        if files is not None:
            disks.append(_archive(files, place / "tree.tar"))
        with (place / "qemu").open("wb") as log:
            argv = _argv(image, disks, place, memory_mib)
            child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        guest = Guest(child, place)
        guest.booted()
        if files is not None:
            guest.check(f"mkdir -p {TREE} && tar -xf /dev/vdb -C {TREE}")
        yield guest
    finally:
        if guest is not None:
            guest.cut()
        shutil.rmtree(place, ignore_errors=True)


def _archive(files: Mapping[str, bytes], path: Path) -> Path:
    """A tar archive as a disk: its length a multiple of what a disk's block is."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o755, int(time.time())
            tar.addfile(member, io.BytesIO(data))
    with path.open("ab") as file:
        file.truncate(-(-path.stat().st_size // 4096) * 4096)
    return path


def _argv(image: Image, disks: list[Path], place: Path, memory_mib: int) -> list[str]:
    argv = ["setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64"]
    argv += ["-accel", "tcg,thread=multi,tb-size=1024", "-machine", "q35", "-cpu", "max"]
    argv += [
        "-m",
        str(memory_mib),
        "-smp",
        str(CPUS),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", KERNEL_LINE]
    argv += ["-serial", f"file:{place / 'console'}", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    argv += ["-chardev", "stdio,id=agent,signal=off", "-device", "virtserialport,chardev=agent,name=agent"]
    for number, disk in enumerate(disks):
        form = "qcow2" if disk.suffix == ".qcow2" else "raw"
        argv += ["-drive", f"file={disk},format={form},cache=unsafe,if=none,id=d{number}"]
        argv += ["-device", f"virtio-blk-pci,drive=d{number}"]
    return argv


def echo(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

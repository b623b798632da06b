"""Processes: the one function that starts them, who they are, and waiting for them.

A child gets its own session, no inherited descriptor, and files (never pipes) for what it says: a container inherits
its creator's stdio and would hold a pipe open for its whole life. What else it gets is `adapters.children`'s.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from adapters import children
from domain.errors import RuntimeFailed, TimedOut
from domain.records import Process

SAID_MAX = 64 * 1024
STAT_MAX = 4096
DESCENDANTS_MAX = 10_000
ZOMBIE_STATES = frozenset({"Z", "X", "x"})
F_ADD_SEALS = 1033
F_SEAL_SHRINK = 2
F_SEAL_GROW = 4
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Finished:
    """What a child left: its exit code (negative: the signal) and the first 64 KiB that it said."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        lines = [line for line in self.err.splitlines() if line.strip()]
        return printable(lines[-1]) if lines else ""


def printable(text: str, limit: int = 500) -> str:
    """A line from outside, safe to show."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


# --- starting --------------------------------------------------------------------------------------------------------


def spawn(
    argv: Sequence[str],
    *,
    cwd: str = "/",
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Where this adapter starts processes. Raises RuntimeFailed where the program cannot be executed."""
    try:
        return children.start(
            argv,
            cwd=cwd,
            env={**ENVIRONMENT, **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise RuntimeFailed(f"{argv[0]}: {os.strerror(error.errno or 0)}") from error


def bounded_file(name: str) -> int:
    """A file in memory that takes at most SAID_MAX bytes; a child that says more gets an error, not our memory."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SAID_MAX)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
    return fd


def said(fd: int) -> str:
    """What was written to a `bounded_file` (its offset is shared with the writer)."""
    return os.pread(fd, os.lseek(fd, 0, os.SEEK_CUR), 0).decode(errors="replace")


async def run(argv: Sequence[str], *, limit_s: float, quiet: bool = False) -> Finished:
    """Runs a program to its end. At the limit, and when cancelled, its whole process group is killed and reaped.

    `quiet`: what it says goes to /dev/null, since a process that outlives it will inherit that.

    Raises RuntimeFailed (cannot be executed), TimedOut.
    """
    out, err = bounded_file("out"), bounded_file("err")
    try:
        child = spawn(argv) if quiet else spawn(argv, stdout=out, stderr=err)
        try:
            async with asyncio.timeout(limit_s):
                await ended(child)
        except TimeoutError:
            raise TimedOut(f"{argv[0]} {command_of(argv)}: killed after {limit_s:g} s") from None
        finally:
            kill_group(child)
        return Finished(child.returncode, said(out), said(err))
    finally:
        os.close(out)
        os.close(err)


def run_blocking(argv: Sequence[str], *, limit_s: float) -> Finished:
    """`run` for the moments before there is a loop (the programs' versions)."""
    out, err = bounded_file("out"), bounded_file("err")
    try:
        child = spawn(argv, stdout=out, stderr=err)
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{argv[0]} {command_of(argv)}: killed after {limit_s:g} s") from None
        finally:
            kill_group(child)
        return Finished(child.returncode, said(out), said(err))
    finally:
        os.close(out)
        os.close(err)


def command_of(argv: Sequence[str]) -> str:
    """The subcommand, for an error's text; arguments may be secrets."""
    return next((word for word in argv[1:] if not word.startswith("-") and "/" not in word), "")


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a child's process group and reaps the child. Nothing where it has been reaped."""
    if child.returncode is not None:
        return
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()
    child.wait()


async def ended(child: subprocess.Popen[bytes]) -> int:
    """The child's exit code, reaped."""
    fd = os.pidfd_open(child.pid)
    try:
        await readable(fd)
    finally:
        os.close(fd)
    return child.wait()


async def readable(fd: int) -> None:
    """Returns when a descriptor becomes readable (a pidfd: when its process has ended)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await future
    finally:
        loop.remove_reader(fd)


# --- identity --------------------------------------------------------------------------------------------------------


@cache
def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read(64).strip()


def start_time(pid: int) -> int | None:
    """When the process with this pid began, in clock ticks since boot; None where there is none or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(STAT_MAX)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold anything, also ")": the fields begin after the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0].decode() in ZOMBIE_STATES:
        return None
    return int(fields[19])


def identity(pid: int) -> Process | None:
    """The living process that has this pid now."""
    start = start_time(pid) if pid > 0 else None
    return None if start is None else Process(pid, start, boot_id())


def descendants(process: Process) -> list[Process]:
    """The living children, grandchildren and so on of a process, parents first, as of now."""
    found: list[Process] = []
    waiting = [process.pid]
    while waiting and len(found) < DESCENDANTS_MAX:
        pid = waiting.pop()
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                children = [int(word) for word in file.read(SAID_MAX).split()]
        except OSError:
            continue
        found += [one for child in children if (one := identity(child))]
        waiting += children
    return found


def alive(process: Process | None) -> bool:
    """Whether this very process lives: same boot, same pid, same start time, not a zombie."""
    return process is not None and process.boot_id == boot_id() and start_time(process.pid) == process.start


def open_pidfd(process: Process) -> int | None:
    """A descriptor of this very process; None where it has ended. The caller closes it."""
    if process.boot_id != boot_id():
        return None
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        if error.errno in children.NO_PROCESS:
            return None
        raise
    # Verified after opening: from here on the descriptor cannot come to mean another process.
    if start_time(process.pid) != process.start:
        os.close(fd)
        return None
    return fd


def send_signal(process: Process, number: int) -> bool:
    """Signals this very process; False where it has ended."""
    fd = open_pidfd(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


async def gone(process: Process) -> None:
    """Returns when this very process has ended."""
    fd = open_pidfd(process)
    if fd is None:
        return
    try:
        await readable(fd)
    finally:
        os.close(fd)


def signal_number(name: str) -> int | None:
    """`TERM`, `SIGTERM`, `15`, `SIGRTMIN+3` -> number; None where there is no such signal."""
    text = name.strip().upper()
    if text.isascii() and text.isdecimal():
        number = int(text[:4])
        return number if 1 <= number <= 64 else None
    text = text.removeprefix("SIG")
    base, plus, offset = text.replace("-", "+-").partition("+")
    if base not in ("RTMIN", "RTMAX"):
        return None if plus else _NAMES.get(text)
    number = _NAMES[base]
    if plus:
        digits = offset.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 2):
            return None
        number += int(offset)
    return number if _NAMES["RTMIN"] <= number <= _NAMES["RTMAX"] else None


_NAMES = {name.removeprefix("SIG"): int(number) for name, number in signal.Signals.__members__.items()}

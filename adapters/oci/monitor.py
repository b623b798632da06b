"""conmon: one per container, started here, found again by whoever comes later.

Order, so that a kill at any point leaves nothing unknown: all files of the bundle are on disk before conmon is started;
its identity is on disk before it may go; its cgroup is set while runc works.
With --sync it is our own child, so its pid is known before the container exists; it outlives us all the same.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.oci import cgroups, files, process, runc, words
from adapters.oci.layout import ID, ContainerPaths, Layout
from adapters.oci.threads import Threads, failed
from domain.container import Container
from domain.errors import Busy, RuntimeFailed, TimedOut
from domain.observations import ExitFile
from domain.records import Process

ANSWER_MAX = 64 * 1024
EXIT_MAX = 4096
QUOTE_MAX = 200
PID = re.compile(r'"pid"\s*:\s*(-?\d{1,10})')
MESSAGE = re.compile(r'"message"\s*:\s*"(.*)', re.DOTALL)


@dataclass(slots=True)
class Monitors:
    """Starts conmons. `cgroup` is theirs in every hierarchy; `outside` says why the last one is not in it."""

    path: str
    runtime: runc.Runtime
    layout: Layout
    cgroup: str
    threads: Threads
    limit_s: float = 120.0
    outside: str = ""
    _children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def create(self, container: Container, paths: ContainerPaths, systemd: bool) -> tuple[int, Process]:
        """conmon and, through it, `runc create`. Returns init's pid and conmon's identity.

        Raises RuntimeFailed, TimedOut. Cancelled or failed: conmon and its group are killed; the rest is `remove`'s.
        """
        errors = process.bounded_file("conmon")
        sync_read, sync_write = os.pipe()
        go = pipe_without_end()
        try:
            child = process.spawn(
                self.argv(container, paths, systemd),
                cwd=paths.directory,
                environment={"_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(go)},
                stderr=errors,
                pass_fds=(sync_write, go),
            )
            os.close(sync_write)
            sync_write = -1
            try:
                async with asyncio.timeout(self.limit_s):
                    return await self._go(child, paths, sync_read, go, errors)
            except TimeoutError:
                text = f"{os.path.basename(self.runtime.path)} create: killed after {self.limit_s:g} s"
                raise TimedOut(text) from None
            finally:
                if child.pid not in self._children:
                    process.kill_group(child)
        finally:
            for fd in (errors, sync_read, sync_write, go):
                if fd >= 0:
                    os.close(fd)

    async def _go(
        self, child: subprocess.Popen[bytes], paths: ContainerPaths, sync: int, go: int, errors: int
    ) -> tuple[int, Process]:
        monitor = process.identity(child.pid)
        if monitor is None:
            raise RuntimeFailed(f"{os.path.basename(self.path)}: {_why(child, errors)}")
        try:
            files.write_process(paths.monitor, monitor)
        except OSError as error:
            raise failed(error) from error
        # Moving a process waits for an RCU grace period (6 to 10 ms): it does so while runc works. Until then conmon is
        # in the daemon's cgroup, never in the pod's; the container's processes are put into theirs by runc.
        moving = asyncio.ensure_future(self._move(child.pid))
        try:
            os.write(go, b"\n")
            pid, message = parsed(await _line(sync))
        finally:
            await moving
        if pid <= 0:
            said = _runtimes_words(paths, message) or _why(child, errors)
            raise RuntimeFailed(f"{os.path.basename(self.runtime.path)} create: {said}")
        self._keep(child)
        return pid, monitor

    async def _move(self, pid: int) -> None:
        """Best effort: a conmon in the daemon's cgroup works as well, as long as nobody kills that one as a whole."""
        try:
            self.outside = await self.threads.call(cgroups.join, pid, self.cgroup)
        except (Busy, TimedOut) as error:
            self.outside = error.text

    def argv(self, container: Container, paths: ContainerPaths, systemd: bool) -> list[str]:
        config = container.config
        argv = [self.path, "--sync", "-b", paths.directory, "-c", container.id, "-u", container.id]
        argv += ["-n", config.name, "-r", self.runtime.path]
        # Without a log of its own what runc says stands on the container's stderr, and so in the container's log.
        for argument in self.runtime.options(paths.runtime_log):
            argv += ["--runtime-arg", argument]
        argv += ["-p", paths.pidfile, "--exit-dir", self.layout.exits, "--persist-dir", paths.directory]
        argv += ["--socket-dir-path", self.layout.attach, "--log-level", "error"]
        argv += ["-l", f"k8s-file:{container.log_path}" if container.log_path else "none"]
        if systemd:
            argv.append("-s")
        if config.tty:
            argv.append("-t")
        elif config.stdin:
            argv.append("-i")
        if config.stdin and not config.stdin_once:
            argv.append("--leave-stdin-open")
        return argv

    def _keep(self, child: subprocess.Popen[bytes]) -> None:
        """Reaps this conmon when it ends, as long as we live; afterwards init does."""
        self._children[child.pid] = child
        loop = asyncio.get_running_loop()
        fd = os.pidfd_open(child.pid)

        def reap() -> None:
            loop.remove_reader(fd)
            os.close(fd)
            self._children.pop(child.pid, None)
            child.wait()

        loop.add_reader(fd, reap)


def pipe_without_end() -> int:
    """A pipe as one descriptor for both directions.

    conmon takes EOF on its start pipe for "go". It holds the writing end of this one itself: should the daemon die
    before the word, conmon waits, makes nothing, and is found by whoever removes the container.
    """
    read, write = os.pipe()
    try:
        return os.open(f"/proc/self/fd/{read}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(read)
        os.close(write)


def _runtimes_words(paths: ContainerPaths, message: str) -> str:
    """Why it could not create: from its own log, else (it could not open that) from what conmon read on its stderr."""
    harmless = words.harmless_of(files.read_json(paths.config, files.STATE_MAX) or {})
    said = words.of_log(paths.runtime_log, harmless, paths.directory)
    return said or words.of_stderr(message, harmless, paths.directory)


def _why(child: subprocess.Popen[bytes], errors: int) -> str:
    """conmon's own last words. It has ended or is about to; its end is not waited for."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(1.0)
    return words.of_stderr(process.said(errors)) or f"conmon ended without a word (exit {child.returncode})"


async def _line(fd: int) -> bytes:
    """The first line on the sync pipe, bounded; shorter where conmon ended."""
    os.set_blocking(fd, False)
    data = b""
    while b"\n" not in data and len(data) < ANSWER_MAX:
        await process.readable(fd)
        part = os.read(fd, ANSWER_MAX)
        if not part:
            break
        data += part
    return data


def parsed(answer: bytes) -> tuple[int, str]:
    """(pid, message) of conmon's answer. It does not always escape what the runtime said: read leniently."""
    text = answer.decode(errors="replace").strip()
    try:
        found: Any = json.loads(text, strict=False)
    except ValueError:
        found = None
    if isinstance(found, Mapping) and isinstance(found.get("pid"), int):
        return found["pid"], str(found.get("message", ""))
    pid, message = PID.search(text), MESSAGE.search(text)
    said = message[1].removesuffix("}").rstrip().removesuffix('"') if message else text
    return int(pid[1]) if pid else -1, said.replace("\\n", "\n").replace('\\"', '"')


# --- what conmon leaves ----------------------------------------------------------------------------------------------


def read_exit(paths: ContainerPaths) -> ExitFile | None:
    """conmon's word on the end; its copy in the bundle is written first and survives a boot."""
    for path in (paths.exit, paths.exit_copy):
        try:
            with open(path, "rb") as file:
                data, at_ns = file.read(EXIT_MAX), os.fstat(file.fileno()).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            continue
        return exit_of(data, at_ns)
    return None


def exit_of(data: bytes, at_ns: int) -> ExitFile:
    text = data.strip()
    if 1 <= len(text) <= 3 and text.isdigit() and int(text) <= 255:
        return ExitFile(int(text), at_ns)
    return ExitFile(None, at_ns, repr(data[:QUOTE_MAX])[2:-1][:QUOTE_MAX])


def recorded(paths: ContainerPaths) -> Process | None:
    return files.read_process(paths.monitor)


def strays(container_id: str, exits: str) -> Iterator[Process]:
    """conmons of this id that no ledger names: their daemon died before it could write."""
    return (found for one, found in running(exits) if one == container_id)


def running(exits: str) -> Iterator[tuple[str, Process]]:
    """Every conmon of ours (its --exit-dir says so) with its container's id. A walk over /proc."""
    wanted = [b"--exit-dir", exits.encode()]
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    for pid in pids:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                argv = file.read(EXIT_MAX).split(b"\0")
        except OSError:
            continue
        for at in (n for n, word in enumerate(argv) if word == wanted[0]):
            one = argv[argv.index(b"-c") + 1].decode(errors="replace") if b"-c" in argv[:-1] else ""
            if argv[at : at + 2] == wanted and ID.fullmatch(one) and (found := process.identity(pid)):
                yield one, found

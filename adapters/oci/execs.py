"""Commands inside running containers: `runc exec`, its output, its limit, and nothing left behind.

No monitor and no process of ours: runc itself holds the command's pipes and tells its code. So:
- The command gets a cgroup below its container's. Whatever it leaves there ends with it, also what went into a session
  of its own, unless its caller lets that live on (`helpers`). Where there can be no such cgroup, its session is what
  ends.
- runc returns only when the last holder of the pipes has gone. Its pid file tells the command's own end; the others are
  given `PIPES_S` to go on, then they are killed, and runc tells the code.
- Killing runc leaves the command alive: the command goes first.
- A directory for each command is made before and removed after it, so that another daemon finds what this one left.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.oci import cgroups, files, process, runc, words
from adapters.oci.drains import Drain, Pool
from adapters.oci.helpers import Helpers, end_holders
from adapters.oci.layout import DIRECTORY_MODE, ID, ContainerPaths, ExecPaths, Layout
from adapters.oci.threads import Threads, failed, settled
from domain.container import Container
from domain.errors import DaybookError, ExecFailed, RuntimeFailed, StorageFailed, TimedOut
from domain.records import Process

PIPES_S = 0.25
"""How long those that a command leaves behind may go on writing."""

GIVE_UP_S = 1.0
"""How long runc may take to end after the command has been killed; then it is killed too."""

FIRST_LOOK_S, LOOK_MAX_S = 0.02, 0.5
"""When the pid file is looked for. Most commands have ended before the first look."""

COMMAND_MAX = 4096


@dataclass(frozen=True, slots=True)
class ExecResult:
    """`stdout` and `stderr`: the first 16 MiB of each at most. `code`: 128 + the signal where one ended it."""

    stdout: bytes
    stderr: bytes
    code: int


@dataclass(slots=True)
class _Exec:
    """One command under way. `cgroup` empty: there is none of its own, its session is all that can be told.

    `keeps`: what it leaves in the background may live on. `over`: it has come to its own end.
    """

    paths: ExecPaths
    container_cgroup: str
    cgroup: str = ""
    option: str = ""
    child: "subprocess.Popen[bytes] | None" = None
    ended: "asyncio.Future[int] | None" = None
    main: Process | None = None
    keeps: bool = False
    over: bool = False
    drains: list[Drain] = field(default_factory=list)


class Execs:
    """`left` counts commands whose remains could not be removed at once; the container's removal does it."""

    def __init__(self, layout: Layout, runtime: runc.Runtime, threads: Threads, kill_s: float = 30.0) -> None:
        self._layout, self._runtime, self._threads, self._kill_s = layout, runtime, threads, kill_s
        self._token, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._pool = Pool()
        self._helpers = Helpers(self._remove_kept)
        self.left = 0

    # --- one command -------------------------------------------------------------------------------------------------

    async def run(
        self, container: Container, argv: Sequence[str], timeout_s: float, *, keep: bool = False
    ) -> ExecResult:
        """Runs a command to its end; on return, also by an error or a cancellation, nothing of it lives.

        `keep`: what it has left in the background, and what has let go of its output, lives on where the command came
        to its own end. `timeout_s` 0: no limit. Raises TimedOut, ExecFailed (cannot be started; its container ended),
        RuntimeFailed.
        """
        run = self._enter(container, argv)
        run.keeps = keep
        try:
            return await self._result(container, run, argv, timeout_s)
        finally:
            leaving = asyncio.ensure_future(self._leave(run))
            await settled(leaving, 2 * self._kill_s)
            if leaving.done() and not leaving.cancelled() and leaving.exception() is not None:
                self.left += 1

    def _enter(self, container: Container, argv: Sequence[str]) -> _Exec:
        of = self._layout.container(container.id)
        paths = self._layout.exec(container.id, f"{self._token}-{next(self._numbers)}")
        try:
            os.mkdir(paths.directory, DIRECTORY_MODE)
            run = _Exec(paths, cgroup_of(of))
            run.cgroup, run.option = cgroups.divide(run.container_cgroup, paths.cgroup)
            files.write_json(paths.spec, spec_of(of, argv))
        except OSError as error:
            _remove(paths)
            raise failed(error) from error
        except DaybookError:
            _remove(paths)
            raise
        return run

    async def _result(self, container: Container, run: _Exec, argv: Sequence[str], timeout_s: float) -> ExecResult:
        try:
            async with asyncio.timeout(timeout_s or None):
                code = await self._code(run)
        except TimeoutError:
            raise TimedOut(f"command timed out: timeout {timeout_s:g}s exceeded") from None
        if code < 0:
            raise RuntimeFailed(f"{os.path.basename(self._runtime.path)} exec: signal {-code}")
        if code and (why := words.of_log(run.paths.log)):
            raise ExecFailed(f"{os.path.basename(self._runtime.path)} exec: {why}")
        if code == 128 + signal.SIGKILL and await _has_ended(container.init):
            raise ExecFailed("the container ended while the command ran")
        out, err = run.drains
        run.over = True
        return ExecResult(out.data, err.data, code)

    async def _code(self, run: _Exec) -> int:
        """runc's exit code, which is the command's; all that was said has been read."""
        ended = self._start(run)
        main = asyncio.ensure_future(self._main_ended(run))
        either: set[asyncio.Future[Any]] = {ended, main}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            main.cancel()
        if not ended.done():
            await asyncio.wait({ended}, timeout=PIPES_S)
        if not ended.done() and run.keeps and run.child is not None:
            await self._end_holders(run, run.child.pid, ended)
        if not ended.done():
            await self._kill(run)
            await asyncio.wait({ended}, timeout=GIVE_UP_S)
        if not ended.done():
            raise RuntimeFailed("the command has ended, others hold its output open: its exit code is unknown")
        await asyncio.wait([drain.ended for drain in run.drains], timeout=GIVE_UP_S)
        return ended.result()

    async def _end_holders(self, run: _Exec, runtime: int, ended: "asyncio.Future[int]") -> None:
        """Those that still hold the output keep runc from ending: they go, what has let go of it stays."""
        loop = asyncio.get_running_loop()
        until = loop.time() + GIVE_UP_S
        while not ended.done() and loop.time() < until:
            await end_holders(runtime, run.cgroup or run.container_cgroup)
            await asyncio.wait({ended}, timeout=FIRST_LOOK_S)

    def _start(self, run: _Exec) -> "asyncio.Future[int]":
        try:
            for _ in range(2):
                run.drains.append(Drain(self._pool))
        except OSError as error:
            raise failed(error) from error
        out, err = run.drains
        child = run.child = process.spawn(self._argv(run), stdout=out.write, stderr=err.write)
        run.ended = asyncio.ensure_future(process.ended(child))
        out.started()
        err.started()
        return run.ended

    def _argv(self, run: _Exec) -> tuple[str, ...]:
        paths = run.paths
        line = ["exec", "--process", paths.spec, "--pid-file", paths.pidfile]
        if run.option:
            line += ["--cgroup", run.option]
        return self._runtime.argv(*line, paths.container_id, log=paths.log)

    async def _main_ended(self, run: _Exec) -> None:
        """Returns when the command itself has ended, whoever else is left; never where it was not started."""
        pause_s = FIRST_LOOK_S
        while (pid := _pid(run.paths)) == 0:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_MAX_S)
        found = process.identity(pid)
        # runc reaps it, and then its pid may be another's: only a member of the cgroup is the one that is meant.
        if found is None or pid not in cgroups.members(run.cgroup or run.container_cgroup):
            return
        run.main = found
        # A full disk costs the ledger its start time, not the command its run.
        with contextlib.suppress(OSError):
            files.write_process(run.paths.process, found)
        await process.gone(found)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _leave(self, run: _Exec) -> None:
        """Ends what is left and removes the ledger; what does not die keeps it, and what may live on."""
        try:
            if run.keeps and run.over and self._lives_on(run):
                return
            try:
                async with asyncio.timeout(self._kill_s):
                    await self._end(run)
            except TimeoutError:
                raise TimedOut(f"what was left of a command in {run.paths.container_id} does not die") from None
            if run.cgroup and (stuck := await self._remove_cgroup(run.cgroup)):
                raise StorageFailed(f"cgroup {stuck} cannot be removed")
            _remove(run.paths)
        finally:
            for drain in run.drains:
                drain.close()
            if run.ended is not None:
                run.ended.cancel()

    def _lives_on(self, run: _Exec) -> bool:
        """Whether helpers are left, and may be. Without a cgroup of their own they are the container's from now on."""
        if not run.cgroup:
            _remove(run.paths)
            return True
        return bool(cgroups.members(run.cgroup)) and self._helpers.keep(run.paths, run.cgroup)

    async def _remove_kept(self, paths: ExecPaths, cgroup: str) -> None:
        if stuck := await self._remove_cgroup(cgroup):
            raise StorageFailed(f"cgroup {stuck} cannot be removed")
        _remove(paths)

    async def _end(self, run: _Exec) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + GIVE_UP_S
        # Again and again: runc may be about to start what has not been there yet.
        while run.ended is not None and not run.ended.done() and loop.time() < until:
            await self._kill(run)
            await asyncio.wait({run.ended}, timeout=FIRST_LOOK_S)
        if run.child is not None and run.ended is not None and not run.ended.done():
            await end_family(process.identity(run.child.pid))
            await run.ended
        if run.child is not None:
            process.kill_group(run.child)
        await self._kill(run)

    async def _kill(self, run: _Exec) -> None:
        """All that belongs to the command. Unbounded by itself: the caller has the limit."""
        if run.cgroup:
            await cgroups.empty(run.cgroup)
            return
        leader = run.main.pid if run.main else _pid(run.paths)
        if leader and (run.main is None or process.start_time(leader) in (None, run.main.start)):
            await end_session(leader, run.container_cgroup)

    async def _remove_cgroup(self, cgroup: str) -> str:
        """At once where nothing is in the way, else with some patience in a thread."""
        for directory in cgroups.directories(cgroup):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if not cgroups.directories(cgroup):
            return ""
        return next(iter(await self._threads.call(cgroups.remove, cgroup)), "")

    # --- what a dead daemon left -------------------------------------------------------------------------------------

    async def clean(self, container_id: str = "") -> None:
        """Ends and removes the commands that are on disk: a container's, or all that earlier daemons began but for
        helpers that may live on.

        Raises TimedOut, StorageFailed.
        """
        found = [paths for paths in ledgers(self._layout) if self._is_meant(paths, container_id)]
        if not container_id:
            found = [paths for paths in found if not self._helpers.adopt(paths)]
        if not found:
            return
        runtimes = await self._threads.call(_runtimes, found)
        for paths in found:
            await self._clean_one(paths, runtimes.get(paths.directory, []))

    def _is_meant(self, paths: ExecPaths, container_id: str) -> bool:
        if container_id:
            return paths.container_id == container_id
        return not paths.name.partition(".")[2].startswith(f"{self._token}-")

    async def _clean_one(self, paths: ExecPaths, runtimes: Sequence[Process]) -> None:
        container_cgroup = cgroup_of(self._layout.container(paths.container_id))
        below = f"{cgroups.directory_for(container_cgroup)}/{paths.cgroup}" if container_cgroup else ""
        run = _Exec(paths, container_cgroup, below if cgroups.directories(below) else "")
        run.main = files.read_process(paths.process)
        try:
            async with asyncio.timeout(self._kill_s):
                # The command first, as long as its runc lives and reaps it; then runc; then what it began meanwhile.
                await self._kill(run)
                for one in runtimes:
                    await _ends_soon(one)
                    await end_family(one)
                await self._kill(run)
        except TimeoutError:
            raise TimedOut(f"what was left of a command in {paths.container_id} does not die") from None
        if run.cgroup and (stuck := await self._remove_cgroup(run.cgroup)):
            raise StorageFailed(f"cgroup {stuck} cannot be removed")
        await self._threads.call(files.remove_tree, paths.directory)


def ledgers(layout: Layout) -> Iterator[ExecPaths]:
    """Every command of which anything may be left."""
    try:
        names = os.listdir(layout.execs)
    except FileNotFoundError:
        return
    for name in names:
        if ID.fullmatch(name.partition(".")[0]):
            yield ExecPaths(f"{layout.execs}/{name}")


def _runtimes(found: Sequence[ExecPaths]) -> dict[str, list[Process]]:
    """The runtimes that still run, by the directory of their command. A walk over /proc."""
    wanted = {paths.pidfile.encode(): paths.directory for paths in found}
    out: dict[str, list[Process]] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                argv = file.read(COMMAND_MAX).split(b"\0")
        except OSError:
            continue
        directory = next((wanted[word] for word in argv if word in wanted), None)
        if directory and (one := process.identity(pid)):
            out.setdefault(directory, []).append(one)
    return out


async def end_family(one: Process | None) -> None:
    """Kills a process and its children. Unbounded by itself."""
    if one is None:
        return
    for member in (one, *process.descendants(one)):
        if process.send_signal(member, signal.SIGKILL):
            await process.gone(member)


async def end_session(leader: int, cgroup: str) -> None:
    """Kills the members of a container's cgroup that are of a session. Unbounded by itself.

    The leader may be gone: its pid stays the session's, and nobody else's, as long as one member lives.
    """
    for pid in cgroups.members(cgroup):
        found = process.identity(pid)
        if found is not None and _session(pid) == leader and process.send_signal(found, signal.SIGKILL):
            await process.gone(found)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


async def _has_ended(init: Process | None) -> bool:
    """Whether a container is over. Its init outlives the other processes by a moment."""
    return init is None or await _ends_soon(init)


async def _ends_soon(one: Process) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PIPES_S):
            await process.gone(one)
    return not process.alive(one)


def _pid(paths: ExecPaths) -> int:
    """From runc's pid file; 0 where it is not there yet."""
    text = files.read(paths.pidfile, 32) or b""
    return int(text) if text.isdigit() else 0


def _remove(paths: ExecPaths) -> None:
    """The ledger, on disk: a few names, nothing below. What is in the way stays and is found by `clean`."""
    for path in paths.files:
        with contextlib.suppress(OSError):
            os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(paths.directory)


# --- the OCI process -------------------------------------------------------------------------------------------------


def cgroup_of(paths: ContainerPaths) -> str:
    """The container's cgroupsPath; empty where it is unknown or is not this container's."""
    text = (files.read(paths.cgroup) or b"").decode(errors="replace")
    return text if text.endswith(os.path.basename(paths.directory)) else ""


def spec_of(paths: ContainerPaths, argv: Sequence[str], *, terminal: bool = False) -> dict[str, Any]:
    """The container's own process with other arguments: same user, groups, capabilities, environment, limits, profile.

    Raises ExecFailed where the container has no configuration any more.
    """
    found = (files.read_json(paths.config, files.STATE_MAX) or {}).get("process")
    if not isinstance(found, Mapping):
        raise ExecFailed("its bundle has no config.json")
    return {**{k: v for k, v in found.items() if k != "consoleSize"}, "args": list(argv), "terminal": terminal}

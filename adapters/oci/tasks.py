"""Containers as runc and conmon run them: `service.ports.Tasks` on the real machine.

Keeps no state: what it needs of a container is in the record it is given, in the bundle or in /proc. Processes are
signalled by identity only (pid, start time, boot id; a pidfd), never by a bare pid.
"""

import asyncio
import logging
import os
import signal
import stat
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters import mountinfo
from adapters.oci import (
    apparmor,
    cgroups,
    files,
    inside,
    logpath,
    lookup,
    namespaces,
    process,
    runc,
    spec,
    sweep,
    usage,
    users,
)
from adapters.oci.execs import ExecResult, Execs, cgroup_of
from adapters.oci.layout import DIRECTORY_MODE, ContainerPaths, Layout
from adapters.oci.monitor import Monitors, read_exit, recorded, strays
from adapters.oci.mounts import Source
from adapters.oci.oom import Ooms, at_end
from adapters.oci.reopen import Logs
from adapters.oci.threads import Threads
from domain.config import ContainerConfig, ContainerSecrets, NamespaceMode, ProfileType, SandboxConfig
from domain.container import Container
from domain.errors import Failure, InvalidRequest, RuntimeFailed, StorageFailed, TimedOut
from domain.events import Binary, Deadline, User
from domain.observations import TaskObservation
from domain.records import Process, TaskUsage
from domain.sandbox import Sandbox

REMOVALS = 3
_log = logging.getLogger(__name__)

MountRootfs = Callable[[Sequence[Path], Path, Path, Path], Awaitable[None]]
"""(lower directories top first, upper, work, target)"""


@dataclass(frozen=True, slots=True)
class TaskCreated:
    init: Process
    monitor: Process
    user: User
    runtime: Binary


@dataclass(frozen=True, slots=True)
class TaskExit:
    """`code` None: nobody knows. `at_ns` is the exit file's time, or now.

    `oom`: its init was killed for want of memory, told where the counter has gone with its cgroup. conmon's note counts
    little: under v1 conmon takes note of kills in other containers of the pod too.
    """

    code: int | None
    at_ns: int
    source: str = "none"
    quote: str = ""
    oom: bool = False
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what may take, in seconds."""

    create_s: float = 120.0
    runtime_s: float = 60.0
    file_s: float = 30.0
    kill_s: float = 30.0
    monitor_s: float = 10.0


class Tasks:
    def __init__(
        self,
        layout: Layout,
        *,
        image_config: Callable[[str], spec.ImageConfig],
        layers: Callable[[str], Sequence[Path]],
        mount_rootfs: MountRootfs,
        unmount: Callable[[Path], Awaitable[None]],
        runtime: str = "/usr/sbin/runc",
        monitor: str = "/usr/bin/conmon",
        monitors_cgroup: str | None = None,
        seccomp_profile: str = "",
        limits: Limits = Limits(),
    ) -> None:
        self.layout = layout
        self._image_config, self._layers = image_config, layers
        self._mount_rootfs, self._unmount = mount_rootfs, unmount
        self._seccomp_profile = seccomp_profile
        self._limits = limits
        self._threads = Threads(limit_s=limits.file_s)
        self._runtime = runc.Runtime(runtime, layout.runtime_root, limits.runtime_s)
        home = monitors_cgroup or cgroups.monitors_home()
        self._monitors = Monitors(monitor, self._runtime, layout, home, self._threads, limits.create_s)
        self._execs = Execs(layout, self._runtime, self._threads, limits.kill_s)
        self._logs = Logs(layout, self._threads)
        self._ooms = Ooms()
        self._binaries: tuple[Binary, Binary] | None = None
        self._host: spec.Host | None = None
        files.prepare(layout)

    def binaries(self) -> tuple[Binary, Binary]:
        """runc and conmon as they are now; asked once."""
        if self._binaries is None:
            self._binaries = runc.binary(self._runtime.path), runc.binary(self._monitors.path)
        return self._binaries

    def host(self) -> spec.Host:
        """The machine as it is now; looked up once."""
        if self._host is None:
            self._host = self._look()
        return self._host

    def _look(self) -> spec.Host:
        state = apparmor.load(self.layout.apparmor)
        if state.enabled and not state.profile:
            _log.warning("no AppArmor profile for containers: %s", state.problem)
        found = lookup.host(self._runtime.path)
        return replace(found, apparmor=state.profile, apparmor_problem=state.problem)

    def protection(self) -> Mapping[str, str]:
        """What RuntimeDefault is here, for people; from memory."""
        seccomp = self._seccomp_profile or "built in"
        host = self._host
        label = "not looked up yet" if host is None else host.apparmor or f"none: {host.apparmor_problem}"
        return {"seccomp": seccomp, "appArmor": label}

    async def get_ready(self) -> None:
        """Before the first container: versions, the machine, the AppArmor profile into the kernel. Raises TimedOut."""
        await self._threads.call(self._get_ready)

    def _get_ready(self) -> None:
        self.binaries()
        self.host()

    def check(self, config: ContainerConfig, sandbox: SandboxConfig) -> None:
        """Raises Unsupported or InvalidRequest for what `create` would refuse, before anything is appended."""
        spec.check(config, sandbox, self.host())

    # --- create ------------------------------------------------------------------------------------------------------

    async def create(
        self, container: Container, sandbox: Sandbox, secrets: ContainerSecrets, mark: Mapping[str, Any]
    ) -> TaskCreated:
        paths = self.layout.container(container.id)
        if self._binaries is None or self._host is None:
            await self.get_ready()
        self.check(container.config, sandbox.config)
        if os.path.lexists(paths.directory) or os.path.lexists(paths.task):
            await self.remove(container.id)
        await self._threads.call(self._make_bundle, paths, container, sandbox, mark)
        image = self._image_config(container.image_id)
        lowers = self._layers(container.image_id)
        await self._mount_rootfs(lowers, Path(paths.upper), Path(paths.work), Path(paths.rootfs))
        user, cgroup = await self._threads.call(self._write_spec, paths, container, sandbox, secrets, image)
        pid, monitor = await self._monitors.create(container, paths, ":" in cgroup)
        init = process.identity(pid)
        if init is None:
            asked = container.config.security.seccomp
            filtered = asked is not None and asked.type is ProfileType.LOCALHOST
            hint = "; does its seccomp profile permit too little to start a program?" if filtered else ""
            raise RuntimeFailed(f"{self._runtime.path} create: init {pid} has ended already{hint}")
        if not cgroups.lies_in(pid, cgroup):
            raise RuntimeFailed(f"{self._runtime.path} create: init {pid} is not in its cgroup {cgroup}")
        return TaskCreated(init, monitor, user, self.binaries()[0])

    def _make_bundle(
        self, paths: ContainerPaths, container: Container, sandbox: Sandbox, mark: Mapping[str, Any]
    ) -> None:
        """The owner mark first: whatever follows is ours from then on, also for a daemon that comes later."""
        if container.log_path:
            logpath.make(sandbox.config.log_directory, container.log_path)
        os.mkdir(paths.directory, DIRECTORY_MODE)
        files.write_owner(paths.owner, mark)
        for path in (paths.rootfs, paths.upper, paths.work):
            os.mkdir(path, DIRECTORY_MODE)
        # The upper directory becomes the container's "/": other users must be able to enter it.
        os.chmod(paths.upper, 0o755)

    def _write_spec(
        self,
        paths: ContainerPaths,
        container: Container,
        sandbox: Sandbox,
        secrets: ContainerSecrets,
        image: spec.ImageConfig,
    ) -> tuple[User, str]:
        found = _prepared(paths.rootfs, container.config, image)
        holder = self._pid_holder(container.config, sandbox)
        if holder is not None:
            files.write_process(paths.joined, holder)
        facts = self._facts(paths, container, sandbox, found, holder)
        built = spec.build(container, sandbox, secrets, image, facts, self.host())
        cgroup = built["linux"]["cgroupsPath"]
        files.write(paths.cgroup, cgroup.encode())
        files.write_json(paths.config, built)
        return found.user, cgroup

    def _facts(
        self, paths: ContainerPaths, container: Container, sandbox: Sandbox, found: "_Prepared", holder: Process | None
    ) -> spec.Facts:
        config = container.config
        pod = self.layout.sandbox(sandbox.id)
        modes = sandbox.config.namespaces
        own_ipc = modes.ipc is NamespaceMode.POD
        own_net = modes.network is NamespaceMode.POD
        shared_shm = own_ipc and config.namespaces.ipc is NamespaceMode.POD
        return spec.Facts(
            rootfs=paths.rootfs,
            user=found.user,
            net=(namespaces.network_pin(pod) or pod.net) if own_net else "",
            uts=pod.uts if own_net else "",
            ipc=pod.ipc if own_ipc else "",
            pid=f"/proc/{holder.pid}/ns/pid" if holder else "",
            shm=pod.shm if shared_shm else "/dev/shm",
            etc=self._etc(sandbox),
            volumes=found.volumes,
            sources=found.sources,
            seccomp=lookup.seccomp_profile(config.security, self._seccomp_profile),
            nodes=lookup.nodes(config.devices, config.security.privileged),
        )

    def _etc(self, sandbox: Sandbox) -> tuple[tuple[str, str], ...]:
        pod = self.layout.sandbox(sandbox.id)
        pairs = (("/etc/hostname", pod.hostname), ("/etc/hosts", pod.hosts), ("/etc/resolv.conf", pod.resolv_conf))
        return tuple((path, source) for path, source in pairs if os.path.isfile(source))

    def _pid_holder(self, config: ContainerConfig, sandbox: Sandbox) -> Process | None:
        """Whose pid namespace to join; None for a new one or the host's. Raises InvalidRequest."""
        mode = config.namespaces.pid
        if mode is NamespaceMode.POD and sandbox.own_pid_namespace:
            holder, what = sandbox.infra, "the pod's infra process"
        elif mode is NamespaceMode.TARGET:
            target_id = config.namespaces.target_id
            holder, what = self._target(target_id, sandbox.id), f"target container {target_id}"
        else:
            return None
        if holder is None or not process.alive(holder):
            raise InvalidRequest(f"pid mode {mode.upper()}: {what} is not running")
        return holder

    def _target(self, target_id: str, sandbox_id: str) -> Process | None:
        """The target's init; None where it does not run, also where it was only created."""
        try:
            paths = self.layout.container(target_id)
        except ValueError as error:
            raise InvalidRequest(f"target container: {error}") from None
        found = files.read_json(paths.config, files.STATE_MAX) or {}
        if found.get("annotations", {}).get("io.kubernetes.cri.sandbox-id") != sandbox_id:
            raise InvalidRequest(f"target container {target_id} is not in this pod")
        init = files.runtime_init(paths.state, files.read_owner(paths.owner)[1])
        return None if init is None or sweep.waits_for_start(paths, init) else init

    # --- start and stop ----------------------------------------------------------------------------------------------

    async def start(self, container: Container) -> int:
        paths = self.layout.container(container.id)
        joined = files.read_process(paths.joined)
        if joined is not None and not process.alive(joined):
            raise RuntimeFailed(f"process {joined.pid}, whose pid namespace the container is in, has ended")
        kills = cgroups.oom_kills(cgroup_of(paths))
        await self._runtime.start(container.id)
        return kills

    async def stop(
        self, container: Container, deadline: Deadline, sleep_until: Callable[[int], Awaitable[None]]
    ) -> None:
        paths, init = self.layout.container(container.id), container.init
        if init is None:
            return
        ended = asyncio.ensure_future(process.gone(init))
        try:
            if _time_left(deadline) and not sweep.waits_for_start(paths, init):
                self._send_once(paths, container)
                grace = asyncio.ensure_future(sleep_until(deadline.boot_ns))
                try:
                    await asyncio.wait({ended, grace}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    grace.cancel()
            if not ended.done():
                await self._kill(paths, container, init)
            await ended
        finally:
            ended.cancel()

    def _send_once(self, paths: ContainerPaths, container: Container) -> None:
        """The stop signal, unless an earlier call (perhaps of an earlier daemon) has sent it."""
        if container.init is None or os.path.lexists(paths.stop_sent):
            return
        number = process.signal_number(container.stop_signal) or signal.SIGTERM
        # After, not before: a daemon killed in between makes the next one send twice, never not at all.
        if process.send_signal(container.init, number):
            # A full disk costs the mark, not the stop.
            with suppress(OSError):
                files.write(paths.stop_sent, str(number).encode())

    async def _kill(self, paths: ContainerPaths, container: Container, init: Process) -> None:
        process.send_signal(init, signal.SIGKILL)
        if container.config.namespaces.pid is not NamespaceMode.CONTAINER:
            await self._empty(cgroup_of(paths))

    async def _empty(self, cgroup: str) -> None:
        """Kills all in a cgroup of ours. Raises TimedOut where something does not die."""
        if not cgroup:
            return
        try:
            async with asyncio.timeout(self._limits.kill_s):
                await cgroups.empty(cgroup)
        except TimeoutError:
            left = sorted(cgroups.members(cgroup))[:10]
            raise TimedOut(f"processes in cgroup {cgroup} do not die: {left}") from None

    # --- while it runs -----------------------------------------------------------------------------------------------

    async def exec_sync(
        self, container: Container, argv: Sequence[str], timeout_s: float, *, keep: bool = False
    ) -> ExecResult:
        return await self._execs.run(container, argv, timeout_s, keep=keep)

    async def clean_execs(self) -> None:
        await self._execs.clean()

    async def reopen_log(self, container: Container, sandbox: Sandbox) -> None:
        await self._logs.reopen(container, sandbox)

    # --- after the end -----------------------------------------------------------------------------------------------

    async def wait_exit(self, container: Container) -> TaskExit:
        paths = self.layout.container(container.id)
        if container.init is not None:
            await process.gone(container.init)
        monitor = container.monitor or recorded(paths)
        if monitor is not None:
            # conmon ends right after it has written the exit file: its end is the sign that there is nothing to come.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.monitor_s):
                    await process.gone(monitor)
        cgroup, found = cgroup_of(paths), read_exit(paths)
        kills = cgroups.oom_counter(cgroup)
        oom = kills is None and at_end(container.init, found.code if found else None, paths.oom)
        kills = self._ooms.seen.get(cgroup, 0) if kills is None else kills
        if found is None:
            return TaskExit(None, time.time_ns(), oom=oom, oom_kills=kills)
        source = "none" if found.code is None else "exit-file"
        return TaskExit(found.code, found.at_ns, source, found.quote, oom, kills)

    async def wait_oom(self, container: Container, above: int, outlived_s: float) -> int:
        paths = self.layout.container(container.id)
        kills = await self._ooms.grown(cgroup_of(paths), above)
        if container.init is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(outlived_s):
                    await process.gone(container.init)
            if not process.alive(container.init):
                # What was its end is told with it.
                await asyncio.get_running_loop().create_future()
        # It says no time: once the kill is told it is no news.
        with suppress(OSError):
            os.unlink(paths.oom)
        return kills

    async def wait_monitor(self, container: Container) -> None:
        if container.monitor is not None:
            await process.gone(container.monitor)

    async def tidy(self, container: Container) -> None:
        paths = self.layout.container(container.id)
        await self._empty(cgroup_of(paths))
        if os.path.isdir(paths.task):
            await self._delete(container.id, paths)

    async def _delete(self, container_id: str, paths: ContainerPaths) -> None:
        try:
            await self._runtime.delete(container_id)
        except Failure:
            if os.path.isdir(paths.task):
                raise

    async def remove(self, container_id: str) -> None:
        paths = self.layout.container(container_id)
        for rest in reversed(range(REMOVALS)):
            try:
                await self._remove_once(container_id, paths, look_again=rest < REMOVALS - 1)
                return
            except StorageFailed:
                # A runtime whose daemon was killed may still be at work and make things behind our back: look again.
                if not rest:
                    raise

    async def _remove_once(self, container_id: str, paths: ContainerPaths, *, look_again: bool) -> None:
        cgroup = cgroup_of(paths)
        self._ooms.seen.pop(cgroup, None)
        await self._end(container_id, paths, look_again)
        await self._empty(cgroup)
        await self._execs.clean(container_id)
        if os.path.exists(paths.state):
            # For its hooks and whatever else it made; what it leaves, or refuses, is removed below all the same.
            with suppress(Failure):
                await self._runtime.delete(container_id)
        if cgroup:
            await self._threads.call(_remove_cgroup, cgroup)
        await self._unmount_all(paths)
        await self._threads.call(_remove_files, paths)

    async def _end(self, container_id: str, paths: ContainerPaths, look_again: bool) -> None:
        """conmon first (its `runc create` dies with it), then init; by identity."""
        boot = files.boot_of(paths.owner)
        monitor = recorded(paths)
        found = [monitor] if monitor else []
        if look_again or monitor is None:
            found += list(await self._threads.call(lambda: list(strays(container_id, self.layout.exits))))
        # Their children too: a `runc create` that dies with its conmon does so a moment later and could still make a
        # cgroup that nobody would remove.
        family = [member for one in found if process.alive(one) for member in process.descendants(one)]
        init = files.runtime_init(paths.state, boot)
        for one in (*found, *family, *([init] if init else [])):
            if process.send_signal(one, signal.SIGKILL):
                try:
                    async with asyncio.timeout(self._limits.kill_s):
                        await process.gone(one)
                except TimeoutError:
                    raise TimedOut(f"process {one.pid} does not die") from None

    async def _unmount_all(self, paths: ContainerPaths) -> None:
        if os.path.isdir(paths.rootfs) and await self._threads.call(_is_mounted, paths.rootfs):
            await self._unmount(Path(paths.rootfs))

    def leave(self) -> None:
        """At the end of a daemon: the cgroups that nobody needs any more."""
        earlier = f"{cgroups.DEFAULT_PARENT}/{cgroups.MONITORS}"
        cgroups.prune(self._monitors.cgroup, earlier, cgroups.DEFAULT_PARENT)

    def usage(self, container_ids: Sequence[str]) -> Mapping[str, TaskUsage]:
        found = {one: usage.read(cgroup_of(self.layout.container(one))) for one in container_ids}
        return {one: used for one, used in found.items() if used is not None}

    def observe(self, containers: Sequence[Container], boot_id: str) -> Mapping[str, TaskObservation]:
        return sweep.tasks(self.layout, containers, boot_id)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What was found out, and made, inside a root file system. `volumes`: see `inside.make_volumes`."""

    user: User
    sources: Mapping[str, Source]
    volumes: tuple[tuple[str, str], ...]


def _prepared(rootfs: str, config: ContainerConfig, image: spec.ImageConfig) -> _Prepared:
    sources = lookup.sources(config.mounts)
    root = inside.open_root(rootfs)
    try:
        user = users.resolve(config.security, image.user, users.files_of(root))
        mounts = inside.destinations(root, config.mounts)
        inside.make_working_directory(root, spec.working_directory(config, image), mounts)
        read_only = config.security.readonly_rootfs
        volumes = inside.make_volumes(root, rootfs, image.volumes, mounts, read_only=read_only)
    finally:
        os.close(root)
    return _Prepared(user, sources, volumes)


def _time_left(deadline: Deadline) -> bool:
    return deadline.boot_id == process.boot_id() and deadline.boot_ns > time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _is_mounted(path: str) -> bool:
    return any(mountinfo.points_below(path))


def _remove_cgroup(cgroup: str) -> None:
    stuck = cgroups.remove(cgroup)
    if stuck:
        raise StorageFailed(f"cgroup {stuck[0]} cannot be removed")


def _remove_files(paths: ContainerPaths) -> None:
    """The bundle goes last: while it exists, it names what else may."""
    files.remove_tree(paths.task)
    files.remove_file(paths.exit_copy)
    if os.path.islink(paths.attach_link):
        files.remove_file(paths.attach_link)
    elif stat.S_ISDIR(_mode(paths.attach_link)):
        files.remove_tree(paths.attach_link)
    files.remove_tree(paths.directory)


def _mode(path: str) -> int:
    with suppress(OSError):
        return os.lstat(path).st_mode
    return 0

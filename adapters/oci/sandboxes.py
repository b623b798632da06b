"""Pods without a pause container where it can be: pinned namespaces, one /dev/shm, and an infra process if need be.

`service.ports.Sandboxes` on the real machine. The infra process (only where the pod shares its pid namespace) is
catatonit's pause, straight under runc.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from adapters import mountinfo
from adapters.oci import cgroups, files, kernel, lookup, namespaces, netns, process, runc, spec, sweep, words
from adapters.oci.layout import DIRECTORY_MODE, Layout, SandboxPaths
from adapters.oci.threads import Threads
from domain.config import DnsConfig
from domain.errors import Failure, InvalidRequest, NetworkFailed, RuntimeFailed, StorageFailed, TimedOut
from domain.observations import SandboxObservation
from domain.records import Process
from domain.sandbox import Sandbox
from domain.sysctls import Setting

SHM_OPTIONS = "mode=1777,size=65536k"
SHM_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
HOST_FILE_MAX = 1024 * 1024


class Sandboxes:
    def __init__(
        self,
        layout: Layout,
        *,
        runtime: str = "/usr/sbin/runc",
        pause: str = "/usr/bin/catatonit",
        runtime_s: float = 60.0,
        kill_s: float = 30.0,
    ) -> None:
        self.layout = layout
        self._runtime = runc.Runtime(runtime, layout.infra_root, runtime_s)
        self._pause = pause
        self._kill_s = kill_s
        self._threads = Threads()
        files.prepare(layout)

    async def set_up(self, sandbox_id: str, sandbox: Sandbox, mark: Mapping[str, Any]) -> Process | None:
        """First removes what an earlier attempt left. Returns the infra process where the pod has one."""
        paths = self.layout.sandbox(sandbox_id)
        await self.remove(sandbox_id)
        await self._threads.call(self._make, paths, sandbox, mark)
        if not sandbox.own_pid_namespace:
            return None
        await self._threads.call(self._make_infra, paths, sandbox)
        return await self._start_infra(sandbox_id, paths, ":" in _cgroup(paths))

    def _make(self, paths: SandboxPaths, sandbox: Sandbox, mark: Mapping[str, Any]) -> None:
        os.mkdir(paths.directory, DIRECTORY_MODE)
        files.write_owner(paths.owner, mark)
        os.mkdir(paths.run, DIRECTORY_MODE)
        write_etc(paths, sandbox)
        pins = _pins(paths, sandbox)
        if "ipc" in pins:
            make_shm(paths.shm)
        if "net" in pins:
            netns.prepare(self.layout.netns)
            os.symlink(paths.net, paths.net_link)
        if pins:
            config = sandbox.config
            namespaces.make(pins, namespaces.sysctls(sandbox.config)[0], config.hostname)

    def _make_infra(self, paths: SandboxPaths, sandbox: Sandbox) -> None:
        pins = _pins(paths, sandbox)
        built = spec.infra(sandbox, paths.infra_rootfs, self._pause, pins, lookup.oom_score_floor())
        os.mkdir(paths.infra, DIRECTORY_MODE)
        os.mkdir(paths.infra_rootfs, 0o755)
        # On disk, not in `run`: the cgroup must be found whatever else is lost.
        files.write(paths.cgroup, built["linux"]["cgroupsPath"].encode())
        files.write_json(paths.infra_config, built)

    async def set_sysctls(self, sandbox_id: str, sandbox: Sandbox) -> None:
        """Those of the pod's own interfaces: they are there once the network was added."""
        if later := namespaces.sysctls(sandbox.config)[1]:
            await self._threads.call(self._set_later, sandbox_id, later)

    def _set_later(self, sandbox_id: str, later: Sequence[Setting]) -> None:
        where = namespaces.network_pin(self.layout.sandbox(sandbox_id))
        if not where:
            raise NetworkFailed(f"sysctl {later[0].name}: the pod's network namespace is gone")
        namespaces.set_later(where, later)

    async def _start_infra(self, sandbox_id: str, paths: SandboxPaths, systemd: bool) -> Process:
        driver = ("--systemd-cgroup",) if systemd else ()
        # One command, not create and start: nothing is to happen in between, and it halves the time (16 ms, not 33).
        run = ("run", "--detach", "--bundle", paths.infra, "--pid-file", paths.infra_pidfile, sandbox_id)
        argv = self._runtime.argv(*driver, *run, log=paths.infra_log)
        # The infra process inherits this child's stdio: /dev/null; what runc has to say is in its log.
        done = await process.run(argv, limit_s=self._runtime.limit_s, quiet=True)
        if done.code != 0:
            said = words.of_log(paths.infra_log, below=paths.infra)
            raise RuntimeFailed(f"{os.path.basename(self._runtime.path)} run: {said or f'exit {done.code}'}")
        text = (files.read(paths.infra_pidfile) or b"").strip()
        infra = process.identity(int(text)) if text.isdigit() and len(text) < 10 else None
        if infra is None:
            raise RuntimeFailed("the infra process has ended already")
        return infra

    async def tear_down(self, sandbox_id: str, *, keep_network: bool = False) -> None:
        """Ends the infra process, unpins the namespaces, unmounts /dev/shm. Idempotent; directories stay."""
        paths = self.layout.sandbox(sandbox_id)
        cgroup = _cgroup(paths)
        boot = files.boot_of(paths.owner)
        await self._end(files.runtime_init(paths.infra_state, boot))
        if cgroup:
            await self._empty(cgroup)
        if os.path.exists(paths.infra_state):
            with suppress(Failure):
                await self._runtime.delete(sandbox_id)
        await self._threads.call(_undo, paths, cgroup, keep_network)

    async def _end(self, infra: Process | None) -> None:
        if infra is None or not process.send_signal(infra, signal.SIGKILL):
            return
        try:
            async with asyncio.timeout(self._kill_s):
                await process.gone(infra)
        except TimeoutError:
            raise TimedOut(f"process {infra.pid} does not die") from None

    async def _empty(self, cgroup: str) -> None:
        try:
            async with asyncio.timeout(self._kill_s):
                await cgroups.empty(cgroup)
        except TimeoutError:
            raise TimedOut(f"processes in cgroup {cgroup} do not die") from None

    async def remove(self, sandbox_id: str) -> None:
        paths = self.layout.sandbox(sandbox_id)
        if not any(map(os.path.lexists, paths.places)):
            return
        await self.tear_down(sandbox_id)
        await self._threads.call(_remove, paths)

    async def wait_infra(self, sandbox: Sandbox) -> None:
        if sandbox.infra is not None:
            await process.gone(sandbox.infra)

    def netns(self, sandbox_id: str) -> str:
        """The file on which the pod's network namespace is pinned; empty where none is."""
        try:
            return namespaces.network_pin(self.layout.sandbox(sandbox_id))
        except OSError:
            return ""

    def observe(self, sandboxes: Sequence[Sandbox], boot_id: str) -> Mapping[str, SandboxObservation]:
        return sweep.sandboxes(self.layout, sandboxes, boot_id)


# --- /dev/shm --------------------------------------------------------------------------------------------------------


def make_shm(path: str) -> None:
    os.mkdir(path, DIRECTORY_MODE)
    kernel.mount("shm", path, "tmpfs", SHM_FLAGS, SHM_OPTIONS)


def _undo(paths: SandboxPaths, cgroup: str, keep_network: bool) -> None:
    if not keep_network:
        for place in namespaces.network_places(paths):
            netns.unpin(place)
    for point in _mounted(paths, keep_network):
        # Lazily: a container of the pod may still hold /dev/shm open for a moment.
        with suppress(OSError):
            kernel.unmount(point, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
    if left := _mounted(paths, keep_network):
        raise StorageFailed(f"{left[0]} is still mounted")
    for path in paths.pinned:
        if path != paths.net_link or not keep_network:
            files.remove_file(path)
    files.remove_tree(paths.infra)
    files.remove_tree(paths.task)
    if cgroup and (left := cgroups.remove(cgroup)):
        raise StorageFailed(f"cgroup {left[0]} cannot be removed")
    files.remove_file(paths.cgroup)
    with suppress(FileNotFoundError, OSError):
        os.rmdir(paths.shm)


def _mounted(paths: SandboxPaths, keep_network: bool) -> list[str]:
    """What has to go below the run directory; a daemon before this one pinned the network there too."""
    kept = f"{os.path.realpath(paths.run)}/net" if keep_network else ""
    return [point for point in mountinfo.points_below(paths.run) if point != kept]


def _remove(paths: SandboxPaths) -> None:
    files.remove_tree(paths.run)
    files.remove_tree(paths.directory)


def _pins(paths: SandboxPaths, sandbox: Sandbox) -> dict[str, str]:
    return {kind: paths.pin(kind) for kind in namespaces.kinds(sandbox.config)}


def _cgroup(paths: SandboxPaths) -> str:
    text = (files.read(paths.cgroup) or b"").decode(errors="replace")
    return text if text.endswith(os.path.basename(paths.directory)) else ""


# --- /etc ------------------------------------------------------------------------------------------------------------


def write_etc(paths: SandboxPaths, sandbox: Sandbox) -> None:
    """The pod's hostname, hosts and resolv.conf. Containers see them unless the client mounts its own."""
    config = sandbox.config
    hostname = config.hostname or os.uname().nodename
    texts = {paths.hostname: f"{plain(hostname)}\n", paths.hosts: _host_file("/etc/hosts")}
    dns = config.dns
    # Options that say nothing are none: as the peers do, the pod gets the host's, not an empty file.
    texts[paths.resolv_conf] = (resolv_conf(dns) if dns else "") or _host_file("/etc/resolv.conf")
    for path, text in texts.items():
        files.write(path, text.encode())
        os.chmod(path, 0o644)


def resolv_conf(dns: DnsConfig) -> str:
    lines = [f"search {' '.join(map(plain, dns.searches))}"] if dns.searches else []
    lines += [f"nameserver {plain(server)}" for server in dns.servers]
    lines += [f"options {' '.join(map(plain, dns.options))}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def plain(word: str) -> str:
    """A word for a generated file. Raises InvalidRequest for a control character: it could add a line of its own."""
    if not all(char.isprintable() for char in word):
        raise InvalidRequest(f"{word[:80]!r} contains a control character")
    return word


def _host_file(path: str) -> str:
    return (files.read(path, HOST_FILE_MAX) or b"").decode(errors="replace")

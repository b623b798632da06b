"""One contract for containers, over the fake and over runc with conmon; then what only the real one can show."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from adapters import mountinfo
from adapters.images.config import ImageConfig
from adapters.images.rootfs import mount_overlay, unmount
from adapters.oci import cgroups, kernel, oom, process
from adapters.oci.fake import FakeSandboxes, FakeTasks, Program, World
from adapters.oci.layout import NETNS, Layout
from adapters.oci.sandboxes import Sandboxes
from adapters.oci.tasks import Limits, Tasks
from domain import config as c
from domain.container import Container
from domain.errors import Failure, InvalidRequest, RuntimeFailed, TimedOut
from domain.events import Deadline
from domain.lifecycle import ContainerState, SandboxState
from domain.observations import InfraState, MonitorState, NamespaceState, TaskState
from domain.sandbox import Sandbox
from tests.support.inventory import NOTHING, inventory
from tests.support.limits import SLOWNESS
from tests.support.namespaces import as_found

LOG_ID = "feedc0ffee12" + "0" * 20
MARK = {"log_id": LOG_ID, "seq": 7}
HOST_POD = c.NamespaceOptions(c.NamespaceMode.NODE, c.NamespaceMode.CONTAINER, c.NamespaceMode.POD)
FAR_S = 60 * SLOWNESS

# What a container does, as the fake's Program and as a shell's text. `ready` tells the test that the trap is set.
READY = "echo > /sync/ready; "
SHELL = {
    Program(exits=0): "exit 0",
    Program(exits=3): "exit 3",
    Program(exits=137): "exit 137",
    Program(on_stop=5): f"trap 'exit 5' TERM; {READY} while :; do sleep 0.05; done",
    Program(on_stop=None): f"trap '' TERM; {READY} while :; do sleep 0.05; done",
}
STOPS, IGNORES = Program(on_stop=5), Program(on_stop=None)


@dataclass
class Lab:
    """A machine to try on, and a daemon that can be replaced."""

    real: bool
    path: Path
    world: World = field(default_factory=World)
    options: dict[str, Any] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    netns: str = NETNS

    @property
    def layout(self) -> Layout:
        return Layout(str(self.path / "d"), str(self.path / "r"), LOG_ID, self.netns)

    def tasks(self) -> Any:
        """As a daemon that has just started would make it."""
        if not self.real:
            return FakeTasks(self.world)
        return Tasks(
            self.layout,
            image_config=lambda _: ImageConfig(env=("FROM_IMAGE=1",), cmd=("sh",)),
            layers=lambda _: [self.path / "image"],
            mount_rootfs=self._mount,
            unmount=self._unmount,
            **{"limits": Limits(kill_s=5 * SLOWNESS, monitor_s=3 * SLOWNESS), **self.options},
        )

    def sandboxes(self) -> Any:
        return Sandboxes(self.layout) if self.real else FakeSandboxes(self.world)

    async def _mount(self, lowers: Any, upper: Path, work: Path, target: Path) -> None:
        mount_overlay(lowers, upper, work, target)

    async def _unmount(self, target: Path) -> None:
        unmount(target)

    def boot_id(self) -> str:
        return process.boot_id() if self.real else self.world.boot_id

    def deadline(self, seconds: float) -> Deadline:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if self.real else 0
        return Deadline(now + int(seconds * 10**9), self.boot_id())

    def new_id(self) -> str:
        self.ids.append(os.urandom(32).hex())
        return self.ids[-1]

    def build_image(self) -> None:
        image = self.path / "image"
        for name in ("bin", "dev", "proc", "sys", "etc", "tmp"):
            (image / name).mkdir(parents=True)
        (image / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
        (image / "bin/busybox").chmod(0o755)
        for name in (
            "sh",
            "sleep",
            "echo",
            "cat",
            "id",
            "head",
            "tail",
            "dd",
            "ls",
            "env",
            "mount",
            "ipcs",
            "true",
            "setsid",
        ):
            (image / "bin" / name).symlink_to("busybox")
        (image / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
        (image / "etc/group").write_text("root:x:0:\nweb:x:34:\nextra:x:77:web\n")

    def sandbox(self, namespaces: c.NamespaceOptions = HOST_POD, **values: Any) -> Sandbox:
        config = c.SandboxConfig(
            "pod", "uid", "ns", namespaces=namespaces, log_directory=str(self.path / "logs"), **values
        )
        return Sandbox(self.new_id(), SandboxState.READY, config, "hash", 1, boot_id=self.boot_id())

    def container(self, sandbox: Sandbox, shell: str | Program, **values: Any) -> tuple[Container, c.ContainerSecrets]:
        container_id = self.new_id()
        if isinstance(shell, Program):
            self.world.programs[container_id] = shell
            shell = SHELL[shell]
        values.setdefault("namespaces", sandbox.config.namespaces)
        sync = self.path / f"sync-{container_id[:8]}"
        mounts = (c.Mount("/sync", str(sync)), *values.pop("mounts", ()))
        if self.real:
            sync.mkdir()
            os.mkfifo(sync / "ready")
        config = c.ContainerConfig("main", log_path="main/0.log", mounts=mounts, **values)
        log = str(self.path / f"logs/main/{container_id[:8]}.log")
        made = Container(
            container_id, sandbox.id, ContainerState.CREATING, config, "hash", "image", "image", log, "SIGTERM", 1
        )
        return made, c.ContainerSecrets(command=("/bin/sh", "-c", shell))

    async def ready(self, container: Container) -> None:
        """Until the program says so."""
        if self.real:
            fd = os.open(self.path / f"sync-{container.id[:8]}" / "ready", os.O_RDONLY | os.O_NONBLOCK)
            try:
                await asyncio.wait_for(process.readable(fd), 20 * SLOWNESS)
            finally:
                os.close(fd)

    async def created(self, shell: str | Program, sandbox: Sandbox | None = None, **values: Any) -> Container:
        tasks = self.tasks()
        if sandbox is None:
            sandbox = self.sandbox()
            await self.sandboxes().set_up(sandbox.id, sandbox, MARK)
        container, secrets = self.container(sandbox, shell, **values)
        made = await tasks.create(container, sandbox, secrets, MARK)
        return replace(
            container,
            state=ContainerState.CREATED,
            init=made.init,
            monitor=made.monitor,
            user=made.user,
            runtime=made.runtime,
        )

    async def running(self, shell: str | Program, sandbox: Sandbox | None = None, **values: Any) -> Container:
        container = await self.created(shell, sandbox, **values)
        kills = await self.tasks().start(container)
        if READY in (SHELL.get(shell, "") if isinstance(shell, Program) else shell):
            await self.ready(container)
        return replace(container, state=ContainerState.RUNNING, oom_kills_at_start=kills)

    def look(self, container: Container) -> Any:
        return self.tasks().observe([container], self.boot_id())[container.id]

    def left(self) -> Any:
        if not self.real:
            return NOTHING if not (self.world.tasks or self.world.pods) else (self.world.tasks, self.world.pods)
        return inventory(self.ids, (self.layout.data, self.layout.run, self.netns))

    async def clean(self) -> None:
        """Everything goes, whatever fails; the first failure is raised at the end."""
        work = [(self.tasks(), one) for one in self.ids] + [(self.sandboxes(), one) for one in self.ids]
        failures = []
        for adapter, one in work:
            try:
                await adapter.remove(one)
            except Exception as error:
                failures.append(error)
        for point in mountinfo.points_below(str(self.path)):
            kernel.unmount(point, kernel.MNT_DETACH)
        as_found()
        if failures:
            raise failures[0]

    def log(self, container: Container) -> str:
        return Path(container.log_path).read_text()


async def never(_: int) -> None:
    await asyncio.get_running_loop().create_future()


async def at_once(_: int) -> None:
    return


async def real_time(boot_ns: int) -> None:
    await asyncio.sleep(max(0, boot_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 10**9)


Body = Callable[[Lab], Coroutine[Any, Any, None]]


def run_in(lab: Lab, body: Body) -> None:
    """The body, then removal of everything it named, then the proof from outside that nothing is left."""

    async def whole() -> None:
        try:
            await asyncio.wait_for(body(lab), 90 * SLOWNESS)
        finally:
            lab.options = {}
            await lab.clean()

    asyncio.run(whole())
    assert lab.left() == NOTHING


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(request.param == "real", tmp_path)
    if made.real:
        made.build_image()
    yield made


@pytest.fixture
def real(tmp_path: Path) -> Lab:
    made = Lab(True, tmp_path)
    made.build_image()
    return made


def contract(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    def wrapper(lab: Lab) -> None:
        run_in(lab, test)

    wrapper.__name__ = test.__name__
    return wrapper


def only_real(test: Callable[..., Awaitable[None]]) -> Any:
    def wrapper(real: Lab) -> None:
        run_in(real, test)

    wrapper.__name__ = test.__name__
    return pytest.mark.real(wrapper)


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 137])
def test_exit_code(lab: Lab, code: int) -> None:
    async def body(lab: Lab) -> None:
        container = await lab.running(Program(exits=code))
        ended = await lab.tasks().wait_exit(container)
        assert (ended.code, ended.source, ended.oom) == (code, "exit-file", False)
        assert ended.at_ns > 0
        seen = lab.look(container)
        assert (seen.task, seen.exit.code) == (TaskState.STOPPED, code)
        await lab.tasks().tidy(container)
        await lab.tasks().tidy(container)
        assert lab.look(container).task is TaskState.ABSENT

    run_in(lab, body)


@contract
async def test_created_only_is_seen_as_created(lab: Lab) -> None:
    container = await lab.created(STOPS)
    seen = lab.look(container)
    assert (seen.task, seen.monitor, seen.exit) == (TaskState.CREATED, MonitorState.ALIVE, None)
    assert seen.mark is not None and (seen.mark.log_id, seen.mark.seq) == (LOG_ID, 7)
    assert seen.leftovers
    await lab.tasks().start(container)
    assert lab.look(container).task is TaskState.RUNNING


@contract
async def test_never_made_is_absent(lab: Lab) -> None:
    sandbox = lab.sandbox()
    container, _ = lab.container(sandbox, STOPS)
    seen = lab.look(container)
    assert (seen.task, seen.leftovers, seen.mark) == (TaskState.ABSENT, False, None)
    await lab.tasks().remove(container.id)


@contract
async def test_unknown_ids_are_seen(lab: Lab) -> None:
    container = await lab.created(STOPS)
    assert container.id in lab.tasks().observe([], lab.boot_id())


@contract
async def test_stop_lets_the_handler_run(lab: Lab) -> None:
    container = await lab.running(STOPS)
    await lab.tasks().stop(container, lab.deadline(FAR_S), never)
    ended = await lab.tasks().wait_exit(container)
    assert ended.code == 5


@contract
async def test_stop_kills_after_the_grace(lab: Lab) -> None:
    container = await lab.running(IGNORES)
    await lab.tasks().stop(container, lab.deadline(FAR_S), at_once)
    assert (await lab.tasks().wait_exit(container)).code == 137


@contract
async def test_stop_without_grace_kills(lab: Lab) -> None:
    container = await lab.running(STOPS)
    await lab.tasks().stop(container, lab.deadline(0), never)
    assert (await lab.tasks().wait_exit(container)).code == 137


@contract
async def test_stop_with_a_deadline_of_another_boot_kills(lab: Lab) -> None:
    container = await lab.running(STOPS)
    await lab.tasks().stop(container, replace(lab.deadline(FAR_S), boot_id="other"), never)
    assert (await lab.tasks().wait_exit(container)).code == 137


@contract
async def test_stop_of_a_created_container_kills_it(lab: Lab) -> None:
    container = await lab.created(STOPS)
    await lab.tasks().stop(container, lab.deadline(FAR_S), never)
    assert (await lab.tasks().wait_exit(container)).code == 137
    await lab.tasks().stop(container, lab.deadline(FAR_S), never)


@contract
async def test_a_second_stop_sends_no_second_signal(lab: Lab) -> None:
    container = await lab.running(IGNORES)
    first = asyncio.ensure_future(lab.tasks().stop(container, lab.deadline(FAR_S), never))
    if lab.real:
        while not os.path.exists(lab.layout.container(container.id).stop_sent):
            await asyncio.sleep(0.01)
    else:
        while not lab.world.tasks[container.id].stop_sent:
            await asyncio.sleep(0)
    first.cancel()
    marker = lab.layout.container(container.id).stop_sent
    before = os.stat(marker).st_mtime_ns if lab.real else 0
    await lab.tasks().stop(container, lab.deadline(FAR_S), at_once)
    assert (await lab.tasks().wait_exit(container)).code == 137
    if lab.real:
        assert os.stat(marker).st_mtime_ns == before


@contract
async def test_removal_at_every_stage_twice(lab: Lab) -> None:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    for make in (lab.created, lab.running):
        container = await make(STOPS, sandbox)
        await lab.tasks().remove(container.id)
        await lab.tasks().remove(container.id)
        seen = lab.look(container)
        assert (seen.task, seen.leftovers) == (TaskState.ABSENT, False)
    container = await lab.running(Program(exits=0), sandbox)
    await lab.tasks().wait_exit(container)
    await lab.tasks().remove(container.id)
    await lab.tasks().remove(container.id)


@contract
async def test_create_again_replaces_the_first(lab: Lab) -> None:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    container, secrets = lab.container(sandbox, STOPS)
    first = await lab.tasks().create(container, sandbox, secrets, MARK)
    second = await lab.tasks().create(container, sandbox, secrets, {"log_id": LOG_ID, "seq": 8})
    assert first.init != second.init
    seen = lab.look(replace(container, init=second.init, monitor=second.monitor))
    assert (seen.task, seen.mark.seq) == (TaskState.CREATED, 8)


@contract
async def test_the_exit_is_known_to_a_later_daemon(lab: Lab) -> None:
    container = await lab.running(STOPS)
    if lab.real:
        assert process.send_signal(container.init, signal.SIGTERM)
    else:
        lab.world.end(container.id, 5)
    assert (await lab.tasks().wait_exit(container)).code == 5
    assert (await lab.tasks().wait_exit(container)).code == 5


@contract
async def test_without_its_monitor_the_code_is_unknown(lab: Lab) -> None:
    container = await lab.running(STOPS)
    if lab.real:
        assert process.send_signal(container.monitor, signal.SIGKILL)
    else:
        lab.world.kill_monitor(container.id)
    await lab.tasks().wait_monitor(container)
    seen = lab.look(container)
    assert (seen.task, seen.monitor) == (TaskState.RUNNING, MonitorState.DEAD)
    await lab.tasks().stop(container, lab.deadline(FAR_S), at_once)
    ended = await lab.tasks().wait_exit(container)
    assert (ended.code, ended.source) == (None, "none")


@contract
async def test_pods_infra_process(lab: Lab) -> None:
    sandbox = lab.sandbox(c.NamespaceOptions(c.NamespaceMode.NODE, c.NamespaceMode.POD, c.NamespaceMode.POD))
    infra = await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    assert infra is not None
    sandbox = replace(sandbox, infra=infra)
    seen = lab.sandboxes().observe([sandbox], lab.boot_id())[sandbox.id]
    assert (seen.namespace, seen.infra, seen.leftovers) == (NamespaceState.NSFS, InfraState.ALIVE, True)
    container = await lab.running(STOPS, sandbox)
    await lab.tasks().stop(container, lab.deadline(FAR_S), never)
    await lab.tasks().tidy(container)
    await lab.sandboxes().tear_down(sandbox.id)
    await lab.sandboxes().tear_down(sandbox.id)
    await lab.sandboxes().wait_infra(sandbox)
    seen = lab.sandboxes().observe([sandbox], lab.boot_id())[sandbox.id]
    assert (seen.namespace, seen.infra) == (NamespaceState.ABSENT, InfraState.DEAD)
    await lab.tasks().remove(container.id)
    await lab.sandboxes().remove(sandbox.id)
    await lab.sandboxes().remove(sandbox.id)
    assert not lab.sandboxes().observe([sandbox], lab.boot_id())[sandbox.id].leftovers


# --- only the real one -----------------------------------------------------------------------------------------------


@only_real
async def test_log_lines_in_the_cris_format(lab: Lab) -> None:
    container = await lab.running("echo out; echo err >&2; printf part")
    await lab.tasks().wait_exit(container)
    lines = sorted(line.split(" ", 1)[1] for line in lab.log(container).splitlines())
    assert lines == ["stderr F err", "stdout F out", "stdout P part"]


@only_real
async def test_out_of_memory(lab: Lab) -> None:
    resources = c.Resources(memory_limit_in_bytes=16 * 2**20)
    container = await lab.running("dd if=/dev/zero of=/dev/null bs=64M count=1; exit 137", resources=resources)
    ended = await lab.tasks().wait_exit(container)
    assert (ended.code, ended.oom) == (137, False), "conmon's note is not needed"
    assert ended.oom_kills == lab.look(container).oom_kills > 0


@only_real
async def test_out_of_memory_where_the_cgroup_goes_with_its_last_process(lab: Lab) -> None:
    """As under systemd. The kernel's own log tells of this very process, and of no other; only the initial namespace
    knows whom it names."""
    named = Path("/proc/self/ns/pid").stat().st_ino == oom.INITIAL_PID_NAMESPACE
    container = await lab.running(f"exec {EATS}", resources=SMALL_MEMORY)
    other = await lab.running(f"{EATS}; exit 137", resources=SMALL_MEMORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups, "oom_counter", lambda _: None)
        for one, killed in ((container, True), (other, not named)):
            ended = await lab.tasks().wait_exit(one)
            assert (ended.code, ended.oom, ended.oom_kills) == (137, killed, 0)
            assert lab.look(one).oom == killed


EATS = "dd if=/dev/zero of=/dev/null bs=64M count=1"
SMALL_MEMORY = c.Resources(memory_limit_in_bytes=32 * 2**20)


@only_real
async def test_a_kill_for_want_of_memory_that_it_outlives_is_told_at_once(lab: Lab) -> None:
    """By a command, several times; the descriptors of the wait are given back; one that ends it is told with the end."""
    container = await lab.running(f"{READY} sleep 1000", resources=SMALL_MEMORY)
    tasks, kills = lab.tasks(), 0
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        waiting = asyncio.ensure_future(tasks.wait_oom(container, kills, 0.2))
        done = await tasks.exec_sync(container, ("/bin/sh", "-c", EATS), 20)
        assert done.code == 137
        assert await asyncio.wait_for(waiting, 5 * SLOWNESS) == kills + 1
        kills += 1
        assert not os.path.exists(lab.layout.container(container.id).oom), "conmon's note says no time"
    assert await asyncio.wait_for(tasks.wait_oom(container, 0, 0.2), 5 * SLOWNESS) == kills, "also what was before"
    assert len(os.listdir("/proc/self/fd")) == before
    waiting = asyncio.ensure_future(tasks.wait_oom(container, kills, 5.0))
    process.send_signal(container.init, signal.SIGKILL)
    ended = await tasks.wait_exit(container)
    assert (ended.code, ended.oom, ended.oom_kills) == (137, False, kills)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(os.listdir("/proc/self/fd")) <= before


@only_real
async def test_nothing_is_told_of_a_container_without_a_cgroup(lab: Lab) -> None:
    container = await lab.running(STOPS)
    await lab.tasks().remove(container.id)
    waiting = asyncio.ensure_future(lab.tasks().wait_oom(container, 0, 0.1))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


@contract
async def test_only_what_has_cgroups_is_measured(lab: Lab) -> None:
    container = await lab.running(IGNORES)
    used = lab.tasks().usage([container.id, lab.new_id()])
    assert list(used) == [container.id] and used[container.id].at_ns > 0 and used[container.id].cpu_ns > 0
    await lab.tasks().remove(container.id)
    assert lab.tasks().usage([container.id]) == {}


@only_real
async def test_what_a_container_uses(lab: Lab) -> None:
    """The shell holds 8 MB in a variable and has spent at least the time that it says; the limit is the one given."""
    resources = c.Resources(memory_limit_in_bytes=64 * 2**20)
    holds = "v=$(busybox head -c 8000000 /dev/zero | busybox tr '\\0' x); "
    container = await lab.running(holds + READY + "while :; do sleep 0.1; done", resources=resources)
    used = lab.tasks().usage([container.id])[container.id]
    assert used.limit == 64 * 2**20
    assert 8_000_000 <= used.rss <= used.memory <= used.limit and used.rss <= used.working_set + 2**20
    assert used.cpu_ns > 10**6 and used.page_faults > 1000
    later = lab.tasks().usage([container.id])[container.id]
    assert later.cpu_ns >= used.cpu_ns and later.at_ns > used.at_ns


@only_real
async def test_user_groups_environment_and_directory(lab: Lab) -> None:
    security = c.SecurityContext(run_as_username="web", supplemental_groups=(500,))
    container = await lab.running("id; pwd; echo $FROM_IMAGE", security=security, working_dir="/made/here")
    assert (container.user.uid, container.user.gid, container.user.groups) == (33, 34, (34, 77, 500))
    await lab.tasks().wait_exit(container)
    text = lab.log(container)
    assert "uid=33(web) gid=34(web) groups=34(web),77(extra),500" in text
    assert "/made/here" in text and " F 1\n" in text


@only_real
async def test_pods_shm_and_ipc_are_shared_and_not_the_hosts(lab: Lab) -> None:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    one = await lab.running("echo mine > /dev/shm/x; readlink /proc/self/ns/ipc", sandbox)
    await lab.tasks().wait_exit(one)
    two = await lab.running("cat /dev/shm/x; readlink /proc/self/ns/ipc", sandbox)
    await lab.tasks().wait_exit(two)
    assert " F mine" in lab.log(two)
    first, second = (lab.log(x).split("ipc:")[1].strip() for x in (one, two))
    assert first == second
    assert first not in os.readlink("/proc/self/ns/ipc")


@only_real
async def test_what_is_left_in_the_hosts_pid_namespace_is_killed(lab: Lab) -> None:
    namespaces = c.NamespaceOptions(c.NamespaceMode.NODE, c.NamespaceMode.NODE, c.NamespaceMode.NODE)
    sandbox = lab.sandbox(namespaces)
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    container = await lab.running("sleep 1000 & sleep 1000 & exit 4", sandbox)
    assert (await lab.tasks().wait_exit(container)).code == 4
    cgroup = f"/daybook/{container.id}"
    assert len(cgroups.members(cgroup)) == 2
    await lab.tasks().tidy(container)
    assert not cgroups.members(cgroup)


@only_real
async def test_monitor_is_outside_the_pods_cgroup(lab: Lab) -> None:
    container = await lab.running(STOPS)
    text = Path(f"/proc/{container.monitor.pid}/cgroup").read_text()
    assert f"{cgroups.monitors_home()}\n" in text and container.id not in text
    assert container.id in Path(f"/proc/{container.init.pid}/cgroup").read_text()


@only_real
async def test_removal_knows_the_monitor_without_a_ledger(lab: Lab) -> None:
    """A daemon killed between the spawn and the ledger: conmon takes the closed pipe for "go"."""
    container = await lab.created(STOPS)
    os.unlink(lab.layout.container(container.id).monitor)
    await lab.tasks().remove(container.id)
    assert not process.alive(container.monitor) and not process.alive(container.init)


@only_real
async def test_a_garbled_exit_file_is_quoted(lab: Lab) -> None:
    container = await lab.running(Program(exits=0))
    await lab.tasks().wait_exit(container)
    Path(lab.layout.container(container.id).exit).write_bytes(b"\xff\x00not a number")
    ended = await lab.tasks().wait_exit(container)
    assert (ended.code, ended.source, ended.quote) == (None, "none", "\\xff\\x00not a number")


@only_real
async def test_another_boot_means_all_are_dead(lab: Lab) -> None:
    container = await lab.running(STOPS)
    seen = lab.tasks().observe([container], "another-boot")[container.id]
    assert (seen.task, seen.monitor) == (TaskState.STOPPED, MonitorState.DEAD)


@only_real
async def test_another_process_with_the_pid(lab: Lab) -> None:
    container = await lab.running(Program(exits=0))
    await lab.tasks().wait_exit(container)
    await lab.tasks().tidy(container)
    mine = process.identity(os.getpid())
    assert mine is not None
    impostor = replace(container, init=replace(mine, start=mine.start + 1))
    assert lab.look(impostor).task is TaskState.OTHER_PID
    await lab.tasks().stop(impostor, lab.deadline(0), never)


@only_real
async def test_terminal_and_stdin(lab: Lab) -> None:
    container = await lab.running("test -t 0 && echo terminal; echo $TERM", tty=True, stdin=True)
    await lab.tasks().wait_exit(container)
    assert "terminal" in lab.log(container) and "xterm" in lab.log(container)


@only_real
async def test_without_a_log_path(lab: Lab) -> None:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    container, secrets = lab.container(sandbox, "echo nothing; exit 2")
    container = replace(container, log_path="")
    made = await lab.tasks().create(container, sandbox, secrets, MARK)
    container = replace(container, init=made.init, monitor=made.monitor)
    await lab.tasks().start(container)
    assert (await lab.tasks().wait_exit(container)).code == 2


@only_real
async def test_privileged_and_seccomp(lab: Lab) -> None:
    sandbox = lab.sandbox(security=c.SecurityContext(privileged=True))
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    default = c.SecurityProfile(c.ProfileType.RUNTIME_DEFAULT)
    show = "while read line; do echo $line; done < /proc/self/status"
    for security, expected in (
        (c.SecurityContext(seccomp=default), "Seccomp: 2"),
        (c.SecurityContext(seccomp=default, privileged=True), "Seccomp: 0"),
        (c.SecurityContext(), "Seccomp: 0"),
        (c.SecurityContext(capabilities=c.Capabilities(drop=("ALL",))), "CapBnd: 0000000000000000"),
    ):
        container = await lab.running(show, sandbox, security=security)
        assert (await lab.tasks().wait_exit(container)).code == 0, lab.log(container)
        assert expected in lab.log(container)


# --- a runtime that fails --------------------------------------------------------------------------------------------


def stand_in(lab: Lab, text: str) -> None:
    path = lab.path / "runtime"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    lab.options = {"runtime": str(path), "limits": Limits(create_s=SLOWNESS, runtime_s=SLOWNESS, kill_s=5, monitor_s=3)}


FOR_CREATE = 'case "$*" in *" create "*) {}; esac; exec /usr/sbin/runc "$@"'


@only_real
async def test_a_missing_runtime(lab: Lab) -> None:
    lab.options = {"runtime": "/nonexistent/runc"}
    with pytest.raises(RuntimeFailed, match=r"Runtime path /nonexistent/runc is not valid"):
        await lab.created(STOPS)


@only_real
async def test_a_missing_monitor(lab: Lab) -> None:
    lab.options = {"monitor": "/nonexistent/conmon"}
    with pytest.raises(RuntimeFailed, match=r"conmon.*No such file"):
        await lab.created(STOPS)


@only_real
async def test_a_failing_runtime_says_why(lab: Lab) -> None:
    stand_in(lab, FOR_CREATE.format('echo "first"  >&2; echo "no space here: \\"secret\\"" >&2; exit 9'))
    with pytest.raises(RuntimeFailed, match=r"create: first no space here$"):
        await lab.created(STOPS)


LIES = """head -c 30000 /dev/zero | tr '\\0' x >&2
    for log; do case "$log" in --log=*) break;; esac; done
    seq -f '{"level":"error","msg":"%.0f"}' 200000 >"${log#--log=}"; exit 1;"""


@only_real
async def test_a_failing_runtime_that_says_too_much(lab: Lab) -> None:
    """Its log is read from its end, bounded."""
    stand_in(lab, FOR_CREATE.format(LIES))
    lab.options["limits"] = Limits(create_s=20)
    with pytest.raises(RuntimeFailed, match=r"^runtime create: 200000$"):
        await lab.created("true")


@only_real
async def test_what_the_runtime_says_is_not_in_the_containers_log(lab: Lab) -> None:
    """Nor among what a command says."""
    stand_in(lab, 'exec /usr/sbin/runc --debug "$@"')
    lab.options["limits"] = Limits()
    container = await lab.running(f"echo out; echo err >&2; {READY} sleep 1000")
    done = await lab.tasks().exec_sync(container, ("/bin/sh", "-c", "echo one; echo two >&2"), 0)
    assert (done.stdout, done.stderr) == (b"one\n", b"two\n")
    lines = sorted(line.split(" ", 1)[1] for line in lab.log(container).splitlines())
    assert lines == ["stderr F err", "stdout F out"]
    said = Path(lab.layout.container(container.id).runtime_log).read_text().splitlines()
    assert said and {json.loads(line)["level"] for line in said} == {"debug"}


@only_real
async def test_a_hanging_runtime_is_killed(lab: Lab) -> None:
    stand_in(lab, FOR_CREATE.format("sleep 1000"))
    with pytest.raises(TimedOut, match=r"runtime create: killed after [0-9]+ s"):
        await lab.created(STOPS)


@only_real
async def test_a_hanging_start_is_killed(lab: Lab) -> None:
    container = await lab.created(STOPS)
    stand_in(lab, "sleep 1000")
    with pytest.raises(TimedOut, match=r"start: killed after [0-9]+ s"):
        await lab.tasks().start(container)


@only_real
async def test_a_start_of_something_missing(lab: Lab) -> None:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    container, _ = lab.container(sandbox, STOPS)
    with pytest.raises(RuntimeFailed, match=r"runc create: .*exec: no such file or directory$"):
        await lab.tasks().create(container, sandbox, c.ContainerSecrets(command=("/no-such-program",)), MARK)


@pytest.mark.real
@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.008, 0.015, 0.03, 0.05])
def test_a_cancelled_create_leaves_nothing_after_removal(real: Lab, after_s: float) -> None:
    async def body(lab: Lab) -> None:
        work = asyncio.ensure_future(lab.created(STOPS))
        await asyncio.sleep(after_s)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    run_in(real, body)


@only_real
async def test_refused_root_file_system(lab: Lab) -> None:
    (lab.path / "image/dev").rmdir()
    (lab.path / "image/dev").symlink_to("/tmp")
    with pytest.raises((InvalidRequest, Failure), match="/dev"):
        await lab.created(STOPS)


@only_real
async def test_refused_log_path(lab: Lab) -> None:
    (lab.path / "logs").mkdir()
    (lab.path / "logs/main").symlink_to("/tmp")
    with pytest.raises(InvalidRequest, match="log path"):
        await lab.created(STOPS)


@pytest.mark.real
def test_the_container_outlives_a_killed_daemon(real: Lab) -> None:
    """A daemon in a process of its own is killed after the start; the next one learns the code."""
    script = f"""
import asyncio, json, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from tests.conformance.test_tasks import Lab, STOPS
async def main():
    lab = Lab(True, Path({str(real.path)!r}))
    made = await lab.running(STOPS)
    print(json.dumps([lab.ids, made.id, made.log_path, made.init.pid, made.init.start, made.monitor.pid,
                      made.monitor.start, made.sandbox_id]), flush=True)
    await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""

    async def body(lab: Lab) -> None:
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert daemon.stdout is not None
        ids, one, log, pid, start, monitor, monitor_start, sandbox_id = json.loads(await daemon.stdout.readline())
        lab.ids += ids
        os.killpg(daemon.pid, signal.SIGKILL)
        await daemon.wait()
        boot = process.boot_id()
        container = Container(
            one, sandbox_id, ContainerState.RUNNING, c.ContainerConfig("main", namespaces=HOST_POD), "", "", "", log,
            "SIGTERM", 1, init=process.Process(pid, start, boot), monitor=process.Process(monitor, monitor_start, boot),
        )  # fmt: skip
        seen = lab.look(container)
        assert (seen.task, seen.monitor) == (TaskState.RUNNING, MonitorState.ALIVE)
        await lab.tasks().stop(container, lab.deadline(FAR_S), never)
        assert (await lab.tasks().wait_exit(container)).code == 5

    run_in(real, body)


@pytest.mark.real
@pytest.mark.parametrize("after_s", [0.003, 0.006, 0.01, 0.015, 0.02, 0.03])
def test_a_daemon_killed_inside_a_create_leaves_nothing_after_removal(real: Lab, after_s: float) -> None:
    script = f"""
import asyncio, json, sys
sys.path.insert(0, {os.getcwd()!r})
from pathlib import Path
from tests.conformance.test_tasks import Lab, MARK, STOPS
async def main():
    lab = Lab(True, Path({str(real.path)!r}))
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    container, secrets = lab.container(sandbox, STOPS)
    tasks = lab.tasks()
    tasks.binaries(), tasks.host()
    print(json.dumps(lab.ids), flush=True)
    await tasks.create(container, sandbox, secrets, MARK)
asyncio.run(main())
"""

    async def body(lab: Lab) -> None:
        daemon = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert daemon.stdout is not None
        lab.ids += json.loads(await daemon.stdout.readline())
        await asyncio.sleep(after_s)
        if daemon.returncode is None:
            daemon.kill()
        await daemon.wait()
        # The next daemon takes longer than this to come up, and a child between fork and exec has no name yet.
        await asyncio.sleep(0.1)

    run_in(real, body)


@only_real
async def test_zero_huge_pages_without_their_controller(lab: Lab) -> None:
    container = await lab.running(Program(exits=0), resources=c.Resources(hugepage_limits={"2MB": 0, "1GB": 0}))
    assert (await lab.tasks().wait_exit(container)).code == 0


@only_real
async def test_a_pods_files_in_etc(lab: Lab) -> None:
    sandbox = lab.sandbox(hostname="my-pod", dns=c.DnsConfig(("10.0.0.10",), ("svc.local", "local"), ("ndots:5",)))
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    container = await lab.running("cat /etc/hostname /etc/resolv.conf; echo $HOSTNAME", sandbox)
    await lab.tasks().wait_exit(container)
    lines = [line.split(" F ", 1)[1] for line in lab.log(container).splitlines()]
    assert lines == ["my-pod", "search svc.local local", "nameserver 10.0.0.10", "options ndots:5", "my-pod"]


@only_real
async def test_a_namespace_that_is_no_longer_pinned(lab: Lab) -> None:
    sandbox = lab.sandbox()
    await lab.sandboxes().set_up(sandbox.id, sandbox, MARK)
    unmount(Path(lab.layout.sandbox(sandbox.id).ipc))
    seen = lab.sandboxes().observe([sandbox], lab.boot_id())[sandbox.id]
    assert seen.namespace is NamespaceState.PLAIN


@only_real
async def test_unreadable_things_do_not_spoil_the_sweep(lab: Lab) -> None:
    container = await lab.created(STOPS)
    broken = lab.new_id()
    paths = lab.layout.container(broken)
    os.makedirs(paths.directory)
    os.symlink("owner", paths.owner)
    found = lab.tasks().observe([container], lab.boot_id())
    assert found[container.id].task is TaskState.CREATED
    assert (found[broken].task, bool(found[broken].text)) == (TaskState.UNREADABLE, True)

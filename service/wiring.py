"""The composition root: the only module, with `main`, that names adapters. Configuration in, ports out."""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.cri import client
from adapters.cri.options import Options
from adapters.cri.pinned import Pins
from adapters.cri.server import Server, SocketSpec, serve
from adapters.host import notify
from adapters.host.clock import RandomIds, SystemClock
from adapters.host.fitness import (
    FAIL,
    OK,
    WARN,
    Fact,
    facts,
    file_system,
    mount_namespace,
    network,
    pin_directory,
    registries,
    trial,
)
from adapters.host.neighbours import neighbours
from adapters.host.secrets import SideFiles
from adapters.host.state import Lock, OwnerMark, digester, empty_directory, group_id, make_private
from adapters.images.images import SkopeoImages
from adapters.images.reading import check_insecure
from adapters.images.reading import problem as pull_problem
from adapters.images.reference import normalise
from adapters.images.rootfs import RootMounts, mounts_below, try_overlay, unmount
from adapters.images.skopeo import Settings
from adapters.log.lmdb_log import LmdbLog
from adapters.network import conf
from adapters.network.network import CniNetwork, Limits
from adapters.oci import apparmor, trials
from adapters.oci.kernel import filesystem_magic
from adapters.oci.layout import NETNS, Layout
from adapters.oci.lookup import seccomp_profile
from adapters.oci.sandboxes import Sandboxes
from adapters.oci.tasks import Tasks
from domain.config import ProfileType, SecurityContext, SecurityProfile
from domain.errors import DaybookError, InvalidRequest, NotReady
from domain.fence import REMEDY
from domain.node import AGGREGATES
from service import config as configuration
from service.config import Config
from service.daemon import Daemon, Ports, Timing
from service.ports import EventLog

VERSION = "0.1.0"
LOG_FILE = "data.mdb"
Wrap = Callable[[Ports], Ports]
log = logging.getLogger("daybook")
MIB, GIB = 1 << 20, 1 << 30
RUNTIME_DEFAULT = SecurityContext(seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT))


def read_config(path: Path, required: bool) -> Config:
    """The configuration as every command uses it: what one of them would refuse is refused here, for all of them.

    Raises InvalidRequest naming the key.
    """
    config = configuration.load(path, required)
    try:
        pins(config)
        check_insecure(tuple(config.images.insecure_registries))
    except InvalidRequest as error:
        raise InvalidRequest(f"cannot use configuration {path}: {error.text}") from error
    return config


def pins(config: Config) -> Pins:
    """Raises InvalidRequest."""
    try:
        return Pins(config.images.pinned, normalise)
    except InvalidRequest as error:
        raise InvalidRequest(f"images.pinned: {error.text}") from error


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of a configuration."""

    data: Path
    run: Path

    @classmethod
    def of(cls, config: Config) -> "Places":
        return cls(Path(config.paths.data), Path(config.paths.run))

    @property
    def log(self) -> Path:
        return self.data / "log"

    def make(self) -> None:
        make_private(self.data)
        make_private(self.run, 0o755)


@contextmanager
def holding(config: Config) -> Iterator[None]:
    """The daemon's lock, also for the commands that must not run beside one. Raises NotReady naming the holder."""
    places = Places.of(config)
    places.make()
    held = Lock(places.run / "lock")
    held.acquire()
    try:
        yield
    finally:
        held.release()


@contextmanager
def daemons_log(config: Config) -> Iterator[LmdbLog]:
    """The log of a daemon, made where the state directory knows none. Raises NotReady with the remedies."""
    places = Places.of(config)
    if not (places.log / LOG_FILE).exists() and (known := OwnerMark(places.data).read()) is not None:
        raise NotReady(f"cannot open log {places.log}: log {known.log_id} is missing; put it back, or: {REMEDY}")
    with contextlib.closing(_open_log(config, places.log)) as event_log:
        yield event_log


@contextmanager
def persons_log(config: Config, make: bool) -> Iterator[LmdbLog]:
    """The log for a person's command. A missing one is made where `make` says so, else an empty one stands in."""
    log = Places.of(config).log
    with tempfile.TemporaryDirectory(prefix="daybook-") as nowhere:
        there = make or (log / LOG_FILE).exists()
        with contextlib.closing(_open_log(config, log if there else Path(nowhere))) as event_log:
            yield event_log


def _open_log(config: Config, directory: Path) -> LmdbLog:
    return LmdbLog(
        directory,
        aggregates=AGGREGATES,
        map_bytes=config.log.map_gib * GIB,
        ballast_bytes=config.log.ballast_mib * MIB,
    )


@dataclass(frozen=True, slots=True)
class World:
    """The adapters, as themselves: what the ports do not show (checks, clean-up at the end) is asked here."""

    clock: SystemClock
    tasks: Tasks
    sandboxes: Sandboxes
    network: CniNetwork
    images: SkopeoImages
    roots: RootMounts


def open_world(config: Config, log_id: str) -> World:
    """Everything but the log; writes nothing but the directories themselves."""
    places = Places.of(config)
    places.make()
    clock = SystemClock()
    images = _images(config, places, clock.now().boot_id)
    roots = RootMounts(places.data / "images")
    layout = Layout(str(places.data), str(places.run), log_id)
    tasks = Tasks(
        layout,
        image_config=images.image_config,
        layers=images.layers,
        mount_rootfs=roots.mount,
        unmount=roots.unmount,
        runtime=program(config.runtime.path),
        monitor=program(config.runtime.monitor),
        seccomp_profile=config.runtime.seccomp_profile,
    )
    sandboxes = Sandboxes(layout, runtime=program(config.runtime.path), pause=program(config.runtime.infra))
    return World(clock, tasks, sandboxes, _network(config, places), images, roots)


async def get_ready(config: Config, world: World) -> None:
    """Before the first root file system: mounts of ours must not spread into other mount namespaces."""
    await world.roots.prepare(Places.of(config).data / "containers")
    try:
        await world.tasks.get_ready()
    except DaybookError as error:
        # The next container asks again.
        log.warning("what the machine can do is not known yet: %s", error.text)


def tell_service_manager() -> None:
    if why := notify.ready():
        log.warning("systemd could not be told that the daemon serves: %s", why)


def warn_of_settings(config: Config) -> None:
    """What parses and cannot be used: the daemon serves, and soon says what `daybook check` would say.

    In a thread that nobody waits for: it starts a program, and a file of the configuration may hang.
    """

    def look() -> None:
        for fact in (_seccomp(config), registries(pull_problem(pull_settings(config)))):
            if fact.level == FAIL:
                log.warning("%s: %s; %s", fact.what, fact.found, fact.remedy)

    threading.Thread(target=look, name="settings", daemon=True).start()


async def leave(world: World) -> None:
    """What a daemon holds for itself goes with it; containers and what they need stay."""
    with contextlib.suppress(DaybookError):
        await world.images.close()
    world.tasks.leave()


def program(name: str) -> str:
    """The absolute path of a program; the name itself where there is none: using it then fails and says so."""
    return shutil.which(name) or name


def _network(config: Config, places: Places) -> CniNetwork:
    """The cache is our own, not libcni's default: an entry in it is provably of this log."""
    given = config.network
    return CniNetwork(
        str(places.data / "cni"),
        conf_dir=given.conf_dir,
        bin_dirs=given.bin_dirs,
        ip_preference=given.ip_preference,
        collects=given.gc,
        limits=Limits(plugin_s=float(given.plugin_timeout_s)),
    )


def _images(config: Config, places: Places, boot_id: str) -> SkopeoImages:
    settings = pull_settings(config)
    return SkopeoImages(places.data / "images", places.run / "storage", places.data / "pulls", boot_id, settings)


def pull_settings(config: Config) -> Settings:
    given = config.images
    return Settings(
        at_once=given.pulls_at_once,
        stall_s=float(given.progress_timeout_s),
        insecure=tuple(given.insecure_registries),
        registries_conf=Path(given.registries_conf) if given.registries_conf else None,
        policy=Path(given.policy) if given.policy else None,
        authfile=Path(given.auth_file) if given.auth_file else None,
    )


def ports(config: Config, log: EventLog, world: World) -> Ports:
    data = Places.of(config).data
    return Ports(
        log=log,
        clock=world.clock,
        secrets=SideFiles(data / "private"),
        tasks=world.tasks,
        sandboxes=world.sandboxes,
        network=world.network,
        images=world.images,
        mark=OwnerMark(data),
    )


def unwrapped(ports: Ports) -> Ports:
    return ports


def timing(config: Config) -> Timing:
    return Timing(
        stop_wait_s=float(config.daemon.stop_wait_s),
        reconcile_s=float(config.daemon.reconcile_s),
        checkpoint_every=config.log.checkpoint_every,
    )


def front_end(config: Config, daemon: Daemon, world: World) -> Server:
    """Two sockets; through which of them a call came is the "who" of its events."""
    options = Options(
        version=VERSION,
        digest=digester(Places.of(config).data),
        normalise=normalise,
        new_id=RandomIds().new,
        check=world.tasks.check,
        recursive_read_only=world.tasks.host().recursive_read_only,
        selinux=world.tasks.host().selinux,
        systemd=config.runtime.cgroup_driver == "systemd",
        pins=pins(config),
        allow_registry_token=config.images.allow_registry_token,
        sandbox_image=config.images.sandbox_image,
    )
    return serve(daemon, sockets(config), options)


def sockets(config: Config) -> tuple[SocketSpec, SocketSpec]:
    run, given = Places.of(config).run, config.sockets
    gid = group_id(given.admin_group)
    return (
        SocketSpec(str(run / given.kubelet), "kubelet"),
        SocketSpec(str(run / given.admin), "admin", 0o660 if gid >= 0 else 0o600, gid),
    )


def load_image(config: Config, source: str, reference: str) -> str:
    """Asks the running daemon through its admin socket. Returns the image id. Raises NotReady where none runs."""
    return client.load(str(Places.of(config).run / config.sockets.admin), source, reference)


def remove_state(config: Config) -> None:
    """Everything below the two directories but the lock. Raises StorageFailed where something is still in use."""
    places = Places.of(config)
    for mounted in mounts_below(places.data):
        unmount(mounted)
    empty_directory(places.data)
    empty_directory(places.run, but=("lock",))


def fitness(config: Config) -> list[Fact]:
    """Everything that `daybook check` tells. It leaves nothing."""
    places = Places.of(config)
    programs = {
        "OCI runtime": config.runtime.path,
        "monitor": config.runtime.monitor,
        "infra": config.runtime.infra,
        "image tool": "skopeo",
    }
    files = {
        "signature policy": config.images.policy or "/etc/containers/policy.json",
    }
    given = config.network
    loaded = conf.load(given.conf_dir, given.bin_dirs)
    used = loaded.network.name if loaded.network else ""
    where = [Path(directory) for directory in (given.conf_dir, *given.bin_dirs)]
    return [
        *facts(places.data, places.run, programs, files),
        *_tried(places),
        mount_namespace(Lock(places.run / "lock").holder()),
        file_system(places.data, filesystem_magic),
        registries(pull_problem(pull_settings(config))),
        *_protection(config),
        *network(used, loaded.problem, where),
        pin_directory(Path(NETNS)),
        *neighbours(sockets(config)[0].path, Layout(str(places.data), str(places.run), "").exits),
    ]


def _seccomp(config: Config) -> Fact:
    path = config.runtime.seccomp_profile
    try:
        seccomp_profile(RUNTIME_DEFAULT, path)
    except DaybookError as error:
        remedy = "mend it, or leave runtime.seccomp_profile out of the configuration: then it is the built-in one"
        return Fact(FAIL, "seccomp profile", error.text, remedy)
    return Fact(OK, "seccomp profile", path or "built in")


def _protection(config: Config) -> Iterator[Fact]:
    yield _seccomp(config)
    with tempfile.TemporaryDirectory(prefix="daybook-") as nowhere:
        found = apparmor.tried(f"{nowhere}/profile")
    if found.enabled and not found.profile:
        yield Fact(WARN, "AppArmor", "containers run without, those that ask for it are refused", found.problem)
    else:
        yield Fact(OK, "AppArmor", found.profile or found.problem)


def _tried(places: Places) -> Iterator[Fact]:
    """What only root can, done for a moment in a directory of its own on the file system of the data."""
    if os.geteuid() != 0:
        return
    nearest = next(p for p in (places.data, *places.data.parents) if p.exists())
    try:
        made = Path(tempfile.mkdtemp(prefix=".daybook-check-", dir=nearest))
    except OSError as error:
        found = f"nothing can be made in {nearest}: {error.strerror}"
        yield Fact(FAIL, "data", found, "choose another directory under [paths]")
        return
    try:
        yield from _trials(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _trials(made: Path) -> Iterator[Fact]:
    for name in ("mounts", "pinned", "root"):
        (made / name).mkdir()
    newer = "a newer kernel is needed, or the container that we are in must allow it"
    overlay = "modprobe overlay, and put it into /etc/modules-load.d; or choose a file system that overlay takes"
    hierarchy = "mount cgroup2 with its controllers on /sys/fs/cgroup, or start with systemd"
    yield trial("overlay", lambda: trials.privately(lambda: try_overlay(made / "mounts")), overlay)
    yield trial("namespaces", lambda: trials.own_namespaces(made / "pinned"), newer)
    yield trial("openat2", lambda: trials.paths_in_a_root(made / "root"), newer)
    yield trial("pidfd", trials.processes_by_descriptor, newer)
    yield trial("cgroups", trials.cgroup_moves, hierarchy)


def warn_of_own_mounts() -> None:
    """A daemon that does not have the machine's mounts serves all the same: its pods must be able to end."""
    fact = mount_namespace(os.getpid())
    if fact.remedy:
        log.warning("%s: %s; %s", fact.what, fact.found, fact.remedy)


def set_up_logging(level: str) -> None:
    """One line per message to stderr; journald adds the time, a terminal gets it here."""
    form = "%(levelname)s %(name)s: %(message)s" if not sys.stderr.isatty() else "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level.upper(), format=form, stream=sys.stderr, force=True)

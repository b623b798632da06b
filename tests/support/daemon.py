"""A daemon as a process of its own, in directories of its own, and what is left of it, seen from outside.

Everything that a machine makes has its token in its path, command line or cgroup: that is how leftovers are found and
ended, and why nobody else's are touched.

    with machine() as m:          ends with nothing left, or fails
        m.start()
        runtime, images = m.cri()
        m.kill9(); m.start()
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from adapters.cri import client
from adapters.cri.translate import LOAD
from adapters.log.readonly import open_live
from adapters.oci import netns
from adapters.oci.layout import NETNS
from domain.node import AGGREGATES
from domain.records import Record, Unreadable
from proto import api_pb2 as pb
from proto.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub
from tests.support.inventory import NOTHING, Inventory, inventory
from tests.support.limits import SLOWNESS, patient
from tests.support.namespaces import as_found
from tests.support.oci_layout import BuiltImage, make_oci_layout

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
READY_S, END_S, POLL_S = 15.0 * SLOWNESS, 15.0 * SLOWNESS, 0.005
IMAGE = "registry.example/busybox:1"
FAULTY = ROOT / "tests" / "crash" / "faulty_daemon.py"
STANDIN = ROOT / "tests" / "crash" / "standins" / "standin"
SMALL: Mapping[str, Mapping[str, Any]] = {
    "log": {"ballast_mib": 1, "map_gib": 1},
    "daemon": {"stop_wait_s": 5},
    "network": {"conf_dir": "/nonexistent/net.d"},
}
"""What the machine itself has in /etc/cni/net.d must not matter."""


class Ended(Exception):
    """The daemon ended before it was ready. `status` as in Popen, `said`: the end of its log."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"the daemon ended with status {status}: {said}")
        self.status, self.said = status, said


class Stubs(tuple[Any, Any]):
    """Runtime and image service of one channel."""


def until(what: Callable[[], T], seconds: float = 10.0, text: str = "") -> T:
    """The first true value of `what`. Fails after `seconds` of a usual machine."""
    end = time.monotonic() + seconds * SLOWNESS
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {text or what}")
        time.sleep(POLL_S)
    return found


def toml(config: Mapping[str, Mapping[str, Any]]) -> str:
    lines: list[str] = []
    for table, entries in config.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items())]
    return "\n".join(lines) + "\n"


def merged(*configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for config in configs:
        for table, entries in config.items():
            made.setdefault(table, {}).update(entries)
    return made


@dataclass
class DaemonProcess:
    """One run of the daemon, in its own session."""

    child: "subprocess.Popen[bytes]"
    log: Path
    faulty: bool = False

    @property
    def pid(self) -> int:
        return self.child.pid

    def dead(self) -> bool:
        return self.child.poll() is not None

    def wait(self, seconds: float = END_S) -> int:
        return self.child.wait(seconds)

    def kill9(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        self.child.terminate()
        return self.wait()

    def said(self, limit: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-limit:] if self.log.exists() else ""


@dataclass
class Machine:
    """Directories, a configuration, at most one daemon. `faulty`: the child of tests/crash with its fault points.

    `launcher` is put before its command line. `network` makes the pod networks (see tests/crash/pod_network.py) in a directory; without it pods have the host's.
    """

    base: Path
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faulty: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()
    network: Callable[[Path], Any] | None = None
    lab: Any = None
    daemon: DaemonProcess | None = None
    starts: int = 0
    log_ids: set[str] = field(default_factory=set)
    _channels: dict[str, Any] = field(default_factory=dict)
    _layouts: dict[str, BuiltImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.base / "bin").mkdir()
        self.pod_logs.mkdir()
        if self.network is not None:
            (self.base / "cni").mkdir()
            self.lab = self.network(self.base / "cni")
            self.lab.cache = self.data / "cni"
        self.write_config(self.config)

    @property
    def token(self) -> str:
        return self.base.name

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def log_id(self) -> str:
        """As the state directory's mark has it; empty before the first start and after `purge`."""
        mark = self.data / "owner.json"
        found = str(json.loads(mark.read_text())["log_id"]) if mark.exists() else ""
        self.log_ids |= {found} - {""}
        return found

    def netns(self, sandbox_id: str) -> str:
        """Where the network of a sandbox is pinned."""
        return f"{NETNS}/daybook-{self.log_id[:12]}-{sandbox_id}"

    def pins(self) -> list[str]:
        """Everything that bears the name of a log of this machine in the directory of network namespaces."""
        assert self.log_id in {"", *self.log_ids}
        names = os.listdir(NETNS) if os.path.isdir(NETNS) else []
        return [
            f"{NETNS}/{name}" for name in names if name.startswith(tuple(f"daybook-{i[:12]}-" for i in self.log_ids))
        ]

    @property
    def log_directory(self) -> Path:
        return self.data / "log"

    @property
    def pod_logs(self) -> Path:
        return self.base / "pods"

    @property
    def config_file(self) -> Path:
        return self.base / "config.toml"

    @property
    def fault_file(self) -> Path:
        return self.base / "fault.json"

    @property
    def trace_file(self) -> Path:
        return self.base / "trace"

    def socket(self, admin: bool = False) -> str:
        return str(self.run / ("admin.sock" if admin else "daybook.sock"))

    def write_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        self.config = config
        places: dict[str, dict[str, Any]] = {"paths": {"data": str(self.data), "run": str(self.run)}}
        if self.lab is not None:
            places["network"] = {"conf_dir": str(self.lab.conf), "bin_dirs": [str(self.lab.bin)]}
        self.config_file.write_text(toml(merged(SMALL, config, places)))

    def stand_in(self, *programs: str) -> dict[str, str]:
        """Stand-ins for programs (see `plan`): their paths, by name. They are the real ones while there is no plan."""
        for name in programs:
            (self.base / "bin" / name).symlink_to(STANDIN)
            real = shutil.which(name)
            assert real, name
            (self.base / "bin" / f"{name}.real").write_text(real + "\n")
        if not (self.base / "bin" / "lock").is_symlink():
            (self.base / "bin" / "lock").symlink_to(self.run / "lock")
        return {name: str(self.base / "bin" / name) for name in programs}

    def plan(self, program: str, word: str, mode: str) -> Path:
        """What the stand-in does at the next call that has this word: see tests/crash/standins. Gone when done."""
        of_plugins = self.lab is not None and (self.lab.bin / program).exists()
        file = (self.lab.bin if of_plugins else self.base / "bin") / f"{program}.plan"
        part = file.with_suffix(".part")
        part.write_text(f"{word} {mode}\n")
        part.rename(file)
        return file

    # --- the daemon --------------------------------------------------------------------------------------------------

    def spawn(self) -> DaemonProcess:
        """Starts it and does not wait."""
        # A killed daemon's sockets close a moment before it counts as dead.
        until(lambda: self.daemon is None or self.daemon.dead(), 2.0, "it runs already")
        self._close_channels()
        self.starts += 1
        what = [str(FAULTY)] if self.faulty else ["-m", "service.main", "serve"]
        log = self.base / f"daemon-{self.starts}.log"
        path = f"{self.base / 'bin'}:{os.environ['PATH']}"
        with log.open("wb") as file:
            child = subprocess.Popen(
                [*self.launcher, sys.executable, *what, "--config", str(self.config_file)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.daemon = DaemonProcess(child, log, self.faulty)
        return self.daemon

    def start(self) -> DaemonProcess:
        """Starts it and returns when it answers. Raises Ended."""
        daemon = self.spawn()
        until(lambda: daemon.dead() or self._answers(), READY_S, f"the daemon answers: {daemon.said()}")
        if daemon.dead():
            raise Ended(daemon.wait(), daemon.said())
        return daemon

    def _answers(self) -> bool:
        """Connecting is not enough: a call must come back."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.socket())
            except OSError:
                return False
        try:
            self.cri()[0].Version(pb.VersionRequest(), timeout=5)
        except grpc.RpcError:
            self._close_channels()
            return False
        return True

    def kill9(self) -> None:
        assert self.daemon is not None
        self.daemon.kill9()

    def terminate(self) -> int:
        assert self.daemon is not None
        self._close_channels()
        return self.daemon.terminate()

    def restart(self) -> DaemonProcess:
        """kill -9 and a new one."""
        self.kill9()
        return self.start()

    def command(self, *words: str, seconds: float = 30) -> "subprocess.CompletedProcess[str]":
        """One of our own commands with this configuration: `command("purge", "--yes")`."""
        assert self.log_id in {"", *self.log_ids}, "remembered, as `purge` may take the mark away"
        argv = [sys.executable, "-m", "service.main", words[0], "--config", str(self.config_file), *words[1:]]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=seconds * SLOWNESS)

    def replay(self, *words: str) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "-m", "tools.replay", *words, "--log", str(self.log_directory)]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOWNESS)

    def records(self) -> list[Record | Unreadable]:
        """The log, read beside or after the daemon."""
        with open_live(self.log_directory, AGGREGATES, scratch=str(self.base)) as reader:
            return list(reader.read())

    # --- clients -----------------------------------------------------------------------------------------------------

    def cri(self, admin: bool = False) -> Stubs:
        """Stubs on a channel of this run of the daemon; nothing of it is shared with channels of earlier runs."""
        path = self.socket(admin)
        if path not in self._channels:
            self._channels[path] = self.channel(admin)
        channel = self._channels[path]
        return Stubs((RuntimeServiceStub(channel), ImageServiceStub(channel)))

    def channel(self, admin: bool = False) -> Any:
        """One of the caller's own, for a thread that lives through several daemons; the caller closes it."""
        options = (*client.OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        return patient(grpc.insecure_channel(f"unix:{self.socket(admin)}", options=options))

    def _close_channels(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def layout(self, name: str = "busybox", **more: Any) -> BuiltImage:
        if name not in self._layouts:
            self._layouts[name] = make_oci_layout(self.base / f"layout-{name}", **more)
        return self._layouts[name]

    def load_request(self, reference: str = IMAGE, name: str = "busybox") -> Any:
        source = f"oci:{self.layout(name).path}:latest"
        return pb.PullImageRequest(image=pb.ImageSpec(image=reference, annotations={LOAD: source}))

    def load(self, reference: str = IMAGE, name: str = "busybox") -> str:
        """Has the daemon load the image. Returns its id."""
        return str(self.cri(admin=True)[1].PullImage(self.load_request(reference, name), timeout=60).image_ref)

    # --- from outside ------------------------------------------------------------------------------------------------

    def left(self) -> Inventory:
        """All that containers, sandboxes and pulls have left; the daemon, its log and its store's frame are not.

        Of the pod networks: addresses, links, rules, cache entries, and the namespaces that somebody still holds.
        """
        found = inventory([self.token])
        running = self.daemon is not None and not self.daemon.dead()
        own = f"{self.daemon.pid} " if running and self.daemon else "-"
        store = str(self.data / "images" / "overlay")
        stage = getattr(self.lab, "host", None)
        mounts = [m for m in found.mounts if not (running and m == store) and m != stage]
        if (private := str(self.data / "containers")) in mounts:
            # Where the file system is shared (systemd's are) the daemon bound it over itself: once, until the purge.
            mounts.remove(private)
        processes = tuple(p for p in found.processes if not p.startswith(own))
        cgroups = tuple(c for c in found.cgroups if not os.path.basename(c).startswith((self.token, "pod-")))
        return Inventory(tuple(mounts), processes, cgroups, self._files() + self._networks(), found.namespaces)

    def _networks(self) -> tuple[str, ...]:
        left = self.lab.left() if self.lab is not None else {}
        return tuple(f"{what}: {each}" for what, all_such in left.items() for each in all_such)

    def _files(self) -> tuple[str, ...]:
        """Entries of every directory that should be empty when no container, sandbox or image is."""
        run = ("sandboxes", "runc", "runc-infra", "exits", "attach", "execs")
        data = (
            "containers",
            "sandboxes",
            "private",
            "images/overlay",
            "images/overlay-layers",
            "images/overlay-images",
        )
        directories = [self.run / name for name in run] + [self.data / name for name in data]
        found = [p for d in directories if d.is_dir() for p in d.iterdir() if not _frame(p)]
        pulls = self.data / "pulls"
        if pulls.is_dir():
            found += [p for p in pulls.iterdir() if len(p.name) == 32]
            found += [p for name in ("names", "synced") if (pulls / name).is_dir() for p in (pulls / name).iterdir()]
        return tuple(sorted([*(str(p.relative_to(self.base)) for p in found), *self.pins()]))

    def await_clean(self, before: Inventory | None = None, seconds: float = 10.0) -> None:
        """Fails where more than `before` is left after a while: the daemon cleans up in the background."""
        wanted = before or NOTHING
        end = time.monotonic() + seconds * SLOWNESS
        while (left := self.left()) != wanted and time.monotonic() < end:
            time.sleep(0.02)
        assert left == wanted, f"{difference(left, wanted)}; the daemon said: {self._said()}"

    def _said(self) -> str:
        return self.daemon.said() if self.daemon else ""

    # --- the end -----------------------------------------------------------------------------------------------------

    def tear_down(self) -> Inventory:
        """Ends, unmounts and removes everything that has the token. Returns what had to be swept away by force."""
        self._close_channels()
        if self.daemon is not None and not self.daemon.dead():
            self.daemon.kill9()
        swept = inventory([self.token])
        end = time.monotonic() + END_S
        while time.monotonic() < end:
            now = inventory([self.token])
            if not (now.processes or now.mounts or now.cgroups):
                break
            for line in now.processes:
                _kill(int(line.split(" ", 1)[0]), self.token)
            for point in reversed(now.mounts):
                subprocess.run(["umount", "--lazy", point], stderr=subprocess.DEVNULL, check=False)
            for path in sorted(now.cgroups, key=len, reverse=True):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            time.sleep(0.01)
        for pin in self.pins():
            netns.unpin(pin)
        as_found()
        shutil.rmtree(self.base, ignore_errors=True)
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for name in ("daybook/monitors", "daybook"):
                with contextlib.suppress(OSError):
                    os.rmdir(hierarchy / name)
        left = inventory([self.token])
        assert left == NOTHING and not self.base.exists(), f"cannot be swept away: {left}"
        return swept


def difference(left: Inventory, wanted: Inventory) -> str:
    fields = [(name, set(getattr(left, name)), set(getattr(wanted, name))) for name in left.__dataclass_fields__]
    return "; ".join(f"{name}: too much {a - b}, missing {b - a}" for name, a, b in fields if a != b)


def _frame(path: Path) -> bool:
    """What containers-storage keeps in an empty store."""
    return path.name in ("l", "images.json", "images.lock", "layers.json", "layers.lock") or (
        path.name.startswith((".has-", ".tmp")) or path.suffix in (".lock", ".json")
    )


def _kill(pid: int, token: str) -> None:
    """SIGKILL by identity: what the descriptor holds is looked at again after it is open."""
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(pid)
        try:
            if any(line.startswith(f"{pid} ") for line in inventory([token]).processes):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


@contextlib.contextmanager
def machine(**more: Any) -> Iterator[Machine]:
    """A machine that is swept away at the end, whatever happened."""
    made = Machine(Path(tempfile.mkdtemp(prefix="dbt-")), **more)
    try:
        yield made
    finally:
        made.tear_down()

"""Directories of our own, a daemon in them, and a client of it, as a kubelet is."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from adapters.cri import client
from proto import api_pb2 as pb
from tools.demo_steps import outside
from tools.demo_steps.ground import BIN_DIRS, Machine, ground_for
from tools.demo_steps.outside import Seen
from tools.demo_steps.saying import Wrong

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "demo.example/busybox:1"
PORT = 8080
DAEMONS = ("service.main serve", "bin/daybook serve", "/daybook/monitors")
"""What the command line or the cgroup of a daemon or of its monitors has, whosever they are."""

ANSWER_S = 30
"""How long one call, one start of the daemon or one wait may take."""

POD_NETWORK = pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER)
"""The pod's and its containers' namespaces, as the kubelet asks for them."""


@dataclass
class Container:
    """What the demo knows of one: its request, and what it was told."""

    name: str
    script: str
    mounts: tuple[tuple[Path, str], ...] = ()
    id: str = ""
    pid: int = 0
    started: int = 0
    handle: int = -1
    """`started` as `outside.started_at` has it; `handle` is a pidfd."""


@dataclass
class Pod:
    id: str = ""
    address: str = ""
    host_port: int = 0
    containers: dict[str, Container] = field(default_factory=dict)
    told: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Ids, addresses and times, kept to be compared with what is told later."""

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]


class Stage:
    """Making one starts nothing; the machine as it is then is what must be found again at the end."""

    def __init__(self, directory: Path, bin_dirs: Sequence[str] = BIN_DIRS) -> None:
        self.directory, self.name = directory, directory.name
        self.data, self.run, self.logs = directory / "data", directory / "run", directory / "logs"
        self.reserved, self.signals = directory / "addresses", directory / "signals"
        self.ground = ground_for(self.name, bin_dirs)
        self.before: Seen = outside.look()
        self.during: Seen = {}
        self.machine = Machine.now(self.before)
        self._cgroups_before = outside.daemon_cgroups()
        self.pod = Pod()
        self.calls: dict[str, Any] = {}
        """Calls that were under way when the daemon was killed."""
        self.asked_ns = self.killed_ns = self.job_ended_ns = self.back_ns = 0
        """Wall time of the stop's request, the kill, job's end, and the answer of the second daemon."""
        self.daemon: subprocess.Popen[bytes] | None = None
        self.socket = str(self.run / "admin.sock")
        self._stubs = client.connect(self.socket)
        self._make()

    def _make(self) -> None:
        for each in (self.logs, self.signals, self.directory / "net.d"):
            each.mkdir()
        (self.directory / "daemon.log").touch()
        (self.directory / "net.d" / "demo.conflist").write_text(self.ground.conflist(self.reserved))
        (self.directory / "config.toml").write_text(
            f"[paths]\ndata = {json.dumps(str(self.data))}\nrun = {json.dumps(str(self.run))}\n"
            f"[network]\nconf_dir = {json.dumps(str(self.directory / 'net.d'))}\n"
            f"bin_dirs = {json.dumps(self.ground.bin_dirs)}\n"
        )

    # --- what is ours, from outside ---

    @property
    def names(self) -> list[str]:
        """What the command line, the cgroup, the path or the comment of everything of ours bears."""
        ids = [self.pod.id, *(each.id for each in self.pod.containers.values())]
        return [self.name, *filter(None, ids)]

    def ours(self) -> Seen:
        """What came since the demo began and is the demo's; its own directory excepted."""
        came = outside.newer(outside.look(), self.before)
        # A link that has left the bridge, a chain that no rule leads to: known from when they bore a mark.
        links = [line.partition(" in bridge ")[0] for line in self.during.get("links", ())]
        found = dict(outside.bearing(came, self.names, [*self.ground.marks, *links]))
        found |= {kind: lines | (came[kind] & self.during.get(kind, frozenset())) for kind, lines in found.items()}
        named = frozenset(outside.belongings(self.data, self.run, self.reserved))
        found["files"] = (found["files"] | named) - {str(self.directory)}
        return found

    def own_cgroups(self, patience_s: float = 0) -> list[str]:
        """The daemon's own cgroups, where they came with it and no other daemon on this machine uses them."""
        found = sorted(outside.daemon_cgroups() - self._cgroups_before)
        until = time.monotonic() + patience_s
        while found and not _others() and time.monotonic() < until:
            time.sleep(0.05)
            found = sorted(outside.daemon_cgroups() - self._cgroups_before)
        return [] if _others() else found

    # --- the daemon ---

    def start_daemon(self) -> None:
        """In a session of its own, so that Ctrl-C is ours. Returns when it answers. Raises Wrong."""
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self._command("serve"),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        until = time.monotonic() + ANSWER_S
        while not listens(self.socket):
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise Wrong(f"the daemon does not answer; it said:\n{self.last_words()}")
            time.sleep(0.005)
        # A fresh channel, and not before: one that was refused once waits for a second before it tries again.
        self._stubs = client.connect(self.socket)
        self.call("Version")

    def last_words(self) -> str:
        lines = (self.directory / "daemon.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-12:])

    def daybook(self, *words: str) -> str:
        """The command `daybook`: what it printed. Raises Wrong where its status is not 0."""
        done = subprocess.run(self._command(*words), cwd=ROOT, capture_output=True, text=True, timeout=2 * ANSWER_S)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise Wrong(f"daybook {words[0]} ended with {done.returncode}: {said}")
        return done.stdout

    def replay(self, *words: str) -> str:
        return self.daybook("replay", words[0], "--log", str(self.data / "log"), *words[1:])

    def _command(self, name: str, *words: str) -> list[str]:
        config = [] if name == "replay" else ["--config", str(self.directory / "config.toml")]
        return [sys.executable, "-m", "service.main", name, *config, *words]

    # --- calls ---

    def call(self, name: str, limit_s: float = ANSWER_S, **fields: Any) -> Any:
        """One call of the CRI. What goes wrong is an OSError with the daemon's words."""
        try:
            return self._stub(name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s)
        except grpc.RpcError as error:
            raise OSError(f"{name}: {error.details()}") from None

    def ask(self, name: str, **fields: Any) -> Any:
        """The same call, but its answer is not waited for."""
        return self._stub(name).future(getattr(pb, f"{name}Request")(**fields), timeout=ANSWER_S)

    def _stub(self, name: str) -> Any:
        return getattr(next(stub for stub in self._stubs if hasattr(stub, name)), name)

    def run_pod(self) -> str:
        request = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name="demo", uid="demo-uid", namespace="default"),
            hostname="demo-pod",
            log_directory=str(self.logs),
            port_mappings=[pb.PortMapping(container_port=PORT, host_port=self.pod.host_port)],
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=f"/{self.name}",
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=POD_NETWORK),
            ),
        )
        return str(self.call("RunPodSandbox", config=request).pod_sandbox_id)

    def creation(self, of: Container) -> dict[str, Any]:
        """The fields of a CreateContainer: the same each time."""
        options = pb.LinuxContainerSecurityContext(namespace_options=POD_NETWORK)
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=of.name),
            image=pb.ImageSpec(image=IMAGE),
            command=["/bin/sh", "-c", of.script],
            mounts=[pb.Mount(host_path=str(host), container_path=inside) for host, inside in of.mounts],
            log_path=f"{of.name}.log",
            linux=pb.LinuxContainerConfig(security_context=options),
        )
        return {"pod_sandbox_id": self.pod.id, "config": config}

    def start(self, container: Container) -> None:
        """Creates it, starts it, and holds on to its process."""
        container.id = self.call("CreateContainer", **self.creation(container)).container_id
        self.call("StartContainer", container_id=container.id)
        container.pid = self.pid(container)
        container.handle, container.started = os.pidfd_open(container.pid), outside.started_at(container.pid)

    def status(self, container: Container) -> Any:
        return self.call("ContainerStatus", container_id=container.id).status

    def state(self, container: Container) -> str:
        return str(pb.ContainerState.Name(self.status(container).state)).removeprefix("CONTAINER_")

    def pid(self, container: Container) -> int:
        told = self.call("ContainerStatus", container_id=container.id, verbose=True)
        return int(json.loads(told.info["info"])["pid"])

    def conditions(self) -> dict[str, str]:
        """Empty where a condition holds, else why not."""
        found = self.call("Status").status.conditions
        return {each.type: "" if each.status else each.message or each.reason for each in found}

    def pod_status(self) -> Any:
        return self.call("PodSandboxStatus", pod_sandbox_id=self.pod.id).status

    def told(self) -> dict[str, tuple[Any, ...]]:
        """Ids, addresses and times of the pod and its containers, as the daemon answers now."""
        pod = self.pod_status()
        found: dict[str, tuple[Any, ...]] = {"pod": (pod.id, pod.network.ip, pod.created_at)}
        for each in self.call("ListContainers").containers:
            status = self.call("ContainerStatus", container_id=each.id).status
            found[each.metadata.name] = (each.id, each.created_at, status.started_at)
        return found

    # --- what containers say ---

    def lines(self, container: Container) -> list[str]:
        """Its log, as the kubelet reads it."""
        path = self.logs / f"{container.name}.log"
        return path.read_text().splitlines() if path.exists() else []

    def line(self, container: Container, words: str) -> str:
        """The log's first line with these words, once it is there. Raises Wrong."""
        wait(lambda: any(words in line for line in self.lines(container)), f"{container.name} says {words!r}")
        return next(line for line in self.lines(container) if words in line)


def fetched(address: str, port: int) -> str:
    """What a web server says on /. Raises OSError, http.client.HTTPException. No proxy is asked."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read(1000).decode(errors="replace").strip()
    finally:
        connection.close()


def listens(path: str) -> bool:
    """Whether somebody listens on a unix socket; a killed daemon leaves its file."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def wait(until: Callable[[], object], what: str, limit_s: float = ANSWER_S, pause_s: float = 0.005) -> None:
    """Raises Wrong where it does not come true."""
    end = time.monotonic() + limit_s
    while not until():
        if time.monotonic() > end:
            raise Wrong(f"waited {limit_s:.0f} s and it did not happen: {what}")
        time.sleep(pause_s)


def bundles(stage: Stage) -> set[str]:
    """Ids of the containers that have a directory."""
    place = stage.data / "containers"
    return {name for name in os.listdir(place) if re.fullmatch(r"[0-9a-f]{64}", name)} if place.exists() else set()


def _others() -> bool:
    return any(mark in each.about for each in outside.processes() for mark in DAEMONS)

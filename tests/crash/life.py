"""One container's whole life as a client sees it who asks again, with the same request, when the daemon dies under it."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from domain import events as e
from domain.records import Record, Unreadable
from proto import api_pb2 as pb
from tests.support.daemon import IMAGE, Ended, Machine, until

WROTE = "it ran"
ENDS = f"echo {WROTE}; exit 7"
WAITS = f"trap 'exit 143' TERM; echo {WROTE}; while :; do sleep 0.05 & wait $!; done"
GRACE_S = 5
PINS = ("net", "uts", "ipc", "shm")
ENDINGS = e.ContainerExited | e.ContainerStartFailed


def pod_config(machine: Machine, name: str, host_port: int = 0, **options: Any) -> Any:
    """A pod with a network of its own where the machine has any; `host_port` leads to its port 80."""
    modes = {"network": network_of(machine), "pid": pb.CONTAINER} | options
    context = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(**modes))
    return pb.PodSandboxConfig(
        port_mappings=[pb.PortMapping(host_port=host_port, container_port=80)] if host_port else [],
        metadata=pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        log_directory=str(machine.pod_logs / name),
        labels={"app": name},
        annotations={"kubectl.kubernetes.io/last-applied-configuration": "kept beside the log"},
        linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"/{machine.token}/pod-{name}", security_context=context),
    )


def network_of(machine: Machine) -> int:
    return int(pb.NODE if machine.lab is None else pb.POD)


def container_config(
    script: str,
    name: str = "app",
    image: str = IMAGE,
    resources: Mapping[str, Any] | None = None,
    network: int = pb.NODE,
    **more: Any,
) -> Any:
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name),
        image=pb.ImageSpec(image=image),
        command=["/bin/sh", "-c", script],
        log_path=f"{name}.log",
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(**(resources or {"cpu_shares": 2})),
            security_context=pb.LinuxContainerSecurityContext(
                namespace_options=pb.NamespaceOption(network=network, pid=pb.CONTAINER)
            ),
        ),
        **more,
    )


@dataclass
class Client:
    """Calls until it is answered: a dead daemon is started again. `deaths` counts them."""

    machine: Machine
    deaths: int = 0

    def call(self, rpc: str, request: Any, admin: bool = False) -> Any:
        for _ in range(10):
            stubs = self.machine.cri(admin)
            stub = next(getattr(s, rpc) for s in stubs if hasattr(s, rpc))
            try:
                return stub(request, timeout=30)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not self._died():
                    raise
            self.revive()
        raise AssertionError("the daemon dies again and again")

    def _died(self) -> bool:
        daemon = self.machine.daemon
        assert daemon is not None
        with contextlib.suppress(AssertionError):
            until(daemon.dead, 3)
        return daemon.dead()

    def revive(self) -> None:
        self.deaths += 1
        for _ in range(5):
            try:
                self.machine.start()
                return
            except Ended as ended:
                if ended.status != -9:
                    raise
                self.deaths += 1
        raise AssertionError("the daemon dies again and again while it starts")

    def status(self, container_id: str) -> Any:
        return self.call("ContainerStatus", pb.ContainerStatusRequest(container_id=container_id)).status


@dataclass
class Life:
    """`stops`: the client ends the container; else it ends by itself with code 7. `shared`: the pod has an infra
    process. `dies_tidying`: the daemon is killed in the tidying, which must not be overtaken by a removal. Others may live
    beside it."""

    machine: Machine
    name: str
    stops: bool = False
    client: Client = field(default=None)  # type: ignore[assignment]
    whole_times: bool = True
    shared: bool = False
    host_port: int = 0
    dies_tidying: bool = False
    sandbox_id: str = ""
    container_id: str = ""
    address: str = ""
    started: bool = False

    def __post_init__(self) -> None:
        self.client = self.client or Client(self.machine)
        self.log_file.parent.mkdir(exist_ok=True)
        self.log_file.unlink(missing_ok=True)

    @property
    def log_file(self) -> Any:
        return self.machine.pod_logs / self.name / "app.log"

    def live(self) -> None:
        self.pull()
        self.run()
        self.create()
        self.start()
        self.end()
        self.remove()
        self.remove_image()

    def pull(self) -> None:
        wanted = self.machine.layout()
        image_id = self.client.call("PullImage", self.machine.load_request(), admin=True).image_ref
        assert image_id == wanted.image_id

    def run(self) -> None:
        pid = pb.POD if self.shared else pb.CONTAINER
        request = pb.RunPodSandboxRequest(config=pod_config(self.machine, self.name, self.host_port, pid=pid))
        self.sandbox_id = self.client.call("RunPodSandbox", request).pod_sandbox_id
        assert [(s.id, s.state) for s in self.listed()] == [(self.sandbox_id, pb.SANDBOX_READY)]
        assert self.client.call("RunPodSandbox", request).pod_sandbox_id == self.sandbox_id
        self.address = self.told_address()
        self.check_address()

    def told_address(self) -> str:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=self.sandbox_id)
        return str(self.client.call("PodSandboxStatus", request).status.network.ip)

    def check_address(self) -> None:
        """What was told is what the plugins have on their book, and what the kernel has in the pod; nothing besides."""
        lab = self.machine.lab
        assert bool(self.address) == (lab is not None)
        if lab is not None:
            assert self.told_address() == self.address, "a running pod's address has changed"
            assert lab.book().get(self.sandbox_id) == [self.address]
            assert lab.inside(self.machine.netns(self.sandbox_id)) == [self.address]

    @property
    def pins(self) -> Path:
        """Where the pod's namespaces are pinned, but for its network."""
        return self.machine.run / "sandboxes" / self.sandbox_id

    def check_released(self) -> None:
        lab = self.machine.lab
        pins = [*map(self.pins.joinpath, PINS), Path(self.machine.netns(self.sandbox_id))]
        assert not any(p.is_mount() or os.path.lexists(p) for p in pins), "a stopped pod has pins"
        assert lab is None or self.sandbox_id not in lab.book(), "a stopped pod holds an address"

    def abandon(self) -> None:
        """All at once, whatever runs."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=self.sandbox_id)
        self.client.call("RemovePodSandbox", request)
        of_pod = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=self.sandbox_id))
        assert not self.listed() and not self.client.call("ListContainers", of_pod).containers
        self.check_released()

    def listed(self) -> Any:
        wanted = pb.PodSandboxFilter(label_selector={"app": self.name})
        return self.client.call("ListPodSandbox", pb.ListPodSandboxRequest(filter=wanted)).items

    def create(self) -> None:
        config = container_config(WAITS if self.stops else ENDS, network=network_of(self.machine))
        request = pb.CreateContainerRequest(pod_sandbox_id=self.sandbox_id, config=config)
        self.container_id = self.client.call("CreateContainer", request).container_id
        assert self.client.call("CreateContainer", request).container_id == self.container_id
        assert self.client.status(self.container_id).state == pb.CONTAINER_CREATED

    def start(self) -> None:
        """A repeated start is refused where the first one was done; the status tells which."""
        deaths = self.client.deaths
        request = pb.StartContainerRequest(container_id=self.container_id)
        try:
            self.client.call("StartContainer", request)
            self.started = True
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
            assert self.client.deaths > deaths, "refused without a death before it"
            assert self.client.status(self.container_id).state in (pb.CONTAINER_RUNNING, pb.CONTAINER_EXITED)

    def ran(self) -> bool:
        return self.log_file.exists() and WROTE in self.log_file.read_text()

    def end(self) -> None:
        if self.stops and self.client.status(self.container_id).state == pb.CONTAINER_RUNNING:
            until(self.ran, text="it says that it runs")
            request = pb.StopContainerRequest(container_id=self.container_id, timeout=GRACE_S)
            self.client.call("StopContainer", request)
            assert self.client.status(self.container_id).state == pb.CONTAINER_EXITED
        ended = until(self._ended, 15, "it ends")
        self._check_end(ended)
        until(self._tidied, 15, "the runtime's task is deleted")
        assert self.client.status(self.container_id) == ended, "the answer has changed"

    def _ended(self) -> Any:
        status = self.client.status(self.container_id)
        return status if status.state == pb.CONTAINER_EXITED else None

    def _check_end(self, status: Any) -> None:
        """No code is invented: 7 by itself, 143 or 137 by a stop, 128 where it never ran."""
        told = (status.exit_code, status.reason)
        if self.ran():
            assert told in ([(143, "Error"), (137, "Error")] if self.stops else [(7, "Error")]), status
            assert not self.whole_times or status.created_at <= status.started_at <= status.finished_at, status
        else:
            assert told == (128, "StartError"), status
            assert not self.started, "an acknowledged start never was"

    def _tidied(self) -> bool:
        """Asks the daemon too, so that its death is met."""
        self.client.status(self.container_id)
        gone = not (self.machine.run / "runc" / self.container_id).exists()
        return gone and (not self.dies_tidying or self.client.deaths > 0)

    def remove(self) -> None:
        call = self.client.call
        call("RemoveContainer", pb.RemoveContainerRequest(container_id=self.container_id))
        of_pod = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=self.sandbox_id))
        assert not call("ListContainers", of_pod).containers
        self.check_address()
        call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=self.sandbox_id))
        self.check_released()
        call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=self.sandbox_id))
        assert not self.listed()

    def remove_image(self) -> None:
        self.client.call("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)))
        assert not self.client.call("ListImages", pb.ListImagesRequest()).images

    # --- what the log must say ---------------------------------------------------------------------------------------

    def check_log(self, records: Sequence[Record | Unreadable], since: int = 0) -> None:
        """One sandbox id and one container id were ever meant: the retry got what the lost answer would have said."""
        told = [(e.split_key(r.key)[1], r.event) for r in records if isinstance(r, Record) and r.seq > since]
        runs = [(i, ev) for i, ev in told if isinstance(ev, e.SandboxRunRequested)]
        assert {i for i, ev in runs if ev.config.name == self.name} == {self.sandbox_id}
        creates = [(i, ev) for i, ev in told if isinstance(ev, e.ContainerCreateRequested)]
        assert {i for i, ev in creates if ev.sandbox_id == self.sandbox_id} == {self.container_id}
        ends = [ev for i, ev in told if i == self.container_id and isinstance(ev, ENDINGS)]
        assert len(ends) == 1, ends
        if self.started:
            assert not isinstance(ends[0], e.ContainerStartFailed), "an acknowledged start never was"
        self.check_network([ev for i, ev in told if i == self.sandbox_id])

    def check_network(self, told: Sequence[Any]) -> None:
        """The address is on record before anybody was told of it, and what was given was given back, once."""
        lab = self.machine.lab
        if lab is None:
            return
        given = [ev.ips for ev in told if isinstance(ev, e.SandboxNetworkSet)]
        assert given[-1] == (self.address,), given
        ends = [type(ev) for ev in told if isinstance(ev, e.SandboxNetworkReleased | e.SandboxNetworkLeaked)]
        assert ends == [e.SandboxNetworkReleased], ends
        lab.check_calls(self.sandbox_id)


def arm(machine: Machine, *points: str) -> None:
    part = machine.fault_file.with_suffix(".new")
    part.write_text(json.dumps(points))
    part.rename(machine.fault_file)


def unfired(machine: Machine) -> list[str]:
    return list(json.loads(machine.fault_file.read_text())) if machine.fault_file.exists() else []


def passed(machine: Machine, since: int = 0) -> list[str]:
    return machine.trace_file.read_text().splitlines()[since:]


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *texts: str) -> Iterator[None]:
    """The call in the block fails with this code, and its text has each of these."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() is code, error
        for text in texts:
            assert text in error.details(), error.details()
        return
    raise AssertionError(f"it was not refused with {code}")


@dataclass
class Pod:
    """A pod with one container, made step by step on the daemon that runs. Nothing is asked twice."""

    machine: Machine
    name: str = "pod"
    network: int = pb.NODE
    sandbox_id: str = ""
    container_id: str = ""

    def __post_init__(self) -> None:
        (self.machine.pod_logs / self.name).mkdir(exist_ok=True)

    @property
    def shared(self) -> Any:
        """A directory that the container sees as /shared."""
        directory = self.machine.base / f"shared-{self.name}"
        directory.mkdir(exist_ok=True)
        return directory

    def ask(self, rpc: str, **fields: Any) -> Any:
        stub = next(getattr(s, rpc) for s in self.machine.cri() if hasattr(s, rpc))
        return stub(getattr(pb, f"{rpc}Request")(**fields), timeout=30)

    def run(self, **options: Any) -> "Pod":
        self.network = options.get("network", network_of(self.machine))
        self.sandbox_id = self.ask(
            "RunPodSandbox", config=pod_config(self.machine, self.name, **options)
        ).pod_sandbox_id
        return self

    def create(self, script: str, name: str = "app", **more: Any) -> "Pod":
        mounts = [pb.Mount(container_path="/shared", host_path=str(self.shared))]
        config = container_config(script, name, mounts=mounts, **{"network": self.network, **more})
        self.container_id = self.ask("CreateContainer", pod_sandbox_id=self.sandbox_id, config=config).container_id
        return self

    def start(self) -> "Pod":
        self.ask("StartContainer", container_id=self.container_id)
        return self

    def running(self, script: str, **more: Any) -> "Pod":
        """Up to a container that has said that it runs: the script must make /shared/up."""
        self.run().create(script, **more).start()
        until((self.shared / "up").exists, text="the container runs")
        return self

    def status(self) -> Any:
        return self.ask("ContainerStatus", container_id=self.container_id).status

    def info(self) -> Any:
        return json.loads(self.ask("ContainerStatus", container_id=self.container_id, verbose=True).info["info"])

    def ended(self) -> Any:
        def exited() -> Any:
            status = self.status()
            return status if status.state == pb.CONTAINER_EXITED else None

        return until(exited, 15, "the container ends")

    def stop(self, grace_s: int = 0) -> None:
        self.ask("StopContainer", container_id=self.container_id, timeout=grace_s)

    def remove(self) -> None:
        self.ask("RemoveContainer", container_id=self.container_id)
        self.remove_pod()

    def remove_pod(self) -> None:
        self.ask("StopPodSandbox", pod_sandbox_id=self.sandbox_id)
        self.ask("RemovePodSandbox", pod_sandbox_id=self.sandbox_id)

"""Daybook beside containerd, in turn: the same pods on the same machine with the same runc and CNI plugins, in one run.

Pods have a network of their own and pid mode CONTAINER, as the kubelet's have. Every row has Daybook's figure, the
peer's and their ratio; where no containerd is installed, Daybook's alone.
"""

import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proto import api_pb2 as pb
from tests.bench import containerd
from tests.bench.daemon import Daemon, pss_kib
from tests.bench.rows import Row, percentile
from tests.support.oci_layout import make_oci_layout
from tests.support.registry import LoopbackRegistry

IMAGE = "bench.example/busybox:1"
AT_ONCE = 8
PODS = pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER, ipc=pb.POD)
UP = ("RunPodSandbox", "CreateContainer", "StartContainer")
DOWN = ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")
BIG_FILES, BIG_FILE_BYTES, BIG_LAYERS = 1500, 20_000, 4

Live = tuple[str, str]
"""Sandbox and container."""


@dataclass
class Side:
    """One daemon under measurement."""

    daemon: Any
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.daemon.name)

    def timed(self, name: str, **fields: Any) -> Any:
        begun = time.perf_counter()
        answer = self.daemon.call(name, **fields)
        self.samples.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)
        return answer

    def up(self, image: str = IMAGE) -> Live:
        uid = uuid.uuid4().hex
        security = pb.LinuxSandboxSecurityContext(namespace_options=PODS)
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=f"b{uid[:8]}", uid=uid, namespace="bench"),
            hostname=f"b{uid[:8]}",
            log_directory=str(self.daemon.directory / "logs" / uid),
            labels={"io.kubernetes.pod.uid": uid},
            linux=pb.LinuxPodSandboxConfig(security_context=security),
        )
        pod = self.timed("RunPodSandbox", config=config).pod_sandbox_id
        resources = pb.LinuxContainerResources(cpu_shares=102, memory_limit_in_bytes=64 << 20)
        linux = pb.LinuxContainerConfig(
            resources=resources, security_context=pb.LinuxContainerSecurityContext(namespace_options=PODS)
        )
        made = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image=image),
            command=["sleep", "100000"],
            log_path="c.log",
            linux=linux,
        )
        container = self.timed("CreateContainer", pod_sandbox_id=pod, config=made, sandbox_config=config).container_id
        self.timed("StartContainer", container_id=container)
        return pod, container

    def down(self, live: Live) -> None:
        pod, container = live
        self.timed("StopContainer", container_id=container, timeout=0)
        self.timed("RemoveContainer", container_id=container)
        self.timed("StopPodSandbox", pod_sandbox_id=pod)
        self.timed("RemovePodSandbox", pod_sandbox_id=pod)

    def at_once(self, what: Callable[..., Any], over: Sequence[Any]) -> tuple[list[Any], float]:
        """Answers and seconds, AT_ONCE calls at a time."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(what, over))
        return answers, time.perf_counter() - begun

    def pss_kib(self) -> int:
        """Of the daemon and its monitors; what a pod runs itself (a pause process, too) is not counted."""
        return sum(map(pss_kib, self.daemon.pids()))

    def sums(self, names: Sequence[str]) -> list[float]:
        return [sum(each) for each in zip(*(self.samples[name] for name in names), strict=True)]


def rows(directory: Path, quick: bool) -> Iterator[Row]:
    with ExitStack() as stack:
        sides = [_side(stack, Daemon(directory / "daybook"))]
        if containerd.installed():
            sides.append(_side(stack, containerd.Containerd(directory / "containerd")))
        layout = make_oci_layout(directory / "image").path
        for side in sides:
            side.daemon.start()
            side.daemon.prepare()
            side.daemon.load(layout, IMAGE)
        yield from _idle(sides)
        yield from _serial(sides, 5 if quick else 30)
        for pods in (10,) if quick else (30, 300):
            yield from _held(sides, pods, 3 if quick else 300)
        yield from _pulls(sides, directory, quick)


def _side(stack: ExitStack, daemon: Any) -> Side:
    stack.callback(daemon.end)
    side = Side(daemon)
    stack.callback(_all_down, side)
    return side


def _all_down(side: Side) -> None:
    """Also after a failure: what a benchmark started must not outlive it."""
    if side.daemon.running:
        for each in side.daemon.call("ListPodSandbox").items:
            side.daemon.call("StopPodSandbox", pod_sandbox_id=each.id)
            side.daemon.call("RemovePodSandbox", pod_sandbox_id=each.id)


def compared(group: str, name: str, sides: Sequence[Side], figures: Sequence[float], unit: str, digits: int = 3) -> Row:
    """Daybook's figure first. The ratio is Daybook's by the peer's."""
    text = " | ".join(f"{side.name} {value:.{digits}g} {unit}" for side, value in zip(sides, figures, strict=True))
    if len(figures) > 1 and figures[1]:
        text += f" | ratio {figures[0] / figures[1]:.2f}"
    return Row(group, name, text, tuple(figures), unit)


def _sampled(group: str, name: str, sides: Sequence[Side], samples: Sequence[Sequence[float]]) -> Iterator[Row]:
    """A row of medians, then one per side with the raw samples."""
    yield compared(group, name, sides, [statistics.median(each) for each in samples], "ms")
    for side, each in zip(sides, samples, strict=True):
        value = f"p50 {percentile(each, 50):.3g} ms, p99 {percentile(each, 99):.3g} ms, {len(each)} samples"
        yield Row(group, f"  {side.name}: {name}", value, tuple(each), "ms")


# --- memory and lives, one after the other ---------------------------------------------------------------------------


def _idle(sides: Sequence[Side]) -> Iterator[Row]:
    time.sleep(1)
    figures = [pss_kib(side.daemon.pid) / 1024 for side in sides]
    yield compared("Idle", "daemon alone (PSS)", sides, figures, "MiB")


def _serial(sides: Sequence[Side], rounds: int) -> Iterator[Row]:
    for round_ in range(rounds + 2):
        for side in sides:
            if round_ == 2:
                side.samples.clear()
            side.down(side.up())
    group = f"A pod's life, serial, {rounds} rounds in turn"
    yield from _sampled(group, "run + create + start", sides, [side.sums(UP) for side in sides])
    yield from _sampled(group, "stop + remove of both", sides, [side.sums(DOWN) for side in sides])
    for name in (*UP, *DOWN):
        figures = [statistics.median(side.samples[name]) for side in sides]
        yield compared(group, f"  {name}", sides, figures, "ms")


# --- pods held -------------------------------------------------------------------------------------------------------


def _held(sides: Sequence[Side], pods: int, asked: int) -> Iterator[Row]:
    group = f"{pods} pods held, {AT_ONCE} calls at once"
    before = [side.pss_kib() for side in sides]
    live, ups = [], []
    for side in sides:
        mine, seconds = side.at_once(lambda _, side=side: side.up(), range(pods))
        live.append(mine)
        ups.append(pods / seconds)
    yield compared(group, "pods started", sides, ups, "per s")
    time.sleep(1)
    grown = [(side.pss_kib() - kib) / pods / 1024 for side, kib in zip(sides, before, strict=True)]
    yield compared(group, "memory per pod: daemon and monitors (PSS)", sides, grown, "MiB")
    yield from _asked(group, sides, live, asked)
    yield from _execs(group, sides, live, min(asked, 20))
    yield from _restarts(group, sides, live, 1 if asked < 20 else 3)
    downs = [
        pods / side.at_once(lambda each, side=side: side.down(each), mine)[1]
        for side, mine in zip(sides, live, strict=True)
    ]
    yield compared(group, "pods stopped and removed", sides, downs, "per s")


def _asked(group: str, sides: Sequence[Side], live: Sequence[list[Live]], times: int) -> Iterator[Row]:
    asked: dict[str, Callable[[Live], dict[str, Any]]] = {
        "ListContainers": lambda _: {},
        "ListPodSandbox": lambda _: {},
        "ContainerStatus": lambda one: {"container_id": one[1]},
        "PodSandboxStatus": lambda one: {"pod_sandbox_id": one[0]},
    }
    for name, fields in asked.items():
        for side in sides:
            side.samples.pop(name, None)
        for _ in range(times):
            for side, mine in zip(sides, live, strict=True):
                side.timed(name, **fields(mine[0]))
        yield from _sampled(group, name, sides, [side.samples[name] for side in sides])


def _execs(group: str, sides: Sequence[Side], live: Sequence[list[Live]], times: int) -> Iterator[Row]:
    for side in sides:
        side.samples.pop("ExecSync", None)
    for _ in range(times):
        for side, mine in zip(sides, live, strict=True):
            answer = side.timed("ExecSync", container_id=mine[0][1], cmd=["true"], timeout=10)
            assert answer.exit_code == 0
    yield from _sampled(group, "ExecSync true", sides, [side.samples["ExecSync"] for side in sides])


def _restarts(group: str, sides: Sequence[Side], live: Sequence[list[Live]], times: int) -> Iterator[Row]:
    """SIGKILL, start, until every container is listed as running with the answers of before."""
    took: list[list[float]] = [[] for _ in sides]
    for _ in range(times):
        for side, mine, samples in zip(sides, live, took, strict=True):
            before = _answers(side, mine)
            side.daemon.kill()
            begun = time.perf_counter()
            side.daemon.start()
            while _running(side) < len(mine):
                assert time.perf_counter() - begun < 120, f"{side.name} does not find its pods again"
                time.sleep(0.005)
            samples.append((time.perf_counter() - begun) * 1e3)
            assert _answers(side, mine) == before, f"{side.name} answers otherwise after a restart"
    yield from _sampled(group, "kill -9 and restart", sides, took)


def _running(side: Side) -> int:
    listed = side.daemon.call("ListContainers").containers
    return sum(each.state == pb.CONTAINER_RUNNING for each in listed)


def _answers(side: Side, live: Sequence[Live]) -> list[Any]:
    listed = side.daemon.call("ListContainers").containers
    ips = [side.daemon.call("PodSandboxStatus", pod_sandbox_id=pod).status.network.ip for pod, _ in live]
    return [sorted((c.id, c.state, c.created_at, c.image_ref) for c in listed), ips]


# --- pulls -----------------------------------------------------------------------------------------------------------


def _pulls(sides: Sequence[Side], directory: Path, quick: bool) -> Iterator[Row]:
    """Calls of a life while a big image is pulled, and a small pull beside a big one; a loopback registry."""
    group = "While a big image is pulled (loopback registry)"
    layers = 1 if quick else BIG_LAYERS
    chunk = bytes(range(256)) * (BIG_FILE_BYTES // 256)
    more = [{f"data{n}-{i}": f"{n} {i} ".encode() + chunk for i in range(BIG_FILES)} for n in range(layers)]
    make_oci_layout(directory / "registry", tag="big", more_layers=more)
    make_oci_layout(directory / "registry", tag="small", more_layers=[{"small": b"1"}])
    with LoopbackRegistry(directory / "registry") as registry:
        lives, alone, beside, big = [], [], [], []
        for side in sides:
            side.samples.clear()
            small = f"{registry.host}/small:small"
            alone.append(_pull(side, small))
            ended, took = threading.Event(), []
            puller = threading.Thread(target=_pull_big, args=(side, f"{registry.host}/big:big", took, ended))
            puller.start()
            beside.append(_pull(side, small))
            while not ended.is_set():
                side.down(side.up())
            puller.join()
            big.append(took[0])
            lives.append(side.sums(UP) if side.samples.get(UP[0]) else [0.0])
    yield compared(group, "the big pull", sides, big, "ms")
    yield compared(group, "a small pull, alone", sides, alone, "ms")
    yield compared(group, "a small pull, beside the big one", sides, beside, "ms")
    yield compared(group, "run + create + start, p99", sides, [percentile(each, 99) for each in lives], "ms")


def _pull_big(side: Side, reference: str, took: list[float], ended: threading.Event) -> None:
    try:
        took.append(_pull(side, reference))
    finally:
        ended.set()


def _pull(side: Side, reference: str) -> float:
    begun = time.perf_counter()
    image = pb.ImageSpec(image=reference)
    side.daemon.call("PullImage", image=image, limit_s=300)
    took = (time.perf_counter() - begun) * 1e3
    side.daemon.call("RemoveImage", image=image)
    return took

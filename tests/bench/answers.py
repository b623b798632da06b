"""List and Status with 1,000 containers: a real client, a unix socket, the real server; and what keeping bytes saves."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapters.cri.client import connect
from proto import api_pb2 as pb
from tests.bench.rows import Row, spread

COUNT = 1000
GROUP = f"Answers with {COUNT:,} containers in {COUNT // 10} pods (as the client sees them, messages parsed)"


def rows(directory: Path, quick: bool) -> Iterator[Row]:
    command = [sys.executable, "-m", "tests.bench.serving", str(directory), str(COUNT)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        told = json.loads(child.stdout.readline())
        runtime, _ = connect(str(directory / "bench.sock"))
        for name, method, request in _calls(runtime, told):
            reply = method(request)
            note = f"{reply.ByteSize():,} bytes"
            yield spread(GROUP, name, _timed(method, request, 100 if quick else 500), note=note)
        yield from _compared(told["compared"])
        child.stdin.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}


def _calls(runtime: Any, told: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    one_pod = pb.ContainerFilter(pod_sandbox_id=told["sandbox"])
    ready = pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY))
    yield "ListContainers", runtime.ListContainers, pb.ListContainersRequest()
    yield "ListContainers of one pod", runtime.ListContainers, pb.ListContainersRequest(filter=one_pod)
    yield "ListPodSandbox", runtime.ListPodSandbox, pb.ListPodSandboxRequest()
    yield "ListPodSandbox, ready ones", runtime.ListPodSandbox, pb.ListPodSandboxRequest(filter=ready)
    status = pb.ContainerStatusRequest(container_id=told["container"])
    yield "ContainerStatus", runtime.ContainerStatus, status
    yield "PodSandboxStatus", runtime.PodSandboxStatus, pb.PodSandboxStatusRequest(pod_sandbox_id=told["sandbox"])
    yield "Status", runtime.Status, pb.StatusRequest()


def _timed(method: Any, request: Any, count: int) -> list[float]:
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        method(request)
        found.append((time.perf_counter() - begun) * 1e3)
    return found


def _compared(compared: dict[str, list[float]]) -> Iterator[Row]:
    group = "The bytes of one ListContainers reply, in the server"
    by_name = {name: spread(group, name, samples) for name, samples in compared.items()}
    yield from by_name.values()
    ratio = _median(compared["built"]) / _median(compared["kept, one changed"])
    told = f"{ratio:,.0f} times the work where one container changed since the last call"
    yield Row(group, "built for each call", told, (ratio,), "ratio")


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]

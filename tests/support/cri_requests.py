"""Requests as the kubelet sends them, and a server to send them to."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from adapters.cri import server
from adapters.cri.options import Options
from adapters.cri.port import Check
from domain.errors import InvalidRequest
from proto import api_pb2 as pb
from tests.support.fake_api import FakeApi

T = TypeVar("T")
IMAGE = "docker.io/library/busybox:1.36"
SECRET = "hunter2-the-password"
"""Stands in every place of a request that is secret."""


def DIGEST(value: bytes) -> str:
    """A keyed hash, as the composition root gives one."""
    return blake2b(value, digest_size=16, key=b"k" * 32).hexdigest()


def normalise(text: str) -> str:
    """As `adapters.images.reference` does, roughly."""
    if text != text.lower() or " " in text or text.startswith("/"):
        raise InvalidRequest(f"cannot read image reference {text[:80]!r}: no")
    name = (
        text if "." in text.split("/")[0] and "/" in text else f"docker.io/{text if '/' in text else f'library/{text}'}"
    )
    if "@" in name:
        head, _, digest = name.partition("@")
        return f"{head.rpartition('/')[0]}/{head.rpartition('/')[2].split(':')[0]}@{digest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def ids() -> Callable[[], str]:
    count = itertools.count(1)
    return lambda: f"{next(count) * 0x9E3779B97F4A7C15 % 2**64:016x}{0:048x}"


def options(new_id: Callable[[], str] | None = None, check: Check | None = None, **more: Any) -> Options:
    return Options("9.9.9", DIGEST, normalise, new_id or ids(), check, **more)


def sandbox_config(name: str = "pod", **more: Any) -> Any:
    linux = pb.LinuxPodSandboxConfig(
        cgroup_parent="/kubepods/besteffort/pod1",
        security_context=pb.LinuxSandboxSecurityContext(
            namespace_options=pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER),
            seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
        ),
    )
    given: dict[str, Any] = {
        "metadata": pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        "log_directory": f"/var/log/pods/default_{name}",
        "labels": {"app": name},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": f'{{"env": "{SECRET}"}}', "short": "yes"},
        "linux": linux,
    }
    return pb.PodSandboxConfig(**(given | more))


def container_config(name: str = "app", **more: Any) -> Any:
    given: dict[str, Any] = {
        "metadata": pb.ContainerMetadata(name=name),
        "image": pb.ImageSpec(image="sha256:" + "ab" * 32, user_specified_image="busybox:1.36"),
        "command": ["sh", "-c", f"echo {SECRET}"],
        "args": [SECRET],
        "envs": [pb.KeyValue(key="A", value=SECRET.encode()), pb.KeyValue(key="B", value=b"2")],
        "mounts": [pb.Mount(container_path="/data", host_path="/srv/data", readonly=True)],
        "labels": {"io.kubernetes.container.name": name},
        "annotations": {"long": SECRET * 100, "io.kubernetes.container.restartCount": "0"},
        "log_path": f"{name}/0.log",
        "linux": pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(cpu_shares=2, oom_score_adj=1000)),
    }
    return pb.ContainerConfig(**(given | more))


def run(name: str = "pod", **more: Any) -> Any:
    return pb.RunPodSandboxRequest(config=sandbox_config(name, **more))


def create(sandbox_id: str, name: str = "app", **more: Any) -> Any:
    return pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container_config(name, **more))


@dataclass
class Served:
    """A server in a thread of its own. `do` runs something on its loop, as everything that touches `api` must."""

    api: FakeApi
    front: server.Server
    loop: asyncio.AbstractEventLoop
    directory: Path

    @property
    def kubelet(self) -> str:
        return str(self.directory / "daybook.sock")

    @property
    def admin(self) -> str:
        return str(self.directory / "admin.sock")

    def do(self, what: Callable[[], T]) -> T:
        async def call() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)


@contextmanager
def served(directory: Path, **more: Any) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> tuple[FakeApi, server.Server]:
        api = FakeApi()
        sockets = (
            server.SocketSpec(str(directory / "daybook.sock"), "kubelet"),
            server.SocketSpec(str(directory / "admin.sock"), "admin", 0o660),
        )
        front = server.serve(api, sockets, options(**more))
        await front.start()
        return api, front

    api, front = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    try:
        yield Served(api, front, loop, directory)
    finally:
        asyncio.run_coroutine_threadsafe(front.stop(0), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()

"""`python -m tests.bench.serving DIRECTORY COUNT`: the CRI's server over the real domain and a world without containers.

Fills itself through decided events, prints one line of JSON, and serves until its standard input ends. A process of its
own, so that the client's work is not counted as the server's.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.cri import server, views
from adapters.cri.lists import Lists
from domain import commands as c
from domain import events as e
from domain.decision import Accept
from proto import api_pb2 as pb
from tests.bench import lives
from tests.support import cri_requests
from tests.support.fake_api import FakeApi

ROUNDS = 200
PER_POD = 10
ANNOTATIONS = {
    "io.kubernetes.container.hash": "30f7c5d4",
    "io.kubernetes.container.restartCount": "0",
    "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
    "io.kubernetes.container.terminationMessagePolicy": "File",
    "io.kubernetes.pod.terminationGracePeriod": "30",
}


def fill(api: FakeApi, count: int) -> None:
    """`count` running containers, ten in each pod; labels and annotations as the kubelet gives them."""
    translate = cri_requests.options().translator
    accept(api, c.PullImage(cri_requests.IMAGE))
    for first in range(0, count, PER_POD):
        config = cri_requests.sandbox_config(f"pod-{first}", labels=lives.LABELS, annotations={})
        pod, _ = translate.run_sandbox(pb.RunPodSandboxRequest(config=config))
        accept(api, pod)
        for number in range(first, min(first + PER_POD, count)):
            _container(api, translate, pod.sandbox_id, f"c-{number}")


def _container(api: FakeApi, translate: Any, sandbox_id: str, name: str) -> None:
    config = cri_requests.container_config(name, labels=lives.LABELS, annotations=ANNOTATIONS)
    request = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
    command, secrets = translate.create_container(request, api.node)
    api.kept[command.container_id] = secrets
    accept(api, command)
    accept(api, c.StartContainer(command.container_id))


def accept(api: FakeApi, command: Any) -> None:
    decision = api.node.decide(command, api.now())
    assert isinstance(decision, Accept), decision
    api.append(decision, lives.CAUSE)


# --- kept bytes against built messages -------------------------------------------------------------------------------


def compared(api: FakeApi) -> dict[str, list[float]]:
    """Milliseconds for the bytes of one ListContainers reply."""
    lists, one = Lists(api, cri_requests.normalise), e.container_key(next(iter(api.node.containers)))
    lists.containers(None)

    def one_changed() -> bytes:
        lists.changed(one)
        return lists.containers(None)

    assert built(api) == lists.containers(None)
    return {
        "kept": timed(lambda: lists.containers(None)),
        "kept, one changed": timed(one_changed),
        "built": timed(lambda: built(api)),
    }


def built(api: FakeApi) -> bytes:
    """As a server does that keeps nothing: all messages, then their bytes."""
    known = sorted(api.node.containers.values(), key=lambda k: (k.created_at, k.id))
    made = pb.ListContainersResponse(containers=[views.container(k, api.secrets) for k in known])
    return bytes(made.SerializeToString())


def timed(what: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        what()
        found.append((time.perf_counter() - begun) * 1e3)
    return found


async def serve(directory: Path, count: int) -> None:
    api = FakeApi()
    fill(api, count)
    front = server.serve(api, (server.SocketSpec(str(directory / "bench.sock"), "admin"),), cri_requests.options())
    await front.start()
    container = next(iter(api.node.containers.values()))
    told = {"container": container.id, "sandbox": container.sandbox_id, "compared": compared(api)}
    print(json.dumps(told), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await front.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))

"""Who else on this machine runs containers, and which runtime its kubelet asks. Reads /proc and tries sockets.

Two runtimes on a node do each other no harm, but a kubelet sees the containers of its own alone: what ran under the one
before goes on, uncounted, with its addresses and ports.
"""

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from adapters.host.fitness import OK, WARN, Fact

SOCKETS = {
    "containerd": ("/run/containerd/containerd.sock",),
    "CRI-O": ("/run/crio/crio.sock",),
    "cri-dockerd": ("/run/cri-dockerd.sock",),
}
CONNECT_S = 1.0
READ_MAX = 64 * 1024
KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
ENDPOINT = "container-runtime-endpoint"
IN_CONFIG = re.compile(r'^containerRuntimeEndpoint:\s*"?([^"\s#]+)', re.M)


def neighbours(kubelet_socket: str, exits: str) -> Iterator[Fact]:
    """`kubelet_socket`: where we serve; `exits`: the directory by which conmons of ours are known."""
    for name, paths in SOCKETS.items():
        if path := next((path for path in paths if _answers(path)), ""):
            remedy = "see that the kubelet is told one of them (criSocket, --container-runtime-endpoint)"
            yield Fact(WARN, "other runtime", f"{name} serves on {path}", remedy)
    for whose, count in sorted(_containers(exits).items()):
        remedy = "the kubelet does not see them here: drain the node and end them with their own runtime's tools"
        yield Fact(WARN, "containers", f"{count} of {whose} run on this machine", remedy)
    for endpoint in sorted(set(_endpoints())):
        if endpoint.removeprefix("unix://") == kubelet_socket:
            yield Fact(OK, "kubelet", f"asks {endpoint}")
        else:
            remedy = f"start it with --{ENDPOINT}=unix://{kubelet_socket}"
            yield Fact(WARN, "kubelet", f"asks {endpoint}, not this runtime", remedy)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _containers(exits: str) -> Counter[str]:
    """Live containers of others, by the processes that hold each of them."""
    found: Counter[str] = Counter()
    for name, words in _processes():
        if name.startswith("containerd-shim"):
            found["containerd or Docker"] += 1
        elif name == "conmon" and exits not in words:
            found["CRI-O or podman"] += 1
    return found


def _endpoints() -> Iterator[str]:
    """As the kubelets that run here were told."""
    for name, words in _processes():
        if name != "kubelet":
            continue
        if told := _option(words, ENDPOINT):
            yield told
        elif found := IN_CONFIG.search(_read(_option(words, "config") or KUBELET_CONFIG)):
            yield found[1]


def _option(words: list[str], name: str) -> str:
    """The value of `--name=value` or `--name value`; empty where it is not given."""
    for at, word in enumerate(words):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}":
            return next(iter(words[at + 1 : at + 2]), "")
    return ""


def _processes() -> Iterator[tuple[str, list[str]]]:
    """Name of the program and command line of every process."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if words := _read(f"/proc/{pid}/cmdline").split("\0")[:-1]:
            yield Path(words[0]).name, words


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(READ_MAX).decode(errors="replace")
    except OSError:
        return ""

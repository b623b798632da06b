import socket
from pathlib import Path

import pytest

from adapters.host import neighbours
from adapters.host.fitness import OK, WARN

OURS = "/run/daybook/daybook.sock"
EXITS = "/run/daybook/exits"
KUBELET = ("kubelet", ["/usr/bin/kubelet", "--config=/k.yaml"])


def told(monkeypatch: pytest.MonkeyPatch, *processes: tuple[str, list[str]], config: str = "") -> list[tuple[str, str]]:
    monkeypatch.setattr(neighbours, "_processes", lambda: iter(processes))
    monkeypatch.setattr(neighbours, "_read", lambda path: config if path == "/k.yaml" else "")
    monkeypatch.setattr(neighbours, "SOCKETS", {})
    found = list(neighbours.neighbours(OURS, EXITS))
    assert all(bool(fact.remedy) == (fact.level == WARN) for fact in found)
    return [(fact.level, fact.found) for fact in found]


def test_nobody_else_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, ("conmon", ["conmon", "--exit-dir", EXITS, "-c", "a"]), ("sh", ["sh"])) == []


def test_containers_of_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shim = ("containerd-shim-runc-v2", ["/usr/bin/containerd-shim-runc-v2", "-id", "x"])
    podman = ("conmon", ["/usr/bin/conmon", "--exit-dir", "/run/libpod/exits"])
    assert told(monkeypatch, shim, shim, podman) == [
        (WARN, "1 of CRI-O or podman run on this machine"),
        (WARN, "2 of containerd or Docker run on this machine"),
    ]


@pytest.mark.parametrize(
    ("words", "config", "level"),
    [
        (["--container-runtime-endpoint=unix:///run/daybook/daybook.sock"], "", OK),
        (["--container-runtime-endpoint", "unix:///run/daybook/daybook.sock"], "", OK),
        (["--container-runtime-endpoint=/run/daybook/daybook.sock"], "", OK),
        (["--container-runtime-endpoint=unix:///run/containerd/containerd.sock"], "", WARN),
        (["--config=/k.yaml"], 'a: 1\ncontainerRuntimeEndpoint: "unix:///run/daybook/daybook.sock"\n', OK),
        (["--config", "/k.yaml"], "containerRuntimeEndpoint: unix:///run/crio/crio.sock # old\n", WARN),
    ],
)
def test_the_kubelet_is_asked_whom_it_asks(
    monkeypatch: pytest.MonkeyPatch, words: list[str], config: str, level: str
) -> None:
    ((found, _),) = told(monkeypatch, ("kubelet", ["/usr/bin/kubelet", *words]), config=config)
    assert found == level


def test_a_kubelet_that_was_not_told_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, KUBELET) == []
    assert told(monkeypatch, ("kubelet", ["kubelet", "--container-runtime-endpoint"])) == []


def test_only_a_socket_that_answers_is_a_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(neighbours, "SOCKETS", {"containerd": (str(tmp_path / "s"),)})
    monkeypatch.setattr(neighbours, "_processes", lambda: iter(()))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert list(neighbours.neighbours(OURS, EXITS)) == [], "bound, and nobody listens: what a dead runtime leaves"
        server.listen()
        (fact,) = neighbours.neighbours(OURS, EXITS)
    assert fact.level == WARN and str(tmp_path / "s") in fact.found

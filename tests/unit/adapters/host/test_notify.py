import socket
from pathlib import Path

import pytest

from adapters.host import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_once_that_the_daemon_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@{tmp_path}" if abstract else f"{tmp_path}/notify"
    monkeypatch.setenv(notify.SOCKET, name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        assert notify.ready() == ""
        assert manager.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


def test_nobody_asked_or_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.SOCKET, raising=False)
    assert notify.ready() == ""
    monkeypatch.setenv(notify.SOCKET, f"{tmp_path}/gone")
    assert "No such file" in notify.ready()

"""What is a network namespace, and what is not. Inside one: conformance/test_network.py."""

import os
from pathlib import Path

import pytest

from adapters.network.namespace import is_netns, loopback_up
from domain.errors import NetworkFailed


def test_only_network_namespaces(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    os.mkfifo(tmp_path / "fifo")
    assert is_netns("/proc/self/ns/net")
    for path in ("/proc/self/ns/ipc", tmp_path / "plain", tmp_path / "fifo", tmp_path, tmp_path / "none"):
        assert not is_netns(str(path))
        with pytest.raises(NetworkFailed, match="is no network namespace"):
            loopback_up(str(path))

"""What is a network namespace, and what is not. Inside one: conformance/test_network.py."""

import os
import subprocess
import sys
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


AT_ONCE = """
import threading
from adapters.network import namespace
failed, line = [], threading.Barrier(8)
threading.excepthook = failed.append
def work():
    line.wait()
    namespace._messages()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
raise SystemExit(len(failed))
"""


def test_the_first_pods_of_a_daemon_may_come_at_once() -> None:
    """In a fresh interpreter: pyroute2's modules import each other, and threads that begin it together fail."""
    assert subprocess.run([sys.executable, "-c", AT_ONCE], check=False).returncode == 0

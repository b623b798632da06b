"""Debian's containerd as a peer: a daemon with its own directories, CNI bridge and pause image, and a client of it."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc

from adapters.cri.client import connect
from proto import api_pb2 as pb
from tests.bench import cni
from tests.support.inventory import inventory
from tests.support.oci_layout import make_oci_layout

LIMIT_S = 60
PAUSE = "bench.example/pause:1"

CONFIG = """version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{conf_dir}"
"""


def installed() -> bool:
    return all(map(shutil.which, ("containerd", "ctr", "containerd-shim-runc-v2")))


def version() -> str:
    return subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


class Containerd:
    """The same face as `tests.bench.daemon.Daemon`. `end` leaves nothing of it."""

    name = "containerd"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._socket = directory / "containerd.sock"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(exist_ok=True)
        self.network = cni.write(directory / "cni", "dbkbench1", 71)
        text = CONFIG.format(
            root=directory / "root",
            state=directory / "state",
            socket=self._socket,
            pause=PAUSE,
            bin_dir=cni.BIN_DIR,
            conf_dir=self.network.conf_dir,
        )
        (directory / "config.toml").write_text(text)

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> list[int]:
        """The daemon and its shims."""
        return [self.pid, *self._shims()]

    def start(self) -> float:
        begun = time.perf_counter()
        with (self.directory / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self.directory / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self._answers():
            assert self._process.poll() is None, (self.directory / "daemon.log").read_text()
            assert time.perf_counter() < begun + LIMIT_S
            time.sleep(0.005)
        return time.perf_counter() - begun

    def _answers(self) -> bool:
        if not self._socket.exists():
            return False
        try:
            self._stubs = connect(str(self._socket))
            self.call("Version")
        except grpc.RpcError:
            return False
        return True

    def call(self, name: str, limit_s: float = LIMIT_S, **fields: Any) -> Any:
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        return getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s)

    def load(self, layout: Path, reference: str) -> None:
        """From an OCI layout, as a tar with the name in it."""
        archive = layout.with_suffix(".tar")
        subprocess.run(["tar", "-C", str(layout), "-cf", str(archive), "."], check=True)
        words = ["ctr", "--address", str(self._socket), "--namespace", "k8s.io", "images", "import"]
        words += ["--index-name", reference, str(archive)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def prepare(self) -> None:
        """The pause image, of our making: catatonit, as Daybook's infra process is."""
        files = {"catatonit": Path(shutil.which("catatonit") or "/usr/bin/catatonit").read_bytes()}
        built = make_oci_layout(
            self.directory / "pause", files=files, config={"Entrypoint": ["/catatonit", "-P"], "Cmd": []}
        )
        self.load(built.path, PAUSE)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        self._end_shims()
        with open("/proc/self/mountinfo") as file:
            points = [line.split(" ")[4] for line in file if str(self.directory) in line]
        for point in reversed(points):
            subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
        self.network.remove()

    def _end_shims(self) -> None:
        """Where a benchmark failed half-way: the shims, and with them their tasks."""
        for shim in self._shims():
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
                for pid in (*map(int, children), shim):
                    os.kill(pid, signal.SIGKILL)

    def _shims(self) -> list[int]:
        """By the socket of their containerd, which their command line names."""
        lines = [line.split(" ", 1) for line in inventory([str(self._socket)]).processes]
        return [int(pid) for pid, command in lines if "containerd-shim" in command]

"""Debian's containerd as a peer: a daemon with its own directories, CNI bridge and pause image, and a client of it."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench import cni
from tests.bench.endpoint import Endpoint
from tests.support.inventory import inventory
from tests.support.oci_layout import make_oci_layout

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


class Containerd(Endpoint):
    """`end` leaves nothing of it."""

    name = "containerd"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, directory / "containerd.sock", cni.write(directory / "cni", "dbkbench1", 71))
        text = CONFIG.format(
            root=directory / "root",
            state=directory / "state",
            socket=self.socket,
            pause=PAUSE,
            bin_dir=cni.BIN_DIR,
            conf_dir=self.network.conf_dir,
        )
        (directory / "config.toml").write_text(text)

    def pids(self) -> list[int]:
        """The daemon and its shims."""
        return [self.pid, *self._shims()]

    def argv(self) -> Sequence[str]:
        return ["containerd", "--config", str(self.directory / "config.toml")]

    def load(self, layout: Path, reference: str) -> None:
        """From an OCI layout, as a tar with the name in it."""
        archive = layout.with_suffix(".tar")
        subprocess.run(["tar", "-C", str(layout), "-cf", str(archive), "."], check=True)
        words = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images", "import"]
        words += ["--index-name", reference, str(archive)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def prepare(self) -> None:
        """The pause image, of our making: catatonit, as Daybook's infra process is."""
        files = {"catatonit": Path(shutil.which("catatonit") or "/usr/bin/catatonit").read_bytes()}
        built = make_oci_layout(
            self.directory / "pause", files=files, config={"Entrypoint": ["/catatonit", "-P"], "Cmd": []}
        )
        self.load(built.path, PAUSE)

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
        lines = [line.split(" ", 1) for line in inventory([str(self.socket)]).processes]
        return [int(pid) for pid, command in lines if "containerd-shim" in command]

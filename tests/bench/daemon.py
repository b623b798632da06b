"""A real daemon with real runc and conmon in a directory of its own, and a client of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import lmdb

from adapters.cri.client import connect
from adapters.log import engine
from adapters.log.readonly import open_live
from domain.node import AGGREGATES
from domain.records import Record
from proto import api_pb2 as pb
from tests.bench import cni
from tests.support.inventory import inventory
from tests.support.oci_layout import make_oci_layout

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "bench.example/busybox:1"
LIMIT_S = 60
HOST = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)


class Daemon:
    """`start` returns the seconds until the first answer. `end` stops it and removes whatever is still there."""

    name = "daybook"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "data" / "log"
        self.socket = directory / "run" / "admin.sock"
        self._config = directory / "config.toml"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(exist_ok=True)
        self.network = cni.write(directory / "cni", "dbkbench0", 70)
        text = (
            f'[paths]\ndata = "{directory / "data"}"\nrun = "{directory / "run"}"\n[daemon]\nlog_level = "warning"\n'
            f'[network]\nconf_dir = "{self.network.conf_dir}"\nbin_dirs = ["{cni.BIN_DIR}"]\n'
        )
        self._config.write_text(text)

    @property
    def running(self) -> bool:
        return self._process is not None

    def pids(self) -> list[int]:
        """The daemon and its monitors."""
        lines = [line.split(" ", 1) for line in inventory([str(self.directory)]).processes]
        return [self.pid, *(int(pid) for pid, command in lines if "conmon" in command.split(" ")[0])]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        begun = time.perf_counter()
        with (self.directory / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("serve"),
                cwd=ROOT,
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
        if not self.socket.exists():
            return False
        try:
            self._stubs = connect(str(self.socket))
            self.call("Version", limit_s=LIMIT_S)
        except grpc.RpcError:
            return False
        return True

    def call(self, name: str, limit_s: float = LIMIT_S, **fields: Any) -> Any:
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        return getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s)

    def daybook(self, *words: str) -> None:
        subprocess.run(self._command(*words), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def _command(self, name: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "service.main", name, "--config", str(self._config), *words]

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(LIMIT_S) == 0
        self._process = None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Also after a failure: the containers of a benchmark must not outlive it."""
        if self._process is not None:
            self.kill()
            self._process = None
        if inventory([str(self.directory)]).processes or inventory([str(self.directory)]).mounts:
            self.daybook("purge", "--yes")
        self.network.remove()

    # --- what is asked of it ---

    def prepare(self) -> None:
        """Nothing: there is no pause image."""

    def load(self, layout: Path, reference: str) -> None:
        self.daybook("load", str(layout), reference)

    def load_image(self) -> None:
        self.load(make_oci_layout(self.directory / "image").path, IMAGE)

    def run_pod(self, name: str) -> str:
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=name, namespace="bench"),
            log_directory=str(self.directory / "logs"),
            linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=HOST)),
        )
        return str(self.call("RunPodSandbox", config=config).pod_sandbox_id)

    def create(self, sandbox_id: str) -> str:
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="app"),
            image=pb.ImageSpec(image=IMAGE),
            command=["/bin/sleep", "100000"],
            log_path="app.log",
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(namespace_options=HOST),
            ),
        )
        return str(self.call("CreateContainer", pod_sandbox_id=sandbox_id, config=config).container_id)

    def monitor_pid(self, container_id: str) -> int:
        told = self.call("ContainerStatus", container_id=container_id, verbose=True).info["info"]
        return int(json.loads(told)["monitor"]["pid"])

    # --- what its log says, from outside ---

    def commits(self) -> int:
        """The number of LMDB's newest transaction."""
        with lmdb.open(str(self.log), readonly=True, create=False, lib_version=engine.LIB_VERSION, max_dbs=0) as env:
            return int(env.info()["last_txnid"])

    def records(self) -> list[Record]:
        with open_live(self.log, AGGREGATES, scratch=str(self.directory)) as log:
            return [record for record in log.read() if isinstance(record, Record)]


def pss_kib(pid: int) -> int:
    """Proportional set size: shared pages counted by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def imports_ms() -> float:
    """What Python takes to start and to import the daemon."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import service.main"], cwd=ROOT, check=True, env=dict(os.environ))
    return (time.perf_counter() - begun) * 1e3

"""A real daemon with real runc and conmon in a directory of its own, and a client of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lmdb

from adapters.log import engine
from adapters.log.readonly import open_live
from domain.node import AGGREGATES
from domain.records import Record
from proto import api_pb2 as pb
from tests.bench import cni
from tests.bench.endpoint import LIMIT_S, ROOT, Endpoint
from tests.support.inventory import inventory
from tests.support.oci_layout import make_oci_layout

IMAGE = "bench.example/busybox:1"
HOST = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)


class Daemon(Endpoint):
    """`end` stops it and removes whatever is still there."""

    name = "daybook"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, directory / "run" / "admin.sock", cni.write(directory / "cni", "dbkbench0", 70))
        self.log = directory / "data" / "log"
        self._config = directory / "config.toml"
        text = (
            f'[paths]\ndata = "{directory / "data"}"\nrun = "{directory / "run"}"\n[daemon]\nlog_level = "warning"\n'
            f'[network]\nconf_dir = "{self.network.conf_dir}"\nbin_dirs = ["{cni.BIN_DIR}"]\n'
        )
        self._config.write_text(text)

    def pids(self) -> list[int]:
        """The daemon and its monitors."""
        lines = [line.split(" ", 1) for line in inventory([str(self.directory)]).processes]
        return [self.pid, *(int(pid) for pid, command in lines if "conmon" in command.split(" ")[0])]

    def argv(self) -> Sequence[str]:
        return self._command("serve")

    def daybook(self, *words: str) -> None:
        subprocess.run(self._command(*words), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    def _command(self, name: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "service.main", name, "--config", str(self._config), *words]

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(LIMIT_S) == 0
        self._process = None

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

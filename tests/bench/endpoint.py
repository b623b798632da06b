"""A CRI daemon in a directory of its own, as a benchmark starts, asks and kills it."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from adapters.cri.client import connect
from proto import api_pb2 as pb
from tests.bench import cni

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60


class Endpoint:
    """`start` returns the seconds until the first answer."""

    name: str

    def __init__(self, directory: Path, socket: Path, network: cni.BenchNetwork) -> None:
        self.directory = directory
        self.socket = socket
        self.network = network
        self._process: subprocess.Popen[bytes] | None = None

    def argv(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        begun = time.perf_counter()
        with (self.directory / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.argv(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
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
            self.call("Version")
        except grpc.RpcError:
            return False
        return True

    def call(self, name: str, limit_s: float = LIMIT_S, **fields: Any) -> Any:
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        return getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

"""A CNI network for one daemon of a benchmark: bridge and host-local of Debian, in directories of its own."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

BIN_DIR = "/usr/lib/cni"


@dataclass(frozen=True, slots=True)
class BenchNetwork:
    conf_dir: Path
    bridge: str

    def remove(self) -> None:
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, stderr=subprocess.DEVNULL)


def write(directory: Path, bridge: str, number: int) -> BenchNetwork:
    """`number`: 10.NUMBER.0.0/16 is its subnet."""
    conf_dir = directory / "net.d"
    conf_dir.mkdir(parents=True, exist_ok=True)
    ipam = {
        "type": "host-local",
        "dataDir": str(directory / "networks"),
        "ranges": [[{"subnet": f"10.{number}.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "bridge", "bridge": bridge, "isGateway": True, "ipMasq": False, "ipam": ipam}
    document = {"cniVersion": "1.0.0", "name": bridge, "plugins": [plugin]}
    (conf_dir / "10-bench.conflist").write_text(json.dumps(document))
    return BenchNetwork(conf_dir, bridge)

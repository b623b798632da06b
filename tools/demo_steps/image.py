"""An image from nothing but busybox: an OCI layout with one layer, in plain Python; the same bytes each time."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp", "www")
APPLETS = ("sh", "sleep", "hostname", "httpd")


def write_layout(directory: Path, busybox: bytes) -> None:
    """An OCI layout with one layer: busybox and the applets that the demo uses."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = layer_of(busybox)
    config = {
        "architecture": architecture(os.uname().machine),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(gzip.compress(layer, 1, mtime=0), "layer.v1.tar+gzip")],
    }
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def layer_of(busybox: bytes) -> bytes:
    """A tar archive; the same bytes each time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in DIRECTORIES:
            tar.addfile(_entry(name, tarfile.DIRTYPE))
        program = _entry("bin/busybox", tarfile.REGTYPE)
        program.size = len(busybox)
        tar.addfile(program, io.BytesIO(busybox))
        for applet in APPLETS:
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE)
            link.linkname = "busybox"
            tar.addfile(link)
    return raw.getvalue()


def _entry(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755
    return info


def architecture(machine: str) -> str:
    """The name that images give to what the kernel calls `machine`."""
    return {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le"}.get(machine, machine)

"""Makes small images on disk in plain Python: an OCI layout or a docker-archive, from files or from Debian's busybox.

Everything is deterministic: the same arguments give the same digests.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
APPLETS = ("sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "ps", "kill", "env", "touch", "mount", "wget")

Entry = bytes | str | None
"""A file's content, a symlink's target, or a directory (None)."""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """What `make_oci_layout` made. `manifest` and `index` are digests; `index` is empty without `multi_arch`."""

    path: Path
    image_id: str
    manifest: str
    index: str
    diff_ids: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def named(self) -> str:
        """The digest that the tag names."""
        return self.index or self.manifest


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def busybox_files() -> dict[str, Entry]:
    """A root file system that can run something: /bin/busybox with the applets that tests use."""
    files: dict[str, Entry] = {d: None for d in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var")}
    files["bin/busybox"] = Path("/bin/busybox").read_bytes()
    files.update({f"bin/{name}": "busybox" for name in APPLETS})
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/false\n"
    files["etc/group"] = b"root:x:0:\nwww-data:x:33:\n"
    return files


def tar_of(files: Mapping[str, Entry]) -> bytes:
    """An uncompressed layer. Files and directories are 0755, `tmp` is 1777."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o1777 if name == "tmp" else 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def make_oci_layout(
    directory: Path,
    *,
    tag: str = "latest",
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, Entry] | None = None,
    more_layers: Sequence[Mapping[str, Entry]] = (),
    multi_arch: bool = False,
    platform: Mapping[str, str] | None = None,
    raw_config: bytes | None = None,
) -> BuiltImage:
    """Writes (or adds to) an OCI layout. `files` is the first layer (default: busybox), `more_layers` lie above it.

    `multi_arch`: the tag names an index with this image for the host's platform and an attestation beside it.
    `platform`: what the index calls this image's platform, where that is not the host's own name of it.
    `raw_config`: the bytes of the config blob as they are (hostile configs).
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(data)
        (blobs / digest[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    diff_ids, layers = [], []
    for content in (busybox_files() if files is None else files, *more_layers):
        raw = tar_of(content)
        diff_ids.append(digest_of(raw))
        layers.append(put(gzip.compress(raw, 1, mtime=0), LAYER))
    blob = raw_config if raw_config is not None else _config(config, diff_ids)
    config_descriptor = put(blob, CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config_descriptor, "layers": layers}
    named = put(json.dumps(manifest).encode(), MANIFEST)
    manifest_digest, index_digest = named["digest"], ""
    if multi_arch:
        native = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        named["platform"] = platform or {"architecture": native, "os": "linux"}
        foreign = {**put(b"{}", MANIFEST), "platform": {"architecture": "unknown", "os": "unknown"}}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [foreign, named]}
        named = put(json.dumps(index).encode(), INDEX)
        index_digest = named["digest"]
    _tag(directory, tag, named)
    return BuiltImage(
        path=directory,
        image_id=config_descriptor["digest"],
        manifest=manifest_digest,
        index=index_digest,
        diff_ids=tuple(diff_ids),
        layers=tuple(layer["digest"] for layer in layers),
    )


def make_docker_archive(path: Path, image: BuiltImage, name: str) -> Path:
    """The same image as `docker save` writes it: manifest.json, config and uncompressed layers in one tar."""
    blobs = image.path / "blobs" / "sha256"
    members: dict[str, Entry] = {f"{image.image_id[7:]}.json": (blobs / image.image_id[7:]).read_bytes()}
    paths = []
    for diff_id, layer in zip(image.diff_ids, image.layers, strict=True):
        paths.append(f"{diff_id[7:]}.tar")
        members[paths[-1]] = gzip.decompress((blobs / layer[7:]).read_bytes())
    listing = [{"Config": f"{image.image_id[7:]}.json", "RepoTags": [name], "Layers": paths}]
    members["manifest.json"] = json.dumps(listing).encode()
    path.write_bytes(tar_of(members))
    return path


def _config(config: Mapping[str, Any] | None, diff_ids: Sequence[str]) -> bytes:
    inner = {"Env": ["PATH=/bin"], "Cmd": ["sh"]} if config is None else dict(config)
    rootfs = {"type": "layers", "diff_ids": list(diff_ids)}
    return json.dumps({"architecture": "amd64", "os": "linux", "config": inner, "rootfs": rootfs}).encode()


def _tag(directory: Path, tag: str, descriptor: dict[str, Any]) -> None:
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index_path = directory / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {"schemaVersion": 2, "manifests": []}
    name = "org.opencontainers.image.ref.name"
    kept = [d for d in index["manifests"] if d.get("annotations", {}).get(name) != tag]
    index["manifests"] = [*kept, {**descriptor, "annotations": {name: tag}}]
    index_path.write_text(json.dumps(index))

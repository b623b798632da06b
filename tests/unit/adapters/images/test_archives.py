"""What an archive calls its images, as docker, buildah, skopeo, kaniko, ctr and nerdctl write it."""

import gzip
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adapters.images import tars
from adapters.images.archives import CONTAINERD_NAME, LARGE_FILES, REF_NAME, Load, loads, plain
from domain.errors import InvalidRequest

LAYOUT = {"oci-layout": {"imageLayoutVersion": "1.0.0"}}


def index(*annotations: Mapping[str, Any] | None) -> dict[str, Any]:
    manifests = [{"digest": "sha256:" + "a" * 64} | ({} if a is None else {"annotations": a}) for a in annotations]
    return LAYOUT | {"index.json": {"schemaVersion": 2, "manifests": manifests}}


def docker(*tags: Any) -> dict[str, Any]:
    return {"blob": "x", "manifest.json": [{"Config": "c.json", "RepoTags": each, "Layers": []} for each in tags]}


def packed(path: Path, documents: Mapping[str, Any], prefix: str = "") -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, document in documents.items():
            data = document if isinstance(document, bytes) else json.dumps(document).encode()
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(gzip.compress(out.getvalue()) if path.suffix == ".gz" else out.getvalue())
    return path


@pytest.mark.parametrize("file", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_docker_archives_names(tmp_path: Path, file: str, prefix: str) -> None:
    path = packed(tmp_path / file, docker(["q.io/a:1", "busybox:latest"], ["q.io/b:2"], None), prefix)
    source = f"docker-archive:{path}"
    assert loads(str(path)) == (
        Load(f"{source}:q.io/a:1", "q.io/a:1"),
        Load(f"{source}:busybox:latest", "docker.io/library/busybox:latest"),
        Load(f"{source}:q.io/b:2", "q.io/b:2"),
    )
    assert loads(f"{path}:q.io/b:2", "mine:1") == (Load(f"{source}:q.io/b:2", "docker.io/library/mine:1"),)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("annotations", "selector", "name"),
    [
        ({REF_NAME: "q.io/a:1"}, ":q.io/a:1", "q.io/a:1"),
        ({REF_NAME: "1", CONTAINERD_NAME: "q.io/a:1"}, ":1", "q.io/a:1"),
        ({REF_NAME: "localhost/app:dev"}, ":localhost/app:dev", "localhost/app:dev"),
        ({CONTAINERD_NAME: "docker.io/library/busybox:1"}, "", "docker.io/library/busybox:1"),
    ],
)
def test_an_oci_layouts_name(
    tmp_path: Path, packs: bool, annotations: dict[str, str], selector: str, name: str
) -> None:
    documents = index(annotations)
    if packs:
        path, kind = packed(tmp_path / "a.tar", documents), "oci-archive"
    else:
        path, kind = tmp_path / "layout", "oci"
        path.mkdir()
        for file, document in documents.items():
            (path / file).write_text(json.dumps(document))
    assert loads(str(path)) == (Load(f"{kind}:{path}{selector}", name),)
    assert loads(str(path), "q.io/other:2") == (Load(f"{kind}:{path}{selector}", "q.io/other:2"),)


def test_what_docker_25_writes_is_a_docker_archive_with_its_tags(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", index({REF_NAME: "1"}) | docker(["q.io/a:1"]))
    assert loads(str(path)) == (Load(f"docker-archive:{path}:q.io/a:1", "q.io/a:1"),)


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        (index(None), "no name .*say which, `daybook load .* NAME`"),
        (index({REF_NAME: "latest"}), "only latest; say which"),
        (index({REF_NAME: 7}), "no name"),
        (index(), "no name"),
        (docker(None), "no name"),
        (docker(["q.io/UPPER:1", 3, ""]), "no name"),
        ({"manifest.json": {"a": 1}}, "manifest.json is not a list; save"),
        *[({"manifest.json": [{"RepoTags": odd}]}, "RepoTags in manifest.json is not a list") for odd in (5, "a", {})],
        *[
            (LAYOUT | {"index.json": {"manifests": odd}}, "manifests in index.json is not")
            for odd in (7, True, "x", {})
        ],
        *[(LAYOUT | {"index.json": odd}, "index.json is not an object") for odd in (7, None, [])],
        ({"manifest.json": b"]["}, "manifest.json is not JSON"),
        (LAYOUT | {"index.json": b"\xff"}, "index.json is not JSON"),
        ({"etc/passwd": "x"}, "neither manifest.json .docker save. nor oci-layout"),
        ({"index.json": {"manifests": []}}, "neither manifest.json"),
    ],
)
def test_what_cannot_be_loaded_without_a_name_says_why(tmp_path: Path, documents: dict[str, Any], why: str) -> None:
    path = packed(tmp_path / "a.tar", documents)
    with pytest.raises(InvalidRequest, match=rf"cannot load {path}.*{why}"):
        loads(str(path))


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x1f\x8bnot", b"\x28\xb5\x2f\xfd zstd", b"\0" * 512 + b"x"])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InvalidRequest, match=f"cannot load {tmp_path / 'a'}: "):
        loads(str(tmp_path / "a"))


def test_what_is_not_there_and_what_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file or directory"):
        loads(str(tmp_path / "none"), "q.io/a:1")
    with pytest.raises(InvalidRequest, match="no OCI layout"):
        loads(str(tmp_path), "q.io/a:1")
    (tmp_path / "a:b").mkdir()
    with pytest.raises(InvalidRequest, match="takes what follows a colon for a name"):
        loads(str(tmp_path / "a:b"), "q.io/a:1")


def test_of_several_a_person_must_choose(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar", index({REF_NAME: "1"}, {REF_NAME: "2"}))
    with pytest.raises(InvalidRequest, match=f"2 images, write {path}:WHICH; 1, 2"):
        loads(str(path), "q.io/a:1")
    assert loads(f"{path}:2", "q.io/a:1") == (Load(f"oci-archive:{path}:2", "q.io/a:1"),)
    with pytest.raises(InvalidRequest, match="no image that it calls '3'; it calls its images only 1, 2"):
        loads(f"{path}:3", "q.io/a:1")


def test_a_compressed_archive_is_unpacked_for_a_while(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", docker(["q.io/a:1"]))
    with plain(f"{path}:q.io/a:1") as given:
        unpacked = Path(given.removesuffix(":q.io/a:1"))
        assert unpacked.read_bytes() == gzip.decompress(path.read_bytes())
        assert [one.name for one in loads(given)] == ["q.io/a:1"]
    assert not unpacked.exists()
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InvalidRequest, match="cannot unpack it"), plain(str(path)):
        pass


def test_what_is_not_compressed_is_taken_as_it_is(tmp_path: Path) -> None:
    for path in (packed(tmp_path / "a.tar", docker(["q.io/a:1"])), tmp_path):
        with plain(str(path)) as given:
            assert given == str(path)


def header(kind: bytes, size: int) -> bytes:
    """One block; `size` in the base-256 form, which also holds what is negative or far too large."""
    made = tarfile.TarInfo("x")
    made.type = kind
    block = bytearray(made.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % (1 << 88)).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


LONG_NAME = header(tarfile.GNUTYPE_LONGNAME, 2) + b"x\0".ljust(512, b"\0")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (LONG_NAME * 3000, "too many headers"),
        *[
            (header(kind, size), "more than 1048576 bytes of headers")
            for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
            for size in (2 << 30, 1 << 80, -(2 << 30))
        ],
        *[(header(tarfile.REGTYPE, size) * 3, "") for size in (-1024, -(1 << 40), 1 << 70)],
        (header(tarfile.XHDTYPE, 20) + b"20 size=aaaaaaaaaaa\n".ljust(512, b"\0"), ""),
    ],
)
def test_headers_that_lie_are_refused_within_little_memory(
    tmp_path: Path, data: bytes, why: str, compressed: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(data) if compressed else data)
    # There is something to read, in a file with a hole: it is the bound that must refuse.
    if not compressed:
        os.truncate(path, 3 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match=f"cannot load {path}: .*{why}"):
            loads(str(path))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("at", [700, 1024, 1536, 1800, 2048, 2500, 2560, 2700])
def test_what_was_cut_short_is_called_so(tmp_path: Path, at: int, compressed: bool) -> None:
    path = packed(tmp_path / "a.tar", {"blob": b"x" * 900} | index({REF_NAME: "q.io/a:1"}))
    data = path.read_bytes()
    path.write_bytes(gzip.compress(data, 0)[: at + 15] if compressed else data[:at])
    with pytest.raises(InvalidRequest, match=f"cannot load {path}: .*ends early"):
        loads(str(path))
    if compressed:
        with pytest.raises(InvalidRequest, match=f"cannot load {path}: .*ends early"), plain(str(path)):
            pass


def test_unpacking_leaves_a_share_of_the_file_system_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "a.tar.gz", docker(["q.io/a:1"]))
    monkeypatch.setattr(tars, "FREE_SHARE", 1)
    before = set(Path(LARGE_FILES).iterdir())
    with pytest.raises(InvalidRequest, match=f"cannot load {path}: .*would be free; make room"), plain(str(path)):
        pass
    assert set(Path(LARGE_FILES).glob("daybook-load-*")) <= before


def test_errors_name_what_the_person_gave(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", index({REF_NAME: "1"}, {REF_NAME: "2"}))
    for given, name in ((f"{path}:3", ""), (str(path), ""), (str(path), "q.io/a:1")):
        with plain(given) as unpacked, pytest.raises(InvalidRequest) as caught:
            loads(unpacked, name, given)
        assert str(path) in caught.value.text and LARGE_FILES not in caught.value.text
        assert "1, 2" in caught.value.text

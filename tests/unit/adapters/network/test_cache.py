"""Entries in libcni's layout, whole or told as unreadable."""

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.network.cache import Cache, Entry
from adapters.network.conf import NetworkConfig
from domain.errors import NetworkFailed
from domain.observations import Mark

ID, OTHER = "a" * 64, "b" * 64
NETWORK = NetworkConfig("my-net", "1.0.0", ({"type": "bridge"}, {"type": "portmap"}), disable_check=True)
ENTRY = Entry(ID, NETWORK, "/ns", (("A", "1"),), {"dns": {}}, {"ips": []}, Mark("log", 3))


def file(tmp_path: Path) -> Path:
    return tmp_path / f"results/my-net-{ID}-eth0"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    cache.write(replace(ENTRY, result=None), durable=True)
    cache.write(replace(ENTRY, container_id=OTHER), durable=False)
    assert [found.entry for found in cache.find(ID)] == [replace(ENTRY, result=None)]
    cache.write(ENTRY, durable=False)
    (found,) = cache.find(ID)
    assert found.entry == ENTRY and found.path == str(file(tmp_path))
    assert sorted(os.listdir(tmp_path / "results")) == [file(tmp_path).name, f"my-net-{OTHER}-eth0"]
    assert cache.ids() == {ID, OTHER}
    cache.remove(found)
    cache.remove(found)
    assert cache.find(ID) == [] and cache.ids() == {OTHER}


def test_a_durable_entry_is_synced_with_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    Cache(str(tmp_path)).write(ENTRY, durable=True)
    assert synced == [f"{file(tmp_path)}.new", str(tmp_path / "results")]
    Cache(str(tmp_path)).write(ENTRY, durable=False)
    assert len(synced) == 2


def test_no_directory_is_no_entry(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "none"))
    assert (cache.find(ID), list(cache.every()), cache.ids()) == ([], [], set())
    (tmp_path / "results").touch()
    with pytest.raises(NetworkFailed, match="cannot read"):
        Cache(str(tmp_path)).ids()


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    cache.write(ENTRY, durable=False)
    for name in (f"n-{OTHER}-eth1", f"n-{OTHER}-eth0.new", "short-eth0", f"-{OTHER}-eth0", f"n-{OTHER.upper()}-eth0"):
        (tmp_path / "results" / name).write_text("{}")
    assert cache.ids() == {ID} and [found.container_id for found in cache.every()] == [ID]


def test_another_runtimes_entry_has_no_mark(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    cache.write(ENTRY, durable=False)
    value = json.loads(file(tmp_path).read_text())
    del value["daybook"]
    file(tmp_path).write_text(json.dumps(value))
    (found,) = cache.find(ID)
    assert found.entry == replace(ENTRY, mark=None)


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(ENTRY.encoded()), **values})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "\udcff".encode(errors="surrogateescape"),
        changed(kind="cniCacheV2"),
        changed(ifName="eth1"),
        changed(containerId=OTHER),
        changed(config="!"),
        changed(config=base64.b64encode(b"{}").decode()),
        changed(config=base64.b64encode(replace(NETWORK, name="other").as_json()).decode()),
        changed(config=base64.b64encode(replace(NETWORK, plugins=({"type": "../sh"},)).as_json()).decode()),
        changed(cniArgs=[["a"]]),
        changed(cniArgs={"a": "b"}),
        changed(capabilityArgs=[1]),
        changed(result="x"),
        changed(netns=7),
        " " * (4 << 20) + changed(),
    ],
    ids=range(17),
)
def test_garbage_is_told_and_never_raised(tmp_path: Path, text: str | bytes) -> None:
    cache = Cache(str(tmp_path))
    cache.write(ENTRY, durable=False)
    file(tmp_path).write_bytes(text if isinstance(text, bytes) else text.encode())
    (found,) = cache.find(ID)
    assert found.entry is None and found.text and (found.network, found.container_id) == ("my-net", ID)


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    cache.write(ENTRY, durable=False)
    file(tmp_path).rename(tmp_path / "real")
    file(tmp_path).symlink_to(tmp_path / "real")
    assert cache.find(ID)[0].entry is None


def test_a_mark_that_is_none(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    cache.write(ENTRY, durable=False)
    for mark in ("x", {"log_id": 1, "seq": 1}, {"log_id": "a", "seq": True}, None):
        file(tmp_path).write_text(changed(daybook=mark))
        entry = cache.find(ID)[0].entry
        assert entry is not None and entry.mark is None


def test_only_sandbox_ids_become_paths(tmp_path: Path) -> None:
    with pytest.raises(NetworkFailed, match="not a sandbox id"):
        Cache(str(tmp_path)).write(replace(ENTRY, container_id="../x"), durable=False)

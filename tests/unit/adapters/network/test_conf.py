"""Files to networks, by libcni's rules."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adapters.network.conf import (
    DEPTH_MAX,
    FILE_MAX,
    VERSIONS,
    BadConfig,
    Loaded,
    NetworkConfig,
    from_file,
    json_object,
    load,
)

PLUGIN = {"type": "bridge"}


def put(directory: Path, name: str, value: Any) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def network(**more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [PLUGIN], **more}


def test_the_first_usable_file_wins_and_bad_ones_are_told(tmp_path: Path) -> None:
    put(tmp_path, "00-bad.conflist", "{")
    put(tmp_path, "05-list.conf", network())
    put(tmp_path, "09-ignored.yaml", network(name="yaml"))
    (tmp_path / "09-dir.conflist").mkdir()
    put(tmp_path, "10-b.conflist", network(name="second"))
    put(tmp_path, "10-a.conflist", network(name="first"))
    loaded = load(str(tmp_path), [])
    assert loaded.network is not None and loaded.network.name == "first"
    assert [text.split(":")[0] for text in loaded.skipped] == ["00-bad.conflist", "05-list.conf"]
    assert "must end in .conflist" in loaded.skipped[1]


def test_why_there_is_none(tmp_path: Path) -> None:
    assert "No such file" in load(str(tmp_path / "no"), []).problem
    assert load(str(tmp_path), []).problem == f"no usable CNI configuration in {tmp_path}"
    put(tmp_path, "1.conflist", network(cniVersion="0.2.0"))
    put(tmp_path, "2.conf", {"name": "x"})
    assert load(str(tmp_path), []).problem == (
        f"no usable CNI configuration in {tmp_path}: 1.conflist: its cniVersion is 0.2.0; 0.3.0 to 1.1.0 can be used; "
        "2.conf: a plugin has no type"
    )


@pytest.mark.parametrize("suffix", [".conf", ".json"])
def test_a_single_plugin_is_wrapped(tmp_path: Path, suffix: str) -> None:
    single = {"cniVersion": "0.4.0", "name": "one", "type": "ptp", "mtu": 1400}
    made = from_file(str(put(tmp_path, f"a{suffix}", single)))
    assert (made.name, made.version, made.plugins) == ("one", "0.4.0", (single,))


def test_missing_plugins_are_told_and_do_not_pass_the_pods_on(tmp_path: Path) -> None:
    bin_dir = tmp_path / "bin"
    put(
        tmp_path,
        "1.conflist",
        network(plugins=[{"type": "bridge"}, {"type": "tuning"}, {"type": "firewall"}]),
    )
    put(tmp_path, "2.conflist", network(name="other"))
    put(bin_dir, "tuning", "").chmod(0o644)
    put(bin_dir, "bridge", "").chmod(0o755)
    loaded = load(str(tmp_path), [str(tmp_path / "none"), str(bin_dir)])
    assert loaded.network is not None and loaded.network.name == "pods"
    assert loaded.problem == f"network pods: CNI plugins firewall, tuning not found in {tmp_path}/none, {bin_dir}"
    for name in ("firewall", "tuning"):
        put(bin_dir, name, "").chmod(0o755)
    assert load(str(tmp_path), [str(bin_dir)]).problem == ""


@pytest.mark.parametrize(
    "ipam",
    [
        {"type": "azure-vnet-ipam"},
        {"type": "antrea"},
        {"type": "host-local"},
        {"type": ""},
        {"type": "../bridge"},
        {"type": 7},
        {"type": {"of": "mine"}},
        {},
        [],
        "static",
        None,
    ],
    ids=str,
)
def test_what_ipam_means_is_its_plugins_business(tmp_path: Path, ipam: object) -> None:
    """Some address managers are plugins, some are words that only their plugin knows."""
    put(tmp_path, "1.conflist", network(plugins=[{"type": "mine", "ipam": ipam}]))
    put(tmp_path / "bin", "mine", "").chmod(0o755)
    loaded = load(str(tmp_path), [str(tmp_path / "bin")])
    assert (loaded.problem, loaded.skipped) == ("", ())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"cniVersion": "1.0.0"}, "1.0.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "2.0.0"]}, "1.1.0"),
        ({"cniVersions": ["0.3.1", "0.4.0"]}, "0.4.0"),
        ({"cniVersion": "0.1.0", "cniVersions": ["0.3.0"]}, "0.3.0"),
        ({"cniVersion": "1.0.0", "cniVersions": []}, "1.0.0"),
    ],
)
def test_the_highest_version_that_both_speak(tmp_path: Path, given: dict[str, Any], wanted: str) -> None:
    value = {**network(), **given} if "cniVersion" in given else {"name": "pods", "plugins": [PLUGIN], **given}
    assert from_file(str(put(tmp_path, "a.conflist", value))).version == wanted


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "../etc"}, "its name is"),
        ({"name": ""}, "its name is"),
        ({"name": "a" * 151}, "its name is"),
        ({"name": 5}, "its name is"),
        ({"plugins": []}, "it has 0 plugins"),
        ({"plugins": [PLUGIN] * 33}, "it has 33 plugins"),
        ({"plugins": "bridge"}, "plugins is not a list"),
        ({"plugins": ["bridge"]}, "a plugin has no type"),
        ({"plugins": [{"type": "../../bin/sh"}]}, "not a plain file name"),
        ({"plugins": [{"type": ".."}]}, "not a plain file name"),
        ({"plugins": [{"type": "a\u0000b"}]}, "not a plain file name"),
        ({"plugins": [{"type": "a", "capabilities": []}]}, "capabilities of plugin a"),
        ({"cniVersion": "9.0.0"}, "its cniVersion is 9.0.0"),
        ({"cniVersion": None}, "its cniVersion is 0.1.0"),
        ({"cniVersion": 1}, "not a string"),
        ({"cniVersions": "1.0.0"}, "cniVersions is not a list"),
        ({"disableCheck": "maybe"}, "disableCheck is 'maybe'"),
        ({"disableGC": 1}, "disableGC is '1'"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        from_file(str(put(tmp_path, "a.conflist", network(**changed))))


def test_switches_may_be_strings(tmp_path: Path) -> None:
    made = from_file(str(put(tmp_path, "a.conflist", network(disableCheck="True", disableGC=True))))
    assert made.disable_check and made.disable_gc


def test_plugins_in_the_networks_directory_come_after(tmp_path: Path) -> None:
    put(tmp_path, "pods/20-b.conf", {"type": "b"})
    put(tmp_path, "pods/10-a.conf", {"type": "a"})
    put(tmp_path, "pods/30-c.json", {"type": "c"})
    path = put(tmp_path, "x.conflist", network())
    assert [plugin["type"] for plugin in from_file(str(path)).plugins] == ["bridge", "a", "b"]
    path = put(tmp_path, "x.conflist", network(loadOnlyInlinedPlugins=True))
    assert [plugin["type"] for plugin in from_file(str(path)).plugins] == ["bridge"]
    put(tmp_path, "pods/10-a.conf", "{")
    with pytest.raises(BadConfig, match="not JSON"):
        from_file(str(put(tmp_path, "x.conflist", network())))


def test_as_json_says_all_of_it(tmp_path: Path) -> None:
    put(tmp_path, "pods/10-a.conf", {"type": "a"})
    made = from_file(str(put(tmp_path, "x.conflist", network(disableGC=True))))
    again = put(tmp_path, "y.conflist", made.as_json().decode())
    assert from_file(str(again)) == made


def test_only_regular_files_of_a_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.conflist")
    put(tmp_path, "b.conflist", " " * FILE_MAX + "{}")
    (tmp_path / "c.conflist").symlink_to("/dev/zero")
    (tmp_path / "d.conflist").symlink_to(tmp_path / "gone")
    skipped = load(str(tmp_path), []).skipped
    assert [text.split(": ")[1] for text in skipped] == [
        "it is no regular file", f"it has more than {FILE_MAX} bytes", "it is no regular file", "No such file or directory",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "nul", '{"a": NaN}', '{"a": 1e999}', "[" * 10**5, '{"a": ' + "9" * 5000 + "}"]
)
def test_hostile_json(text: str) -> None:
    with pytest.raises(BadConfig):
        json_object(text.encode())


def test_who_is_asked_for_status() -> None:
    assert not Loaded().asks_status
    made = [load_version(version).asks_status for version in VERSIONS]
    assert made == [False, False, False, False, True]


def load_version(version: str) -> Loaded:
    return Loaded(NetworkConfig("n", version, ({"type": "a"},)))


def nested(depth: int, item: str = "") -> bytes:
    if item:
        return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    return b'{"x":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("item", ["", "list"])
def test_nesting_is_bounded(item: str) -> None:
    assert json_object(nested(DEPTH_MAX, item))
    for depth in (DEPTH_MAX + 1, 900, 100_000):
        with pytest.raises(BadConfig, match="nested too deeply"):
            json_object(nested(depth, item))
    many = {"x": [[] for _ in range(10 * DEPTH_MAX)]}
    assert json_object(json.dumps(many).encode()) == many


def test_names_and_strings_that_are_not_unicode_can_be_told(tmp_path: Path) -> None:
    for name, value in ((b"\xff.conflist", network(cniVersion="\ud800")), (b"y.conflist", network(name="\x1b[2J"))):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text(json.dumps(value))
    found = load(str(tmp_path), [])
    assert found.problem.encode().isascii() and found.problem.isprintable() and "?.conflist" in found.problem
    put(tmp_path, "00.conflist", network(plugins=[{"type": "a"}, {"type": "\ud800"}]))
    assert "CNI plugins a, ? not found" in load(str(tmp_path), []).problem

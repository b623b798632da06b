"""The configuration: every key by name and type, every default printed and read back."""

import dataclasses
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest

from domain.errors import InvalidRequest
from service.config import CHOICES, Config, commented, load, parse
from service.main import main

KEYS = [
    (table.name, entry)
    for table in dataclasses.fields(Config)
    for entry in dataclasses.fields(typing.get_type_hints(Config)[table.name])
]


def test_nothing_given_is_the_default() -> None:
    assert parse("") == Config() == parse("[daemon]\n")


def test_the_defaults_printed_are_the_defaults_read() -> None:
    assert parse(commented(Config())) == Config()


@pytest.mark.parametrize(("table", "entry"), KEYS, ids=lambda given: getattr(given, "name", given))
def test_every_key_is_taken_printed_and_explained(table: str, entry: Any) -> None:
    default = getattr(getattr(Config(), table), entry.name)
    other: Any = {str: '"other"', int: "7", list: '["a", "b"]', bool: "true"}[type(default)]
    if table == "sockets" and entry.name != "admin_group":
        other = '"other.sock"'
    elif table == "network":
        other = other.replace('"', '"/', 1).replace(', "', ', "/') if entry.name in ("conf_dir", "bin_dirs") else other
    if f"{table}.{entry.name}" in CHOICES:
        other = f'"{CHOICES[f"{table}.{entry.name}"][-1]}"'
    given = parse(f"[{table}]\n{entry.name} = {other}\n")
    assert getattr(getattr(given, table), entry.name) == tomllib.loads(f"x = {other}")["x"] != default
    assert parse(commented(given)) == given
    text = commented(Config())
    assert f"# {entry.metadata['meaning']}\n{entry.name} = " in text


@pytest.mark.parametrize(("table", "entry"), KEYS, ids=lambda given: getattr(given, "name", given))
@pytest.mark.parametrize("value", ["true", "1.5", "{}", "[1]"])
def test_an_ill_typed_key_is_refused_by_name(table: str, entry: Any, value: str) -> None:
    if value == "true" and isinstance(getattr(getattr(Config(), table), entry.name), bool):
        value = "1"
    wanted = "(a number|a string|a list of strings|true or false)"
    with pytest.raises(InvalidRequest, match=rf"{table}\.{entry.name} must be {wanted}, not"):
        parse(f"[{table}]\n{entry.name} = {value}\n")


def test_an_ill_typed_number_and_string_are_told_apart() -> None:
    with pytest.raises(InvalidRequest, match=r"daemon.reconcile_s must be a number, not '30'"):
        parse('[daemon]\nreconcile_s = "30"\n')
    with pytest.raises(InvalidRequest, match=r"runtime.path must be a string, not 3"):
        parse("[runtime]\npath = 3\n")
    with pytest.raises(InvalidRequest, match=r"log.map_gib must be at least 1"):
        parse("[log]\nmap_gib = -1\n")


def test_somebody_must_be_able_to_pull() -> None:
    with pytest.raises(InvalidRequest, match=r"images.pulls_at_once must be at least 1"):
        parse("[images]\npulls_at_once = 0\n")


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_named(name: str) -> None:
    table, entry = name.split(".")
    with pytest.raises(InvalidRequest, match=f"{name} must be one of {', '.join(CHOICES[name])}, not 'none'"):
        parse(f'[{table}]\n{entry} = "none"\n')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[deamon]\n",
            "unknown key deamon; known are the tables daemon, images, log, network, paths, runtime, sockets",
        ),
        ("[daemon]\nreconcile = 3\n", "unknown key daemon.reconcile; known are log_level, reconcile_s, stop_wait_s"),
        ("daemon = 3\n", r"daemon must be a table, written \[daemon\]"),
        ("daemon", "it is not TOML"),
    ],
)
def test_what_is_not_known_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        parse(text)


def test_a_file_is_named_in_the_complaint(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load(path, required=False) == Config()
    with pytest.raises(InvalidRequest, match=f"cannot read configuration {path}: there is no such file"):
        load(path, required=True)
    path.write_text("[daemon]\nreconcile_s = 5\n")
    assert load(path, required=True).daemon.reconcile_s == 5
    path.write_text("[x]")
    with pytest.raises(InvalidRequest, match=f"cannot use configuration {path}: unknown key x"):
        load(path, required=True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match=f"cannot read configuration {path}"):
        load(path, required=True)
    with pytest.raises(InvalidRequest, match=r"cannot read configuration"):
        load(tmp_path, required=True)


def test_the_shared_lists_of_the_default_are_not_shared() -> None:
    first, second = Config(), parse("")
    assert first.images.insecure_registries is not second.images.insecure_registries


# --- where things are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), [("data", "var/lib"), ("run", "./run"), ("run", ""), ("data", "~/data")])
def test_a_relative_directory_is_refused(tmp_path: Path, name: str, path: str) -> None:
    (tmp_path / "c.toml").write_text(f'[paths]\n{name} = "{path}"\n')
    with pytest.raises(InvalidRequest, match=rf"paths\.{name} must be an absolute path"):
        load(tmp_path / "c.toml", required=True)


def test_links_in_a_directorys_path_are_resolved_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "c.toml").write_text(f'[paths]\nrun = "{tmp_path}/link/run"\ndata = "{tmp_path}/./real/../link"\n')
    given = load(tmp_path / "c.toml", required=True).paths
    assert (given.run, given.data) == (str(tmp_path / "real" / "run"), str(tmp_path / "real"))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('pinned = [""]', r"images\.pinned: .*empty"),
        ('pinned = ["good.example/a", "UPPER/Case"]', r"images\.pinned"),
        (
            'insecure_registries = ["http://registry.example"]',
            r"images\.insecure_registries: 'http://registry.example'",
        ),
    ],
)
def test_every_command_refuses_what_serve_would(
    tmp_path: Path, line: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[images]\n{line}\n")
    for command in (["check"], ["serve"], ["config", "current"], ["purge"]):
        assert main([command[0], "--config", str(path), *command[1:]]) == 1
        said = capsys.readouterr().err
        assert str(path) in said and re.search(named, said), said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[sockets]\nkubelet = "admin.sock"\n', "sockets.kubelet and sockets.admin must differ"),
        ('[sockets]\nkubelet = ""\n', "sockets.kubelet must be a file name"),
        ('[sockets]\nadmin = "../../x.sock"\n', "sockets.admin must be a file name"),
        ('[sockets]\nadmin = "/x.sock"\n', "sockets.admin must be a file name"),
        ('[sockets]\nadmin = "lock"\n', "sockets.admin must be a file name"),
        ('[sockets]\nadmin = "./daybook.sock"\n', "sockets.admin must be a file name"),
        ('[network]\nconf_dir = "net.d"\n', "network.conf_dir must be an absolute path"),
        ('[network]\nbin_dirs = ["/opt/cni/bin", "opt/cni"]\n', "network.bin_dirs must be an absolute path"),
        ("[log]\nmap_gib = 0\n", "log.map_gib must be at least 1"),
        ("[log]\nmap_gib = 100000000\n", "log.map_gib must be at most"),
        ("[log]\nmap_gib = 1\nballast_mib = 5000\n", "log.ballast_mib must be at most half of log.map_gib"),
        ("[daemon]\nreconcile_s = 0\n", "daemon.reconcile_s must be at least 1"),
        ("[network]\nplugin_timeout_s = 0\n", "network.plugin_timeout_s must be at least 1"),
        ('[network]\nconf_dir = "/a\\u0000b"\n', "network.conf_dir must not have a control character"),
        ('[images]\npinned = ["a\\nb"]\n', "images.pinned must not have a control character"),
        ('[paths]\ndata = "/run/x/data"\nrun = "/run/x"\n', "paths.data must not lie in paths.run"),
        ('[paths]\ndata = "/run/x"\nrun = "/run/x"\n', "paths.data must not lie in paths.run"),
    ],
)
def test_what_is_right_alone_and_wrong_together_or_beyond_its_bounds(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        parse(text)

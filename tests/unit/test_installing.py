"""What a node gets: the lock it installs from, and what of this tree the wheel carries. Without network.

The truth about dependencies is what the installed distributions say of themselves, read for every machine and Python
that the README promises.
"""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from adapters.network import conf

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NODE, DEVELOPING = "requirements.lock", "requirements-test.lock"
ENTRY = re.compile(r"^([a-z][\w.-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)
MACHINES = [
    {"python_version": version, "python_full_version": f"{version}.2", "platform_machine": machine}
    for version in ("3.11", "3.13")
    for machine in ("x86_64", "aarch64")
]
NOT_ON_A_NODE = ("tests", "tools.demo_steps", "tools.tidy", "tools.genproto", "tools.lifecycle")


def locked(name: str) -> Mapping[str, tuple[str, frozenset[str]]]:
    """What a lock names: distribution -> (version, hashes)."""
    found = ENTRY.findall((ROOT / name).read_text())
    return {canonicalize_name(name): (version, frozenset(hashes.split())) for name, version, hashes in found}


def closure(wanted: list[str], machine: Mapping[str, str]) -> set[str]:
    environment = {**default_environment(), "sys_platform": "linux", **machine}
    found: set[str] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or not _wanted(one, environment):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in distribution(name).requires or ()]
    return found


def _wanted(one: Requirement, environment: Mapping[str, str]) -> bool:
    """Extras of the dependencies themselves are not asked for: ours name none, which `test_no_extras` holds."""
    return one.marker is None or one.marker.evaluate({**environment, "extra": ""})


def asked(name: str) -> list[str]:
    project = PROJECT["project"]
    built = PROJECT["build-system"]["requires"]
    return [*project["dependencies"], *built, *(project["optional-dependencies"]["test"] if name == DEVELOPING else ())]


def test_no_extras() -> None:
    assert not [text for text in asked(DEVELOPING) if Requirement(text).extras]


@pytest.mark.parametrize("name", [NODE, DEVELOPING])
def test_a_lock_is_the_closure_of_what_the_project_asks_for(name: str) -> None:
    wanted = set().union(*(closure(asked(name), machine) for machine in MACHINES))
    assert set(locked(name)) == wanted


@pytest.mark.parametrize("name", [NODE, DEVELOPING])
def test_a_lock_has_versions_that_the_project_takes(name: str) -> None:
    entries = locked(name)
    for requirement in map(Requirement, asked(name)):
        version = entries[canonicalize_name(requirement.name)][0]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}"


@pytest.mark.parametrize("name", [NODE, DEVELOPING])
def test_what_is_locked_runs_on_both_pythons(name: str) -> None:
    """So far as the distributions say it."""
    for one in locked(name):
        says = SpecifierSet(distribution(one).metadata.get("Requires-Python") or "")
        assert says.contains("3.11.2") and says.contains("3.13.5"), one


def test_a_node_gets_what_the_tests_ran_with() -> None:
    tested = locked(DEVELOPING)
    assert locked(NODE) == {name: tested[name] for name in locked(NODE)}


def test_every_line_of_a_lock_is_understood() -> None:
    """An option (another index, an unhashed or editable entry) would be none of the entries above."""
    for name in (NODE, DEVELOPING):
        rest = ENTRY.sub("", (ROOT / name).read_text()).splitlines()
        assert not [line for line in rest if line.strip() and not line.strip().startswith("#")], name


# --- what README has copied ------------------------------------------------------------------------------------------


def test_the_starting_network_is_one(tmp_path: Path) -> None:
    """Without the plugins themselves: whether they are there is `daybook check`'s to say."""
    (tmp_path / "bin").mkdir()
    for plugin in ("bridge", "portmap", "host-local"):
        (tmp_path / "bin" / plugin).write_text("#!/bin/true\n")
        (tmp_path / "bin" / plugin).chmod(0o755)
    (tmp_path / "net.d").mkdir()
    (file,) = (ROOT / "packaging").glob("*.conflist")
    (tmp_path / "net.d" / file.name).write_text(file.read_text())
    loaded = conf.load(str(tmp_path / "net.d"), [str(tmp_path / "bin")])
    assert loaded.network and loaded.network.name == "daybook" and not loaded.problem


def test_the_unit_says_what_its_comments_promise() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(ROOT / "packaging" / "daybook.service")
    service = unit["Service"]
    assert unit["Unit"]["StartLimitIntervalSec"] == "0" and service["Restart"] == "always"
    assert (service["KillMode"], service["Delegate"], service["OOMPolicy"]) == ("process", "yes", "continue")
    assert service["LimitNOFILE"] == "1024:1048576"
    private = [
        key for key in service if key.startswith(("Private", "Protect", "ReadOnly", "Inaccessible", "BindPaths"))
    ]
    assert not private, "the daemon's mounts must be the machine's"


# --- the wheel -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """The modules in the wheel that `pip install .` makes, built from the files that git knows."""
    where = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in (file.decode() for file in files if file):
        if (ROOT / name).is_file():
            (where / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            (where / "tree" / name).write_bytes((ROOT / name).read_bytes())
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(where),
    ]
    subprocess.run([*pip, str(where / "tree")], check=True, timeout=100)
    (made,) = where.glob("*.whl")
    with zipfile.ZipFile(made) as opened:
        return frozenset(_dotted(name) for name in opened.namelist() if name.endswith(".py"))


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _named(module: str) -> Iterator[str]:
    """Modules of ours that a module's text imports, at whatever depth."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    path = path if path.exists() else ROOT / module.replace(".", "/") / "__init__.py"
    for node in ast.walk(ast.parse(path.read_text())) if path.exists() else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.slow
def test_the_wheel_has_all_that_the_command_imports(wheel: frozenset[str]) -> None:
    tops = {"domain", "service", "adapters", "proto", "tools"}
    waiting, reached = ["service.main"], set[str]()
    while waiting:
        one = waiting.pop()
        if one in reached or one.partition(".")[0] not in tops:
            continue
        reached.add(one)
        waiting += _named(one)
    ours = {one for one in reached if (ROOT / f"{one.replace('.', '/')}.py").exists()}
    assert ours and ours <= wheel


@pytest.mark.slow
def test_the_wheel_has_nothing_of_development(wheel: frozenset[str]) -> None:
    assert "tools.replay.cli" in wheel
    assert not [one for one in wheel if one.startswith(NOT_ON_A_NODE)]

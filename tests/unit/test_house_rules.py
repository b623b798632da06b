"""The house rules hold for the repository, and each of them sees what it is there to see."""

import re

import pytest

from tools import tidy
from tools.tidy import ROOT, RULES, TOOLS, Rule, Tree, Violation, check_tool, read_tree


@pytest.fixture(scope="module")
def tree() -> Tree:
    return read_tree()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps(rule: Rule, tree: Tree) -> None:
    found = "\n".join(map(str, rule(tree)))
    assert not found, f"{rule.__doc__}\n{found}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TOOLS)
def test_tool_is_content(name: str) -> None:
    assert not (complaint := check_tool(TOOLS[name])), complaint


def test_a_missing_tool_is_told() -> None:
    assert "No module named" in check_tool(("no_such_linter", "."))


def test_the_tree_is_what_git_knows(tree: Tree) -> None:
    assert "domain/lifecycle.py" in tree.files
    assert not any("__pycache__" in path for path in tree.files)
    assert set(tree.modules) == {path for path in tree.files if path.endswith(".py")}


LONG = "def f():\n    '''Long words.\n\n    More.\n    '''\n" + "    x = 1\n" * 60
HANDLER = "'''d'''\ndef f():\n    try:\n        g()\n    except {}:\n        {}\n"
PROJECT = '[project]\ndependencies = [\n    "lmdb==3.0.*"{}\n]\n'

PLANTED: list[tuple[Rule, str, str, bool]] = [
    (tidy.domain_is_pure, "domain/a.py", "import time", True),
    (tidy.domain_is_pure, "domain/a.py", "from os import path", True),
    (tidy.domain_is_pure, "domain/a.py", "def f():\n    import random", True),
    (tidy.domain_is_pure, "domain/a.py", "import msgpack", True),
    (tidy.domain_is_pure, "domain/a.py", "from adapters.log import codec", True),
    (tidy.domain_is_pure, "domain/a.py", "from . import b", True),
    (tidy.domain_is_pure, "domain/a.py", "from domain import events\nfrom collections.abc import Mapping", False),
    (tidy.domain_is_pure, "service/a.py", "import time", False),
    (tidy.adapters_stand_alone, "adapters/oci/a.py", "from service import ports", True),
    (tidy.adapters_stand_alone, "adapters/oci/a.py", "from adapters.log.codec import EventCodec", True),
    (tidy.adapters_stand_alone, "adapters/oci/a.py", "from adapters import log", True),
    (tidy.adapters_stand_alone, "adapters/oci/a.py", "from adapters.oci2 import x", True),
    (tidy.adapters_stand_alone, "adapters/oci/a.py", "import tools.tidy", True),
    (tidy.adapters_stand_alone, "adapters/oci/a.py", "from adapters.oci import b\nfrom adapters.oci.b import c", False),
    (tidy.only_cri_speaks_grpc, "service/main.py", "import grpc.aio", True),
    (tidy.only_cri_speaks_grpc, "adapters/streaming/a.py", "from proto import api_pb2", True),
    (tidy.only_cri_speaks_grpc, "adapters/cri/a.py", "import grpc\nfrom proto import api_pb2", False),
    (tidy.only_cri_speaks_grpc, "tools/genproto.py", "import grpc", False),
    (tidy.service_knows_no_adapter, "service/daemon.py", "from adapters.log.lmdb_log import LmdbLog", True),
    (tidy.service_knows_no_adapter, "service/daemon.py", "import lmdb", True),
    (tidy.service_knows_no_adapter, "service/daemon.py", "import asyncio\nfrom domain import node", False),
    (tidy.service_knows_no_adapter, "service/main.py", "from adapters.log.lmdb_log import LmdbLog", False),
    (tidy.service_knows_no_adapter, "service/wiring.py", "from adapters.log.lmdb_log import LmdbLog", False),
    (tidy.tools_read_the_log, "tools/a.py", "from adapters.oci import runc", True),
    (tidy.tools_read_the_log, "tools/a.py", "from service import daemon", True),
    (tidy.tools_read_the_log, "tools/a.py", "from adapters.log.readonly import open_copy\nimport tools.b", False),
    (tidy.every_module_is_used, "adapters/oci/lonely.py", "from adapters.oci import lonely", True),
    (tidy.every_module_is_used, "adapters/oci/fake.py", "", False),
    (tidy.every_module_is_used, "service/main.py", "", False),
    (tidy.functions_are_short, "service/a.py", LONG + "    return x\n", True),
    (tidy.functions_are_short, "service/a.py", "async " + LONG + "    return x\n", True),
    (tidy.functions_are_short, "service/a.py", LONG.replace("    x = 1\n", "", 1), False),
    (tidy.functions_are_short, "tests/a.py", LONG + "    return x\n", False),
    (tidy.modules_say_what_they_are, "tools/a.py", "import os", True),
    (tidy.modules_say_what_they_are, "tools/a.py", '"""Here."""', False),
    (tidy.nothing_catches_all, "service/a.py", HANDLER.format("Exception", "pass"), True),
    (tidy.nothing_catches_all, "service/a.py", HANDLER.format("BaseException as e", "raise ValueError from e"), True),
    (tidy.nothing_catches_all, "service/a.py", HANDLER.format("(OSError, Exception)", "pass"), True),
    (tidy.nothing_catches_all, "service/a.py", "try:\n    f()\nexcept:\n    pass\n", True),
    (tidy.nothing_catches_all, "service/a.py", HANDLER.format("BaseException", "raise"), False),
    (tidy.nothing_catches_all, "service/a.py", HANDLER.format("(OSError, ValueError)", "pass"), False),
    (tidy.nothing_forks, "tests/a.py", "import os\nos.fork()", True),
    (tidy.nothing_forks, "tests/a.py", "from os import fork", True),
    (tidy.nothing_forks, "tools/a.py", "subprocess.run(a, preexec_fn=f)", True),
    (tidy.nothing_forks, "tools/a.py", "import multiprocessing.pool", True),
    (tidy.nothing_forks, "tools/a.py", "from multiprocessing import Process", True),
    (tidy.nothing_forks, "tools/a.py", "text = 'os.fork'\nos.forkpty", False),
    (tidy.children_have_one_origin, "adapters/oci/a.py", "subprocess.Popen(a)", True),
    (tidy.children_have_one_origin, "service/a.py", "os.system(a)", True),
    (tidy.children_have_one_origin, "adapters/children.py", "subprocess.Popen(a)", False),
    (tidy.children_have_one_origin, "tools/a.py", "subprocess.run(a)", False),
    (tidy.no_machine_is_named, "README.md", "cd /ho" + "me/somebody/daybook", True),
    (tidy.no_machine_is_named, "requirements.lock", "--inde" + "x-url https://example.org", True),
    (tidy.no_machine_is_named, "README.md", "https://py" + "pi.example.org/simple", True),
    (tidy.no_machine_is_named, "README.md", "/var/lib/daybook and docker.io/library/nginx", False),
    (tidy.tables_are_written_once, "README.md", "| - | `container.created` | CREATED |", True),
    (tidy.tables_are_written_once, "README.md", "| @SA | any | HOLD |", True),
    (tidy.tables_are_written_once, "README.md", "| command | meaning |\nrow @K, `container.exited`", False),
    (
        tidy.tables_are_written_once,
        "README.md",
        "<!-- lifecycle:begin -->\n| @A | x |\n<!-- lifecycle:end -->",
        False,
    ),
    (tidy.dependencies_say_why, "pyproject.toml", PROJECT.format(","), True),
    (tidy.dependencies_say_why, "pyproject.toml", PROJECT.format(', "x>1",  # two'), True),
    (tidy.dependencies_say_why, "pyproject.toml", PROJECT.format(",  # the log's store"), False),
]


@pytest.mark.parametrize(
    ("rule", "path", "text", "breaks"), PLANTED, ids=[f"{p[0].__name__}-{n}" for n, p in enumerate(PLANTED)]
)
def test_rule_sees(rule: Rule, path: str, text: str, breaks: bool) -> None:
    assert {violation.path for violation in rule(Tree({path: text}))} == ({path} if breaks else set())


def test_every_rule_is_tested_both_ways() -> None:
    for rule in set(RULES) - {tidy.exceptions_are_alive}:
        assert {breaks for each, _, _, breaks in PLANTED if each is rule} == {True, False}, rule.__name__


def test_a_dead_exception_is_told() -> None:
    assert len(list(tidy.exceptions_are_alive(Tree({})))) == len(tidy.CATCHES_ALL) + len(tidy.NOT_IMPORTED)


def test_a_module_imported_by_another_is_used() -> None:
    files = {"domain/a.py": "", "service/main.py": "from domain import a"}
    assert not list(tidy.every_module_is_used(Tree(files)))
    files = {"domain/a.py": "", "tests/unit/a.py": "from domain import a"}
    assert [v.path for v in tidy.every_module_is_used(Tree(files))] == ["domain/a.py"]


def test_a_file_that_is_no_python_is_left_to_the_linter() -> None:
    tree = Tree({"domain/a.py": "def ("})
    assert not [violation for rule in RULES[:8] for violation in rule(tree)]


def test_a_violation_is_where_an_editor_finds_it() -> None:
    assert str(Violation("domain/a.py", 3, "no")) == "domain/a.py:3: no"


def test_the_root_is_the_repository() -> None:
    assert (ROOT / "pyproject.toml").exists()


NAMED = re.compile(r"`?((?:[\w.-]+/)+[\w-]+\.py): ?`?(\w+)")


def test_readme_names_what_exists(tree: Tree) -> None:
    """Promises and walks name their tests and functions; a name that moved is a promise that nothing enforces."""
    readme = tree.files["README.md"]
    named = NAMED.findall(readme)
    gone = [f"{path}: {name}" for path, name in named if not re.search(rf"\b{name}\b", tree.files.get(path, ""))]
    assert len(named) >= 20
    assert gone == []

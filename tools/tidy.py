"""The house rules, each a function of the repository's files; `python -m tools.tidy` names what breaks them.

A rule takes a `Tree` and yields violations, so that each can be tested on a planted one. What the rules say stands in
their docstrings; exceptions are tables here, each with its reason. The formatter, the linter and the type checker are
`check_tool`.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES_MAX = 60
SOURCE = ("domain", "adapters", "service", "tools")
COMPOSITION = ("service/main.py", "service/wiring.py")
"""The composition root: the only modules that name adapters and service."""

DOMAIN_STDLIB = frozenset({"dataclasses", "enum", "typing", "collections", "collections.abc", "types"})

# fmt: off
CATCHES_ALL: Mapping[tuple[str, str], str] = {
    ("adapters/log/codec.py", "_unpack"):       "msgpack raises a dozen classes of its own on hostile bytes",
    ("adapters/log/record.py", "parse"):        "as in codec",
    ("adapters/log/checkpoint.py", "unpack"):   "as in codec",
    ("adapters/log/writer.py", "_transact"):        "the writer thread must tell its waiters, whatever ended it",
    ("adapters/images/threads.py", "body"):     "a thread hands its error to the loop that waits for it",
    ("adapters/network/watcher.py", "_look_now"): "a look that fails must not be the last one",
    ("adapters/network/watcher.py", "_asked"):  "as above",
    ("adapters/network/threads.py", "body"):    "a thread hands its error to the loop that waits for it",
    ("adapters/oci/namespaces.py", "work"):    "a thread hands its error to the one that waits for it",
    ("adapters/oci/threads.py", "work"):        "a thread hands its error to the loop that waits for it",
    ("service/daemon.py", "_every"):            "a routine that fails is told and tried again at its next turn",
    ("service/handlers.py", "handle"):          "an unforeseen error of an effect that can fail is told as its failure",
    ("service/handlers.py", "_not_released"):   "a stop must end, whatever a plugin answered",
    ("service/runner.py", "_run_effect"):       "the lane: an unforeseen error of one effect must not end the daemon",
    ("service/runner.py", "_run_watch"):        "the lane: as above, and the watch begins anew",
}
"""(path, function) that may catch Exception without raising it again, and why."""

NOT_IMPORTED: Mapping[str, str] = {
    "service/main.py":            "the console script of pyproject.toml",
    "adapters/log/memory.py":     "the log's verified twin, for the tests of what stands above it",
    "adapters/log/recorder.py":   "named by topic: the eventsourcing library's infrastructure factory",
    "adapters/log/mapper.py":     "named by topic: MAPPER_TOPIC of the eventsourcing library",
}
"""Modules that no other module imports. Fakes (`fake.py`, `fakes.py`) need no entry: tests import them."""

SPEAKS_GRPC: Mapping[str, str] = {
    "tools/demo_steps/stage.py":  "a client of the daemon, as a kubelet is",
    "tools/genproto.py":          "makes proto/ and prints its wire contract",
}
"""Tools that may import grpc, proto and adapters/cri, and why."""
# fmt: on

SHARED = frozenset({"adapters.children", "adapters.mountinfo"})
"""What every adapter may import besides itself: a folder for it stands where all of the kernel has one."""

STARTS = ("adapters/children.py", "adapters/host/fitness.py")
"""Who starts processes: the daemon's children come from the first; `daybook check` has nothing to hand on."""

STARTING = (
    *(f"subprocess.{name}" for name in ("Popen", "run", "call", "check_call", "check_output")),
    *(f"os.{name}" for name in ("posix_spawn", "posix_spawnp", "system", "popen")),
    *(f"asyncio.create_subprocess_{name}" for name in ("exec", "shell")),
)
FORBIDDEN_NAMES = ("os.fork", "preexec_fn", "multiprocessing")
MACHINE_PATHS = re.compile(r"/wor[k]/|/tm[p]/v\d|/hom[e]/\w|/User[s]/\w")
PACKAGE_HOSTS = re.compile(r"(?i)pyp[i]\.|pythonhoste[d]|artifactor[y]|jfro[g]|index-ur[l]")


@dataclass(frozen=True, slots=True)
class Violation:
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Tree:
    """Text files by their path from the root."""

    files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def modules(self) -> Mapping[str, ast.Module]:
        """Python files that can be parsed; the rest is the linter's."""
        parsed = {path: _parse(text) for path, text in self.files.items() if path.endswith(".py")}
        return {path: module for path, module in parsed.items() if module is not None}

    def below(self, *folders: str) -> Iterator[tuple[str, ast.Module]]:
        return ((p, m) for p, m in self.modules.items() if p.split("/", 1)[0] in folders)


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def read_tree(root: Path = ROOT) -> Tree:
    """What git tracks or would track, as far as it is text and still there."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    files = {}
    for name in filter(None, names):
        try:
            files[name] = (root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return Tree(files)


# --- imports ---------------------------------------------------------------------------------------------------------


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported module, absolutely named; `from x import y` names both x and x.y."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _direct(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Imported modules as they are written after `import` or `from`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "."


def domain_is_pure(tree: Tree) -> Iterator[Violation]:
    """The domain imports the domain and a few modules of the standard library that hold values: no clock, no I/O."""
    for path, module in tree.below("domain"):
        for line, name in _direct(module):
            if name.split(".")[0] != "domain" and name not in DOMAIN_STDLIB:
                yield Violation(path, line, f"the domain imports {name}; it may import domain and {_allowed()}")


def _allowed() -> str:
    return ", ".join(sorted(DOMAIN_STDLIB))


def adapters_stand_alone(tree: Tree) -> Iterator[Violation]:
    """An adapter imports the domain, itself and what is SHARED: neither the service nor another adapter nor tools."""
    for path, module in tree.below("adapters"):
        own = ".".join(path.split("/")[:2])
        foreign = {line: name for line, name in imports(module) if _is_foreign(name, own)}
        for line, name in foreign.items():
            yield Violation(path, line, f"{own} imports {name}; what an adapter needs of others is handed to it")


def _is_foreign(name: str, own: str) -> bool:
    top = name.split(".")[0]
    return top in ("service", "tools", "tests") or (
        top == "adapters" and name not in ("adapters", *SHARED) and not f"{name}.".startswith(f"{own}.")
    )


def only_cri_speaks_grpc(tree: Tree) -> Iterator[Violation]:
    """Only adapters/cri and what SPEAKS_GRPC names import grpc and proto."""
    for path, module in tree.below(*SOURCE):
        if path.startswith("adapters/cri/") or path in SPEAKS_GRPC:
            continue
        for line, name in _direct(module):
            if name.split(".")[0] in ("grpc", "proto", "google"):
                yield Violation(path, line, f"{name} is imported outside adapters/cri")


def service_knows_no_adapter(tree: Tree) -> Iterator[Violation]:
    """The service imports the domain, itself and the standard library; only the composition root names adapters."""
    for path, module in tree.below("service"):
        if path in COMPOSITION:
            continue
        for line, name in _direct(module):
            top = name.split(".")[0]
            if top not in ("domain", "service") and top not in sys.stdlib_module_names:
                yield Violation(path, line, f"the service imports {name}; only {' and '.join(COMPOSITION)} may")


def tools_read_the_log(tree: Tree) -> Iterator[Violation]:
    """Tools import the domain, each other and adapters/log; a tool that starts the daemon does so as a program."""
    for path, module in tree.below("tools"):
        for line, name in _direct(module):
            own = ("adapters.log", "adapters.cri") if path in SPEAKS_GRPC else ("adapters.log",)
            foreign = name.startswith("adapters.") and not name.startswith(own)
            if foreign or name.split(".")[0] in ("service", "tests"):
                yield Violation(path, line, f"a tool imports {name}; it may import domain, tools and adapters.log")


def every_module_is_used(tree: Tree) -> Iterator[Violation]:
    """Every module of domain, adapters and service is imported by another one that is no test, or says why not."""
    named = {name for path, module in tree.below(*SOURCE) for _, name in imports(module) if _module_name(path) != name}
    for path, _ in tree.below("domain", "adapters", "service"):
        stem = path.rsplit("/", 1)[-1]
        if stem in ("__init__.py", "fake.py", "fakes.py") or path in NOT_IMPORTED:
            continue
        if _module_name(path) not in named:
            yield Violation(path, 1, "no module imports it: delete it, or name it in tools/tidy.py with a reason")


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# --- form ------------------------------------------------------------------------------------------------------------


def functions_are_short(tree: Tree) -> Iterator[Violation]:
    """A function has at most 60 lines, its docstring not counted."""
    for path, module in tree.below(*SOURCE):
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _lines(node) > FUNCTION_LINES_MAX:
                yield Violation(
                    path, node.lineno, f"{node.name} has {_lines(node)} lines, {FUNCTION_LINES_MAX} at most"
                )


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    count = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        count -= (first.end_lineno or first.lineno) - first.lineno + 1
    return count


def modules_say_what_they_are(tree: Tree) -> Iterator[Violation]:
    """Every source module begins with a docstring: what lives there, what must not, what it keeps."""
    for path, module in tree.below(*SOURCE):
        if not ast.get_docstring(module):
            yield Violation(path, 1, "the module has no docstring")


def nothing_catches_all(tree: Tree) -> Iterator[Violation]:
    """`except Exception`, `BaseException` and bare `except` raise again, or are named in CATCHES_ALL with a reason."""
    for path, module in tree.below(*SOURCE):
        for function, handler in _handlers(module):
            raises = any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)
            if _catches_all(handler) and not raises and (path, function) not in CATCHES_ALL:
                text = f"{function} catches everything; name the errors, or the reason in tools/tidy.py"
                yield Violation(path, handler.lineno, text)


def _handlers(module: ast.Module) -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Each handler once, with the innermost function around it."""

    def inside(node: ast.AST, name: str) -> Iterator[tuple[str, ast.ExceptHandler]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ExceptHandler):
                yield name, child
            own = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else name
            yield from inside(child, own)

    return inside(module, "<module>")


def _catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(k is None or (isinstance(k, ast.Name) and k.id in ("Exception", "BaseException")) for k in kinds)


def exceptions_are_alive(tree: Tree) -> Iterator[Violation]:
    """What CATCHES_ALL and NOT_IMPORTED name exists: a dead entry would cover the next one of that name."""
    for path, function in CATCHES_ALL:
        module = tree.modules.get(path)
        if module is None or not any(f == function and _catches_all(h) for f, h in _handlers(module)):
            yield Violation("tools/tidy.py", 1, f"CATCHES_ALL names {path} {function}, which does not catch all")
    for path in NOT_IMPORTED:
        if path not in tree.files:
            yield Violation("tools/tidy.py", 1, f"NOT_IMPORTED names {path}, which does not exist")


# --- what must not stand anywhere ------------------------------------------------------------------------------------


def nothing_forks(tree: Tree) -> Iterator[Violation]:
    """gRPC and fork do not go together: no os.fork, no preexec_fn, no multiprocessing, anywhere."""
    for path, module in tree.modules.items():
        for node in ast.walk(module):
            found = _forks(node)
            if found:
                yield Violation(path, getattr(node, "lineno", 1), f"{found} is used; start a program instead")


def _forks(node: ast.AST) -> str:
    match node:
        case ast.keyword(arg=str(name)):
            names = [name]
        case ast.Attribute() | ast.Name():
            names = [ast.unparse(node)]
        case ast.Import(names=aliases):
            names = [alias.name.split(".")[0] for alias in aliases]
        case ast.ImportFrom(module=str(module), names=aliases):
            names = [module.split(".")[0], *(f"{module}.{alias.name}" for alias in aliases)]
        case _:
            names = []
    return next((name for name in names if name in FORBIDDEN_NAMES), "")


def children_have_one_origin(tree: Tree) -> Iterator[Violation]:
    """What a child of the daemon inherits is written once: only STARTS names what starts a process."""
    for path, module in tree.below("adapters", "service", "domain"):
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTING and path not in STARTS:
                yield Violation(path, node.lineno, f"{ast.unparse(node.func)}: adapters/children.py starts processes")


def no_machine_is_named(tree: Tree) -> Iterator[Violation]:
    """No path of a developer's machine and no host of a package index in a tracked file."""
    for path, text in tree.files.items():
        for number, line in enumerate(text.splitlines(), 1):
            for pattern, what in ((MACHINE_PATHS, "a path of one machine"), (PACKAGE_HOSTS, "a package index")):
                if found := pattern.search(line):
                    yield Violation(path, number, f"{found.group()!r} is {what}")


def tables_are_written_once(tree: Tree) -> Iterator[Violation]:
    """README has no table of events, states or recovery rows outside the generated part."""
    outside = re.sub(
        r"<!-- lifecycle:begin -->.*?<!-- lifecycle:end -->", _blank, tree.files.get("README.md", ""), flags=re.S
    )
    for number, line in enumerate(outside.splitlines(), 1):
        if line.lstrip().startswith("|") and re.search(r"`(container|sandbox|image)\.\w+`|\|\s*@[A-Z]{1,2}\s*\|", line):
            yield Violation("README.md", number, "a lifecycle table by hand; `python -m tools.lifecycle` writes it")


def _blank(found: re.Match[str]) -> str:
    return "\n" * found.group().count("\n")


def dependencies_say_why(tree: Tree) -> Iterator[Violation]:
    """Every dependency stands on its own line of pyproject.toml with a comment that says what it is for."""
    text = tree.files.get("pyproject.toml", "")
    project = tomllib.loads(text).get("project", {})
    groups = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    wanted = {each for group in groups for each in group}
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'\s*"([^"]+)",?\s*(#\s*\S.*)?$', line)
        if found and found.group(1) in wanted:
            wanted.discard(found.group(1))
            if not found.group(2):
                yield Violation("pyproject.toml", number, f"{found.group(1)} does not say what it is for")
    for each in sorted(wanted):
        yield Violation("pyproject.toml", 1, f"{each} does not stand on a line of its own")


# --- all of them -----------------------------------------------------------------------------------------------------

Rule = Callable[[Tree], Iterator[Violation]]

RULES: tuple[Rule, ...] = (
    domain_is_pure,
    adapters_stand_alone,
    only_cri_speaks_grpc,
    service_knows_no_adapter,
    tools_read_the_log,
    every_module_is_used,
    functions_are_short,
    modules_say_what_they_are,
    nothing_catches_all,
    exceptions_are_alive,
    nothing_forks,
    children_have_one_origin,
    no_machine_is_named,
    tables_are_written_once,
    dependencies_say_why,
)

TOOLS: Mapping[str, Sequence[str]] = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "mypy": ("mypy",),
}


def check_tool(arguments: Sequence[str], root: Path = ROOT) -> str:
    """What a tool complains about, or an empty string. A tool that is not there complains too."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=root, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"{arguments[0]} failed silently"


def main() -> int:
    """Prints every violation; 1 where there is one."""
    tree = read_tree()
    found = [str(violation) for rule in RULES for violation in rule(tree)]
    found += [f"{name}:\n{text}" for name, arguments in TOOLS.items() if (text := check_tool(arguments))]
    for each in found:
        sys.stdout.write(f"{each}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

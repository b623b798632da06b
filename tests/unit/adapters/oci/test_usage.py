"""What is read of a cgroup, v1 and v2; of a real container: conformance/test_tasks.py."""

from pathlib import Path

import pytest

from adapters.oci import cgroups, usage
from adapters.oci.cgroups import Hierarchies

V1 = {
    "cpuacct/pod/c/cpuacct.usage": "1234567\n",
    "memory/pod/c/memory.usage_in_bytes": "4096000\n",
    "memory/pod/c/memory.limit_in_bytes": "8192000\n",
    "memory/pod/c/memory.stat": "cache 1\ntotal_rss 2048000\ntotal_inactive_file 96000\ntotal_pgfault 7\n"
    "total_pgmajfault 2\nodd\n",
}
V2 = {
    "pod/c/cpu.stat": "usage_usec 1234\nuser_usec 1000\n",
    "pod/c/memory.current": "4096000\n",
    "pod/c/memory.max": "max\n",
    "pod/c/memory.stat": "anon 2048000\ninactive_file 5000000\npgfault 7\npgmajfault 2\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    both = {"memory": str(tmp_path / "memory"), "cpuacct": str(tmp_path / "cpuacct")}
    monkeypatch.setattr(cgroups, "hierarchies", lambda: Hierarchies(both, ""))
    write(tmp_path, V1)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_first_version(root: Path) -> None:
    used = usage.read("/pod/c")
    assert used is not None and used.at_ns > 0
    assert (used.cpu_ns, used.memory, used.rss, used.limit) == (1234567, 4096000, 2048000, 8192000)
    assert (used.working_set, used.page_faults, used.major_page_faults) == (4000000, 7, 2)


def test_no_limit_is_none(root: Path) -> None:
    write(root, {"memory/pod/c/memory.limit_in_bytes": "9223372036854771712\n"})
    used = usage.read("/pod/c")
    assert used is not None and used.limit == 0


def test_the_second_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: Hierarchies({}, str(tmp_path)))
    write(tmp_path, V2)
    used = usage.read("/pod/c")
    assert used is not None
    assert (used.cpu_ns, used.memory, used.rss, used.limit) == (1234000, 4096000, 2048000, 0)
    assert used.working_set == 0, "more inactive pages than use: two moments"


@pytest.mark.parametrize("path", ["/pod/gone", "", "/"])
def test_what_is_gone_has_no_usage(root: Path, path: str) -> None:
    assert usage.read(path) is None


def test_a_controller_that_is_not_mounted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: Hierarchies({"memory": str(root / "memory")}, ""))
    assert usage.read("/pod/c") is None

"""helpers: the ledger's mark, and who holds which pipe."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from adapters.oci import helpers
from adapters.oci.layout import ExecPaths, Layout

CON = "c" * 64


@pytest.fixture
def paths(tmp_path: Path) -> ExecPaths:
    made = Layout(str(tmp_path / "d"), str(tmp_path / "r"), "0" * 32).exec(CON, "abcd-1")
    os.makedirs(made.directory)
    return made


async def ignored(paths: ExecPaths, cgroup: str) -> None:
    pass


@pytest.mark.parametrize("text", ["", "/daybook/other", "/daybook/exec-abcd-2", "\udcff"])
def test_only_its_own_mark_keeps_it(paths: ExecPaths, text: str) -> None:
    async def body() -> None:
        kept = helpers.Helpers(ignored)
        assert not kept.adopt(paths)
        Path(paths.kept).write_bytes(text.encode(errors="surrogateescape"))
        assert not kept.adopt(paths)

    asyncio.run(body())


def test_its_arguments_are_not_kept(paths: ExecPaths) -> None:
    removed = []

    async def remove(of: ExecPaths, cgroup: str) -> None:
        removed.append((of, cgroup))

    async def body() -> None:
        kept = helpers.Helpers(remove)
        for path in (paths.spec, paths.log, paths.process):
            Path(path).touch()
        assert kept.keep(paths, f"/daybook/{CON}/{paths.cgroup}") and kept.adopt(paths)
        assert sorted(os.listdir(paths.directory)) == ["kept", "process"]
        # No such cgroup: its last member has ended.
        await asyncio.gather(*(task for _, task in kept._kept.values()))
        assert removed == [(paths, f"/daybook/{CON}/{paths.cgroup}")] and not kept._kept

    asyncio.run(body())


def test_a_ledger_that_cannot_be_written_keeps_nothing(paths: ExecPaths) -> None:
    os.rmdir(paths.directory)
    assert not helpers.Helpers(ignored).keep(paths, f"/daybook/{CON}/{paths.cgroup}")


def test_who_holds_a_pipe() -> None:
    read, write = os.pipe()
    child = subprocess.Popen(["sleep", "1000"], stdout=write)
    try:
        inode = os.fstat(read).st_ino
        assert inode in (helpers.pipes(os.getpid()) or set())
        assert helpers.pipes(child.pid) is not None and inode in (helpers.pipes(child.pid) or set())
        os.close(write)
        os.close(read)
        assert inode not in (helpers.pipes(os.getpid()) or set())
    finally:
        child.kill()
        child.wait()
    assert helpers.pipes(child.pid) == set()


def test_one_with_too_many_descriptors_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "DESCRIPTORS_MAX", 1)
    assert helpers.pipes(os.getpid()) is None

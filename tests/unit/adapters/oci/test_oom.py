"""oom: the wait on files as v2 has them (inotify works on any file); v1's needs a real cgroup, see conformance."""

import asyncio
import os
from pathlib import Path

import pytest

from adapters.oci import cgroups, kernel, oom
from domain.records import Process


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: cgroups.Hierarchies({}, str(tmp_path)))
    return tmp_path


def write(root: Path, name: str, kills: int, ceiling: int = 0) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "memory.events").write_text(f"low 0\nhigh 0\nmax {ceiling}\noom {kills}\noom_kill {kills}\n")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def soon(waiting: "asyncio.Future[int]") -> int:
    return await asyncio.wait_for(waiting, 5)


async def turns() -> None:
    """Long enough for the first looks."""
    await asyncio.sleep(0.02)


def test_each_hears_of_its_own(v2: Path) -> None:
    async def body() -> None:
        ooms, before = oom.Ooms(), descriptors()
        for name in "abc":
            write(v2, name, 5)
        waiting = {name: asyncio.ensure_future(ooms.grown(f"/{name}", 5)) for name in "abc"}
        await turns()
        assert descriptors() == before + 1, "one for all"
        write(v2, "b", 7)
        assert await soon(waiting["b"]) == 7
        assert not waiting["a"].done() and not waiting["c"].done()
        again = asyncio.ensure_future(ooms.grown("/b", 7))
        write(v2, "a", 6)
        write(v2, "b", 8)
        assert (await soon(waiting["a"]), await soon(again)) == (6, 8)
        waiting["c"].cancel()
        await asyncio.wait([waiting["c"]])
        assert descriptors() == before, "none where nobody waits"

    asyncio.run(body())


def test_two_may_wait_for_one(v2: Path) -> None:
    async def body() -> None:
        ooms = oom.Ooms()
        write(v2, "a", 0)
        first, second = (asyncio.ensure_future(ooms.grown("/a", 0)) for _ in range(2))
        await turns()
        first.cancel()
        await asyncio.wait([first])
        write(v2, "a", 1)
        assert await soon(second) == 1

    asyncio.run(body())


def test_what_was_before_is_told_at_once(v2: Path) -> None:
    write(v2, "a", 3)
    assert asyncio.run(asyncio.wait_for(oom.Ooms().grown("/a", 2), 5)) == 3


def test_rings_for_less_are_no_kill_and_cost_few_looks(v2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container at its limit rings up to 100 times a second."""
    looks, real = [], cgroups.oom_kills
    monkeypatch.setattr(cgroups, "oom_kills", lambda path: looks.append(path) or real(path))

    async def body() -> None:
        write(v2, "a", 0)
        waiting = asyncio.ensure_future(oom.Ooms().grown("/a", 0))
        for ceiling in range(100):
            write(v2, "a", 0, ceiling)
            await asyncio.sleep(0.005)
        assert not waiting.done() and len(looks) <= 2 + len(oom.LOOKS_S)
        write(v2, "a", 1)
        assert await soon(waiting) == 1

    asyncio.run(body())


def test_what_the_kernel_dropped_rings_all(v2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped, read = oom.EVENT.pack(3000, 2, 0, 8) + b"x" * 8 + oom.EVENT.pack(-1, 0x4000, 0, 0), os.read

    async def body() -> None:
        ooms = oom.Ooms()
        write(v2, "a", 0)
        waiting = asyncio.ensure_future(ooms.grown("/a", 0))
        await turns()
        (bells,) = ooms._bells.values()
        assert not bells[0].is_set()
        monkeypatch.setattr(os, "read", lambda fd, size: dropped if fd == ooms._inotify else read(fd, size))
        ooms._rings()
        assert bells[0].is_set()
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(body())


@pytest.mark.parametrize("cgroup", ["/none", "", "/"])
def test_where_nothing_can_be_watched_nothing_is_told(v2: Path, cgroup: str) -> None:
    async def body() -> None:
        before, ooms = descriptors(), oom.Ooms()
        waiting = asyncio.ensure_future(ooms.grown(cgroup, 0))
        await turns()
        assert not waiting.done() and descriptors() == before
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(body())


SAYS = b"<3>[  5.1] Memory cgroup out of memory: Killed process 4242 (dd) total-vm:1kB, oom_score_adj:0\n"


@pytest.mark.parametrize(
    ("pid", "code", "killed"), [(4242, 137, True), (424, 137, False), (42421, 137, False), (4242, 1, False)]
)
def test_where_the_counter_has_gone_the_kernels_log_tells(
    monkeypatch: pytest.MonkeyPatch, pid: int, code: int, killed: bool
) -> None:
    monkeypatch.setattr(kernel, "last_messages", lambda size: b"<6>[  5.0] other\n" + SAYS)
    assert oom.at_end(Process(pid, 1, "boot"), code, "/nonexistent") == killed
    assert not oom.at_end(None, code, "/nonexistent")


@pytest.mark.parametrize("noted", [False, True])
def test_where_that_cannot_be_read_conmons_note_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, noted: bool
) -> None:
    def refused(size: int) -> bytes:
        raise PermissionError

    monkeypatch.setattr(kernel, "last_messages", refused)
    if noted:
        (tmp_path / "oom").touch()
    assert oom.at_end(Process(4242, 1, "boot"), 137, str(tmp_path / "oom")) == noted


def test_v1_without_the_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: cgroups.Hierarchies({"cpu": str(tmp_path)}, ""))

    async def body() -> None:
        before = descriptors()
        waiting = asyncio.ensure_future(oom.Ooms().grown("/a", 0))
        await turns()
        assert not waiting.done() and descriptors() == before
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(body())

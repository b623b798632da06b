"""Every change of the configuration directory is noticed, however it comes about."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from adapters.network.conf import Loaded, NetworkConfig
from adapters.network.watcher import Inotify, Watcher, watches
from domain.errors import TimedOut


class Directory:
    """A watcher over a directory; a look is the names that lie there."""

    def __init__(self, path: Path, poll_s: float = 600) -> None:
        self.path = path
        self.seen: list[str] = []
        self.watcher = Watcher([str(path)], self.look, self.status, poll_s)

    async def look(self) -> Loaded:
        found = sorted(str(p.relative_to(self.path)) for p in self.path.rglob("*")) if self.path.is_dir() else ["gone"]
        self.seen.append(",".join(found))
        return Loaded(problem=self.seen[-1])

    async def status(self, loaded: Loaded) -> str:
        return ""

    async def until(self, names: str) -> None:
        async with asyncio.timeout(10):
            while self.watcher.problem != names:
                await self.watcher.looked()


def watched_inodes(directory: Directory) -> set[int]:
    """What the kernel watches for a watcher."""
    assert directory.watcher._inotify is not None
    lines = Path(f"/proc/self/fdinfo/{directory.watcher._inotify.fd}").read_text().splitlines()
    return {int(line.split("ino:")[1].split()[0], 16) for line in lines if line.startswith("inotify")}


def run(path: Path, body: Callable[[Directory], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        directory = Directory(path)
        await directory.watcher.start()
        try:
            await body(directory)
        finally:
            await directory.watcher.close()

    asyncio.run(whole())


def test_files_come_go_and_are_renamed(tmp_path: Path) -> None:
    async def body(directory: Directory) -> None:
        (tmp_path / "a").touch()
        await directory.until("a")
        (tmp_path / "a").rename(tmp_path / "b")
        await directory.until("b")
        (tmp_path / "net").mkdir()
        await directory.until("b,net")
        (tmp_path / "net/c").touch()
        await directory.until("b,net,net/c")
        (tmp_path / "b").unlink()
        await directory.until("net,net/c")

    run(tmp_path, body)


def test_the_directory_vanishes_and_comes_back(tmp_path: Path) -> None:
    there = tmp_path / "a/b/net.d"

    async def body(directory: Directory) -> None:
        await directory.until("gone")
        there.mkdir(parents=True)
        await directory.until("")
        (there / "x").touch()
        await directory.until("x")
        (tmp_path / "a").rename(tmp_path / "away")
        await directory.until("gone")
        (tmp_path / "away").rename(tmp_path / "a")
        await directory.until("x")
        (there / "x").unlink()
        await directory.until("")
        there.rmdir()
        await directory.until("gone")

    run(there, body)


def test_another_directory_takes_its_place(tmp_path: Path) -> None:
    there, other = tmp_path / "net.d", tmp_path / "other"
    there.mkdir()
    other.mkdir()

    async def body(directory: Directory) -> None:
        (other / "new").touch()
        there.rename(tmp_path / "old")
        other.rename(there)
        await directory.until("new")
        (there / "seen").touch()
        await directory.until("new,seen")
        # The old one is watched no longer: what happens there is nobody's business.
        watched = watched_inodes(directory)
        assert there.stat().st_ino in watched and (tmp_path / "old").stat().st_ino not in watched

    run(there, body)


def test_many_changes_are_few_looks(tmp_path: Path) -> None:
    async def body(directory: Directory) -> None:
        for number in range(500):
            (tmp_path / f"{number:03}").touch()
        await directory.until(",".join(f"{number:03}" for number in range(500)))
        assert len(directory.seen) < 10

    run(tmp_path, body)


def test_the_poll_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inotify, "set_watches", lambda self, wanted: None)

    async def whole() -> None:
        directory = Directory(tmp_path, poll_s=0.01)
        await directory.watcher.start()
        (tmp_path / "a").touch()
        await directory.until("a")
        await directory.watcher.close()

    asyncio.run(whole())


def test_status_is_kept_and_failures_are_told() -> None:
    async def whole() -> None:
        loaded = [Loaded(NetworkConfig("n", "1.1.0", ()))]
        answers: list[Any] = ["", "not yet", TimedOut("too slow")]

        async def look() -> Loaded:
            return loaded[0]

        async def status(_: Loaded) -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        watcher = Watcher(["/"], look, status, 600)
        assert "not been looked at" in watcher.problem
        await watcher.start()
        for told in ("not yet", "too slow"):
            watcher.wake()
            await watcher.looked()
            assert watcher.problem == told
        loaded[0] = Loaded(NetworkConfig("n", "1.1.0", ()), "plugin gone")
        watcher.wake()
        await watcher.looked()
        assert watcher.problem == "plugin gone"
        await watcher.close()

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_no_look_is_the_last_one() -> None:
    """A fault of ours while looking or asking is told, and the next look comes all the same."""

    async def whole() -> None:
        good = Loaded(NetworkConfig("n", "1.1.0", ()))
        looks: list[Any] = [good, ValueError("a bug"), good, good]
        answers: list[Any] = ["", KeyError("another"), ""]

        async def next_of(queue: list[Any]) -> Any:
            found = queue.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        watcher = Watcher(["/"], lambda: next_of(looks), lambda _: next_of(answers), 600)
        await watcher.start()
        for told in ("ValueError", "KeyError", ""):
            watcher.wake()
            await watcher.looked()
            assert told in watcher.problem and bool(told) == bool(watcher.problem)
        await watcher.close()

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_close_gives_everything_back(tmp_path: Path) -> None:
    async def body() -> None:
        for _ in range(3):
            directory = Directory(tmp_path)
            await directory.watcher.close()
            await directory.watcher.start()
            await directory.watcher.close()
            await directory.watcher.close()
        assert len(asyncio.all_tasks()) == 1
        assert not [p for p in Path("/proc/self/fd").iterdir() if "inotify" in str(p.resolve())]

    asyncio.run(body())


def test_what_is_watched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    paths = [path for path, _ in watches([str(tmp_path / "a/b/c")])]
    assert paths[0] == str(tmp_path / "a") and str(tmp_path) in paths and "/" in paths

"""The event log on this machine's disk, synced as in production: appends by one and by many, and replay."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from adapters.log.lmdb_log import LmdbLog
from domain.events import ContainerExited, container_key
from domain.fold import fold
from domain.records import Draft, Evidence
from tests.bench import lives
from tests.bench.rows import Row, spread

WRITERS = (1, 8, 64)
EVENT = ContainerExited(0, lives.NOW.wall_ns, Evidence("exit-file"))


def rows(directory: Path, quick: bool) -> Iterator[Row]:
    yield spread("Appends", "the disk alone: write and fdatasync of 4 KiB", _syncs(directory / "sync", 300))
    for writers in WRITERS:
        with closing(LmdbLog(directory / f"append-{writers}")) as log:
            yield from asyncio.run(_appends(log, writers, 1.0 if quick else 4.0))
    yield from _replays(directory / "replay", 100_000 if quick else 1_000_000, 3)


def _syncs(path: Path, count: int) -> list[float]:
    found = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - begun) * 1e3)
    return found


async def _appends(log: LmdbLog, writers: int, seconds: float) -> list[Row]:
    """Each writer appends one event after the other: a lane waits for its own appends only."""
    begun = time.perf_counter()
    found = await asyncio.gather(*(_writer(log, each, begun + seconds) for each in range(writers)))
    took, samples = time.perf_counter() - begun, [sample for each in found for sample in each]
    name = f"{writers} writer{'s' if writers > 1 else ''}"
    rate = Row("Appends", f"{name}: appends per second", f"{len(samples) / took:,.0f}", (len(samples) / took,), "1/s")
    return [rate, spread("Appends", f"{name}: latency", samples)]


async def _writer(log: LmdbLog, number: int, until: float) -> list[float]:
    samples, key, version = [], container_key(f"{number:064x}"), 0
    while (begun := time.perf_counter()) < until:
        version += 1
        await log.append([Draft(key, version, EVENT)], lives.CAUSE, lives.NOW)
        samples.append((time.perf_counter() - begun) * 1e3)
    return samples


def _replays(directory: Path, count: int, rounds: int) -> Iterator[Row]:
    begun = time.perf_counter()
    with closing(LmdbLog(directory)) as log:
        lives.fill(log, count)
    filled, size = time.perf_counter() - begun, (directory / "data.mdb").stat().st_size
    events, took = 0, []
    for _ in range(rounds):
        events, seconds = _replay(directory)
        took.append(seconds)
    group, best = "Replay", sorted(took)[rounds // 2]
    rates = tuple(events / each for each in took)
    yield Row(group, "read, check and fold: events per second", f"{events / best:,.0f}", rates, "1/s")
    yield Row(group, f"the whole log of {events:,} events", f"{best:.1f} s, median of {rounds}", tuple(took), "s")
    told = f"{size / 2**20:,.0f} MiB, {size / events:.0f} bytes per event with all indexes; written in {filled:.0f} s"
    yield Row(group, "its file", told, (size,), "bytes")


def _replay(directory: Path) -> tuple[int, float]:
    begun = time.perf_counter()
    with closing(LmdbLog(directory)) as log:
        done = fold(log.read())
        took = time.perf_counter() - begun
    assert done.whole, done.broken[:3]
    return done.seq, took

"""What a pod costs on a real daemon: time of each call, events, bytes and commits; memory; and the daemon's start."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from adapters.log.lmdb_log import LmdbLog
from tests.bench import lives
from tests.bench.daemon import Daemon, imports_ms, pss_kib
from tests.bench.rows import Row, spread

T = TypeVar("T")
EVENTS = 10_000
HELD = 5
STEPS = ("RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "StopPodSandbox")
STEPS += ("RemovePodSandbox",)


def rows(directory: Path, quick: bool) -> Iterator[Row]:
    yield from _starts(directory, 3 if quick else 7)
    daemon = Daemon(directory / "pods")
    try:
        daemon.start()
        yield from _idle(daemon)
        daemon.load_image()
        yield from _cost(daemon)
        yield from _lives(daemon, 5 if quick else 20)
        yield from _held(daemon)
        daemon.stop()
    finally:
        daemon.end()


# --- start -----------------------------------------------------------------------------------------------------------


def _starts(directory: Path, rounds: int) -> Iterator[Row]:
    group = "Start of the daemon to its first answer"
    yield spread(group, "Python's start and imports, of it", [imports_ms() for _ in range(rounds)])
    yield spread(group, "fresh log", [_start(directory / f"fresh-{n}", 0) for n in range(rounds)])
    yield spread(group, f"log of {EVENTS:,} events", [_start(directory / f"old-{n}", EVENTS) for n in range(rounds)])


def _start(directory: Path, events: int) -> float:
    daemon = Daemon(directory)
    if events:
        with closing(LmdbLog(daemon.log)) as log:
            lives.fill(log, events)
    try:
        took = daemon.start() * 1e3
        daemon.stop()
    finally:
        daemon.end()
    return took


# --- one life --------------------------------------------------------------------------------------------------------


def _life(daemon: Daemon, name: str, timed: "Timed") -> None:
    """As the kubelet does it, one call after the other; the stop has no grace: `sleep` does not heed SIGTERM as pid 1."""
    pod = timed("RunPodSandbox", lambda: daemon.run_pod(name))
    container = timed("CreateContainer", lambda: daemon.create(pod))
    timed("StartContainer", lambda: daemon.call("StartContainer", container_id=container))
    timed("StopContainer", lambda: daemon.call("StopContainer", container_id=container))
    timed("RemoveContainer", lambda: daemon.call("RemoveContainer", container_id=container))
    timed("StopPodSandbox", lambda: daemon.call("StopPodSandbox", pod_sandbox_id=pod))
    timed("RemovePodSandbox", lambda: daemon.call("RemovePodSandbox", pod_sandbox_id=pod))


class Timed:
    """Calls, and keeps the milliseconds by name."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {name: [] for name in STEPS}

    def __call__(self, name: str, what: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = what()
        self.samples[name].append((time.perf_counter() - begun) * 1e3)
        return result


def _cost(daemon: Daemon) -> Iterator[Row]:
    group = "One pod's life in the log: run, create, start, stop, remove; one pod, one container, serial"
    records, commits = len(daemon.records()), daemon.commits()
    _life(daemon, "cost", Timed())
    new, commits = daemon.records()[records:], daemon.commits() - commits
    yield Row(group, "events", f"{len(new)}", (len(new),), "events")
    yield Row(group, "bytes", f"{sum(r.size for r in new):,} in records", tuple(r.size for r in new), "bytes")
    yield Row(group, "commits", f"{commits} LMDB transactions", (commits,), "transactions")


def _lives(daemon: Daemon, rounds: int) -> Iterator[Row]:
    group = f"Calls of a pod's life, serial, host network, {rounds} rounds (information)"
    timed = Timed()
    for number in range(rounds):
        _life(daemon, f"life-{number}", timed)
    for name in STEPS:
        yield spread(group, name, timed.samples[name])
    for title, names in (("run + create + start", STEPS[:3]), ("stop + remove of both", STEPS[3:])):
        sums = [sum(each) for each in zip(*(timed.samples[name] for name in names), strict=True)]
        yield spread(group, title, sums)


# --- memory ----------------------------------------------------------------------------------------------------------


def _idle(daemon: Daemon) -> Iterator[Row]:
    time.sleep(1)
    pss = pss_kib(daemon.pid)
    yield Row("Memory (PSS)", "daemon, idle, fresh log", f"{pss / 1024:.1f} MiB", (pss,), "KiB")


def _held(daemon: Daemon) -> Iterator[Row]:
    before, monitors = pss_kib(daemon.pid), []
    for number in range(HELD):
        container = daemon.create(daemon.run_pod(f"held-{number}"))
        daemon.call("StartContainer", container_id=container)
        monitors.append(pss_kib(daemon.monitor_pid(container)))
    after = pss_kib(daemon.pid)
    group = "Memory (PSS)"
    yield Row(group, "daemon, after the lives above", f"{before / 1024:.1f} MiB", (before,), "KiB")
    per_monitor = statistics.median(monitors)
    yield Row(group, "monitor, per container held", f"{per_monitor / 1024:.2f} MiB", tuple(monitors), "KiB")
    more = (after - before) / HELD
    yield Row(group, "daemon, more per pod held", f"{more / 1024:.2f} MiB, mean of {HELD}", (more,), "KiB")
    for each in daemon.call("ListPodSandbox").items:
        daemon.call("StopPodSandbox", pod_sandbox_id=each.id)
        daemon.call("RemovePodSandbox", pod_sandbox_id=each.id)

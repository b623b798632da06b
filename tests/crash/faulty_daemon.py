"""The daemon with fault points between it and its ports: a child process of the crash tests.

    faulty_daemon.py --config FILE

Beside the configuration lie, read and written at every point:
  fault.json   a list of points, `["append-before ContainerCreated 1", ...]`: where the process kills itself. The first
               one is armed; it is taken off the list before it fires, so that the next daemon arms the second one.
               The number says at which passing, counted from the arming.
  trace        one line per point that was passed
A point is WHERE WHAT: `append-before` and `append-after` (durable, nobody told) with the first event's class; `begin`
and `end` (before the outcome is reported) with port and method; `end` also with `mount` and `unmount` of what a pod
pins: net, uts, ipc, shm. The environment variable DAYBOOK_TEST_LIMITS_S sets the limits of effects by class name:
{"CreateTask": 1.0}.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.oci import kernel
from adapters.oci.layout import PIN
from domain import effects as f
from domain.records import Cause, Draft, Now, Record
from service import config as configuration
from service import handlers, wiring
from service.daemon import Ports
from service.main import UMASK, serve_on

EFFECTS = {
    "sandboxes": ("set_up", "tear_down", "remove"),
    "tasks": ("create", "start", "stop", "tidy", "remove"),
    "network": ("add", "delete"),
    "images": ("pull", "remove", "clean"),
}
CALLS = {"secrets": ("write", "remove"), "mark": ("write",)}


class Points:
    def __init__(self, directory: Path) -> None:
        self._faults = directory / "fault.json"
        self._trace = os.open(directory / "trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._armed: str | None = None
        self._passed: Counter[str] = Counter()

    def passing(self, point: str) -> None:
        """Ends this process where the point is the armed one."""
        os.write(self._trace, f"{point}\n".encode())
        faults = self._read()
        armed = faults[0] if faults else None
        if armed != self._armed:
            self._armed = armed
            self._passed.clear()
        self._passed[point] += 1
        if armed == f"{point} {self._passed[point]}":
            self._write(faults[1:])
            os.kill(os.getpid(), signal.SIGKILL)

    def _read(self) -> list[str]:
        try:
            return list(json.loads(self._faults.read_text()))
        except FileNotFoundError:
            return []

    def _write(self, faults: Sequence[str]) -> None:
        part = self._faults.with_suffix(".part")
        part.write_text(json.dumps(list(faults)))
        part.rename(self._faults)


class Faulty:
    """A port: every call goes through, those named here past their points."""

    def __init__(self, name: str, port: Any, points: Points) -> None:
        self._name, self._port, self._points = name, port, points
        for method in EFFECTS.get(name, ()):
            setattr(self, method, self._effect(method))
        for method in CALLS.get(name, ()):
            setattr(self, method, self._call(method))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    def _effect(self, method: str) -> Callable[..., Awaitable[Any]]:
        real, what = getattr(self._port, method), f"{self._name}.{method}"

        async def effect(*given: Any, **named: Any) -> Any:
            self._points.passing(f"begin {what}")
            result = await real(*given, **named)
            self._points.passing(f"end {what}")
            return result

        return effect

    def _call(self, method: str) -> Callable[..., Any]:
        real, what = getattr(self._port, method), f"{self._name}.{method}"

        def call(*given: Any) -> Any:
            self._points.passing(f"begin {what}")
            result = real(*given)
            self._points.passing(f"end {what}")
            return result

        return call


class FaultyLog(Faulty):
    async def append(
        self, drafts: Sequence[Draft], cause: Cause, now: Now, *, urgent: bool = False
    ) -> Sequence[Record]:
        what = type(drafts[0].event).__name__
        self._points.passing(f"append-before {what}")
        records: Sequence[Record] = await self._port.append(drafts, cause, now, urgent=urgent)
        self._points.passing(f"append-after {what}")
        return records


def watch_pins(points: Points) -> None:
    """Points after each mount and unmount of what a pod has pinned."""
    for name in ("mount", "unmount"):
        setattr(kernel, name, _pinning(points, name, getattr(kernel, name)))


def _pinning(points: Points, name: str, real: Callable[..., None]) -> Callable[..., None]:
    def call(*given: Any) -> None:
        target = given[1] if name == "mount" else given[0]
        parent, _, what = target.rpartition("/")
        real(*given)
        if PIN.fullmatch(what):
            points.passing(f"end {name} net")
        elif parent.rpartition("/")[0].endswith("/sandboxes"):
            points.passing(f"end {name} {what}")

    return call


def wrap(ports: Ports, points: Points) -> Ports:
    names = ("secrets", "tasks", "sandboxes", "network", "images", "mark")
    faulty: dict[str, Any] = {name: Faulty(name, getattr(ports, name), points) for name in names}
    return dataclasses.replace(ports, log=FaultyLog("log", ports.log, points), **faulty)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    path = Path(parser.parse_args().config)
    limits = json.loads(os.environ.get("DAYBOOK_TEST_LIMITS_S", "{}"))
    handlers.LIMIT_S = {**handlers.LIMIT_S, **{getattr(f, name): seconds for name, seconds in limits.items()}}
    points = Points(path.parent)
    watch_pins(points)
    config = configuration.load(path, required=True)
    wiring.set_up_logging(config.daemon.log_level)
    os.umask(UMASK)
    with wiring.holding(config), wiring.daemons_log(config) as event_log:
        return asyncio.run(serve_on(config, event_log, lambda ports: wrap(ports, points)))


if __name__ == "__main__":
    sys.exit(main())

"""A cache of what is slow to build: directories that are a pure function of their inputs, outside the checkout.

A layer is made in a directory of another name and renamed when whole: what a killed build leaves never counts as built,
and goes with the next build. One flock per name keeps two builds apart. A layer in use is held by a shared lock until
the process ends, so that pruning never takes a disk away from under a running guest.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

KEEP = 3
"""Layers of one name that stay: a few worktrees of one machine share the cache."""

_in_use: list[int] = []


def cache() -> Path:
    """DAYBOOK_TEST_CACHE, or a directory below the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    made = Path(os.environ.get("DAYBOOK_TEST_CACHE") or Path(user) / "daybook-tests")
    made.mkdir(parents=True, exist_ok=True)
    return made


def stamp(inputs: Iterable[str | bytes]) -> str:
    """One hash over all inputs; their borders count."""
    whole = hashlib.sha256()
    for each in inputs:
        data = each.encode() if isinstance(each, str) else each
        whole.update(f"{len(data)}:".encode() + data)
    return whole.hexdigest()[:16]


def layer(name: str, inputs: Iterable[str | bytes], make: Callable[[Path], None]) -> Path:
    """The directory that `make` fills, made only where these inputs were not built before. What `make` raises."""
    with _locked(name):
        place = cache() / f"{name}-{stamp(inputs)}"
        if not place.is_dir():
            _build(name, place, make)
        os.utime(place)
        _hold(place)
        _prune(name, place)
    return place


def _build(name: str, place: Path, make: Callable[[Path], None]) -> None:
    part = cache() / f"{name}.part"
    remove(part)
    part.mkdir()
    say(f"building {place.name}")
    begun = time.monotonic()
    make(part)
    part.rename(place)
    say(f"built {place.name} in {time.monotonic() - begun:.1f} s")


def say(text: str) -> None:
    sys.stderr.write(f"guest: {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    with (cache() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hold(place: Path) -> None:
    held = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_SH)
    _in_use.append(held)


def _prune(name: str, current: Path) -> None:
    """All but the newest few that nobody holds."""
    others = [p for p in cache().glob(f"{name}-????????????????") if p != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[KEEP - 1 :]:
        held = os.open(old, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(old)
        except BlockingIOError:
            continue
        finally:
            os.close(held)


def remove(path: Path) -> None:
    """A tree, if it is there. Mounts of a build are in a namespace of its own and never below it."""
    if path.exists():
        gone = path.with_name(f"{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)

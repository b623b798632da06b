"""Clean-up: ends and removes whatever of the demo is still there, in whatever state it is."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence

from tools.demo_steps import outside
from tools.demo_steps.ground import remove_links, remove_rules
from tools.demo_steps.outside import NETNS, Seen
from tools.demo_steps.saying import Wrong
from tools.demo_steps.stage import Stage

GONE_S = 5
ENDS_WITH_DIRECTORY = ("links", "addresses", "routes")
"""The bridge and what is on it: these are there as long as the demo is, and are no reason for a purge."""


def clean_up(stage: Stage) -> None:
    for each in stage.pod.containers.values():
        if each.handle >= 0:
            os.close(each.handle)
            each.handle = -1
    if stage.daemon is not None and stage.daemon.poll() is None:
        stage.daemon.kill()
        stage.daemon.wait()
    held = {kind: lines for kind, lines in stage.ours().items() if kind not in ENDS_WITH_DIRECTORY}
    if any(held.values()):
        with contextlib.suppress(Wrong, OSError, subprocess.SubprocessError):
            stage.daybook("purge", "--yes")
    force(stage)
    stage.machine.restore(stage.ground)
    shutil.rmtree(stage.directory, ignore_errors=True)


def force(stage: Stage) -> None:
    """What `daybook purge` could not: processes by their pids, mounts, rules, cgroups."""
    _end_processes(stage)
    left = stage.ours()
    for mount in sorted((line.split(" ")[0] for line in left["mounts"] if " in mnt:" not in line), reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True)
    for file in left["files"]:
        if file.startswith(f"{NETNS}/"):
            with contextlib.suppress(OSError):
                os.unlink(file)
    remove_rules(left["rules"])
    remove_links(line.split(" ")[0] for line in left["links"])
    remove_cgroups(sorted(left["cgroups"]))
    remove_cgroups(stage.own_cgroups())


def _end_processes(stage: Stage) -> None:
    until = time.monotonic() + GONE_S
    while time.monotonic() < until:
        ours = [each for each in outside.processes() if any(name in each.about for name in stage.names)]
        if not ours:
            return
        for each in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        time.sleep(0.05)


def remove_cgroups(paths: Sequence[str]) -> None:
    """Deepest first; what is not empty stays."""
    for path in sorted(paths, reverse=True):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def remains(stage: Stage) -> Seen:
    """After the clean-up: what is still there, the directory too."""
    left = dict(stage.ours())
    if stage.directory.exists():
        left["files"] = left["files"] | {str(stage.directory)}
    return left

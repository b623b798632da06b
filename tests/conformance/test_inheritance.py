"""What a process inherits, all that /proc and the system calls show of it: of the daemon's direct children (skopeo, CNI
plugins), of conmon, of a container's processes and of commands in it, with a daemon that was started with other values.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proto import api_pb2 as pb
from tests.crash.life import Pod
from tests.support import deviating
from tests.support.daemon import ROOT, Machine, machine, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

LAUNCHER = (sys.executable, str(Path(deviating.__file__)))
IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
HARD = deviating.OPEN_FILES[1]


def shown(pid: int) -> dict[str, Any]:
    """Everything of a process that its parent could have given it."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    libc = ctypes.CDLL(None)
    return {
        "umask": int(status["Umask"], 8),
        "ignored": status["SigIgn"],
        "blocked": status["SigBlk"],
        "nice": int(fields[16]),
        "scheduler": int(fields[38]),
        "I/O class": libc.syscall(IOPRIO_GET[os.uname().machine], 1, pid) >> 13,
        "CPUs": os.sched_getaffinity(pid),
        "timer slack": int((proc / "timerslack_ns").read_text()),
        "personality": int((proc / "personality").read_text(), 16),
        "OOM score": int((proc / "oom_score_adj").read_text()),
        "open files": resource.prlimit(pid, resource.RLIMIT_NOFILE),
        "descriptors": {int(name) for name in os.listdir(proc / "fd")},
        "session": int(fields[3]),
    }


RIGHT: Mapping[str, Any] = {
    "umask": 0o022,
    "ignored": "0000000000000000",
    "blocked": "0000000000000000",
    "nice": 0,
    "scheduler": os.SCHED_OTHER,
    "I/O class": 0,
    "CPUs": os.sched_getaffinity(1),
    "timer slack": 50_000,
    "personality": 0,
    "OOM score": 0,
    "open files": (1024, HARD),
    "descriptors": {0, 1, 2},
}


def differing(found: Mapping[str, Any], *but: str) -> dict[str, Any]:
    return {name: found[name] for name, value in RIGHT.items() if found[name] != value and name not in but}


DIRECT = """
import os, sys
sys.path.insert(0, {root!r})
from adapters import children
children.become_parent()
before = [open("/proc/self/oom_score_adj").read(), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)]
child = children.start(["/bin/sleep", "1000"], env={{}})
after = [open("/proc/self/oom_score_adj").read(), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)]
assert before == after, (before, after)
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def test_a_direct_child_gets_what_is_ordinary_and_the_parent_keeps_what_it_has() -> None:
    program = DIRECT.format(root=str(ROOT))
    with subprocess.Popen(
        [*LAUNCHER, sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        found, own = shown(pid), shown(parent.pid)
        parent.communicate("", timeout=10)
    assert differing(found) == {}
    assert found["session"] == pid
    assert (own["OOM score"], own["nice"], len(own["CPUs"])) == (deviating.score(), 7, 1)
    assert own["open files"] == (HARD, HARD)
    assert own["blocked"] == "0000000000000000"


@pytest.fixture(scope="module")
def odd() -> Iterator[Machine]:
    with machine(launcher=LAUNCHER) as made:
        made.start()
        made.load()
        yield made
        assert made.terminate() == 0, "a blocked SIGTERM is taken all the same"


@pytest.fixture(scope="module")
def running(odd: Machine) -> Iterator[tuple[Pod, str]]:
    pod = Pod(odd, "odd")
    pod.running("touch /shared/up; exec sleep 1000")
    # The shell ignores a signal of its own until it has become the program.
    init = Path(f"/proc/{init_of(odd, pod.container_id)}/cmdline")
    until(lambda: init.read_bytes() == b"sleep\x001000\x00", text="the container's program runs")
    yield pod, pod.container_id
    pod.remove()


def init_of(odd: Machine, container: str) -> int:
    return int((odd.data / "containers" / container / "pidfile").read_text())


def monitor_of(odd: Machine, container: str) -> int:
    return int(json.loads((odd.data / "containers" / container / "monitor").read_text())["pid"])


def test_the_daemon_itself_keeps_what_it_was_given(odd: Machine) -> None:
    assert odd.daemon is not None
    own = shown(odd.daemon.pid)
    assert (own["OOM score"], own["nice"], len(own["CPUs"])) == (deviating.score(), 7, 1)


def test_a_containers_process(odd: Machine, running: tuple[Pod, str]) -> None:
    assert differing(shown(init_of(odd, running[1]))) == {}


def test_the_monitor(odd: Machine, running: tuple[Pod, str]) -> None:
    """It handles what it ignores and blocks, and its descriptors, as it needs; it is kept from the OOM killer."""
    found = shown(monitor_of(odd, running[1]))
    assert differing(found, "ignored", "blocked", "descriptors", "OOM score") == {}
    assert found["OOM score"] == (-1000 if deviating.may_lower() else 0)


def test_a_command_in_the_container(odd: Machine, running: tuple[Pod, str]) -> None:
    runtime, _ = odd.cri()
    request = pb.ExecSyncRequest(container_id=running[1], cmd=["sleep", "1001"], timeout=20)
    call = runtime.ExecSync.future(request)
    try:
        pid = until(lambda: _with_cmdline(b"sleep\x001001\x00"), 10, "the command runs")
        found = shown(pid)
    finally:
        call.cancel()
    assert differing(found) == {}


def _with_cmdline(wanted: bytes) -> int:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if Path(f"/proc/{name}/cmdline").read_bytes() == wanted:
                return int(name)
        except OSError:
            continue
    return 0

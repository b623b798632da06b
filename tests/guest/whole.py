"""What depends on kernel, systemd or distribution, whole: the suite in a guest of Debian 12 and in Debian 13's user space,
and the life of a pod in a guest of Debian 13. Each stage prints as it goes; a table at the end, for a note.
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tests.guest import qemu, readme, roots
from tests.guest.image import image
from tests.guest.layers import say
from tests.guest.qemu import Said
from tests.guest.rooted import entered
from tests.guest.roots import Root
from tests.support.limits import SLOWNESS

PROCESSES = ("tasks", "container_spec", "apparmor")
COMMANDS = ("execs",)
PODS = ("sandboxes", "ordinary_programs")
HOST = ("network", "daemon")
"""Files of tests/conformance that touch the kernel, cgroups or systemd; the rest of the suite is the same everywhere. An
emulated guest needs five seconds for a test: the host's files are tried in Debian 13's user space and by a pod's life."""

GUEST_MEMORY_MIB = 4096
STAGE_LIMIT_S = 840.0 * SLOWNESS
GUEST_SLOWNESS, ROOT_SLOWNESS, LIFE_SLOWNESS = 10 * SLOWNESS, 3 * SLOWNESS, 5 * SLOWNESS


@dataclass(frozen=True, slots=True)
class Outcome:
    stage: str
    passed: bool
    seconds: float
    summary: str


def suite(files: Sequence[str], slowness: float) -> str:
    """As a shell's text. Only what uses the real kernel: the fakes were tried where the rest of the suite runs."""
    asked = '/opt/suite/bin/python -m pytest -v -p no:cacheprovider -m "(real or slow) and not guest and not debian13"'
    paths = " ".join(f"tests/conformance/test_{name}.py" for name in files)
    return f"cd {qemu.TREE} && DAYBOOK_TEST_SLOWNESS={slowness:g} GRPC_ENABLE_FORK_SUPPORT=0 {asked} {paths}"


def life(slowness: float) -> str:
    inside = "/opt/daybook/bin/python -m tests.guest.inside.life cgroupfs systemd"
    return f"cd {qemu.TREE} && DAYBOOK_TEST_SLOWNESS={slowness:g} {inside}"


def suite_on_debian_12(files: Sequence[str], tell: Callable[[str], object]) -> Said:
    """The daemon that README installs does not run beside the suite's own: the unit is not started."""
    with qemu.boot(image(12, with_suite=True), roots.checkout(), GUEST_MEMORY_MIB) as guest:
        return guest.run(suite(files, GUEST_SLOWNESS), STAGE_LIMIT_S, tell)


def life_on_debian_13(tell: Callable[[str], object]) -> Said:
    with qemu.boot(image(13), roots.tests()) as guest:
        for line in readme.install().units:
            guest.check(line)
        return guest.run(life(LIFE_SLOWNESS), STAGE_LIMIT_S, tell)


def suite_on_debian_13(tell: Callable[[str], object]) -> Said:
    stack = Root((roots.suite(13).layers[0], *roots.daybook(13).layers))
    with entered(stack, roots.checkout()) as root:
        return root.run(suite((*PROCESSES, *COMMANDS, *PODS, *HOST), ROOT_SLOWNESS), STAGE_LIMIT_S, tell)


DEBIAN_12 = "Debian 12, kernel 6.1, systemd, cgroup v2"
STAGES: dict[str, Callable[[Callable[[str], object]], Said]] = {
    f"{DEBIAN_12}: processes": partial(suite_on_debian_12, PROCESSES),
    "Debian 13, kernel 6.1, systemd, cgroup v2: a pod's life": life_on_debian_13,
    f"{DEBIAN_12}: commands": partial(suite_on_debian_12, COMMANDS),
    f"{DEBIAN_12}: pods": partial(suite_on_debian_12, PODS),
    "Debian 13's user space on this kernel: the suite": suite_on_debian_13,
}
"""The long ones first."""
AT_ONCE = 2
"""A guest keeps one processor busy, and none of them measures time."""


def main() -> int:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(_stage, STAGES))
    for each in outcomes:
        verdict = "passed" if each.passed else "FAILED"
        sys.stdout.write(f"{verdict} {each.seconds:5.0f} s  {each.stage}: {each.summary}\n")
    return 0 if all(each.passed for each in outcomes) else 1


def _numbered(prefix: str) -> Callable[[str], None]:
    """Whole lines with the stage's number before them: two stages write at once."""
    waiting = ""

    def tell(text: str) -> None:
        nonlocal waiting
        *lines, waiting = (waiting + text).split("\n")
        sys.stdout.write("".join(f"{prefix}| {line}\n" for line in lines))
        sys.stdout.flush()

    return tell


def _stage(name: str) -> Outcome:
    """A stage that cannot be tried has failed, whatever the reason."""
    say(name)
    tell = _numbered(str(1 + [*STAGES].index(name)))
    begun = time.monotonic()
    try:
        said = STAGES[name](tell)
        passed, summary = said.status == 0, _summary(said)
    except (roots.BuildFailed, readme.Drifted, qemu.GuestFailed, OSError) as error:
        passed, summary = False, str(error)
    tell("\n")
    return Outcome(name, passed, time.monotonic() - begun, summary)


def _summary(said: Said) -> str:
    """pytest's last line, or the last step of a life; at the limit that it was reached."""
    lines = [line for line in said.text.splitlines() if line.strip()] or ["it said nothing"]
    late = "killed at its limit; " if said.status == qemu.TIMED_OUT else ""
    return late + re.sub(r"\s+", " ", lines[-1])

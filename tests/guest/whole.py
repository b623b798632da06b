"""What depends on kernel, systemd or distribution, whole: the suite in a guest of Debian 12 and in Debian 13's user space,
and the life of a pod in a guest of Debian 13. Each stage prints as it goes; a table at the end, for a note.
"""

import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.guest import qemu, readme, roots
from tests.guest.image import image
from tests.guest.layers import say
from tests.guest.qemu import Said
from tests.guest.rooted import entered
from tests.guest.roots import Root
from tests.support.limits import SLOWNESS

FILES = tuple(
    f"tests/conformance/test_{name}.py"
    for name in ("tasks", "sandboxes", "container_spec", "execs", "network", "daemon", "apparmor", "ordinary_programs")
)
"""What touches the kernel, cgroups or systemd; the rest of the suite is the same everywhere."""

GUEST_MEMORY_MIB = 4096
STAGE_LIMIT_S = 840.0 * SLOWNESS
GUEST_SLOWNESS, ROOT_SLOWNESS, LIFE_SLOWNESS = 10 * SLOWNESS, 3 * SLOWNESS, 5 * SLOWNESS


@dataclass(frozen=True, slots=True)
class Outcome:
    stage: str
    passed: bool
    seconds: float
    summary: str


def suite(python: str, slowness: float) -> str:
    """As a shell's text. Only what uses the real kernel: the fakes were tried where the rest of the suite runs."""
    asked = f'{python} -m pytest -q -p no:cacheprovider -m "(real or slow) and not guest and not debian13"'
    return f"cd {qemu.TREE} && DAYBOOK_TEST_SLOWNESS={slowness:g} GRPC_ENABLE_FORK_SUPPORT=0 {asked} {' '.join(FILES)}"


def life(slowness: float) -> str:
    inside = "/opt/daybook/bin/python -m tests.guest.inside.life cgroupfs systemd"
    return f"cd {qemu.TREE} && DAYBOOK_TEST_SLOWNESS={slowness:g} {inside}"


def suite_on_debian_12(tell: Callable[[str], object]) -> Said:
    """The daemon that README installs does not run beside the suite's own: the unit is not started."""
    with qemu.boot(image(12, with_suite=True), roots.checkout(), GUEST_MEMORY_MIB) as guest:
        return guest.run(suite("/opt/suite/bin/python", GUEST_SLOWNESS), STAGE_LIMIT_S, tell)


def life_on_debian_13(tell: Callable[[str], object]) -> Said:
    with qemu.boot(image(13), roots.tests()) as guest:
        for line in readme.install().units:
            guest.check(line)
        return guest.run(life(LIFE_SLOWNESS), STAGE_LIMIT_S, tell)


def suite_on_debian_13(tell: Callable[[str], object]) -> Said:
    stack = Root((roots.suite(13).layers[0], *roots.daybook(13).layers))
    with entered(stack, roots.checkout()) as root:
        return root.run(suite("/opt/suite/bin/python", ROOT_SLOWNESS), STAGE_LIMIT_S, tell)


STAGES: dict[str, Callable[[Callable[[str], object]], Said]] = {
    "Debian 12, kernel 6.1, systemd, cgroup v2: the suite": suite_on_debian_12,
    "Debian 13, kernel 6.1, systemd, cgroup v2: a pod's life": life_on_debian_13,
    "Debian 13's user space on this kernel: the suite": suite_on_debian_13,
}


def main() -> int:
    """The first stage beside the others: it keeps one processor busy, and none of them measures time."""
    outcomes: list[Outcome] = []
    first, *others = STAGES
    beside = threading.Thread(target=lambda: outcomes.append(_stage(first, _numbered("12"))))
    beside.start()
    for name in others:
        outcomes.append(_stage(name, _numbered("13")))
    beside.join()
    for each in outcomes:
        verdict = "passed" if each.passed else "FAILED"
        sys.stdout.write(f"{verdict} {each.seconds:5.0f} s  {each.stage}: {each.summary}\n")
    return 0 if len(outcomes) == len(STAGES) and all(each.passed for each in outcomes) else 1


def _numbered(prefix: str) -> Callable[[str], None]:
    """Whole lines with the release before them: two stages write at once."""
    waiting = ""

    def tell(text: str) -> None:
        nonlocal waiting
        *lines, waiting = (waiting + text).split("\n")
        sys.stdout.write("".join(f"{prefix}| {line}\n" for line in lines))
        sys.stdout.flush()

    return tell


def _stage(name: str, tell: Callable[[str], object]) -> Outcome:
    """A stage that cannot be tried has failed, whatever the reason."""
    say(name)
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

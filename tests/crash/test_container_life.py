"""The daemon dies at every append and every effect of a container's whole life, and nobody can tell afterwards.

The client asks again with the same request and goes on. What was acknowledged holds, the ids are those that were meant,
no exit code is invented, nothing is left, and the log is whole, lawful and consistent.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.crash.life import Life, arm, passed, unfired
from tests.crash.pod_network import PORT, PROGRAMS, Debian
from tests.crash.stage import Stage, said
from tests.support.daemon import Machine, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

APPENDS = """
ImagePullRequested ImagePulled SandboxRunRequested SandboxNetworkSet SandboxReady ContainerCreateRequested ContainerCreated
ContainerStartRequested ContainerStarted ContainerExited ContainerRemoveRequested ContainerRemoved SandboxStopRequested
SandboxNetworkReleased SandboxStopped SandboxRemoveRequested SandboxRemoved ImageRemoveRequested ImageRemoved
""".split()
EFFECTS = """
images.pull sandboxes.set_up network.add tasks.create tasks.start tasks.tidy tasks.remove sandboxes.tear_down sandboxes.remove
images.remove
""".split()
PINNED = [f"end mount {name} 1" for name in ("net", "uts", "ipc", "shm")]
UNPINNED = [f"end unmount {name} 1" for name in ("net", "uts", "ipc", "shm")]
"""A pod's namespaces and its /dev/shm, inside `set_up` and `tear_down`."""
SIDE_FILES = [f"secrets.{what} {nth}" for what in ("write", "remove") for nth in (1, 2)]
RELEASES = ["network.delete 1", "network.delete 2"]
"""Before a set-up, of what an earlier one left; and of the network of a pod that stops."""

ENDS = (
    *(f"{where} {event} 1" for event in APPENDS for where in ("append-before", "append-after")),
    *(f"{where} {effect} 1" for effect in EFFECTS for where in ("begin", "end")),
    *(f"{where} {call}" for call in (*SIDE_FILES, *RELEASES) for where in ("begin", "end")),
    *PINNED,
    *UNPINNED,
)
"""Every point of a life that ends by itself. `test_no_point_is_missing` holds this against a real one."""

STOPS = (
    *(f"{where} ContainerStopRequested 1" for where in ("append-before", "append-after")),
    *(f"{where} tasks.stop 1" for where in ("begin", "end")),
)
"""What a life has besides that the client stops; those after it are the same ones, tried again here."""

STOPS_TOO = (
    *(f"{where} {event} 1" for event in ("ContainerStarted", "ContainerExited", "ContainerRemoved") for where in ("append-before", "append-after")),
    *(f"{where} {effect} 1" for effect in ("tasks.start", "tasks.tidy", "tasks.remove") for where in ("begin", "end")),
)  # fmt: skip

PAIRS = (
    ("append-after ContainerCreateRequested 1", "append-before NodeStarted 1"),
    ("end tasks.create 1", "append-after NodeStarted 1"),
    ("begin tasks.create 1", "begin tasks.remove 1"),
    ("end tasks.create 1", "end tasks.remove 1"),
    ("append-before ContainerCreated 1", "end tasks.create 1"),
    ("append-after ContainerStartRequested 1", "append-after NodeStarted 1"),
    ("end tasks.start 1", "append-before NodeStarted 1"),
    ("append-before ContainerExited 1", "end tasks.tidy 1"),
    ("begin sandboxes.set_up 1", "end sandboxes.set_up 1"),
    ("end sandboxes.set_up 1", "append-before SandboxReady 1"),
    ("end mount uts 1", "end mount net 1"),
    ("end network.add 1", "end network.delete 1"),
    ("append-before SandboxNetworkSet 1", "end network.add 1"),
    ("append-after SandboxNetworkSet 1", "append-before NodeStarted 1"),
    ("append-after SandboxNetworkSet 1", "append-after SandboxNetworkSet 1"),
    ("begin images.pull 1", "begin images.clean 1"),
    ("end images.pull 1", "append-after NodeStarted 1"),
    ("end images.pull 1", "end images.clean 1"),
    ("begin images.remove 1", "end images.remove 1"),
    ("end tasks.remove 1", "end tasks.remove 1"),
    ("append-after SandboxStopRequested 1", "end sandboxes.tear_down 1"),
    ("begin network.delete 2", "end network.delete 1"),
    ("end network.delete 2", "append-before SandboxNetworkReleased 1"),
    ("append-before SandboxNetworkReleased 1", "end unmount net 1"),
    ("begin sandboxes.remove 1", "begin mark.write 1"),
)
"""The second point is in the recovery from the first."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage(network=Debian)
    yield made
    made.close()


def counted(points: Sequence[str]) -> set[str]:
    """Each point with its number."""
    seen: Counter[str] = Counter()
    numbered = set()
    for point in points:
        seen[point] += 1
        numbered.add(f"{point} {seen[point]}")
    return numbered


def live(machine: Machine, name: str, stops: bool, points: Sequence[str]) -> Life:
    since = machine.records()[-1].seq
    life = Life(machine, name, stops)
    arm(machine, *points)
    life.live()
    assert unfired(machine) == [], "the point was not passed: the daemon did not die there"
    assert life.client.deaths == len(points)
    life.check_log(machine.records(), since)
    return life


@pytest.mark.parametrize("stops", [False, True], ids=["ends", "stops"])
def test_no_point_is_missing(stage: Stage, stops: bool) -> None:
    with stage.clean() as machine:
        before = len(passed(machine))
        live(machine, "whole", stops, ())
        of_life = [point for point in passed(machine, before) if not point.endswith("images.clean")]
        assert counted(of_life) == {*ENDS, *(STOPS if stops else ())}
        assert {*STOPS_TOO} <= {*ENDS}


@pytest.mark.parametrize("point", ENDS)
def test_dies_in_a_life_that_ends_by_itself(stage: Stage, point: str) -> None:
    with stage.clean() as machine:
        live(machine, "ends", False, [point])


@pytest.mark.parametrize("point", [*STOPS, *STOPS_TOO])
def test_dies_in_a_life_that_is_stopped(stage: Stage, point: str) -> None:
    with stage.clean() as machine:
        live(machine, "stops", True, [point])


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_dies_again_in_the_recovery(stage: Stage, first: str, second: str) -> None:
    with stage.clean() as machine:
        live(machine, "twice", False, [first, second])


ABANDONED = (
    *(
        f"{where} {event} 1"
        for event in APPENDS[APPENDS.index("ContainerExited") : APPENDS.index("ImageRemoveRequested")]
        for where in ("append-before", "append-after")
    ),
    *(
        f"{where} {effect} 1"
        for effect in ("tasks.stop", "tasks.remove", "network.delete", "sandboxes.tear_down", "sandboxes.remove")
        for where in ("begin", "end")
    ),
    *UNPINNED,
    *(f"{where} ContainerStopRequested 1" for where in ("append-before", "append-after")),
)
"""All that one removal of a running pod leads to; a tidying may or may not be overtaken by the removal."""


def abandon(machine: Machine, points: Sequence[str]) -> int:
    """Returns where the trace of the removal begins."""
    since = machine.records()[-1].seq
    life = Life(machine, "abandoned", True)
    for step in (life.pull, life.run, life.create, life.start):
        step()
    before = len(passed(machine))
    arm(machine, *points)
    life.abandon()
    life.remove_image()
    assert unfired(machine) == [], "the point was not passed: the daemon did not die there"
    assert life.client.deaths == len(points)
    life.check_log(machine.records(), since)
    return before


def test_no_point_of_a_removal_is_missing(stage: Stage) -> None:
    with stage.clean() as machine:
        before = abandon(machine, ())
        seen = counted(passed(machine, before))
        of_others = ("secrets.", "images.", "Image", "tasks.tidy")
        assert {point for point in seen if not any(word in point for word in of_others)} == {*ABANDONED}


@pytest.mark.parametrize("point", ABANDONED)
def test_dies_while_a_running_pod_is_removed(stage: Stage, point: str) -> None:
    with stage.clean() as machine:
        abandon(machine, [point])


_MODES = ("kill-before", "kill-after")
_OF_RUNTIME = [
    *(
        ("runc", word, mode, stops)
        for word in ("create", "start", "delete")
        for mode in _MODES
        for stops in (False, True)
    ),
    ("conmon", "-", "kill-before", False),
]
_OF_NETWORK = [
    (plugin, word, mode, False)
    for word in ("ADD", "DEL")
    for plugin in PROGRAMS
    for mode in _MODES
    if (plugin, word, mode) != ("bridge", "DEL", "kill-before")  # nothing lies between it and portmap's end
]
_OF_INFRA = [("runc", word, mode) for word in ("run", "delete") for mode in _MODES]
_OF_IMAGES = [("skopeo", word, mode, False) for word in ("inspect", "copy", "delete") for mode in _MODES]


@pytest.fixture(scope="module")
def standing_in() -> Iterator[Stage]:
    def config(programs: Mapping[str, str]) -> Mapping[str, Any]:
        return {"runtime": {"path": programs["runc"], "monitor": programs["conmon"]}}

    made = Stage(("runc", "conmon", "skopeo"), config, network=Debian)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("program", "word", "mode", "stops"),
    [*_OF_RUNTIME, *_OF_IMAGES, *_OF_NETWORK],
)
def test_dies_in_the_middle_of_an_effect(standing_in: Stage, program: str, word: str, mode: str, stops: bool) -> None:
    """The program goes on, or has just ended, while the next daemon already recovers."""
    die_in(standing_in, program, word, mode, stops, shared=False)


@pytest.mark.parametrize(("program", "word", "mode"), _OF_INFRA)
def test_dies_in_the_middle_of_what_is_done_for_an_infra_process(
    standing_in: Stage, program: str, word: str, mode: str
) -> None:
    """The first such call in the life of a pod that shares its pid namespace; `delete` is the container's."""
    die_in(standing_in, program, word, mode, True, shared=True)


def test_a_release_that_outlives_its_daemon_takes_nothing_from_the_next(standing_in: Stage) -> None:
    """The second daemon dies in its DEL of what the first one's ADD left; that DEL would free the third one's address."""
    with standing_in.clean(faulty=False) as machine:
        life, goes_on = Life(machine, "late", False), machine.lab.bin / "host-local.go"
        machine.plan("portmap", "ADD", "kill-after")
        machine.plan("host-local", "DEL", "kill-wait")
        life.pull()
        with ThreadPoolExecutor(1) as client:
            running = client.submit(life.run)
            until(lambda: running.done() or "waiting for the DEL" in said(machine, 1), text="the third daemon waits")
            goes_on.touch()
            running.result(30)
        assert life.client.deaths == 2
        until(lambda: not [p for p in machine.left().processes if "host-local" in p], text="the late DEL has ended")
        goes_on.unlink()
        life.check_address()
        life.abandon()
        life.remove_image()


def die_in(stage: Stage, program: str, word: str, mode: str, stops: bool, shared: bool) -> None:
    with stage.clean(faulty=False) as machine:
        since = machine.records()[-1].seq
        life = Life(machine, "middle", stops, shared=shared, host_port=PORT if program in PROGRAMS else 0)
        life.dies_tidying = (program, word) == ("runc", "delete")
        plan = machine.plan(program, word, mode)
        life.live()
        assert not plan.exists(), "the program was not called so"
        assert life.client.deaths == 1
        life.check_log(machine.records(), since)


@pytest.mark.parametrize("which", ["stage", "standing_in"])
def test_the_log_is_sound_after_all_that(request: pytest.FixtureRequest, which: str) -> None:
    stage: Stage = request.getfixturevalue(which)
    with stage.clean() as machine:
        checked = machine.replay("check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert machine.terminate() == 0
        assert machine.left().mounts == ()

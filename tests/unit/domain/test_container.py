"""container: the values that events carry and what a state remembers of them. (Which event follows: test_lifecycle.)"""

from dataclasses import replace

import pytest

from domain import commands as c
from domain import container as containers
from domain import events as e
from domain.config import Resources
from domain.container import Container, Stop, passes_before, reason_of
from domain.decision import ALREADY, JOIN, Accept
from domain.lifecycle import ContainerState
from domain.records import Digest, Evidence, Now
from tests.golden.domain.render import container_in
from tests.unit.domain import builders as b

S = ContainerState


def held(state: ContainerState) -> Container:
    found = container_in(state)
    assert found is not None
    return found


def event_of(container: Container, command: c.Command, now: Now = b.NOW) -> e.Event:
    decision = containers.decide(container, command, now)
    assert isinstance(decision, Accept), decision
    ((key, event),) = decision.events
    assert key == b.CON_KEY
    return event


def test_a_stop_carries_signal_grace_and_a_deadline_of_this_boot() -> None:
    event = event_of(held(S.RUNNING), c.StopContainer(b.CON, 30))
    assert event == e.ContainerStopRequested("SIGTERM", 30, e.Deadline(b.BOOT + 30 * 10**9, b.BOOT_ID))


def test_a_removal_stops_at_once_and_remembers_what_comes_then() -> None:
    event = event_of(held(S.RUNNING), c.RemoveContainer(b.CON))
    assert (event.grace_s, event.deadline, event.then) == (0, e.Deadline(b.BOOT, b.BOOT_ID), "remove")


@pytest.mark.parametrize(("grace_s", "moved"), [(9, True), (10, False), (11, False), (0, True)])
def test_only_an_earlier_deadline_moves_a_stop(grace_s: int, moved: bool) -> None:
    decision = containers.decide(held(S.STOPPING), c.StopContainer(b.CON, grace_s), b.NOW)
    assert isinstance(decision, Accept) if moved else decision is JOIN


def test_a_removal_joins_a_stop_by_taking_it_over() -> None:
    event = event_of(held(S.STOPPING), c.RemoveContainer(b.CON))
    stopping = containers.evolve(held(S.STOPPING), event)
    assert stopping.stop == Stop("SIGTERM", 0, e.Deadline(b.BOOT, b.BOOT_ID), "remove")
    assert containers.decide(stopping, c.RemoveContainer(b.CON), b.NOW) is JOIN
    assert containers.decide(stopping, c.StopContainer(b.CON, 0), b.at(3)) is JOIN


def test_a_removal_long_after_the_deadline_keeps_the_deadline() -> None:
    event = event_of(held(S.STOPPING), c.RemoveContainer(b.CON), b.at(60))
    assert event == e.ContainerStopMoved(10, b.LATER, "remove")


def test_a_later_stop_does_not_forget_the_removal() -> None:
    stopping = containers.evolve(held(S.STOPPING), e.ContainerStopMoved(10, b.LATER, "remove"))
    assert event_of(stopping, c.StopContainer(b.CON, 1)).then == "remove"


def test_a_deadline_of_an_earlier_boot_has_passed() -> None:
    assert passes_before(e.Deadline(10**18, "boot-0"), e.Deadline(5, "boot-1"))
    assert containers.decide(held(S.STOPPING), c.StopContainer(b.CON, 0), b.at(0, boot_id="boot-2")) is JOIN


@pytest.mark.parametrize(
    ("command", "verb"), [(c.StopContainer(b.CON, 1), "stop"), (c.RemoveContainer(b.CON), "remove")]
)
def test_a_create_is_cancelled_by_a_stop_or_a_removal(command: c.Command, verb: str) -> None:
    event = event_of(held(S.CREATING), command)
    assert (event.error, event.text) == ("Cancelled", f"cannot create container {b.CON}: a {verb} came meanwhile")
    undone = containers.evolve(held(S.CREATING), event)
    assert (undone.error, undone.text, undone.ever_created) == (event.error, event.text, False)
    assert containers.view(undone) is None


def test_an_interrupted_create_keeps_its_name_for_ten_minutes() -> None:
    event = event_of(held(S.CREATING), c.RecordCreateInterrupted(b.CON))
    assert event.give_up == e.Deadline(b.BOOT + 600 * 10**9, b.BOOT_ID)
    assert containers.evolve(held(S.CREATING), event).give_up == event.give_up


def test_the_retry_of_an_interrupted_create_begins_anew_under_the_same_id() -> None:
    adjusted = containers.evolve(held(S.CREATING), e.ContainerAdjusted("nri", (Digest("env", 3, "m"),)))
    interrupted = containers.evolve(adjusted, b.INTERRUPTED)
    again = containers.evolve(interrupted, b.create_requested("h2", at_ns=b.WALL + 5))
    assert again == replace(held(S.CREATING), request_hash="h2", created_at=b.WALL + 5)
    assert again.id == b.CON


def test_adjustments_add_up() -> None:
    one, two = Digest("a", 1, "m"), Digest("b", 2, "m")
    container = containers.evolve(held(S.CREATING), e.ContainerAdjusted("nri", (one,)))
    assert containers.evolve(container, e.ContainerAdjusted("cdi", (two,))).adjusted == (one, two)
    assert containers.decide(container, c.RecordAdjusted(b.CON, "nri", ()), b.NOW) is JOIN


def test_times_never_run_backwards_whatever_the_wall_clock_does() -> None:
    past = b.at(5, wall_s=-900)
    assert event_of(held(S.STARTING), c.RecordStarted(b.CON), past).at == b.WALL
    assert event_of(held(S.STARTING), c.RecordStartFailed(b.CON, "x", "y"), past).at == b.WALL
    assert event_of(held(S.RUNNING), c.RecordExit(b.CON, 0, 0, Evidence("exit-file")), past).at == b.WALL
    assert event_of(held(S.RUNNING), c.RecordExit(b.CON, 0, 7, Evidence("exit-file")), b.at(3)).at == b.WALL
    exact = c.RecordExit(b.CON, 0, b.WALL + 2, Evidence("exit-file"))
    assert event_of(held(S.RUNNING), exact, b.at(3)).at == b.WALL + 2
    assert event_of(held(S.RUNNING), c.RecordExit(b.CON, 0, 0, Evidence()), b.at(3)).at == b.at(3).wall_ns


def test_an_exit_without_a_code_is_255_unknown() -> None:
    exited = containers.evolve(held(S.RUNNING), event_of(held(S.RUNNING), c.RecordExit(b.CON, None, 0, Evidence())))
    assert (exited.exit_code, exited.reason, exited.evidence) == (255, "Unknown", Evidence())


@pytest.mark.parametrize(
    ("code", "source", "oom", "reason"),
    [
        (0, "exit-file", False, "Completed"),
        (1, "wait-status", False, "Error"),
        (137, "exit-file", True, "OOMKilled"),
        (255, "none", False, "Unknown"),
        (0, "exit-file", True, "Completed"),
        (1, "exit-file", True, "Error"),
        (143, "exit-file", True, "Error"),
        (137, "exit-file", False, "Error"),
        (255, "none", True, "Unknown"),
        (255, "contradiction", False, "Contradiction"),
        (137, "contradiction", True, "Contradiction"),
    ],
)
def test_reason_of_an_exit(code: int, source: str, oom: bool, reason: str) -> None:
    assert reason_of(code, Evidence(source), oom) == reason


def test_oom_is_counted_from_the_start() -> None:
    running = containers.evolve(held(S.STARTING), e.ContainerStarted(b.WALL, 3))
    assert containers.evolve(running, b.EXITED).reason == "Completed"
    killed = containers.evolve(running, event_of(running, c.RecordOom(b.CON, 4)))
    assert (killed.oom_kills_at_start, killed.oom_kills) == (3, 4)
    assert containers.message(killed) == "the kernel killed 1 of its processes for want of memory"
    ended = containers.evolve(killed, event_of(killed, c.RecordExit(b.CON, 137, b.WALL, Evidence("exit-file"), True)))
    assert (ended.reason, containers.message(ended)) == ("OOMKilled", containers.message(killed))


def test_a_kill_that_the_container_outlived_is_not_the_reason_of_its_end() -> None:
    """Told, with the count; the reason is of the code."""
    killed = containers.evolve(held(S.RUNNING), e.ContainerOom(0, 2))
    for code, reason in ((0, "Completed"), (1, "Error"), (137, "Error")):
        ended = containers.evolve(killed, event_of(killed, c.RecordExit(b.CON, code, b.WALL, Evidence("exit-file"))))
        assert (ended.reason, ended.exit_code) == (reason, code)
        assert containers.message(ended) == "the kernel killed 2 of its processes for want of memory"


@pytest.mark.parametrize(
    ("at_start", "kills", "noted", "outlived", "at_end"),
    [
        (0, 0, False, 0, False),
        (0, 1, False, 0, True),
        (3, 3, False, 0, False),
        (0, 2, False, 2, False),
        (0, 3, False, 2, True),
        (0, 0, False, 2, False),
        (0, 0, True, 2, True),
    ],
)
def test_whether_it_was_killed_at_its_end(at_start: int, kills: int, noted: bool, outlived: int, at_end: bool) -> None:
    assert containers.oom_at_end(at_start, kills, noted, outlived) == at_end


def test_no_counter_tells_of_it() -> None:
    event = event_of(held(S.RUNNING), c.RecordExit(b.CON, 137, b.WALL, Evidence("exit-file"), True))
    assert (event.text, event.oom) == ("it was killed for want of memory", True)
    assert containers.evolve(held(S.RUNNING), event).reason == "OOMKilled"


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_code_of_its_own_is_no_end_for_want_of_memory(code: int) -> None:
    event = event_of(held(S.RUNNING), c.RecordExit(b.CON, code, b.WALL, Evidence("exit-file"), True))
    assert (event.text, event.oom) == ("", False)


def test_a_failed_start_ends_with_128() -> None:
    failed = containers.evolve(held(S.STARTING), e.ContainerStartFailed(b.WALL, "RuntimeFailed", "no"))
    assert (failed.exit_code, failed.reason, failed.evidence.source) == (128, "StartError", "start-error")
    assert failed.started_at == failed.finished_at == b.WALL


def test_created_remembers_who_and_what() -> None:
    made = held(S.CREATED)
    assert (made.init, made.monitor, made.user, made.runtime) == (b.INIT, b.MONITOR, b.USER, b.RUNTIME)
    assert made.ever_created
    assert [s for s in render_states() if held(s).live] == [S.CREATED, S.STARTING, S.RUNNING, S.STOPPING]


def render_states() -> list[ContainerState]:
    return list(ContainerState)


def test_resources_change_the_configuration() -> None:
    wanted = Resources(cpu_shares=2)
    assert containers.evolve(held(S.RUNNING), e.ContainerResourcesUpdated(wanted)).config.resources == wanted


@pytest.mark.parametrize(
    ("asked", "of_image", "signal"), [("", "", "SIGTERM"), ("", "SIGINT", "SIGINT"), ("SIGQUIT", "SIGINT", "SIGQUIT")]
)
def test_stop_signal_is_the_clients_then_the_images(asked: str, of_image: str, signal: str) -> None:
    event = containers.requested(b.create(stop_signal=asked), (b.ID_A, b.REF, of_image), "/l", 1)
    assert event.stop_signal == signal


def test_a_refusal_names_the_container_its_state_and_the_way_out() -> None:
    decision = containers.decide(held(S.INTERRUPTED), c.StartContainer(b.CON), b.NOW)
    assert b.shown(decision).startswith(
        f"refused NotFound: cannot start container {b.CON}: its creation was interrupted"
    )


def test_a_late_report_is_nothing() -> None:
    assert containers.decide(held(S.EXITED), c.RecordExit(b.CON, 1, 0, Evidence("exit-file")), b.NOW) is ALREADY


def test_an_event_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(KeyError):
        containers.evolve(None, b.CREATED, b.CON)


def test_a_monitor_is_lost_once() -> None:
    lost = containers.evolve(held(S.RUNNING), e.ContainerMonitorLost(b.WALL))
    assert not isinstance(containers.decide(lost, c.RecordMonitorLost(b.CON), b.at(5)), Accept)


def test_oom_counter_never_falls() -> None:
    killed = containers.evolve(held(S.RUNNING), e.ContainerOom(0, 5))
    assert not isinstance(containers.decide(killed, c.RecordOom(b.CON, 2), b.NOW), Accept)


def test_no_code_means_no_evidence() -> None:
    command = c.RecordExit(b.CON, None, 0, Evidence("exit-file", "x?"))
    exited = containers.evolve(held(S.RUNNING), event_of(held(S.RUNNING), command))
    assert (exited.reason, exited.evidence.source) == ("Unknown", "none")

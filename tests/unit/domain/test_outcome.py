"""outcome: when each client's command is settled in each state, and as what."""

import pytest

from domain import commands as c
from domain import errors
from domain import events as e
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.outcome import Done, Failed, outcome
from tests.unit.domain import builders as b

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741


def told(book: b.Book, command: c.Command, key: str) -> str:
    found = outcome(book.node, command, key)
    if isinstance(found, Failed):
        return f"failed {type(found.error).__name__}"
    return "open" if found is None else f"done {found.value}".rstrip()


NEVER_MADE = (b.create_requested(), e.ContainerCreateFailed("StorageFailed", "disk"))
# fmt: off
CONTAINER_OUTCOMES = {
    #               CreateContainer          StartContainer       StopContainer  RemoveContainer
    S.CREATING:    ("open",                  "failed Cancelled",  "done",        "open"),
    S.INTERRUPTED: ("failed Cancelled",      "failed Cancelled",  "done",        "open"),
    S.CREATED:     ("done con",              "failed Cancelled",  "done",        "open"),
    S.STARTING:    ("done con",              "open",              "done",        "open"),
    S.RUNNING:     ("done con",              "done",              "done",        "open"),
    S.STOPPING:    ("done con",              "done",              "open",        "open"),
    S.EXITED:      ("done con",              "done",              "done",        "open"),
    S.REMOVING:    ("done con",              "done",              "done",        "open"),
    S.REMOVED:     ("failed RuntimeFailed",  "failed NotFound",   "done",        "done"),
}
SANDBOX_OUTCOMES = {
    #               RunSandbox               StopSandbox  RemoveSandbox
    B.SETTING_UP:  ("open",                  "done",      "open"),
    B.READY:       ("done box",              "done",      "open"),
    B.NOTREADY:    ("done box",              "done",      "open"),
    B.STOPPING:    ("done box",              "open",      "open"),
    B.STOPPED:     ("done box",              "done",      "open"),
    B.REMOVING:    ("done box",              "done",      "open"),
    B.REMOVED:     ("failed RuntimeFailed",  "done",      "done"),
}
IMAGE_OUTCOMES = {
    #               PullImage                RemoveImage
    I.ABSENT:      ("failed PullFailed",     "done"),
    I.PULLING:     ("open",                  "done"),
    I.PRESENT:     (f"done {b.ID_A}",        "done"),
    I.REMOVING:    (f"done {b.ID_A}",        "open"),
}
# fmt: on


@pytest.mark.parametrize("state", S)
def test_container_commands(state: ContainerState) -> None:
    commands = (b.create(), c.StartContainer(b.CON), c.StopContainer(b.CON, 1), c.RemoveContainer(b.CON))
    assert tuple(told(b.with_container(state), k, b.CON_KEY) for k in commands) == CONTAINER_OUTCOMES[state]


@pytest.mark.parametrize("state", B)
def test_sandbox_commands(state: SandboxState) -> None:
    commands = (b.run(), c.StopSandbox(b.BOX), c.RemoveSandbox(b.BOX))
    assert tuple(told(b.with_sandbox(state), k, b.BOX_KEY) for k in commands) == SANDBOX_OUTCOMES[state]


@pytest.mark.parametrize("state", I)
def test_image_commands(state: ImageState) -> None:
    commands = (c.PullImage(b.REF), c.RemoveImage(b.REF))
    assert tuple(told(b.with_image(state), k, e.image_key(b.REF)) for k in commands) == IMAGE_OUTCOMES[state]


def test_a_failed_create_tells_the_failure_on_record() -> None:
    found = outcome(b.with_sandbox().put(b.CON_KEY, *NEVER_MADE).node, b.create(), b.CON_KEY)
    assert isinstance(found, Failed)
    assert (type(found.error), found.error.text) == (errors.StorageFailed, "disk")


def test_a_failed_start_tells_the_failure_on_record() -> None:
    book = b.with_container(S.STARTING).put(b.CON_KEY, e.ContainerStartFailed(b.WALL, "RuntimeFailed", "no"))
    assert told(book, c.StartContainer(b.CON), b.CON_KEY) == "failed RuntimeFailed"


def test_a_start_that_was_stopped_first_is_cancelled() -> None:
    book = b.with_container(S.STARTING).put(b.CON_KEY, b.STOP)
    assert told(book, c.StartContainer(b.CON), b.CON_KEY) == "failed Cancelled"


def test_a_run_that_failed_or_was_stopped_first() -> None:
    setting_up = b.with_sandbox(B.SETTING_UP)
    failed = setting_up.copy().put(b.BOX_KEY, e.SandboxRunFailed("NetworkFailed", "no"))
    assert told(failed, b.run(), b.BOX_KEY) == "failed NetworkFailed"
    stopped = setting_up.copy().put(b.BOX_KEY, e.SandboxStopRequested())
    assert told(stopped, b.run(), b.BOX_KEY) == "failed Cancelled"


def test_a_pull_that_failed_beside_what_was_present() -> None:
    book = b.with_image().put(
        e.image_key(b.REF), e.ImagePullRequested(), e.ImagePullFailed("RegistryUnavailable", "no")
    )
    assert told(book, c.PullImage(b.REF), e.image_key(b.REF)) == "failed RegistryUnavailable"


def test_a_pull_whose_image_was_removed_at_once() -> None:
    book = b.with_image(I.REMOVING).put(e.image_key(b.REF), e.ImageRemoved())
    assert told(book, c.PullImage(b.REF), e.image_key(b.REF)) == "failed PullFailed"


def test_a_report_is_always_settled() -> None:
    assert outcome(b.with_container(S.RUNNING).node, c.RecordMonitorLost(b.CON), b.CON_KEY) == Done()


def test_a_removal_is_done_when_every_reference_is_gone() -> None:
    book = b.with_image().put(e.image_key(b.REF_2), *b.IMAGE_PATH[I.PRESENT])
    book.ask(c.RemoveImage(b.ID_A))
    assert told(book, c.RemoveImage(b.ID_A), e.image_key(b.REF)) == "open"
    book.ask(c.RecordImageRemoved(b.ID_A))
    assert not list(book.node.present()), "nothing is listed any more"
    assert told(book, c.RemoveImage(b.ID_A), e.image_key(b.REF)) == "done"

"""due: what each state owes. The whole of it is in the golden copies `states.txt` and `due_pod.txt`."""

import pytest

from domain import commands as c
from domain import effects as f
from domain import events as e
from domain.due import CONTAINER_EFFECT, NOTHING, Due, due
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.node import Node
from domain.records import Evidence
from tests.unit.domain import builders as b

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741
END = c.RecordExit(b.CON, 0, 0, Evidence("exit-file"))


def test_nothing_is_owed_for_what_nobody_knows() -> None:
    for key in ("container/x", "sandbox/x", "image/x", e.NODE_KEY, "", "strange/x"):
        assert due(Node(), key) == NOTHING


@pytest.mark.parametrize("key", [b.CON_KEY, b.BOX_KEY, e.image_key(b.REF)])
def test_nothing_is_owed_for_what_is_quarantined(key: str) -> None:
    book = b.with_sandbox(B.STOPPING).put(b.CON_KEY, *b.CONTAINER_PATH[S.STOPPING])
    book.put(e.image_key(b.REF), e.ImagePullRequested())
    assert due(book.node, key) != NOTHING
    assert due(book.spoil(key).node, key) == NOTHING


def test_effects_carry_what_they_need() -> None:
    assert due(b.with_container(S.STOPPING).node, b.CON_KEY).effect == f.StopTask(b.CON, b.LATER)
    book = b.with_image().put(e.image_key(b.REF_2), e.ImagePullRequested("oci:/x"))
    assert due(book.node, e.image_key(b.REF_2)).effect == f.PullImage(b.REF_2, "oci:/x")
    assert due(b.with_image(I.REMOVING).node, e.image_key(b.REF)).effect == f.RemoveImage(b.REF, b.ID_A)


def test_watches_know_init_and_whether_the_monitor_is_gone() -> None:
    book = b.with_container(S.RUNNING)
    assert due(book.node, b.CON_KEY) == Due(watch=f.WatchTask(b.CON, b.INIT, False))
    book.put(b.CON_KEY, e.ContainerMonitorLost(1))
    assert due(book.node, b.CON_KEY) == Due(watch=f.WatchTask(b.CON, b.INIT, True))
    assert due(b.with_sandbox(pid=True).node, b.BOX_KEY) == Due(watch=f.WatchInfra(b.BOX, b.INFRA))


def test_a_removal_that_waited_for_the_stop_follows_the_exit() -> None:
    book = b.with_container(S.RUNNING)
    book.ask(c.RemoveContainer(b.CON))
    assert due(book.node, b.CON_KEY).commands == ()
    book.ask(END)
    assert due(book.node, b.CON_KEY).commands == (c.RemoveContainer(b.CON),)
    book.ask(c.RemoveContainer(b.CON))
    assert due(book.node, b.CON_KEY) == Due(effect=f.RemoveTask(b.CON))


def test_a_plain_stop_is_not_followed_by_a_removal() -> None:
    book = b.with_container(S.RUNNING)
    book.ask(c.StopContainer(b.CON, 1))
    book.ask(END)
    assert due(book.node, b.CON_KEY) == Due(effect=f.TidyTask(b.CON))


def test_an_interrupted_create_is_given_up_at_its_deadline() -> None:
    owed = due(b.with_container(S.INTERRUPTED).node, b.CON_KEY)
    assert owed.at == (b.INTERRUPTED.give_up, c.RemoveContainer(b.CON))


def test_a_sandbox_stops_its_containers_then_itself_then_removes_them_then_itself() -> None:
    book = b.with_container(S.RUNNING)
    book.ask(c.RemoveSandbox(b.BOX))
    (stop,) = due(book.node, b.BOX_KEY).commands
    assert stop == c.StopContainer(b.CON, 0)
    book.ask(stop)
    assert due(book.node, b.BOX_KEY) == NOTHING, "the stop is under way"
    book.ask(END)
    assert due(book.node, b.BOX_KEY) == Due(effect=f.ReleaseNetwork(b.BOX))
    book.ask(c.RecordNetworkReleased(b.BOX))
    assert due(book.node, b.BOX_KEY) == Due(effect=f.TearDownSandbox(b.BOX))
    book.ask(c.RecordSandboxStopped(b.BOX))
    (remove,) = due(book.node, b.BOX_KEY).commands
    book.ask(remove)
    (remove,) = due(book.node, b.BOX_KEY).commands
    assert remove == c.RemoveContainer(b.CON)
    book.ask(remove)
    assert due(book.node, b.BOX_KEY) == NOTHING
    book.ask(c.RecordContainerRemoved(b.CON))
    assert due(book.node, b.BOX_KEY) == Due(effect=f.RemoveSandbox(b.BOX))
    book.ask(c.RecordSandboxRemoved(b.BOX))
    assert (book.node.sandboxes, book.node.containers) == ({}, {})


def test_an_address_that_leaked_holds_up_no_stop_and_is_released_in_the_background() -> None:
    book = b.with_sandbox(B.STOPPING)
    book.ask(c.RecordNetworkLeaked(b.BOX, 5, "no plugin"))
    assert due(book.node, b.BOX_KEY) == Due(effect=f.TearDownSandbox(b.BOX))
    book.ask(c.RecordSandboxStopped(b.BOX))
    assert due(book.node, b.BOX_KEY) == Due(effect=f.ReleaseNetwork(b.BOX, leaked=True))
    removed = book.copy()
    removed.ask(c.RemoveSandbox(b.BOX))
    assert due(removed.node, b.BOX_KEY) == Due(effect=f.RemoveSandbox(b.BOX))
    book.ask(c.RecordNetworkReleased(b.BOX))
    assert due(book.node, b.BOX_KEY) == NOTHING and not book.node.sandboxes[b.BOX].leak


@pytest.mark.parametrize("events", [(), (e.SandboxNetworkSet(("10.0.0.2",), "{}"),)])
def test_a_failed_run_releases_what_a_plugin_may_have_given(events: tuple[e.Event, ...]) -> None:
    book = b.with_sandbox(B.SETTING_UP).put(b.BOX_KEY, *events, e.SandboxRunFailed("NetworkFailed", "no"))
    assert due(book.node, b.BOX_KEY) == Due(effect=f.ReleaseNetwork(b.BOX))
    book.ask(c.RecordNetworkReleased(b.BOX))
    assert due(book.node, b.BOX_KEY) == Due(effect=f.RemoveSandbox(b.BOX))


def test_the_hosts_network_is_nobodys_to_release() -> None:
    assert due(b.with_sandbox(B.STOPPING, network=False).node, b.BOX_KEY) == Due(effect=f.TearDownSandbox(b.BOX))


def test_a_stop_with_grace_is_cut_short_by_the_sandbox() -> None:
    book = b.with_container(S.STOPPING).put(b.BOX_KEY, e.SandboxStopRequested())
    assert due(book.node, b.BOX_KEY).commands == (c.StopContainer(b.CON, 0),)


def test_states_without_an_effect_are_at_rest() -> None:
    assert set(ContainerState) - set(CONTAINER_EFFECT) == {S.CREATED, S.RUNNING, S.REMOVED}


@pytest.mark.parametrize("events", [(), (e.SandboxStopRequested("remove"),)])
def test_nothing_is_asked_of_a_quarantined_container(events: tuple[e.Event, ...]) -> None:
    book = b.with_container(S.RUNNING).put(b.BOX_KEY, e.SandboxStopRequested(), *events).spoil(b.CON_KEY)
    for command in due(book.node, b.BOX_KEY).commands:
        assert not b.shown(book.node.decide(command, b.NOW)).startswith("refused")


def test_no_removal_of_a_sandbox_with_a_quarantined_container() -> None:
    book = b.with_container(S.EXITED).put(b.BOX_KEY, e.SandboxStopRequested("remove"), e.SandboxStopped())
    book.spoil(b.CON_KEY)
    for command in due(book.node, b.BOX_KEY).commands:
        assert not b.shown(book.node.decide(command, b.NOW)).startswith("refused")


def test_a_sandbox_waits_for_the_removal_of_a_created_container() -> None:
    book = b.with_container(S.CREATED)
    book.ask(c.RemoveContainer(b.CON))
    book.ask(c.StopSandbox(b.BOX))
    assert due(book.node, b.CON_KEY).effect == f.RemoveTask(b.CON)
    assert due(book.node, b.BOX_KEY).effect is None


def test_a_sandbox_waits_for_a_cancelled_create() -> None:
    book = b.with_container(S.CREATING).put(b.BOX_KEY, e.SandboxStopRequested())
    book.ask(c.StopContainer(b.CON, 0))
    assert due(book.node, b.CON_KEY).effect == f.RemoveTask(b.CON)
    assert due(book.node, b.BOX_KEY).effect is None

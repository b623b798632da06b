"""sandbox: the values that events carry and what a state remembers of them. (Which event follows: test_lifecycle.)"""

import pytest

from domain import commands as c
from domain import events as e
from domain import sandbox as sandboxes
from domain.config import NamespaceMode, NamespaceOptions, Resources
from domain.decision import JOIN, Accept
from domain.lifecycle import SandboxState
from domain.sandbox import Sandbox
from tests.golden.domain.render import sandbox_in
from tests.unit.domain import builders as b

B = SandboxState


def held(state: SandboxState) -> Sandbox:
    found = sandbox_in(state)
    assert found is not None
    return found


def test_network_is_on_record_before_the_next_step_and_until_released() -> None:
    ready = held(B.READY)
    assert (ready.ips, ready.network, ready.held) == (("10.0.0.2",), "{}", True)
    assert held(B.NOTREADY).held
    stopping = sandboxes.evolve(held(B.STOPPING), e.SandboxNetworkLeaked(5, "no plugin"))
    assert (stopping.held, stopping.leak) == (True, "no plugin")
    released = sandboxes.evolve(stopping, e.SandboxNetworkReleased())
    assert (released.held, released.leak) == (False, "")
    assert sandboxes.decide(released, c.RecordNetworkReleased(b.BOX), b.NOW) is JOIN


def test_a_removal_waits_for_the_stop_and_is_not_forgotten() -> None:
    decision = sandboxes.decide(held(B.READY), c.RemoveSandbox(b.BOX), b.NOW)
    assert isinstance(decision, Accept)
    stopping = sandboxes.evolve(held(B.READY), decision.events[0][1])
    assert (stopping.state, stopping.then) == (B.STOPPING, "remove")
    assert sandboxes.decide(stopping, c.RemoveSandbox(b.BOX), b.NOW) is JOIN
    assert sandboxes.decide(stopping, c.StopSandbox(b.BOX), b.NOW) is JOIN


def test_a_removal_takes_over_a_stop() -> None:
    decision = sandboxes.decide(held(B.STOPPING), c.RemoveSandbox(b.BOX), b.NOW)
    assert decision == Accept(((b.BOX_KEY, e.SandboxStopRequested("remove")),))


def test_a_failed_run_was_never_ready_and_is_not_listed() -> None:
    failed = sandboxes.evolve(held(B.SETTING_UP), e.SandboxRunFailed("NetworkFailed", "no"))
    assert (failed.state, failed.error, failed.text, failed.ready) == (B.REMOVING, "NetworkFailed", "no", False)
    assert sandboxes.view(failed) is None
    assert sandboxes.view(held(B.REMOVING)) == "SANDBOX_NOTREADY"


def test_death_says_why_and_keeps_the_addresses() -> None:
    decision = sandboxes.decide(held(B.READY), c.RecordSandboxDied(b.BOX, "infra ended"), b.at(2))
    assert decision == Accept(((b.BOX_KEY, e.SandboxDied(b.at(2).wall_ns, "infra ended")),))
    died = sandboxes.evolve(held(B.READY), e.SandboxDied(1, "infra ended"))
    assert (died.text, died.ips) == ("infra ended", ("10.0.0.2",))


@pytest.mark.parametrize("state", [B.READY, B.NOTREADY])
def test_resources_change_the_configuration(state: SandboxState) -> None:
    changed = sandboxes.evolve(held(state), e.SandboxResourcesUpdated(Resources(cpu_shares=1), Resources(cpu_shares=2)))
    assert changed.config.overhead == Resources(cpu_shares=1)
    assert changed.config.resources == Resources(cpu_shares=2)


def test_what_the_pod_needs() -> None:
    pod, node, own = NamespaceMode.POD, NamespaceMode.NODE, NamespaceMode.CONTAINER
    for modes, namespaces, infra in [
        (NamespaceOptions(pod, own, pod), True, False),
        (NamespaceOptions(node, own, pod), True, False),
        (NamespaceOptions(pod, own, node), True, False),
        (NamespaceOptions(node, own, node), False, False),
        (NamespaceOptions(node, pod, node), False, True),
    ]:
        box = sandboxes.evolve(None, b.run_requested(namespaces=modes), b.BOX)
        assert (box.own_namespaces, box.own_pid_namespace) == (namespaces, infra)


def test_a_taken_name_is_refused_with_the_holders_id_and_state() -> None:
    refused = sandboxes.decide(held(B.STOPPED), b.run("new"), b.NOW)
    assert b.shown(refused) == (
        f"refused NameTaken: cannot run sandbox default/p (attempt 0): the name belongs to {b.BOX} (state STOPPED)"
    )


def test_an_event_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(KeyError):
        sandboxes.evolve(None, e.SandboxReady(), b.BOX)

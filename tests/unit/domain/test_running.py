"""running: who may be worked with while it runs."""

import pytest

from domain import container as containers
from domain import errors
from domain import events as e
from domain.lifecycle import ContainerState
from domain.running import running
from tests.unit.domain import builders as b


@pytest.mark.parametrize("state", ContainerState)
def test_only_what_the_cri_shows_as_running(state: ContainerState) -> None:
    node = b.with_container(state).node
    known = node.containers.get(b.CON)
    if known is not None and containers.view(known) == "CONTAINER_RUNNING":
        assert running(node, b.CON, "exec in") is known
        return
    with pytest.raises((errors.WrongState, errors.NotFound), match=f"cannot exec in container {b.CON}"):
        running(node, b.CON, "exec in")


def test_nothing_is_done_to_what_is_quarantined() -> None:
    node = b.with_container().node
    node.quarantine(e.container_key(b.CON), 9, 4711, "bad checksum")
    with pytest.raises(errors.Quarantined, match="4711"):
        running(node, b.CON, "exec in")

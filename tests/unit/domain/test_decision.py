"""decision: values only."""

from domain import decision
from tests.unit.domain.values import check_values


def test_values_are_frozen_and_slotted() -> None:
    check_values(decision)


def test_the_answers_without_values_are_single() -> None:
    assert (decision.Already(), decision.Join(), decision.Wait()) == (decision.ALREADY, decision.JOIN, decision.WAIT)
    assert len({decision.ALREADY, decision.JOIN, decision.WAIT}) == 3

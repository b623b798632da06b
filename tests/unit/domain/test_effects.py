"""effects: values only."""

from domain import effects
from tests.unit.domain.values import check_values


def test_values_are_frozen_and_slotted() -> None:
    check_values(effects)


def test_quiet_effects_are_effects() -> None:
    assert set(effects.QUIET) == {effects.UndoTask, effects.TidyTask}

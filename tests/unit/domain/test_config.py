"""config: values only."""

from domain import config
from tests.unit.domain.values import check_values


def test_values_are_frozen_and_slotted() -> None:
    check_values(config)

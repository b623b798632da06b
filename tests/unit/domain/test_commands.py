"""commands: values only."""

from domain import commands
from tests.unit.domain.values import check_values


def test_values_are_frozen_and_slotted() -> None:
    check_values(commands)


def test_clients_commands_have_a_verb_and_reports_have_none() -> None:
    named = {kind.__name__ for kind in commands.COMMAND_NAME}
    every = {k.__name__ for k in vars(commands).values() if isinstance(k, type) and k.__module__ == commands.__name__}
    assert {name for name in every if name.startswith("Record")} & named == set()
    assert {name for name in every if not name.startswith("Record")} - named == set()

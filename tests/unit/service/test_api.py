"""The daemon is what the front end asks for."""

import inspect

import pytest

from service.api import Api, Condition
from service.daemon import Daemon

NAMES = [name for name, member in vars(Api).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_the_daemon_fulfils_it(name: str) -> None:
    wanted, found = getattr(Api, name), getattr(Daemon, name)
    assert inspect.signature(wanted).parameters.keys() == inspect.signature(found).parameters.keys()
    assert inspect.iscoroutinefunction(wanted) == inspect.iscoroutinefunction(found)


def test_a_condition_is_good_without_words() -> None:
    assert Condition(True) == Condition(True, "", "")

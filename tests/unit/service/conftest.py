"""One world per test, put away at its end."""

from collections.abc import Iterator

import pytest

from tests.unit.service.pod import Pod


@pytest.fixture
def pod() -> Iterator[Pod]:
    made = Pod()
    yield made
    made.world.close()
    assert not made.world.unforeseen

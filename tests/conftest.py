"""Limits of tests on a machine that is slower than usual: each test's time limit is multiplied by SLOWNESS."""

import pytest

from tests.support.limits import SLOWNESS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SLOWNESS == 1:
        return
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit = marker.args[0] if marker and marker.args else usual
        item.add_marker(pytest.mark.timeout(limit * SLOWNESS), append=False)

"""A run's environment, input and time."""

import asyncio
import json

import pytest

from adapters.network.conf import NetworkConfig
from adapters.network.plugin import INPUT_MAX, Attachment, Budget, Plugins, Step
from domain.errors import NetworkFailed

PLUGIN = {"type": "t", "mtu": 5, "name": "mine", "capabilities": {"dns": True}}
NETWORK = NetworkConfig("net", "0.4.0", (PLUGIN,))


def test_input() -> None:
    about = Attachment("id", "/ns", (), {"dns": {"servers": []}, "cgroupPath": "/x"})
    step = Step("ADD", NETWORK, PLUGIN, about, {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8"}]})
    assert json.loads(step.input()) == {
        "type": "t",
        "mtu": 5,
        "name": "net",
        "cniVersion": "0.4.0",
        "capabilities": {"dns": True},
        "runtimeConfig": {"dns": {"servers": []}},
        "prevResult": {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/8"}]},
    }
    assert {"runtimeConfig", "prevResult"}.isdisjoint(json.loads(Step("STATUS", NETWORK, PLUGIN).input()))
    with pytest.raises(NetworkFailed, match="network net: plugin t: GC: its input"):
        Step("GC", NETWORK, PLUGIN, more={"x": "y" * INPUT_MAX}).input()


def test_told_is_one_bounded_printable_line() -> None:
    text = Step("ADD", NETWORK, PLUGIN).told("a\nb\x1b[2J" + "x" * 5000)
    assert text.startswith("network net: plugin t: ADD: a b [2Jx") and len(text) == 1000


def test_a_missing_plugin() -> None:
    with pytest.raises(NetworkFailed, match="network net: plugin t: ADD: it is not in /a, /b"):
        asyncio.run(Plugins(("/a", "/b"), "/cache").run(Step("ADD", NETWORK, PLUGIN), 1))


def test_budget() -> None:
    async def body() -> None:
        assert Budget(100, 5).next_s() == 5
        assert 0 < Budget(2, 5).next_s() <= 2
        assert Budget(0, 5).next_s() == 0

    asyncio.run(body())

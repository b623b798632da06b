"""Who waits for whom: hanging plugins must hold up nobody but pods that want plugins too."""

import asyncio
from typing import Any

import pytest

from domain import effects as f
from domain import events as e
from service.rooms import PLACES, Rooms
from service.runner import Report
from tests.unit.domain import builders as b
from tests.unit.service.desk import Desk, Stand, turns, virtual


class Hanging:
    """Effects that never end, by type and subject."""

    def __init__(self) -> None:
        self.begun: list[f.Effect | f.Watch] = []

    async def __call__(self, what: Any, report: Report) -> None:
        self.begun.append(what)
        await asyncio.Event().wait()

    def of(self, kind: type) -> list[str]:
        return [what.sandbox_id for what in self.begun if isinstance(what, kind)]


def many(desk: Desk, state: Any, prefix: str, network: bool = True, leaked: bool = False) -> list[str]:
    """More pods in a state than there are places."""
    keys = []
    for number in range(max(PLACES.values()) + 5):
        keys.append(e.sandbox_key(f"{prefix}{number}"))
        config = {"name": keys[-1], "uid": keys[-1], "namespaces": b.modes(network)}
        desk.put(keys[-1], b.run_requested(**config), *b.sandbox_path(state, network)[1:])
        if leaked:
            desk.put(keys[-1], e.SandboxNetworkLeaked(5, "it hangs"), e.SandboxStopped())
    return keys


@virtual
async def test_pods_on_the_hosts_network_and_stops_do_not_wait_for_plugins_that_hang() -> None:
    desk, effects = Desk().with_image(), Hanging()
    stand = Stand(desk, effects)
    attaching = many(desk, b.B.SETTING_UP, "attach")
    stand.runner.kick(attaching)
    await turns()
    assert len(effects.of(f.SetUpSandbox)) == PLACES["attach"]
    host, stopping = many(desk, b.B.SETTING_UP, "host", network=False), many(desk, b.B.STOPPING, "stop")
    stand.runner.kick([*host, *stopping])
    await turns()
    begun = effects.of(f.SetUpSandbox)
    assert sum(each.startswith("host") for each in begun) == PLACES["runtime"]
    assert len(effects.of(f.ReleaseNetwork)) == PLACES["release"]


@virtual
async def test_leaks_that_hang_take_few_places_and_none_of_the_others() -> None:
    desk, effects = Desk().with_image(), Hanging()
    stand = Stand(desk, effects)
    leaked = many(desk, b.B.STOPPING, "leaked", leaked=True)
    stand.runner.kick(leaked)
    await turns()
    assert len(effects.of(f.ReleaseNetwork)) == PLACES["leak"]
    stand.runner.kick(many(desk, b.B.STOPPING, "stop"))
    await turns()
    assert sum(each.startswith("stop") for each in effects.of(f.ReleaseNetwork)) == PLACES["release"]


@pytest.mark.parametrize(
    "what", [f.StopTask(b.CON, b.LATER), f.PullImage(b.REF, "")], ids=lambda what: type(what).__name__
)
@virtual
async def test_graces_and_downloads_take_no_place(what: f.Effect) -> None:
    rooms = Rooms(Desk().node)
    for _ in range(2 * max(PLACES.values())):
        await asyncio.wait_for(rooms.place(what).__aenter__(), 1)

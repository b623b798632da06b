"""What a person does to a state directory while no daemon runs: adopt a log, purge everything, give up one aggregate.

Each first says what it would do; nothing is done unless `really`.
"""

import asyncio
from collections.abc import Sequence

from domain import events as e
from domain.errors import DaybookError, InvalidRequest, NotReady
from domain.fold import Replayed
from domain.observations import World
from domain.records import Cause, Draft
from service.daemon import Ports
from service.recovery import Observer, fence, replay

AT_ONCE = 16
"""Sandboxes that are removed at the same time: plugins that hang take a minute each."""


async def adopt(ports: Ports, *, really: bool) -> list[str]:
    """Declares the log to be the truth: what it does not know is ended and removed, the directory gets its mark."""
    replayed, world = replay(ports.log), await _look(ports)
    try:
        why = fence(ports.log, ports.mark.read(), world)
    except NotReady as error:
        why = error.text
    head = ports.log.head()
    lines = [f"log {ports.log.log_id} ends at record {head.seq}; it becomes the truth"]
    lines.append(f"until now: {why.split(';')[0]}" if why else "the state directory has no objection to it")
    unknown = [(kind, name) for kind, name in _all(world) if name not in _known(replayed, kind)]
    lines += [f"end and remove {kind} {name}: this log does not know it" for kind, name in unknown]
    if really:
        lines += await _remove(ports, unknown)
        ports.mark.write(ports.log.log_id, head.seq)
        await _append(ports, replayed, e.NodeAdopted(why or ""), "adopt")
    return lines


async def purge(ports: Ports, *, really: bool) -> list[str]:
    """Ends and removes every container and sandbox; the caller then removes the directories."""
    replayed, world = replay(ports.log), await _look(ports)
    every = _all(world)
    every += [("container", i) for i in replayed.node.containers if ("container", i) not in every]
    every += [("sandbox", i) for i in replayed.node.sandboxes if ("sandbox", i) not in every]
    left: list[str] = []
    if really:
        left = await _remove(ports, every)
        await ports.images.clean()
    ended = [f"end and remove {kind} {name}" for kind, name in every]
    return [*ended, *left, "remove all images, the log and every other file below the data and run directories"]


async def release(ports: Ports, key: str, *, really: bool) -> list[str]:
    """Gives up an aggregate with an unreadable record: what it holds is removed, its name is free again."""
    replayed = replay(ports.log)
    held = replayed.node.quarantined.get(key)
    if held is None:
        known = ", ".join(sorted(replayed.node.quarantined)) or "none"
        raise InvalidRequest(f"cannot give up {key}: it is not quarantined; quarantined are: {known}")
    lines = [f"give up {key} (record {held.seq} does not decode: {held.why}) and remove what it holds"]
    if really:
        kind, name = e.split_key(key)
        if kind in ("container", "sandbox"):
            lines += await _remove(ports, [(kind, name)])
        await _append(ports, replayed, e.QuarantineReleased(key), "purge")
    return lines


async def _look(ports: Ports) -> World:
    observer = Observer(ports.clock, ports.tasks, ports.sandboxes, ports.network, ports.images, ports.offload)
    return await observer.look(replay(ports.log).node)


def _all(world: World) -> list[tuple[str, str]]:
    found = [("container", name) for name, seen in world.tasks.items() if seen.leftovers or seen.mark]
    return found + [
        ("sandbox", name) for name, seen in world.sandboxes.items() if seen.leftovers or seen.mark or seen.cached
    ]


def _known(replayed: Replayed, kind: str) -> set[str]:
    node = replayed.node
    held = {name for k, name in map(e.split_key, node.quarantined) if k == kind}
    return held | set(node.containers if kind == "container" else node.sandboxes)


async def _remove(ports: Ports, which: Sequence[tuple[str, str]]) -> list[str]:
    """Containers first: their sandboxes' namespaces are theirs too. Returns what is left, for a person to see to."""
    for container in sorted(name for kind, name in which if kind == "container"):
        await ports.tasks.remove(container)
        ports.secrets.remove(container)
    room = asyncio.Semaphore(AT_ONCE)
    sandboxes = sorted(name for kind, name in which if kind == "sandbox")
    left = await asyncio.gather(*(_remove_sandbox(ports, name, room) for name in sandboxes))
    return [line for line in left if line]


async def _remove_sandbox(ports: Ports, name: str, room: asyncio.Semaphore) -> str:
    """A plugin that fails, or is not here any more, keeps nobody from clearing a machine: its address is told."""
    told = ""
    async with room:
        try:
            await ports.network.delete(name, ports.sandboxes.netns(name))
        except DaybookError as error:
            told = (
                f"the network of sandbox {name} is not released, its plugins may still hold its address: {error.text}"
            )
        await ports.sandboxes.remove(name)
    ports.secrets.remove(name)
    return told


async def _append(ports: Ports, replayed: Replayed, event: e.Event, what: str) -> None:
    draft = Draft(e.NODE_KEY, replayed.node.next_version(e.NODE_KEY), event)
    await ports.log.append([draft], Cause("admin", what), ports.clock.now(), urgent=True)

"""The cache of serialised entries: always what a list made now would be."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.cri import views
from adapters.cri.lists import Lists
from domain import commands as c
from domain import container as containers
from domain import events as e
from domain import sandbox as sandboxes
from domain.errors import InvalidRequest
from domain.image import PulledImage
from domain.records import Evidence
from domain.sandbox import Sandbox
from proto import api_pb2 as pb
from tests.support.cri_requests import create, ids, normalise, options, run
from tests.support.fake_api import BOOT, FakeApi

translate = options().translator


def now(api: FakeApi, command: c.Command, secrets: Any = None) -> None:
    """Decides, folds and lets everything due happen; a refusal changes nothing."""
    api.report(command) if secrets is None else _with(api, command, secrets)


def _with(api: FakeApi, command: c.Command, secrets: Any) -> None:
    api.kept[getattr(command, "container_id", None) or command.sandbox_id] = secrets
    api.report(command)


def naive(api: FakeApi) -> tuple[Any, Any, Any]:
    """What the three lists are, made from nothing."""
    node = api.node

    def bad(key: str) -> Any:
        return node.quarantined.get(key)

    listed = sorted((k for k in node.containers.values() if containers.view(k)), key=lambda k: (k.created_at, k.id))
    pods = sorted((s for s in node.sandboxes.values() if sandboxes.view(s)), key=lambda s: (s.created_at, s.id))
    held = sorted(node.present(), key=lambda i: i[0].image_id)
    return (
        pb.ListContainersResponse(
            containers=[views.container(k, api.secrets, bad(e.container_key(k.id))) for k in listed]
        ),
        pb.ListPodSandboxResponse(items=[views.sandbox(s, api.secrets, bad(e.sandbox_key(s.id))) for s in pods]),
        pb.ListImagesResponse(images=[views.image(held, references) for held, references in held]),
    )


def cached(lists: Lists) -> tuple[Any, Any, Any]:
    return (
        pb.ListContainersResponse.FromString(lists.containers(None)),
        pb.ListPodSandboxResponse.FromString(lists.sandboxes(None)),
        pb.ListImagesResponse.FromString(lists.images(None)),
    )


IMAGES = [PulledImage(f"sha256:{i}{'0' * 63}", f"sha256:{i}{'1' * 63}", (), 1 + i, "", "") for i in range(3)]
REFERENCES = [f"docker.io/library/{name}:1" for name in "abc"]


class World:
    """Random changes to a node, with the list cache beside it."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.new_id = ids()
        self.translate = options(new_id=self.new_id).translator
        self.lists = Lists(self.api, normalise)
        self.api.pulled = IMAGES[0]
        self.pods = 0

    def change(self, what: str, number: int) -> None:
        node = self.api.node
        pods, kept = list(node.sandboxes), list(node.containers)
        match what:
            case "run":
                self.pods += 1
                now(self.api, *self.translate.run_sandbox(run(f"pod{self.pods}")))
            case "pull":
                self.api.pulled = IMAGES[number % 3]
                now(self.api, c.PullImage(REFERENCES[number // 3 % 3]))
            case "rmi":
                now(self.api, c.RemoveImage(REFERENCES[number % 3]))
            case "create" if pods:
                self._create(pods[number % len(pods)], number)
            case "stopp" | "rmp" if pods:
                command = c.StopSandbox if what == "stopp" else c.RemoveSandbox
                now(self.api, command(pods[number % len(pods)]))
            case "start" | "exit" | "stop" | "rm" if kept:
                self._container(what, kept[number % len(kept)])
            case "quarantine" if kept:
                self.api.quarantine(e.container_key(kept[number % len(kept)]))
            case "release" if node.quarantined:
                now(self.api, c.RecordNode(e.QuarantineReleased(sorted(node.quarantined)[0])))

    def _create(self, sandbox_id: str, number: int) -> None:
        request = create(sandbox_id, f"c{number}", image=pb.ImageSpec(image=REFERENCES[number % 3]))
        now(self.api, *self.translate.create_container(request, self.api.node))

    def _container(self, what: str, name: str) -> None:
        if what == "exit":
            now(self.api, c.RecordExit(name, 1, 0, Evidence("exit-file")))
            return
        make = {"start": c.StartContainer, "stop": lambda n: c.StopContainer(n, 0), "rm": c.RemoveContainer}[what]
        now(self.api, make(name))


STEPS = (
    "run",
    "pull",
    "rmi",
    "create",
    "create",
    "start",
    "exit",
    "stop",
    "rm",
    "stopp",
    "rmp",
    "quarantine",
    "release",
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 40), st.booleans()), max_size=60))
def test_the_cache_is_always_what_a_list_made_now_would_be(steps: list[tuple[str, int, bool]]) -> None:
    """Also in the middle of a step: somebody may list after any event."""
    world = World()
    look_at = [False]

    def compare(key: str) -> None:
        if look_at[0]:
            assert cached(world.lists) == naive(world.api), key

    world.api.on_change(compare)
    for what, number, look in [("pull", 0, False), ("run", 0, False), ("create", 0, True), *steps]:
        look_at[0] = look
        world.change(what, number)
    assert cached(world.lists) == naive(world.api)
    assert cached(Lists(world.api, normalise)) == naive(world.api)


def test_giving_up_a_quarantined_container_takes_it_off_the_list() -> None:
    world, _, names = populated(1, 2)
    world.api.quarantine(e.container_key(names[0]))
    assert views.QUARANTINED in cached(world.lists)[0].containers[0].annotations
    now(world.api, c.RecordNode(e.QuarantineReleased(e.container_key(names[0]))))
    assert ids_of(world.lists.containers(None)) == [names[1]]


def populated(pods: int, each: int) -> tuple[World, list[str], list[str]]:
    world = World()
    for number in range(3):
        world.change("pull", number * 4)
    for _ in range(pods):
        world.change("run", 0)
    names = list(world.api.node.sandboxes)
    for name in names:
        for number in range(each):
            world._create(name, number)
    return world, names, list(world.api.node.containers)


def test_a_thousand_containers_are_protobufs_own_bytes() -> None:
    world, _, _ = populated(50, 20)
    data = world.lists.containers(None)
    parsed = pb.ListContainersResponse.FromString(data)
    assert len(parsed.containers) == 1000
    assert parsed.SerializeToString(deterministic=True) == naive(world.api)[0].SerializeToString(deterministic=True)
    assert len(parsed.SerializeToString()) == len(data)
    began = time.perf_counter()
    for _ in range(100):
        world.lists.containers(None)
    assert time.perf_counter() - began < 0.5, "the fast path builds messages"


def ids_of(data: bytes, kind: Any = pb.ListContainersResponse, field: str = "containers") -> list[str]:
    return [entry.id for entry in getattr(kind.FromString(data), field)]


def test_container_filters() -> None:
    world, pods, names = populated(2, 2)
    world._container("start", names[0])
    world._container("start", names[3])
    world._container("exit", names[3])
    lists, running = world.lists, pb.ContainerStateValue(state=pb.CONTAINER_RUNNING)

    def ask(**filters: Any) -> list[str]:
        return ids_of(lists.containers(pb.ContainerFilter(**filters)))

    assert ask() == names
    assert ask(id=names[1]) == [names[1]]
    assert ask(id=names[1][:8]) == [names[1]]
    assert ask(id="") == names
    assert ask(id="nothing") == []
    assert ask(pod_sandbox_id=pods[0]) == names[:2]
    assert ask(pod_sandbox_id=pods[0][:8]) == names[:2]
    assert ask(pod_sandbox_id="nothing") == []
    assert ask(state=running) == [names[0]]
    assert ask(state=pb.ContainerStateValue(state=pb.CONTAINER_CREATED)) == names[1:3]
    assert ask(state=pb.ContainerStateValue(state=pb.CONTAINER_EXITED)) == [names[3]]
    assert ask(state=pb.ContainerStateValue(state=77)) == []
    assert ask(state=running, id=names[1]) == []
    assert ask(label_selector={"io.kubernetes.container.name": "c1"}) == [names[1], names[3]]
    assert ask(label_selector={"io.kubernetes.container.name": "c1", "other": ""}) == []
    assert ask(label_selector={"io.kubernetes.container.name": "c1"}, pod_sandbox_id=pods[1]) == [names[3]]


def test_an_ambiguous_prefix_is_no_match_in_a_filter() -> None:
    world, _, names = populated(1, 40)
    first = {name[0] for name in names if sum(n.startswith(name[0]) for n in names) > 1}.pop()
    assert ids_of(world.lists.containers(pb.ContainerFilter(id=first))) == []


def test_sandbox_filters() -> None:
    world, pods, _ = populated(3, 1)
    world.change("stopp", 1)
    lists = world.lists

    def ask(**filters: Any) -> list[str]:
        return ids_of(lists.sandboxes(pb.PodSandboxFilter(**filters)), pb.ListPodSandboxResponse, "items")

    assert ask() == pods
    assert ask(id=pods[2][:9]) == [pods[2]]
    assert ask(state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY)) == [pods[0], pods[2]]
    assert ask(state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY)) == [pods[1]]
    assert ask(label_selector={"app": "pod1"}) == [pods[0]]
    assert ask(label_selector={"app": "pod1"}, id=pods[1]) == []


def test_image_filters() -> None:
    world, _, _ = populated(0, 0)
    image = pb.ImageSpec

    def ask(text: str) -> list[str]:
        return ids_of(world.lists.images(pb.ImageFilter(image=image(image=text))), pb.ListImagesResponse, "images")

    assert ask("") == [held.image_id for held in IMAGES]
    assert ask("b:1") == [IMAGES[1].image_id]
    assert ask(IMAGES[2].image_id) == [IMAGES[2].image_id]
    assert ask("nothing") == []
    with pytest.raises(InvalidRequest):
        ask("NO such")


def test_an_entry_that_cannot_be_made_fails_the_list_and_stays_stale() -> None:
    """Leaving it out would tell the kubelet that the container is gone."""
    world, _, names = populated(1, 2)
    broken = {"on": True}
    api = world.api

    def secrets(name: str) -> Any:
        if broken["on"]:
            raise OSError("disk")
        return api.kept.get(name)

    api.secrets = secrets  # type: ignore[method-assign]
    lists = Lists(api, normalise)
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            lists.containers(None)
    broken["on"] = False
    assert ids_of(lists.containers(None)) == names


def test_what_was_there_before_the_cache_is_in_it() -> None:
    api = FakeApi()
    api.node.sandboxes["a"] = _ready("a")
    assert ids_of(Lists(api, normalise).sandboxes(None), pb.ListPodSandboxResponse, "items") == ["a"]


def _ready(name: str) -> Sandbox:
    command, _ = translate.run_sandbox(run())
    requested = e.SandboxRunRequested("0" * 32, 5, BOOT, command.config)
    return sandboxes.evolve(sandboxes.evolve(None, requested, name), e.SandboxReady())

"""Pod networks break: no configuration, a broken one, plugins that fail, hang, talk nonsense, are gone, have no address.

The client is told which plugin and why, pods on the host's network go on, and what was given is given back: at once, in
the background, by the next daemon, or as an orphan of a pod that is long removed.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from grpc import StatusCode

from domain import events as e
from domain.records import Record
from proto import api_pb2 as pb
from tests.crash.life import Pod, refused
from tests.crash.pod_network import Debian, Scripted
from tests.crash.stage import Stage
from tests.support.cni_lab import POOL
from tests.support.daemon import Machine, machine, until

pytestmark = [pytest.mark.real, pytest.mark.slow]

CONFIG = {"network": {"plugin_timeout_s": 1}, "daemon": {"reconcile_s": 1}}
LIMITS = {"DAYBOOK_TEST_LIMITS_S": '{"ReleaseNetwork": 2}'}
BROKEN = {"cniVersion": "1.0.0", "code": 100, "msg": "no cable"}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage(config=lambda _: CONFIG, network=Scripted, environment=LIMITS)
    yield made
    made.close()


@pytest.fixture
def m(stage: Stage) -> Iterator[Machine]:
    """Plugins that work and a daemon that knows it; in the end nothing is left, whatever was broken."""
    with stage.clean() as machine:
        until(lambda: not_ready(machine) == "", text="pods can be attached")
        yield machine
        machine.lab.behave_well()


def not_ready(m: Machine) -> str:
    """Why pods cannot be attached, as the client is told; empty where they can."""
    conditions = m.cri()[0].Status(pb.StatusRequest(), timeout=5).status.conditions
    runtime, network = (next(c for c in conditions if c.type == kind) for kind in ("RuntimeReady", "NetworkReady"))
    assert runtime.status and network.status == (not network.reason)
    assert network.reason in ("", "NetworkPluginNotReady")
    return str(network.message)


def told_of(m: Machine, pod: Pod, kind: type) -> list[Any]:
    """The events of a kind in the life of the pod's sandbox."""
    key = e.sandbox_key(pod.sandbox_id)
    return [r.event for r in m.records() if isinstance(r, Record) and r.key == key and isinstance(r.event, kind)]


def has_one_address(m: Machine, pod: Pod) -> None:
    told = pod.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox_id).status
    assert told.state == pb.SANDBOX_READY
    assert m.lab.book()[pod.sandbox_id] == [told.network.ip]


def works(m: Machine) -> None:
    pod = Pod(m).run()
    has_one_address(m, pod)
    pod.remove_pod()
    assert pod.sandbox_id not in m.lab.book()


# --- ADD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "how", "code", "text"),
    [
        ("alpha", {"fail": BROKEN}, StatusCode.INTERNAL, "no cable (code 100)"),
        ("beta", {"fail": BROKEN}, StatusCode.INTERNAL, "no cable (code 100)"),
        ("beta", {"garbage": "{ nonsense"}, StatusCode.INTERNAL, ""),
        ("beta", {"exit": 3, "stderr": "it broke down"}, StatusCode.INTERNAL, "it broke down"),
        ("beta", {"flood": 3 << 20}, StatusCode.INTERNAL, "it answered more than"),
        ("alpha", {"hang": True}, StatusCode.DEADLINE_EXCEEDED, "killed after 1 s"),
        ("beta", {"hang": True}, StatusCode.DEADLINE_EXCEEDED, "killed after 1 s"),
    ],
    ids=["first fails", "second fails", "garbage", "exit", "flood", "first hangs", "second hangs"],
)
def test_an_add_that_does_not_work_is_told_and_undone(
    m: Machine, plugin: str, how: dict[str, Any], code: StatusCode, text: str
) -> None:
    m.lab.behave(plugin, "ADD", **how)
    with refused(code, f"network pods: plugin {plugin}: ADD: ", text):
        Pod(m).run()
    m.await_clean()
    assert not m.cri()[0].ListPodSandbox(pb.ListPodSandboxRequest(), timeout=5).items
    m.lab.behave_well()
    works(m)


def test_no_address_is_free(m: Machine) -> None:
    pods = [Pod(m, f"pod-{n}").run() for n in range(POOL)]
    with refused(StatusCode.INTERNAL, "plugin alpha: ADD: no address is free (code 11)"):
        Pod(m, "too-much").run()
    for pod in pods:
        has_one_address(m, pod)
    pods.pop().remove_pod()
    pods.append(Pod(m, "too-much").run())
    for pod in pods:
        has_one_address(m, pod)
        pod.remove_pod()


def test_the_daemon_dies_while_an_add_hangs(m: Machine) -> None:
    """The plugin is ended, its address is released, the retry gets the id that was meant."""
    m.write_config({**CONFIG, "network": {"plugin_timeout_s": 50}})
    m.restart()
    pod = Pod(m)
    m.lab.behave("beta", "ADD", hang=True)
    with m.lab.hangs() as hangs, ThreadPoolExecutor(1) as somebody:
        lost = somebody.submit(pod.run)
        until(hangs, text="the plugin hangs")
        (meant,) = m.lab.book()
        m.kill9()
        assert lost.exception(30)
    m.lab.behave_well()
    m.write_config(CONFIG)
    m.start()
    pod.run()
    assert pod.sandbox_id == meant
    has_one_address(m, pod)
    pod.remove_pod()


# --- DEL -------------------------------------------------------------------------------------------------------------


# beta is told first, and alpha not at all while beta fails: the address stays.


def break_plugin(m: Machine) -> None:
    (m.lab.bin / "beta").rename(m.lab.bin / "gone")


def mend_plugin(m: Machine) -> None:
    (m.lab.bin / "gone").rename(m.lab.bin / "beta")


WAYS: dict[str, tuple[Callable[[Machine], Any], Callable[[Machine], Any], str]] = {
    "fails": (lambda m: m.lab.behave("beta", "DEL", fail=BROKEN), lambda m: m.lab.behave_well(), "no cable"),
    "hangs": (lambda m: m.lab.behave("beta", "DEL", hang=True), lambda m: m.lab.behave_well(), "killed after 1 s"),
    "gone": (break_plugin, mend_plugin, "it is not in"),
}


@contextmanager
def leaking(m: Machine, how: str) -> Iterator[tuple[Pod, Callable[[], None]]]:
    """A stopped pod whose address could not be released, and what mends the plugin."""
    spoil, mend, text = WAYS[how]
    pod = Pod(m).run()
    spoil(m)
    mended: list[bool] = []

    def mend_once() -> None:
        mended or mend(m)
        mended.append(True)

    try:
        pod.ask("StopPodSandbox", pod_sandbox_id=pod.sandbox_id)
        (leak,) = told_of(m, pod, e.SandboxNetworkLeaked)
        assert f"network pods: plugin beta: DEL: {text}" in leak.text and leak.attempts >= 1
        assert m.lab.held() == {pod.sandbox_id}
        yield pod, mend_once
    finally:
        mend_once()


def released(m: Machine, pod: Pod) -> None:
    until(lambda: told_of(m, pod, e.SandboxNetworkReleased), 20, "the release is on record")
    assert m.lab.held() == set()


@pytest.mark.parametrize("how", list(WAYS))
def test_a_del_that_does_not_work_goes_on_in_the_background(m: Machine, how: str) -> None:
    with leaking(m, how) as (pod, mend):
        (listed,) = pod.ask("ListPodSandbox").items
        assert listed.state == pb.SANDBOX_NOTREADY
        pod.ask("StopPodSandbox", pod_sandbox_id=pod.sandbox_id)
        mend()
        released(m, pod)
        pod.ask("RemovePodSandbox", pod_sandbox_id=pod.sandbox_id)
        assert len(told_of(m, pod, e.SandboxNetworkReleased)) == 1


def test_what_leaked_is_released_by_the_next_daemon(m: Machine) -> None:
    with leaking(m, "hangs") as (pod, mend):
        m.kill9()
        m.start()
        assert m.lab.held() == {pod.sandbox_id}
        mend()
        released(m, pod)
        pod.ask("RemovePodSandbox", pod_sandbox_id=pod.sandbox_id)


def test_the_rules_go_with_a_del_that_comes_late() -> None:
    """Debian's bridge with masquerading: without the namespace it frees the address and leaves its chain for ever."""
    with machine(config=CONFIG, network=Debian) as m:
        m.start()
        until(lambda: not_ready(m) == "", text="pods can be attached")
        pod = Pod(m).run(network=pb.POD)
        (m.lab.bin / "bridge").rename(m.lab.bin / "gone")
        pod.ask("StopPodSandbox", pod_sandbox_id=pod.sandbox_id)
        assert told_of(m, pod, e.SandboxNetworkLeaked) and m.lab.left()
        (m.lab.bin / "gone").rename(m.lab.bin / "bridge")
        until(lambda: told_of(m, pod, e.SandboxNetworkReleased), 40, "the release is on record")
        assert not any(m.lab.left().values()), m.lab.left()
        pod.ask("RemovePodSandbox", pod_sandbox_id=pod.sandbox_id)
        m.await_clean()


@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
def test_what_leaked_of_a_pod_that_is_removed_is_an_orphan(m: Machine, restart: bool) -> None:
    with leaking(m, "fails") as (pod, mend):
        pod.ask("RemovePodSandbox", pod_sandbox_id=pod.sandbox_id)
        assert not pod.ask("ListPodSandbox").items
        again = Pod(m).run()
        assert again.sandbox_id != pod.sandbox_id
        if restart:
            m.restart()
        assert m.lab.held() == {pod.sandbox_id, again.sandbox_id}
        mend()
        until(lambda: m.lab.held() == {again.sandbox_id}, 20, "the orphan's address is released")
        has_one_address(m, again)
        again.remove_pod()


def test_neither_add_nor_del_works(m: Machine) -> None:
    m.lab.behave("beta", "ADD", fail=BROKEN)
    m.lab.behave("beta", "DEL", fail=BROKEN)
    with refused(StatusCode.INTERNAL, "plugin beta: ADD: no cable"):
        Pod(m).run()
    assert len(m.lab.held()) == 1
    m.lab.behave_well()
    works(m)


def test_another_configuration_between_add_and_del(m: Machine) -> None:
    """DEL is done with what ADD was done with."""
    m.lab.configure([{"type": "nobody"}])
    until(lambda: "nobody" in not_ready(m), text="the configuration is seen")
    m.lab.configure([{"type": "alpha", "known": "by ADD"}, {"type": "beta"}])
    until(lambda: not_ready(m) == "", text="the configuration is seen")
    pod = Pod(m).run()
    try:
        m.lab.configure([{"type": "nobody"}], name="others")
        until(lambda: "nobody" in not_ready(m), text="the configuration is seen")
        pod.remove_pod()
    finally:
        m.lab.configure(m.lab.plugins())
    mine = [c["config"] for c in m.lab.calls("DEL") if c["env"]["CNI_CONTAINERID"] == pod.sandbox_id]
    assert [(c["name"], c["type"], c.get("known")) for c in mine] == [
        ("pods", "beta", None),
        ("pods", "alpha", "by ADD"),
    ]


# --- the configuration -----------------------------------------------------------------------------------------------


def _none(m: Machine) -> None:
    (m.lab.conf / "10-net.conflist").unlink()


def _garbage(m: Machine) -> None:
    (m.lab.conf / "10-net.conflist").write_text("{ garbage")


def _no_directory(m: Machine) -> None:
    m.lab.conf.rename(m.lab.path / "moved")


def _missing_plugin(m: Machine) -> None:
    m.lab.configure([{"type": "alpha"}, {"type": "nobody"}])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_none, "no usable CNI configuration in"),
        (_garbage, "10-net.conflist"),
        (_no_directory, "no CNI configuration"),
        (_missing_plugin, "nobody not found in"),
    ],
    ids=["none", "garbage", "no directory", "missing plugin"],
)
@pytest.mark.parametrize("at_start", [False, True], ids=["while it runs", "at its start"])
def test_without_a_usable_configuration(
    m: Machine, spoil: Callable[[Machine], None], text: str, at_start: bool
) -> None:
    spoil(m)
    try:
        if at_start:
            m.restart()
        until(lambda: text in not_ready(m), text="the client is told why")
        why = not_ready(m)
        with refused(StatusCode.INTERNAL, why):
            Pod(m, "own").run()
        with_hosts = Pod(m, "hosts").run(network=pb.NODE)
        assert [s.id for s in with_hosts.ask("ListPodSandbox").items] == [with_hosts.sandbox_id]
    finally:
        if (m.lab.path / "moved").exists():
            (m.lab.path / "moved").rename(m.lab.conf)
        m.lab.configure(m.lab.plugins())
    until(lambda: not_ready(m) == "", text="it is ready again without a restart")
    works(m)
    with_hosts.remove_pod()


# --- a person's commands ---------------------------------------------------------------------------------------------


def test_purge_gives_addresses_back(m: Machine) -> None:
    Pod(m).run()
    m.kill9()
    assert m.command("purge", "--yes").returncode == 0
    m.await_clean()
    m.start()


def test_purge_goes_on_past_a_plugin_that_fails_and_names_what_it_keeps(m: Machine) -> None:
    pod = Pod(m).run()
    m.kill9()
    m.lab.behave("beta", "DEL", fail=BROKEN)
    done = m.command("purge", "--yes")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert f"the network of sandbox {pod.sandbox_id} is not released" in done.stdout and "no cable" in done.stdout
    assert m.lab.held() == {pod.sandbox_id} and not m.lab.entries() and not m.log_directory.exists()
    for file in (m.lab.bin / "pool").iterdir():
        file.unlink()
    m.await_clean()
    m.lab.behave_well()
    m.start()


def test_adopt_gives_addresses_of_the_unknown_back(m: Machine) -> None:
    pod = Pod(m).run()
    m.kill9()
    m.log_directory.rename(m.base / "lost")
    adopted = m.command("adopt", "--yes")
    assert adopted.returncode == 0 and pod.sandbox_id in adopted.stdout, adopted
    m.start()
    m.await_clean()

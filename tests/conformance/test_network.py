"""One contract for pod networks: over the fake, scripted plugins and Debian's; then what only the real ones can show."""

import asyncio
import base64
import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.network import namespace
from adapters.network.network import CniNetwork, Limits
from adapters.network.process import OWNER
from domain.config import DnsConfig, PortMapping
from domain.errors import Failure, InvalidRequest, NetworkFailed, TimedOut
from domain.observations import Mark
from tests.support.cni_lab import LABS, MARK, POOL, BridgeLab, ScriptedLab, inside, reach, sandbox
from tests.support.limits import SLOWNESS

GONE = ""


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=pytest.mark.real) for kind in ("scripted", "bridge"))])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = LABS[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedLab]:
    made = ScriptedLab(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[BridgeLab]:
    made = BridgeLab(tmp_path)
    try:
        yield made
    finally:
        made.close()


Body = Callable[[Any, Any], Coroutine[Any, Any, None]]


def run_on(lab: Any, body: Body, **options: Any) -> None:
    """The body with a network that has started; in the end nothing is left."""

    async def whole() -> None:
        network = lab.network(**options)
        await network.start()
        try:
            await lab.settled(network)
            await asyncio.wait_for(body(lab, network), 60 * SLOWNESS)
            for one in set(network.observe()):
                await network.delete(one, lab.netns(one))
        finally:
            await network.close()

    asyncio.run(whole())
    assert lab.left() == {}


def contract(body: Body) -> Any:
    def wrapper(lab: Any) -> None:
        run_on(lab, body)

    wrapper.__name__ = body.__name__
    return wrapper


def with_scripted(body: Body) -> Any:
    def wrapper(scripted: ScriptedLab) -> None:
        run_on(scripted, body)

    wrapper.__name__ = body.__name__
    return pytest.mark.real(wrapper)


def with_bridge(body: Body) -> Any:
    def wrapper(bridge: BridgeLab) -> None:
        run_on(bridge, body)

    wrapper.__name__ = body.__name__
    return pytest.mark.real(wrapper)


async def attach(lab: Any, network: Any, pod: Any) -> Any:
    return await network.add(pod, lab.netns(pod.id), dict(pod.config.annotations), MARK)


# --- the contract ----------------------------------------------------------------------------------------------------


@contract
async def test_add_gives_an_address_and_a_record_of_it(lab: Any, network: Any) -> None:
    assert network.ready() == ""
    pod, other = sandbox(), sandbox()
    got, others = await attach(lab, network, pod), await attach(lab, network, other)
    assert got.ips and "/" not in got.ips[0] and not set(got.ips) & set(others.ips)
    assert got.ips[0] in json.loads(got.result)["ips"][0]["address"]
    assert network.observe() == {pod.id: Mark("log-1", 7), other.id: Mark("log-1", 7)}
    assert lab.held() == {pod.id, other.id}


@contract
async def test_delete_frees_and_may_be_repeated(lab: Any, network: Any) -> None:
    for _ in range(POOL + 1):
        pod = sandbox()
        await attach(lab, network, pod)
        await network.delete(pod.id, lab.netns(pod.id))
        assert (lab.held(), network.observe()) == (set(), {})
        await network.delete(pod.id, lab.netns(pod.id))


@contract
async def test_delete_of_the_unknown_is_nothing(lab: Any, network: Any) -> None:
    await network.delete(sandbox().id, GONE)
    assert network.observe() == {}


@contract
async def test_add_again_holds_one_address(lab: Any, network: Any) -> None:
    pod = sandbox()
    for _ in range(POOL + 1):
        await attach(lab, network, pod)
    assert lab.held() == {pod.id}
    await network.check(pod.id, lab.netns(pod.id))


@contract
async def test_check_sees_what_is_lost(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    await network.check(pod.id, lab.netns(pod.id))
    lab.lose_link(pod.id)
    with pytest.raises(NetworkFailed, match="CHECK"):
        await network.check(pod.id, lab.netns(pod.id))


@contract
async def test_check_of_the_unknown_fails(lab: Any, network: Any) -> None:
    with pytest.raises(NetworkFailed, match="no attachment"):
        await network.check(sandbox().id, GONE)


@contract
async def test_a_failed_add_is_in_the_cache_until_deleted(lab: Any, network: Any) -> None:
    pods = [sandbox() for _ in range(POOL + 1)]
    for pod in pods[:-1]:
        await attach(lab, network, pod)
    with pytest.raises(NetworkFailed, match=r"network .*: plugin .*: ADD"):
        await attach(lab, network, pods[-1])
    assert pods[-1].id in network.observe()
    with pytest.raises(NetworkFailed, match="no attachment"):
        await network.check(pods[-1].id, lab.netns(pods[-1].id))
    await network.delete(pods[-1].id, lab.netns(pods[-1].id))
    assert pods[-1].id not in network.observe()


@contract
async def test_the_next_daemon_deletes_without_configuration(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    lab.break_configuration()
    after = lab.network()
    assert after.observe() == {pod.id: Mark("log-1", 7)}
    assert after.ready() != ""
    await after.delete(pod.id, lab.netns(pod.id))
    assert (lab.held(), after.observe()) == (set(), {})


@contract
async def test_delete_after_the_namespace_is_gone(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    lab.drop_netns(pod.id)
    await network.delete(pod.id, GONE)
    assert (lab.held(), network.observe()) == (set(), {})


@contract
async def test_an_unreadable_entry_is_seen_and_deleted(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    lab.spoil_entry(pod.id)
    assert network.observe() == {pod.id: None}
    await network.delete(pod.id, lab.netns(pod.id))
    assert (lab.held(), network.observe()) == (set(), {})


@contract
async def test_a_cancelled_add_leaves_what_delete_frees(lab: Any, network: Any) -> None:
    if not lab.hangs:
        return
    pod = sandbox()
    lab.hang_in_add()
    task = asyncio.ensure_future(attach(lab, network, pod))
    await lab.hanging()
    assert pod.id in lab.held()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert network.observe() == {pod.id: Mark("log-1", 7)}
    await network.delete(pod.id, lab.netns(pod.id))
    assert (lab.held(), network.observe()) == (set(), {})


@contract
async def test_gc_frees_what_nobody_knows(lab: Any, network: Any) -> None:
    if not lab.collects:
        return
    pod, named, unknown = sandbox(), sandbox(), sandbox()
    await attach(lab, network, pod)
    lab.hold_unknown(unknown.id)
    await network.gc([pod.id, unknown.id])
    assert lab.held() == {pod.id, unknown.id}
    # One with a cache entry is known, whatever the caller says: DEL is for that.
    await network.gc([named.id])
    assert lab.held() == {pod.id}


@contract
async def test_an_add_without_a_configuration_says_why(lab: Any, network: Any) -> None:
    lab.break_configuration()
    after, pod = lab.network(), sandbox()
    await after.start()
    try:
        assert after.ready() != ""
        with pytest.raises(NetworkFailed) as caught:
            await attach(lab, after, pod)
        assert caught.value.text == after.ready()
    finally:
        await after.close()
    assert after.observe() == {}


# --- what the plugins are told ---------------------------------------------------------------------------------------


@with_scripted
async def test_environment_and_input(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    await network.check(pod.id, lab.netns(pod.id))
    await network.delete(pod.id, lab.netns(pod.id))
    assert lab.order("ADD", "CHECK", "DEL") == [
        "ADD alpha", "ADD beta", "CHECK alpha", "CHECK beta", "DEL beta", "DEL alpha",
    ]  # fmt: skip
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={pod.id};K8S_POD_UID=uid-1"
    for call in lab.calls("ADD", "CHECK", "DEL"):
        assert {name: value for name, value in call["env"].items() if name.startswith("CNI_")} == {
            "CNI_COMMAND": call["command"],
            "CNI_CONTAINERID": pod.id,
            "CNI_NETNS": lab.netns(pod.id),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": args,
            "CNI_PATH": str(lab.bin),
        }
        assert set(call["env"]) - {name for name in call["env"] if name.startswith("CNI_")} == {"PATH", OWNER}
        assert (call["config"]["name"], call["config"]["cniVersion"], call["config"]["type"]) == (
            "pods",
            "1.1.0",
            call["type"],
        )
        pid, group, session = call["ids"]
        assert pid == group == session != os.getsid(0)
    first, *rest = [call["config"].get("prevResult") for call in lab.calls("ADD", "CHECK", "DEL")]
    assert first is None and all(each == rest[0] and each["ips"] for each in rest)


@with_scripted
async def test_delete_is_of_the_configuration_that_was_added(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    lab.configure([{"type": "beta", "later": True}])
    await lab.settled(network)
    await network.delete(pod.id, lab.netns(pod.id))
    assert lab.order("DEL") == ["DEL beta", "DEL alpha"]
    assert not any("later" in call["config"] for call in lab.calls("DEL"))


@with_scripted
async def test_a_gone_namespace_is_told_as_empty(lab: Any, network: Any) -> None:
    pod, path = sandbox(), lab.namespaces / "plain"
    await attach(lab, network, pod)
    path.touch()
    await network.delete(pod.id, str(path))
    assert [call["env"]["CNI_NETNS"] for call in lab.calls("DEL")] == ["", ""]


@with_scripted
async def test_capabilities_go_only_to_who_declares_them(lab: Any, network: Any) -> None:
    everything = ("portMappings", "bandwidth", "dns", "cgroupPath", "io.kubernetes.cri.pod-annotations")
    lab.configure(
        [
            {"type": "alpha", "capabilities": {"dns": False, "ips": True}},
            {"type": "beta", "capabilities": dict.fromkeys(everything, True)},
        ]
    )
    await lab.settled(network)
    pod = sandbox(
        {"kubernetes.io/ingress-bandwidth": "1M"},
        port_mappings=(PortMapping("TCP", 80, 8080, "127.0.0.1"), PortMapping("udp", 53)),
        dns=DnsConfig(("10.0.0.10",), ("svc.test",), ("ndots:5",)),
        cgroup_parent="/pods/one",
    )
    await attach(lab, network, pod)
    await network.delete(pod.id, "")
    for call in lab.calls("ADD", "DEL"):
        told = call["config"].get("runtimeConfig")
        assert told == (None if call["type"] == "alpha" else {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 4294967295},
            "dns": {"servers": ["10.0.0.10"], "searches": ["svc.test"], "options": ["ndots:5"]},
            "cgroupPath": "/pods/one",
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "1M"},
        })  # fmt: skip


@with_scripted
async def test_what_cannot_be_told_is_refused_before_anything_runs(lab: Any, network: Any) -> None:
    lab.configure([{"type": "alpha"}], file="00-first.conflist")
    for bad in (
        sandbox({"kubernetes.io/egress-bandwidth": "lots"}),
        sandbox(port_mappings=(PortMapping("icmp", 1, 1),)),
    ):
        with pytest.raises(InvalidRequest):
            await attach(lab, network, bad)
    assert lab.order("ADD") == [] and network.observe() == {}


# --- the cache -------------------------------------------------------------------------------------------------------


@with_scripted
async def test_the_entry_is_there_before_a_plugin_runs(lab: Any, network: Any) -> None:
    pod = sandbox()
    lab.behave("alpha", "ADD", hang=True)
    task = asyncio.ensure_future(attach(lab, network, pod))
    await lab.hanging()
    (path,) = lab.entries()
    assert path.name == f"pods-{pod.id}-eth0" and "result" not in json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    task.cancel()
    await asyncio.wait([task])


@with_scripted
async def test_the_entry_is_libcnis(lab: Any, network: Any) -> None:
    pod = sandbox()
    got = await attach(lab, network, pod)
    entry = json.loads(lab.entries()[0].read_text())
    config = json.loads(base64.b64decode(entry.pop("config")))
    assert (config["name"], [p["type"] for p in config["plugins"]]) == ("pods", ["alpha", "beta"])
    assert entry.pop("result") == json.loads(got.result)
    assert dict(entry.pop("cniArgs"))["K8S_POD_NAME"] == "web-0"
    assert entry == {
        "kind": "cniCacheV1",
        "containerId": pod.id,
        "ifName": "eth0",
        "networkName": "pods",
        "netns": lab.netns(pod.id),
        "capabilityArgs": {},
        "daybook": {"log_id": "log-1", "seq": 7},
    }


@with_scripted
async def test_an_entry_of_another_name_is_released_too(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    lab.configure(lab.plugins(), file="00-other.conflist", name="other")
    await lab.settled(network)
    await attach(lab, network, pod)
    assert [path.name.split("-")[0] for path in lab.entries()] == ["other"]
    assert lab.held() == {pod.id}


# --- plugins that fail -----------------------------------------------------------------------------------------------

ERROR = {"cniVersion": "1.0.0", "code": 11, "msg": "try\x1b[2J again", "details": "later"}


@with_scripted
async def test_a_failure_in_the_middle(lab: Any, network: Any) -> None:
    pod = sandbox()
    lab.behave("beta", "ADD", fail=ERROR)
    with pytest.raises(NetworkFailed) as caught:
        await attach(lab, network, pod)
    assert caught.value.text == "network pods: plugin beta: ADD: try [2J again; later (code 11)"
    assert lab.held() == {pod.id}
    await network.delete(pod.id, lab.netns(pod.id))
    assert lab.order("DEL") == ["DEL beta", "DEL alpha"]
    assert all("prevResult" not in call["config"] for call in lab.calls("DEL"))


@pytest.mark.real
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"garbage": "hello"}, "not JSON"),
        ({"garbage": "[]"}, "not a JSON object"),
        ({"garbage": "[" * 100_000}, "nested too deeply"),
        ({"garbage": '{"ips": 1e999}'}, "not JSON"),
        ({"garbage": ""}, "answered nothing"),
        ({"flood": 3 << 20}, "more than 1048576 bytes"),
        ({"exit": 3}, "exit 3"),
        ({"stderr": "first\nlast words\n", "exit": 3}, "exit 3: last words"),
        ({"result": {"cniVersion": "1.0.0"}}, "no IP address"),
        ({"result": {"ips": [{"address": "10.0.0.999/8"}]}}, "not an address"),
        ({"result": {"ips": [{"address": "10.0.0.9/8", "interface": 4}], "interfaces": []}}, "interface 4"),
        ({"result": {"ips": [{"address": "10.0.0.9/8"}], "more": "x" * 70_000}}, "65536 at most"),
    ],
)
def test_bad_answers(scripted: ScriptedLab, how: dict[str, Any], says: str) -> None:
    async def body(lab: ScriptedLab, network: Any) -> None:
        pod = sandbox()
        lab.behave("beta", "ADD", **how)
        with pytest.raises(NetworkFailed, match=says) as caught:
            await attach(lab, network, pod)
        assert len(caught.value.text) < 1100 and "pods" in caught.value.text
        assert network.observe() == {pod.id: Mark("log-1", 7)}
        await network.delete(pod.id, lab.netns(pod.id))
        assert lab.held() == set()

    run_on(scripted, body)


@pytest.mark.real
@pytest.mark.parametrize("limits", [Limits(plugin_s=0.4, chain_s=30), Limits(plugin_s=30, chain_s=0.4)])
def test_a_hanging_plugin_is_killed_with_its_children(scripted: ScriptedLab, limits: Limits) -> None:
    async def body(lab: ScriptedLab, network: Any) -> None:
        pod = sandbox()
        lab.behave("beta", "ADD", child="4721.5", hang=True)
        fd = os.open(lab.bin / "hanging", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(TimedOut, match=r"network pods: plugin (alpha|beta): ADD: killed after 0\."):
            await attach(lab, network, pod)
        os.close(fd)
        assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"4721.5" in _read(p)]
        lab.behave_well()

    run_on(scripted, body, limits=limits)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@with_scripted
async def test_the_plugin_of_a_killed_daemon_is_ended_before_its_delete(lab: Any, network: Any) -> None:
    pod, other = sandbox(), sandbox()
    lab.behave("beta", "ADD", fail=ERROR)
    with pytest.raises(NetworkFailed):
        await attach(lab, network, pod)
    lab.behave("beta", "ADD", hang=True)
    left = []
    for one in (pod, other):
        env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": one.id, "CNI_NETNS": "", "CNI_IFNAME": "eth0"}
        left.append(subprocess.Popen([lab.bin / "beta"], stdin=subprocess.PIPE, env=env, start_new_session=True))
        with left[-1].stdin as stdin:  # type: ignore[union-attr]
            stdin.write(b'{"cniVersion": "1.0.0"}')
    try:
        await lab.hanging()
        await network.delete(pod.id, lab.netns(pod.id))
        assert left[0].wait(0) == -9 and left[1].poll() is None
    finally:
        for process in left:
            process.kill()
            process.wait()
    lab.behave_well()


@with_scripted
async def test_a_half_written_entry_goes_at_the_start(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    half = lab.entries()[0].with_suffix(".new")
    half.write_text("{")
    foreign = half.with_name("other-file.new")
    foreign.touch()
    after = lab.network()
    assert set(after.observe()) == {pod.id}
    await after.start()
    await after.close()
    assert not half.exists() and foreign.exists() and set(after.observe()) == {pod.id}
    foreign.unlink()


@with_scripted
async def test_a_failing_delete_keeps_the_entry(lab: Any, network: Any) -> None:
    pod = sandbox()
    await attach(lab, network, pod)
    lab.behave("beta", "DEL", fail=ERROR)
    with pytest.raises(NetworkFailed, match="plugin beta: DEL"):
        await network.delete(pod.id, lab.netns(pod.id))
    assert lab.order("DEL") == ["DEL beta"] and pod.id in network.observe()
    (lab.bin / "beta").rename(lab.bin / "away")
    with pytest.raises(NetworkFailed, match="plugin beta: DEL: it is not in"):
        await network.delete(pod.id, lab.netns(pod.id))
    (lab.bin / "away").rename(lab.bin / "beta")
    lab.behave_well()


@with_scripted
async def test_check_is_not_asked_where_the_configuration_says_so(lab: Any, network: Any) -> None:
    for more in ({"disableCheck": True}, {"cniVersion": "0.3.1"}):
        lab.configure(lab.plugins(), **more)
        await lab.settled(network)
        pod = sandbox()
        await attach(lab, network, pod)
        await network.check(pod.id, lab.netns(pod.id))
        await network.delete(pod.id, lab.netns(pod.id))
    assert lab.calls("CHECK") == []
    assert [("prevResult" in call["config"]) for call in lab.calls("DEL")] == [True, True, False, False]


@with_scripted
async def test_gc_is_not_asked_where_the_configuration_says_so(lab: Any, network: Any) -> None:
    for more in ({"disableGC": True}, {"cniVersion": "1.0.0"}):
        lab.configure(lab.plugins(), **more)
        await lab.settled(network)
        await network.gc([])
    assert lab.calls("GC") == []


@with_scripted
async def test_without_a_word_the_network_is_taken_for_everybodys(lab: Any, network: Any) -> None:
    """GC would free what belongs to another runtime's pods: it is not even begun, and nobody waits for it."""
    unknown = sandbox()
    lab.hold_unknown(unknown.id)
    other = CniNetwork(str(lab.cache), conf_dir=str(lab.conf), bin_dirs=[str(lab.bin)])
    await other.start()
    try:
        await other.gc([])
    finally:
        await other.close()
    assert lab.calls("GC") == [] and lab.held() == {unknown.id}
    await network.gc([])
    assert lab.held() == set()


@with_scripted
async def test_check_is_asked_again_only_without_the_hosts_hardware_addresses(lab: Any, network: Any) -> None:
    """A plugin that objects for another reason is heard, in its first words."""
    pod = sandbox()
    host, inside_ = {"name": "host0", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02"}
    ips = [{"address": "10.99.0.10/24", "interface": 1}]
    for interfaces, times in (([host, {**inside_, "sandbox": lab.netns(pod.id)}], 2), ([{"name": "host0"}], 1)):
        made = {"cniVersion": lab.version, "interfaces": [*interfaces, {**inside_, "sandbox": "x"}], "ips": ips}
        lab.behave("beta", "ADD", result=made)
        await attach(lab, network, pod)
        lab.behave("alpha", "CHECK", fail=ERROR)
        before = len(lab.calls("CHECK"))
        with pytest.raises(NetworkFailed, match="plugin alpha: CHECK"):
            await network.check(pod.id, lab.netns(pod.id))
        asked = [call["config"]["prevResult"]["interfaces"] for call in lab.calls("CHECK")[before:]]
        assert asked[0] == made["interfaces"] and len(asked) == times
        if times == 2:
            assert asked[1] == [{"name": "host0"}, *made["interfaces"][1:]]
    lab.behave_well()


@with_scripted
async def test_gc_waits_for_adds_and_adds_for_gc(lab: Any, network: Any) -> None:
    first, second = sandbox(), sandbox()
    lab.behave("beta", "ADD", sleep=0.2)
    lab.behave("alpha", "GC", fail=ERROR)
    adding = asyncio.ensure_future(attach(lab, network, first))
    await asyncio.sleep(0)
    collecting = asyncio.ensure_future(network.gc([]))
    await asyncio.sleep(0)
    await asyncio.gather(adding, attach(lab, network, second))
    with pytest.raises(NetworkFailed, match="plugin alpha: GC"):
        await collecting
    assert lab.order("ADD", "GC") == ["ADD alpha", "ADD beta", "GC alpha", "GC beta", "ADD alpha", "ADD beta"]
    told = lab.calls("GC")[0]
    assert told["config"]["cni.dev/valid-attachments"] == [{"containerID": first.id, "ifname": "eth0"}]
    assert set(told["env"]) == {"PATH", "CNI_COMMAND", "CNI_PATH", OWNER}


@with_scripted
async def test_a_gc_that_hangs_holds_pods_up_for_its_limit_only(lab: Any, network: Any) -> None:
    other = lab.network(limits=Limits(plugin_s=20, chain_s=30, gc_s=0.3))
    await other.start()
    lab.behave("alpha", "GC", hang=True)
    collecting = asyncio.ensure_future(other.gc([]))
    await lab.hanging()
    pod = sandbox()
    adding = asyncio.ensure_future(attach(lab, other, pod))
    with pytest.raises(TimedOut, match="plugin alpha: GC: killed after"):
        await collecting
    await adding
    await other.delete(pod.id, lab.netns(pod.id))
    await other.close()


# --- readiness -------------------------------------------------------------------------------------------------------


@with_scripted
async def test_status_is_asked_and_kept(lab: Any, network: Any) -> None:
    lab.behave("beta", "STATUS", fail={"code": 50, "msg": "no route yet"})
    lab.configure(lab.plugins(), file="00-new.conflist")
    await lab.settled(network)
    assert network.ready() == "network pods: plugin beta: STATUS: no route yet (code 50)"
    assert set(lab.calls("STATUS")[0]["env"]) == {"PATH", "CNI_COMMAND", "CNI_PATH", OWNER}
    lab.behave_well()
    lab.configure(lab.plugins(), file="00-new.conflist")
    await lab.settled(network)
    assert network.ready() == ""


@with_scripted
async def test_the_directory_is_watched(lab: Any, network: Any) -> None:
    async def after(change: Callable[[], object]) -> str:
        looked = asyncio.ensure_future(network.watcher.looked())
        await asyncio.sleep(0)
        change()
        await asyncio.wait_for(looked, 10 * SLOWNESS)
        return str(network.ready())

    away = lab.path / "away"
    assert "no usable CNI configuration" in await after((lab.conf / "10-net.conflist").unlink)
    assert await after(lambda: lab.configure(lab.plugins())) == ""
    assert "No such file" in await after(lambda: lab.conf.rename(away))
    assert await after(lambda: away.rename(lab.conf)) == ""
    # Written in place, in two parts.
    file = lab.conf / "00-a.conflist"
    assert await after(lambda: file.write_text("{")) == ""
    assert network.watcher.loaded.skipped[0].startswith("00-a.conflist: it is not JSON")
    assert "alpha, gamma not found" not in await after(lambda: (lab.bin / "beta").rename(lab.bin / "gamma"))
    assert "plugin beta not found" in network.ready()
    assert await after(lambda: (lab.bin / "gamma").rename(lab.bin / "beta")) == ""


@pytest.mark.real
def test_a_directory_that_comes_later(scripted: ScriptedLab) -> None:
    async def body(lab: ScriptedLab, network: Any) -> None:
        assert "No such file" in network.ready()
        for change in (lambda: (lab.path / "etc").mkdir(), lambda: (lab.path / "etc/net.d").mkdir()):
            looked = asyncio.ensure_future(network.watcher.looked())
            await asyncio.sleep(0)
            change()
            await asyncio.wait_for(looked, 10 * SLOWNESS)
        looked = asyncio.ensure_future(network.watcher.looked())
        await asyncio.sleep(0)
        (lab.conf / "10-net.conflist").rename(lab.path / "etc/net.d/10-net.conflist")
        await asyncio.wait_for(looked, 10 * SLOWNESS)
        assert network.ready() == ""

    run_on(scripted, body, conf_dir=str(scripted.path / "etc/net.d"))


# --- Debian's plugins ------------------------------------------------------------------------------------------------


@with_bridge
async def test_pods_reach_each_other(lab: Any, network: Any) -> None:
    one, two = sandbox(), sandbox()
    got, _ = await attach(lab, network, one), await attach(lab, network, two)
    v4, v6 = got.ips
    assert v4.startswith(lab.v4) and v6.startswith(lab.v6)
    for address in (v4, v6):
        assert reach(lab.netns(one.id), lab.netns(two.id), address, 8000)
    # lo is up, and it is each pod's own.
    assert reach(lab.netns(one.id), lab.netns(one.id), "127.0.0.1", 8001)
    await network.delete(one.id, lab.netns(one.id))
    assert "eth0" not in lab.run("ip", "-o", "link", where=lab.netns(one.id))
    assert lab.held() == {two.id}


@with_bridge
async def test_a_host_port_leads_to_the_pod(lab: Any, network: Any) -> None:
    pod, other = sandbox(port_mappings=(PortMapping("tcp", 80, 8088),)), sandbox()
    got = await attach(lab, network, pod)
    await attach(lab, network, other)
    assert reach(lab.netns(pod.id), lab.host, got.ips[0], 80, at=("127.0.0.1", 8088))
    assert reach(lab.netns(pod.id), lab.netns(other.id), got.ips[0], 80, at=(f"{lab.v4}.1", 8088))
    assert any("8088" in line for line in lab.left()["rules"])
    await network.delete(pod.id, lab.netns(pod.id))
    assert "rules" not in lab.left()
    with inside(lab.host, socket.socket) as out, pytest.raises(OSError):
        out.settimeout(5 * SLOWNESS)
        out.connect(("127.0.0.1", 8088))


@with_bridge
async def test_a_hardware_address_that_the_host_changed_is_no_loss(lab: Any, network: Any) -> None:
    """systemd's udev gives every veth on the host's side another one a moment after ADD; a bridge follows its ports."""
    pod = sandbox()
    got = await attach(lab, network, pod)
    mine = [each["name"] for each in json.loads(got.result)["interfaces"] if not each.get("sandbox")]
    for number, name in enumerate(mine):
        lab.run("ip", "link", "set", name, "address", f"02:00:00:00:00:0{number}")
    assert len(mine) == 2
    await network.check(pod.id, lab.netns(pod.id))
    lab.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:0f", where=lab.netns(pod.id))
    with pytest.raises(NetworkFailed, match=r"plugin bridge: CHECK: .*Mac"):
        await network.check(pod.id, lab.netns(pod.id))


@with_bridge
async def test_bandwidth_is_limited(lab: Any, network: Any) -> None:
    lab.configure([*lab.plugins(), {"type": "bandwidth", "capabilities": {"bandwidth": True}}])
    await lab.settled(network)
    pod = sandbox({"kubernetes.io/ingress-bandwidth": "5M", "kubernetes.io/egress-bandwidth": "7M"})
    await attach(lab, network, pod)
    shown = lab.run("tc", "qdisc", "show")
    assert "rate 5Mbit" in shown and "rate 7Mbit" in shown
    await network.delete(pod.id, lab.netns(pod.id))
    assert "tbf" not in lab.run("tc", "qdisc", "show")


@with_bridge
async def test_masquerading_goes_with_the_pod(lab: Any, network: Any) -> None:
    lab.masquerade = True
    lab.configure(lab.plugins())
    await lab.settled(network)
    pod = sandbox()
    await attach(lab, network, pod)
    assert any("MASQUERADE" in line or pod.id in line for line in lab.left()["rules"])
    await network.delete(pod.id, lab.netns(pod.id))
    assert "rules" not in lab.left()


@with_bridge
async def test_a_plugin_that_panics_is_told_in_its_own_words(lab: Any, network: Any) -> None:
    lab.configure([*lab.plugins(), {"type": "bandwidth", "capabilities": {"bandwidth": True}}])
    await lab.settled(network)
    pod = sandbox()
    await attach(lab, network, pod)
    # Debian's (1.1.1) follows a null pointer in CHECK where the pod has no limit.
    with pytest.raises(NetworkFailed, match="plugin bandwidth: CHECK: exit 2: panic: "):
        await network.check(pod.id, lab.netns(pod.id))


@pytest.mark.real
def test_the_preferred_family_comes_first(bridge: BridgeLab) -> None:
    async def body(lab: BridgeLab, network: Any) -> None:
        got = await attach(lab, network, sandbox())
        assert [":" in ip for ip in got.ips] == [True, False]

    run_on(bridge, body, ip_preference="ipv6")


@pytest.mark.real
def test_plugins_too_old_for_the_configuration(bridge: BridgeLab) -> None:
    async def body(lab: BridgeLab, network: Any) -> None:
        lab.configure(lab.plugins(), file="00-new.conflist", cniVersion="1.1.0")
        await lab.settled(network)
        assert "plugin bridge: STATUS" in network.ready()

    run_on(bridge, body)


@pytest.mark.real
def test_lo_comes_up_and_nothing_else_is_entered(bridge: BridgeLab) -> None:
    path = bridge.netns("a" * 64)
    before = os.readlink("/proc/self/ns/net")
    assert "state DOWN" in bridge.run("ip", "-o", "link", "show", "lo", where=path)
    inside(path, lambda: namespace.loopback_up(path))
    assert "LOOPBACK,UP" in bridge.run("ip", "-o", "link", "show", "lo", where=path)
    assert os.readlink("/proc/self/ns/net") == before
    with pytest.raises(Failure, match="is no network namespace"):
        namespace.loopback_up(str(bridge.path))

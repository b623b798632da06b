"""Pods' networks pinned in everybody's directory, by whole daemons: beside others, over an upgrade, without a record.

What an older daemon left is made by hand: it pinned the network where it pinned the rest.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from adapters.oci import kernel, namespaces, netns
from adapters.oci.layout import NETNS
from proto import api_pb2 as pb
from tests.crash.life import Pod, pod_config, refused
from tests.crash.pod_network import Debian
from tests.crash.stage import Stage
from tests.support.daemon import IMAGE, Machine, until
from tests.support.namespaces import as_found

pytestmark = [pytest.mark.real, pytest.mark.slow]

WAITS = "touch /shared/up; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage(config=lambda _: {"daemon": {"reconcile_s": 1}}, network=Debian)
    yield made
    made.close()


@pytest.fixture
def m(stage: Stage) -> Iterator[Machine]:
    with stage.clean(faulty=False) as machine:
        machine.load()
        yield machine
        machine.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=IMAGE)))


@contextmanager
def somebodys() -> Iterator[str]:
    """A namespace by `ip netns add`, at whatever time."""
    name = f"somebodys-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
        subprocess.run(["ip", "netns", "exec", name, "true"], check=True)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        as_found()


def told(pod: Pod) -> Any:
    reply = pod.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox_id, verbose=True)
    assert reply.status.state == pb.SANDBOX_READY
    return json.loads(reply.info["info"])


def addresses(m: Machine, *where: str) -> Any:
    done = subprocess.run(
        ["nsenter", *where, "ip", "-json", "address", "show", "eth0"], capture_output=True, check=True
    )
    return [a["local"] for a in json.loads(done.stdout)[0]["addr_info"] if a["family"] == "inet"]


def test_where_it_is_pinned_and_how_to_get_in(m: Machine) -> None:
    with somebodys():
        pod = Pod(m).running(WAITS)
        with somebodys():
            info = told(pod)
            assert info["netns"] == m.netns(pod.sandbox_id) == info["runtimeSpec"]["linux"]["namespaces"][0]["path"]
            assert info["netns"].startswith("/var/run/netns/daybook-")
            sandbox = next(i["sandbox"] for i in info["cniResult"]["interfaces"] if i.get("sandbox"))
            assert sandbox == info["netns"], "CNI_NETNS is spelled otherwise"
            assert info["pid"] == pod.info()["pid"]
            assert addresses(m, f"--net={info['netns']}") == addresses(m, "--target", str(info["pid"]), "--net")
            m.restart()
            assert told(pod) == info
            pod.remove()
        assert not os.path.lexists(info["netns"])


def as_an_older_daemon_pinned_it(m: Machine, pod: Pod) -> Path:
    """Its network below the run directory; no link."""
    old = m.run / "sandboxes" / pod.sandbox_id / "net"
    old.unlink()
    old.touch()
    kernel.mount(m.netns(pod.sandbox_id), str(old), "", kernel.MS_BIND)
    netns.unpin(m.netns(pod.sandbox_id))
    return old


@pytest.mark.parametrize("killed_again", [False, True])
def test_pods_of_an_older_daemon_go_on_and_go(m: Machine, killed_again: bool) -> None:
    pod = Pod(m).running(WAITS)
    before = told(pod)
    m.kill9()
    old = as_an_older_daemon_pinned_it(m, pod)
    m.start()
    info = told(pod)
    assert info["netns"] == str(old) and info["pid"] == before["pid"]
    assert addresses(m, f"--net={old}") == [
        pod.ask("PodSandboxStatus", pod_sandbox_id=pod.sandbox_id).status.network.ip
    ]
    (pod.shared / "up").unlink()
    pod.create(WAITS, "second").start()
    until((pod.shared / "up").exists, text="a container that the new daemon made runs")
    second = pod.info()["pid"]
    assert os.readlink(f"/proc/{second}/ns/net") == os.readlink(f"/proc/{before['pid']}/ns/net")
    if killed_again:
        m.restart()
    pod.remove()
    assert not os.path.lexists(old) and not m.pins()


def test_a_pin_without_a_record_goes_and_those_of_others_stay(m: Machine) -> None:
    nobodys = "ab" * 32
    theirs = f"{NETNS}/daybook-{'0' * 12}-{nobodys}"
    mine = m.netns(nobodys)
    netns.prepare(NETNS)
    for path in (mine, theirs):
        namespaces.make({"net": path})
    try:
        with somebodys():
            until(lambda: not os.path.lexists(mine), 15, "the orphan is removed")
            assert namespaces.is_pinned(theirs)
    finally:
        netns.unpin(theirs)
        as_found()


def test_purge_takes_the_pins_too(stage: Stage) -> None:
    with stage.clean(faulty=False) as m:
        m.load()
        pod, alone = Pod(m).running(WAITS), m.netns("cd" * 32)
        namespaces.make({"net": alone})
        m.kill9()
        done = m.command("purge", "--yes")
        assert done.returncode == 0, done.stderr
        assert f"sandbox {pod.sandbox_id}" in done.stdout and f"sandbox {'cd' * 32}" in done.stdout
        assert not m.pins()
        m.start()


def test_sysctls_of_eth0_are_set_and_those_of_no_interface_told(m: Machine) -> None:
    name, other = "net.ipv4.conf.eth0.arp_ignore", "net.ipv4.conf.net7.arp_ignore"
    config = {name: "2", "net.ipv4.conf.default.arp_announce": "1"}
    pod = run_with(m, config)
    for parameter, value in (("arp_ignore", "2"), ("arp_announce", "1")):
        said = subprocess.run(
            ["nsenter", f"--net={m.netns(pod.sandbox_id)}", "cat", f"/proc/sys/net/ipv4/conf/eth0/{parameter}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == value
    pod.remove_pod()
    with refused(StatusCode.INVALID_ARGUMENT, "the pod has no interface net7 after its network was added"):
        run_with(m, {other: "1"})
    until(lambda: not m.lab.book(), text="its address is given back")


def run_with(m: Machine, sysctls: dict[str, str]) -> Pod:
    pod = Pod(m)
    config = pod_config(m, pod.name)
    config.linux.sysctls.update(sysctls)
    pod.sandbox_id = pod.ask("RunPodSandbox", config=config).pod_sandbox_id
    return pod

"""One contract for pods' namespaces, over the fake and over the kernel; then what only the real one can show."""

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from adapters import mountinfo
from adapters.images.rootfs import unmount
from adapters.oci import kernel, namespaces
from domain import config as c
from domain.container import Container
from domain.errors import InvalidRequest, NetworkFailed, RuntimeFailed
from domain.observations import NamespaceState
from domain.sandbox import Sandbox
from domain.sysctls import parts_of, settings
from tests.conformance import test_tasks
from tests.conformance.test_tasks import FAR_S, MARK, READY, STOPS, Lab, contract, never, only_real, run_in
from tests.support.namespaces import held, inside, pins

lab, real = test_tasks.lab, test_tasks.real
POD, OWN, NODE, TARGET = (
    c.NamespaceMode.POD,
    c.NamespaceMode.CONTAINER,
    c.NamespaceMode.NODE,
    c.NamespaceMode.TARGET,
)
KUBELET = c.NamespaceOptions(POD, OWN, POD)
SHARED = c.NamespaceOptions(POD, POD, POD)
WAITS = READY + "while :; do sleep 0.05; done"
SYSCTLS = {
    "fs.mqueue.msg_max": "100",
    "kernel.shm_rmid_forced": "1",
    "net.ipv4.ip_forward": "1",
    "net/ipv4/tcp_keepalive_time": "77",
}


async def pod(lab: Lab, modes: c.NamespaceOptions = KUBELET, **values: object) -> Sandbox:
    made = lab.sandbox(modes, **values)
    infra = await lab.sandboxes().set_up(made.id, made, MARK)
    return replace(made, infra=infra)


def seen(lab: Lab, sandbox: Sandbox) -> NamespaceState:
    return lab.sandboxes().observe([sandbox], lab.boot_id())[sandbox.id].namespace


async def said(lab: Lab, sandbox: Sandbox, shell: str, **values: object) -> list[str]:
    """What a container of the pod prints until it ends by itself."""
    container = await lab.running(shell, sandbox, **values)
    await lab.tasks().wait_exit(container)
    return lines(lab, container)


def lines(lab: Lab, container: Container) -> list[str]:
    """conmon tells a line that came in pieces as pieces (tag P)."""
    said = [line.split(" ", 3)[2:] for line in lab.log(container).splitlines()]
    return "".join(text + ("\n" if tag == "F" else "") for tag, text in said).splitlines()


# --- the contract ----------------------------------------------------------------------------------------------------


@contract
async def test_a_network_that_is_still_to_be_released_keeps_its_namespace(lab: Lab) -> None:
    made = await pod(lab)
    path = lab.sandboxes().netns(made.id)
    for _ in range(2):
        await lab.sandboxes().tear_down(made.id, keep_network=True)
        assert lab.sandboxes().netns(made.id) == path != ""
    await lab.sandboxes().tear_down(made.id)
    assert lab.sandboxes().netns(made.id) == ""
    await lab.sandboxes().remove(made.id)


@contract
async def test_only_a_pod_with_its_own_network_has_a_path_of_it(lab: Lab) -> None:
    own, hosts = await pod(lab), await pod(lab, replace(KUBELET, network=NODE))
    assert lab.sandboxes().netns(own.id)
    assert lab.sandboxes().netns(hosts.id) == ""
    assert lab.sandboxes().netns(lab.new_id()) == ""
    await lab.sandboxes().tear_down(own.id)
    assert lab.sandboxes().netns(own.id) == ""


@contract
async def test_a_pod_is_whole_with_all_its_namespaces_and_gone_without_any(lab: Lab) -> None:
    for modes in (KUBELET, SHARED, replace(KUBELET, ipc=NODE), replace(KUBELET, network=NODE)):
        made = await pod(lab, modes)
        assert seen(lab, made) is NamespaceState.NSFS
        await lab.sandboxes().tear_down(made.id)
        await lab.sandboxes().tear_down(made.id)
        assert seen(lab, made) is NamespaceState.ABSENT


@contract
async def test_a_pod_that_was_set_up_half_is_not_whole_until_it_is_set_up_again(lab: Lab) -> None:
    made = await pod(lab)
    if lab.real:
        unmount(Path(lab.layout.sandbox(made.id).uts))
    else:
        lab.world.pods[made.id].pinned -= {"uts"}
    assert seen(lab, made) is NamespaceState.PLAIN
    await lab.sandboxes().set_up(made.id, made, MARK)
    assert seen(lab, made) is NamespaceState.NSFS


LATER = {
    "net.ipv4.conf.eth0.arp_ignore": "2",
    "net/ipv6/conf/eth0/accept_ra": "0",
    "net.ipv4.conf.eth0/100.arp_ignore": "1",
    "net.ipv4.neigh.eth0.gc_stale_time": "61",
    "net.ipv4.conf.default.arp_ignore": "1",
}


async def given_eth0(lab: Lab, made: Sandbox) -> None:
    """As by CNI's ADD; and one with a dot in its name."""
    names = ("eth0", "eth0.100")
    if not lab.real:
        lab.world.pods[made.id].interfaces = frozenset(names)
        return
    with inside(lab.sandboxes().netns(made.id)) as run:
        for name in names:
            run(partial(subprocess.run, ["ip", "link", "add", name, "type", "veth"], check=True))


@contract
async def test_sysctls_of_an_interface_are_set_when_it_is_there(lab: Lab) -> None:
    made = await pod(lab, sysctls=LATER)
    await given_eth0(lab, made)
    for _ in range(2):
        await lab.sandboxes().set_sysctls(made.id, made)
    if lab.real:
        with inside(lab.sandboxes().netns(made.id)) as run:
            read = [run(Path(f"/proc/sys/{name}").read_text).strip() for name in paths_of(LATER)]
        assert read == list(LATER.values())
    await lab.sandboxes().tear_down(made.id)
    with pytest.raises(NetworkFailed):
        await lab.sandboxes().set_sysctls(made.id, made)


@contract
async def test_a_sysctl_of_an_interface_that_is_not_there(lab: Lab) -> None:
    made = await pod(lab, sysctls={"net.ipv4.conf.net1.arp_ignore": "1"})
    await given_eth0(lab, made)
    with pytest.raises(InvalidRequest) as caught:
        await lab.sandboxes().set_sysctls(made.id, made)
    why = "the pod has no interface net1 after its network was added"
    assert caught.value.text == f"sysctl net.ipv4.conf.net1.arp_ignore: {why}"


@contract
async def test_without_sysctls_of_interfaces_there_is_nothing_to_set(lab: Lab) -> None:
    for modes in (KUBELET, replace(KUBELET, network=NODE)):
        made = await pod(lab, modes)
        await lab.sandboxes().set_sysctls(made.id, made)


def paths_of(names: Iterable[str]) -> list[str]:
    return ["/".join(parts_of(name)) for name in names]


# --- only the real one -----------------------------------------------------------------------------------------------


@only_real
async def test_namespaces_are_new_and_end_with_the_pod(lab: Lab) -> None:
    before = held()
    for modes in (KUBELET, SHARED):
        made = await pod(lab, modes)
        found = pins(lab.layout.sandbox(made.id))
        assert set(found) == {"net", "uts", "ipc"}
        assert not set(found.values()) & before
        await lab.sandboxes().tear_down(made.id)
        assert not pins(lab.layout.sandbox(made.id))
        assert not set(found.values()) & held()


@only_real
async def test_a_new_network_is_empty_and_its_loopback_down(lab: Lab) -> None:
    made = await pod(lab)
    with inside(lab.sandboxes().netns(made.id)) as run:
        assert run(socket.if_nameindex) == [(1, "lo")]
        with pytest.raises(OSError, match="unreachable"):
            run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9)))


@only_real
async def test_sysctls_are_set_inside_and_nowhere_else(lab: Lab) -> None:
    watched = [f"/proc/sys/{'/'.join(one.parts)}" for one in settings(SYSCTLS, True, True)]
    before = [Path(path).read_text() for path in watched]
    made = await pod(lab, sysctls=SYSCTLS)
    told = await said(lab, made, f"cat {' '.join(watched)}")
    assert told == ["0", "0\t2147483647", "100", "1", "1", "77"]
    assert [Path(path).read_text() for path in watched] == before


@only_real
async def test_a_default_is_what_a_later_interface_begins_with(lab: Lab) -> None:
    asked = {"net.ipv4.conf.default.arp_ignore": "1", "net.ipv6.conf.default.disable_ipv6": "1"}
    asked |= {"net.ipv4.ip_forward": "1", "net.ipv4.conf.default.forwarding": "0"}
    made = await pod(lab, sysctls=asked)
    await given_eth0(lab, made)
    of_eth0 = [f"net.{name}" for name in ("ipv4.conf.eth0.arp_ignore", "ipv6.conf.eth0.disable_ipv6")]
    of_eth0 += ["net.ipv4.conf.eth0.forwarding"]
    with inside(lab.sandboxes().netns(made.id)) as run:
        assert [run(Path(f"/proc/sys/{name}").read_text).strip() for name in paths_of(of_eth0)] == ["1", "1", "0"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("net.ipv4.conf.eth0.no_such_thing", "1", "a pod's namespaces have none of this name"),
        ("net.ipv4.conf.eth0.arp_ignore", "x", "'x' cannot be set: Invalid argument"),
    ],
)
@pytest.mark.real
def test_a_sysctl_of_an_interface_that_the_kernel_refuses(real: Lab, name: str, value: str, text: str) -> None:
    async def body(lab: Lab) -> None:
        made = await pod(lab, sysctls={name: value})
        await given_eth0(lab, made)
        with pytest.raises(InvalidRequest) as caught:
            await lab.sandboxes().set_sysctls(made.id, made)
        assert caught.value.text == f"sysctl {name}: {text}"

    run_in(real, body)


@only_real
async def test_a_clients_sysctl_beats_a_default(lab: Lab) -> None:
    made = await pod(lab, sysctls={"net.ipv4.ip_unprivileged_port_start": "512"})
    assert await said(lab, made, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == ["512"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("net.ipv4.no_such_thing", "1", "a pod's namespaces have none of this name"),
        ("net.ipv4.ip_unprivileged_port_start", "70000", "'70000' cannot be set: Invalid argument"),
        ("fs.mqueue.msg_max", "x", "'x' cannot be set: Invalid argument"),
    ],
)
@pytest.mark.real
def test_a_sysctl_that_the_kernel_refuses(real: Lab, name: str, value: str, text: str) -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await pod(lab, sysctls={name: value})
        assert caught.value.text == f"sysctl {name}: {text}"

    run_in(real, body)


@only_real
async def test_what_is_not_a_pods_is_refused_also_here(lab: Lab) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    for modes, name in ((KUBELET, "kernel.core_pattern"), (replace(KUBELET, network=NODE), "net.ipv4.ip_forward")):
        with pytest.raises(InvalidRequest, match=f"sysctl '{name}'"):
            await pod(lab, modes, sysctls={name: "1"})
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@only_real
async def test_the_hostname_is_the_pods_own(lab: Lab) -> None:
    host = socket.gethostname()
    named, unnamed = await pod(lab, hostname="my-pod"), await pod(lab)
    shell = "/bin/busybox hostname; cat /etc/hostname; echo $HOSTNAME"
    assert await said(lab, named, shell) == ["my-pod"] * 3
    assert await said(lab, unnamed, shell) == [host] * 3
    changed = c.SecurityContext(capabilities=c.Capabilities(add=("SYS_ADMIN",)))
    assert await said(lab, unnamed, "/bin/busybox hostname mine; /bin/busybox hostname", security=changed) == ["mine"]
    assert socket.gethostname() == host


@only_real
async def test_containers_of_a_pod_share_its_namespaces(lab: Lab) -> None:
    made = await pod(lab)
    shell = "for n in net uts ipc; do /bin/busybox readlink /proc/self/ns/$n; done"
    one, two = [await said(lab, made, shell) for _ in range(2)]
    found = pins(lab.layout.sandbox(made.id))
    assert one == two == [f"{kind}:[{found[kind]}]" for kind in ("net", "uts", "ipc")]


@only_real
async def test_the_hosts_namespaces_where_the_pod_asked_for_them(lab: Lab) -> None:
    made = await pod(lab, c.NamespaceOptions(NODE, NODE, NODE), hostname="")
    kinds = ("net", "uts", "ipc", "pid")
    told = await said(lab, made, "for n in net uts ipc pid; do /bin/busybox readlink /proc/self/ns/$n; done")
    assert told == [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    before = os.stat("/dev/shm").st_dev
    assert await said(lab, made, "/bin/busybox stat -c %d /dev/shm") == [str(before)]


@only_real
async def test_pid_modes_seen_from_inside(lab: Lab) -> None:
    shared = await pod(lab, SHARED)
    assert shared.infra is not None
    first = "echo $(/bin/busybox tr '\\0' ' ' < /proc/1/cmdline); /bin/busybox readlink /proc/self/ns/pid"
    one, two = [await said(lab, shared, first) for _ in range(2)]
    assert one == two == ["/pause -P", os.readlink(f"/proc/{shared.infra.pid}/ns/pid")]
    mine = await said(lab, shared, first, namespaces=KUBELET)
    assert mine[0].startswith("/bin/sh -c") and mine != one
    for kind in ("net", "uts", "ipc"):
        assert os.stat(f"/proc/{shared.infra.pid}/ns/{kind}").st_ino == pins(lab.layout.sandbox(shared.id))[kind]


@only_real
async def test_a_target_is_joined_while_it_runs(lab: Lab) -> None:
    made = await pod(lab)
    target = await lab.created(WAITS, made)
    joins = replace(KUBELET, pid=TARGET, target_id=target.id)
    with pytest.raises(InvalidRequest, match="is not running"):
        await lab.created("exit 0", made, namespaces=joins)
    await lab.tasks().start(target)
    await lab.ready(target)
    assert target.init is not None
    told = await said(lab, made, "/bin/busybox readlink /proc/self/ns/pid; echo $$", namespaces=joins)
    assert told[0] == os.readlink(f"/proc/{target.init.pid}/ns/pid")
    assert int(told[1]) > 1
    waiting = await lab.created("exit 0", made, namespaces=joins)
    await lab.tasks().stop(target, lab.deadline(0), never)
    await lab.tasks().wait_exit(target)
    with pytest.raises(RuntimeFailed, match=r"process \d+, whose pid namespace the container is in, has ended"):
        await lab.tasks().start(waiting)


@only_real
async def test_a_target_of_another_pod_is_refused(lab: Lab) -> None:
    target = await lab.running(WAITS, await pod(lab))
    other = await pod(lab)
    for id_ in (target.id, lab.new_id(), "../" * 9):
        with pytest.raises(InvalidRequest, match="target container"):
            await lab.created("exit 0", other, namespaces=replace(KUBELET, pid=TARGET, target_id=id_))


@only_real
async def test_a_pod_goes_while_a_container_holds_its_namespaces(lab: Lab) -> None:
    made = await pod(lab, SHARED, sysctls=SYSCTLS)
    container = await lab.running(STOPS, made)
    found = pins(lab.layout.sandbox(made.id))
    await lab.sandboxes().tear_down(made.id)
    await asyncio.wait_for(lab.tasks().wait_exit(container), FAR_S)
    await lab.tasks().remove(container.id)
    assert not set(found.values()) & held()


@only_real
async def test_where_the_client_mounts_its_own_the_pods_files_are_not(lab: Lab) -> None:
    made = await pod(lab, hostname="my-pod")
    mine = lab.path / "mine"
    mine.write_text("mine\n")
    asked = (c.Mount("/etc/hosts", str(mine), readonly=True), c.Mount("/etc/resolv.conf", str(mine)))
    shell = "cat /etc/hosts /etc/resolv.conf /etc/hostname; echo x >> /etc/hostname; echo $?"
    assert await said(lab, made, shell, mounts=asked) == ["mine", "mine", "my-pod", "0"]
    sealed = c.SecurityContext(readonly_rootfs=True)
    assert await said(lab, made, "(echo x >> /etc/hostname) 2> /dev/null; echo $?", security=sealed) == ["1"]


# --- the thread ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_callers_own_namespaces_are_untouched(tmp_path: Path) -> None:
    before = [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in namespaces.FLAGS]
    paths = {kind: str(tmp_path / kind) for kind in namespaces.FLAGS}
    with unmounting(tmp_path):
        namespaces.make(paths, hostname="inside")
        assert all(map(namespaces.is_pinned, paths.values()))
        assert [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in namespaces.FLAGS] == before
        assert socket.gethostname() != "inside"
        assert not [one.name for one in threading.enumerate() if one.name == "oci namespaces"]
        with pytest.raises(NetworkFailed, match="namespaces of the pod"):
            namespaces.make({"net": str(tmp_path / "no/net")})


@contextmanager
def unmounting(directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for point in mountinfo.points_below(str(directory)):
            kernel.unmount(point)

"""OCI specs against golden files. To accept a change: run with DAYBOOK_GOLDEN=write and read the diff."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from adapters.oci import default_seccomp, seccomp, spec
from adapters.oci.capabilities import BY_NUMBER
from adapters.oci.devices import Node
from adapters.oci.mounts import Source
from domain import config as c
from domain.container import Container
from domain.errors import InvalidRequest, Unsupported
from domain.events import User
from domain.lifecycle import ContainerState, SandboxState
from domain.sandbox import Sandbox

GOLDEN = Path("tests/golden/oci")
HOST = spec.Host(capabilities=tuple(BY_NUMBER), hostname="node")
V2 = replace(HOST, cgroup_v2=True)
POD, NODE, OWN, TARGET = (
    c.NamespaceMode.POD,
    c.NamespaceMode.NODE,
    c.NamespaceMode.CONTAINER,
    c.NamespaceMode.TARGET,
)
KUBELET = c.NamespaceOptions(POD, OWN, POD)
PROFILE = seccomp.Profile(
    "/a.json",
    "SCMP_ACT_ERRNO",
    38,
    (
        seccomp.Rule(("execve", "read"), "SCMP_ACT_ALLOW"),
        seccomp.Rule(("mount",), "SCMP_ACT_ALLOW", includes=seccomp.Condition(caps=("CAP_SYS_ADMIN",))),
    ),
    arch_map=(("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86",)),),
)


@dataclass(frozen=True)
class Image:
    env: tuple[str, ...] = ("PATH=/bin", "A=image")
    entrypoint: tuple[str, ...] = ("/entry",)
    cmd: tuple[str, ...] = ("default",)
    working_dir: str = "/srv"
    user: str = ""
    volumes: tuple[str, ...] = ()


def sandbox(**values: Any) -> Sandbox:
    config = c.SandboxConfig("pod", "uid-1", "default", **{"namespaces": KUBELET, "hostname": "pod", **values})
    return Sandbox("b" * 64, SandboxState.READY, config, "hash", 1, boot_id="boot")


def container(**values: Any) -> Container:
    config = c.ContainerConfig("main", **{"namespaces": KUBELET, **values})
    return Container("a" * 64, "b" * 64, ContainerState.CREATING, config, "h", "i", "i", "", "SIGTERM", 1)


def facts(**values: Any) -> spec.Facts:
    paths = {"net": "/r/net", "uts": "/r/uts", "ipc": "/r/ipc", "shm": "/r/shm"}
    return spec.Facts(**{"rootfs": "/d/rootfs", "user": User(0, 0, (0,)), **paths, **values})


def built(
    con: Container, pod: Sandbox | None = None, known: spec.Facts | None = None, host: spec.Host = HOST, **secrets: Any
) -> dict[str, Any]:
    return spec.build(con, pod or sandbox(), c.ContainerSecrets(**secrets), Image(), known or facts(), host)


LIMITS = c.Resources(
    cpu_period=100000,
    cpu_quota=50000,
    cpu_shares=512,
    memory_limit_in_bytes=2**28,
    oom_score_adj=900,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    hugepage_limits={"2MiB": 0},
    unified={"memory.high": "100"},
)
MOUNTS = (
    c.Mount("/data/deep", "/host/deep", readonly=True),
    c.Mount("/data", "/host/data", propagation=c.Propagation.HOST_TO_CONTAINER),
    c.Mount("/etc/hosts", "/pods/hosts"),
    c.Mount("rel/../rro", "/host/rro", readonly=True, recursive_read_only=True),
)
SECURITY = c.SecurityContext(
    run_as_user=33,
    readonly_rootfs=True,
    no_new_privs=True,
    capabilities=c.Capabilities(add=("NET_ADMIN",), drop=("mknod",)),
    masked_paths=("/proc/kcore",),
    readonly_paths=("/proc/sys",),
)
DEVICE = c.Device("/dev/mine", "/dev/kvm", "rw")
PRIVILEGED = c.SecurityContext(privileged=True, masked_paths=("/proc/kcore",))
NODES = (Node("/dev/mine", "c", 10, 232, 0o660, 0, 104, "/dev/mine"),)
PINS = {"net": "/r/net", "uts": "/r/uts", "ipc": "/r/ipc"}
HOSTED = c.NamespaceOptions(NODE, NODE, NODE)

GOLDENS: dict[str, Any] = {
    "plain": lambda: built(container()),
    "full": lambda: built(
        container(tty=True, mounts=MOUNTS, devices=(DEVICE,), security=SECURITY, resources=LIMITS, working_dir="/w"),
        known=facts(
            user=User(33, 34, (34, 77)),
            nodes=NODES,
            seccomp=PROFILE,
            sources={m.host_path: Source(f"/real{m.host_path}", shared=True) for m in MOUNTS},
            etc=(("/etc/hosts", "/s/hosts"), ("/etc/resolv.conf", "/s/resolv.conf")),
        ),
        command=("/run", "it"),
        args=("now",),
        envs=(("A", b"mine"), ("B", b"x=y")),
    ),
    "privileged": lambda: built(
        container(security=PRIVILEGED),
        sandbox(security=c.SecurityContext(privileged=True)),
        facts(nodes=NODES, seccomp=PROFILE),
    ),
    "host_namespaces": lambda: built(
        container(namespaces=HOSTED), sandbox(namespaces=HOSTED, hostname=""), facts(shm="/dev/shm")
    ),
    "shared_pid": lambda: built(
        container(namespaces=c.NamespaceOptions(POD, POD, POD)),
        sandbox(namespaces=c.NamespaceOptions(POD, POD, POD)),
        facts(pid="/proc/7/ns/pid"),
    ),
    "target_pid": lambda: built(
        container(namespaces=c.NamespaceOptions(POD, TARGET, POD, target_id="c" * 64)),
        known=facts(pid="/proc/8/ns/pid"),
    ),
    "systemd_slice_v2": lambda: built(
        container(resources=LIMITS),
        sandbox(cgroup_parent="/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice"),
        host=V2,
    ),
    "cgroup_parent": lambda: built(container(), sandbox(cgroup_parent="/kubepods/burstable/podX")),
    "runtime_default_x86_64": lambda: built(container(), known=facts(seccomp=default_seccomp.PROFILE)),
    "runtime_default_aarch64": lambda: built(
        container(), known=facts(seccomp=default_seccomp.PROFILE), host=replace(HOST, machine="aarch64")
    ),
    "infra": lambda: spec.infra(sandbox(), "/r/rootfs", "/usr/bin/catatonit", PINS, -1000),
    "infra_of_the_hosts_network": lambda: spec.infra(
        sandbox(), "/r/rootfs", "/usr/bin/catatonit", {"ipc": "/r/ipc"}, -1000
    ),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str) -> None:
    text = json.dumps(GOLDENS[name](), indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("DAYBOOK_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_has_its_test() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(GOLDENS)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command", "args", "expected"),
    [
        (("e",), ("c",), (), (), ["e", "c"]),
        (("e",), ("c",), (), ("a",), ["e", "a"]),
        (("e",), ("c",), ("x",), (), ["x"]),
        (("e",), ("c",), ("x",), ("a",), ["x", "a"]),
        (("",), ("c",), (), (), ["c"]),
        ((), ("c",), (), (), ["c"]),
        ((), (), (), ("a",), ["a"]),
    ],
)
def test_arguments(entrypoint: Any, cmd: Any, command: Any, args: Any, expected: list[str]) -> None:
    secrets = c.ContainerSecrets(command=command, args=args)
    assert spec.arguments(secrets, Image(entrypoint=entrypoint, cmd=cmd)) == expected


@pytest.mark.parametrize("cmd", [(), ("",), ("a\0b",)])
def test_no_arguments(cmd: Any) -> None:
    with pytest.raises(InvalidRequest):
        spec.arguments(c.ContainerSecrets(), Image(entrypoint=(), cmd=cmd))


def environment(image: tuple[str, ...] = (), tty: bool = False, **envs: bytes) -> list[str]:
    secrets = c.ContainerSecrets(envs=tuple(envs.items()))
    return spec.environment(c.ContainerConfig("x", tty=tty), secrets, Image(env=image), "host")


def test_environment() -> None:
    default = spec.DEFAULT_PATH
    assert environment() == [default, "HOSTNAME=host"]
    assert environment(tty=True) == [default, "TERM=xterm", "HOSTNAME=host"]
    assert environment(("PATH=/x", "A=1"), A=b"2=3") == ["PATH=/x", "HOSTNAME=host", "A=2=3"]
    assert environment(HOSTNAME=b"mine")[-1] == "HOSTNAME=mine"


@pytest.mark.parametrize("value", [b"\xff", b"a\0b", b"x" * spec.ENV_MAX])
def test_environment_that_cannot_be(value: bytes) -> None:
    with pytest.raises(InvalidRequest):
        environment(A=value)


@pytest.mark.parametrize("name", ["TOKEN=hunter2", "", "hunter2 x", "hunter2\0", "hunter2-"])
@pytest.mark.parametrize("value", [b"hunter2\xff", b"hunter2\0", b"hunter2" * spec.ENV_MAX])
def test_what_may_be_a_value_is_never_told(name: str, value: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^environment variable 2 ") as caught:
        environment(A=b"hunter2", **{name: value})
    assert "hunter2" not in caught.value.text


def test_a_variable_of_the_image_is_called_so() -> None:
    with pytest.raises(InvalidRequest, match=r"^environment variable 2 of the image, MINE, cannot be"):
        environment(("A=1", "MINE=hunter2\0"), tty=True)


REFUSED = {
    "userns": (Unsupported, container(namespaces=replace(KUBELET, userns=True)), sandbox()),
    "cdi": (Unsupported, container(cdi_devices=("a/b=c",)), sandbox()),
    "apparmor": (
        Unsupported,
        container(security=c.SecurityContext(apparmor=c.SecurityProfile(c.ProfileType.LOCALHOST, "mine"))),
        sandbox(),
    ),
    "image volume": (Unsupported, container(mounts=(c.Mount("/v", image="img"),)), sandbox()),
    "idmap": (Unsupported, container(mounts=(c.Mount("/v", "/h", idmapped=True),)), sandbox()),
    "rro writable": (InvalidRequest, container(mounts=(c.Mount("/v", "/h", recursive_read_only=True),)), sandbox()),
    "rro shared": (
        InvalidRequest,
        container(
            mounts=(
                c.Mount("/v", "/h", readonly=True, recursive_read_only=True, propagation=c.Propagation.BIDIRECTIONAL),
            )
        ),
        sandbox(),
    ),
    "mount on root": (InvalidRequest, container(mounts=(c.Mount("/x/..", "/h"),)), sandbox()),
    "relative host path": (InvalidRequest, container(mounts=(c.Mount("/v", "h"),)), sandbox()),
    "privileged alone": (InvalidRequest, container(security=PRIVILEGED), sandbox()),
    "pid of a pod without": (InvalidRequest, container(namespaces=c.NamespaceOptions(POD, POD, POD)), sandbox()),
    "host network alone": (InvalidRequest, container(namespaces=replace(KUBELET, network=NODE)), sandbox()),
    "host ipc alone": (InvalidRequest, container(namespaces=replace(KUBELET, ipc=NODE)), sandbox()),
    "host pid alone": (InvalidRequest, container(namespaces=replace(KUBELET, pid=NODE)), sandbox()),
    "network of its own": (InvalidRequest, container(namespaces=replace(KUBELET, network=OWN)), sandbox()),
    "ipc of a target": (InvalidRequest, container(namespaces=replace(KUBELET, ipc=TARGET)), sandbox()),
    "target without id": (InvalidRequest, container(namespaces=replace(KUBELET, pid=TARGET)), sandbox()),
    "parent upwards": (InvalidRequest, container(), sandbox(cgroup_parent="/a/../../b")),
    "unknown capability": (
        InvalidRequest,
        container(security=c.SecurityContext(capabilities=c.Capabilities(add=("NO_SUCH",)))),
        sandbox(),
    ),
    "unified path": (InvalidRequest, container(resources=c.Resources(unified={"../x.y": "1"})), sandbox()),
    "swap below memory": (
        InvalidRequest,
        container(resources=c.Resources(memory_limit_in_bytes=2**24, memory_swap_limit_in_bytes=2**23)),
        sandbox(),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_happens(name: str) -> None:
    kind, con, pod = REFUSED[name]
    with pytest.raises(kind):
        spec.check(con.config, pod.config, HOST)


def test_selinux_options_mean_nothing_on_a_host_without_selinux() -> None:
    con = container(security=c.SecurityContext(selinux=("u", "r", "t", "s0")))
    spec.check(con.config, sandbox().config, HOST)
    with pytest.raises(Unsupported, match="this host has SELinux"):
        spec.check(con.config, sandbox().config, replace(HOST, selinux=True))
    spec.check(container().config, sandbox().config, replace(HOST, selinux=True))


@pytest.mark.parametrize("pod", [KUBELET, HOSTED, c.NamespaceOptions(POD, POD, POD)])
def test_a_container_may_have_its_own_pid_namespace_in_any_pod(pod: c.NamespaceOptions) -> None:
    spec.check(c.ContainerConfig("main", namespaces=KUBELET), sandbox(namespaces=pod).config, HOST)


def test_recursive_read_only_needs_the_runtime() -> None:
    con = container(mounts=(c.Mount("/v", "/h", readonly=True, recursive_read_only=True),))
    spec.check(con.config, sandbox().config, HOST)
    with pytest.raises(Unsupported, match=r"^RROUnsupported"):
        spec.check(con.config, sandbox().config, replace(HOST, recursive_read_only=False))


RUNTIME_DEFAULT = c.SecurityProfile(c.ProfileType.RUNTIME_DEFAULT)
UNCONFINED = c.SecurityProfile(c.ProfileType.UNCONFINED)
WITH_APPARMOR = replace(HOST, apparmor="daybook-default", apparmor_problem="")


@pytest.mark.parametrize(
    ("asked", "privileged", "expected"),
    [
        (RUNTIME_DEFAULT, False, "daybook-default"),
        (None, False, "daybook-default"),
        (UNCONFINED, False, None),
        (RUNTIME_DEFAULT, True, None),
        (None, True, None),
    ],
)
def test_apparmor(asked: c.SecurityProfile | None, privileged: bool, expected: str | None) -> None:
    con = container(security=c.SecurityContext(privileged=privileged, apparmor=asked))
    pod = sandbox(security=c.SecurityContext(privileged=privileged))
    assert built(con, pod, host=WITH_APPARMOR)["process"].get("apparmorProfile") == expected
    if asked is not RUNTIME_DEFAULT or privileged:
        assert "apparmorProfile" not in built(con, pod)["process"]


def test_apparmor_that_cannot_be_had_is_refused_to_who_asks_for_it() -> None:
    con = container(security=c.SecurityContext(apparmor=RUNTIME_DEFAULT))
    with pytest.raises(Unsupported, match="RuntimeDefault cannot be used: this machine has no AppArmor"):
        spec.check(con.config, sandbox().config, HOST)
    half = replace(HOST, apparmor_problem="apparmor_parser is not there")
    with pytest.raises(Unsupported, match="RuntimeDefault cannot be used: apparmor_parser is not there"):
        spec.check(con.config, sandbox().config, half)


def test_neither_annotations_nor_labels_get_through() -> None:
    con = container(annotations={"run.oci.handler": "evil"}, labels={"evil": "1"})
    pod = sandbox(annotations={"io.katacontainers.config": "evil"}, labels={"evil": "1"})
    assert "evil" not in json.dumps(built(con, pod))


@pytest.mark.parametrize("destination", ["/dev", "/sys", "/proc"])
def test_a_mount_of_ones_own_replaces_what_lies_below(destination: str) -> None:
    con = container(mounts=(c.Mount(destination, "/mine"),))
    places = [mount["destination"] for mount in built(con)["mounts"]]
    assert [place for place in places if place.startswith(destination)] == [destination]


@pytest.mark.parametrize(
    ("propagation", "source"),
    [(c.Propagation.BIDIRECTIONAL, Source("/h", slave=True)), (c.Propagation.HOST_TO_CONTAINER, Source("/h"))],
)
def test_propagation_needs_the_hosts(propagation: c.Propagation, source: Source) -> None:
    con = container(mounts=(c.Mount("/v", "/h", propagation=propagation),))
    with pytest.raises(InvalidRequest, match="is not on a shared"):
        built(con, known=facts(sources={"/h": source}))


def test_oom_score_is_clamped_to_what_the_daemon_may() -> None:
    con = container(resources=c.Resources(oom_score_adj=-997))
    assert built(con)["process"]["oomScoreAdj"] == -997
    assert built(con, host=replace(HOST, oom_score_floor=0))["process"]["oomScoreAdj"] == 0


@pytest.mark.parametrize(
    ("said", "told"),
    [("75", "uint64 75000000"), ("0", "uint64 0"), ("9" * 40, "uint64 86400000000"), ("", None), ("-1", None), ("1e3", None), ("²", None)],
)  # fmt: skip
def test_a_scope_gets_the_grace_of_its_pod(said: str, told: str | None) -> None:
    con = container(annotations={spec.GRACE: said})
    found = built(con, sandbox(cgroup_parent="/kubepods.slice"))["annotations"]
    assert found.get("org.systemd.property.TimeoutStopUSec") == told
    assert not [name for name in built(con, sandbox(cgroup_parent="/kubepods"))["annotations"] if "systemd" in name]

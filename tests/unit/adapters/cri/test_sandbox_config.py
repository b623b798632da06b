"""PodSandboxConfig -> SandboxConfig."""

from collections.abc import Callable
from typing import Any

import pytest

from adapters.cri import sandbox_config
from adapters.cri.sandbox_config import SandboxRules
from domain.config import (
    DnsConfig,
    NamespaceMode,
    NamespaceOptions,
    PortMapping,
    ProfileType,
    SandboxConfig,
    SandboxSecrets,
    SecurityContext,
    SecurityProfile,
)
from domain.errors import InvalidRequest, Unsupported
from domain.records import Digest
from proto import api_pb2 as pb
from tests.support.cri_requests import DIGEST, SECRET
from tests.support.cri_requests import sandbox_config as asked

RULES = SandboxRules(("crun",))
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def read(config: Any, handler: str = "", rules: SandboxRules = RULES) -> tuple[SandboxConfig, SandboxSecrets | None]:
    return sandbox_config.read(config, handler, rules, DIGEST)


def test_the_usual() -> None:
    value = f'{{"env": "{SECRET}"}}'
    config, secrets = read(asked(), "crun")
    assert config == SandboxConfig(
        name="pod",
        uid="uid-pod",
        namespace="default",
        log_directory="/var/log/pods/default_pod",
        runtime_handler="crun",
        cgroup_parent="/kubepods/besteffort/pod1",
        namespaces=NamespaceOptions(NamespaceMode.NODE, NamespaceMode.CONTAINER, NamespaceMode.POD),
        labels={"app": "pod"},
        annotations={"short": "yes"},
        hidden=(Digest(APPLIED, len(value), DIGEST(value.encode())),),
        security=SecurityContext(seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT)),
    )
    assert secrets == SandboxSecrets({APPLIED: value})
    assert SECRET not in repr(config)


def test_nothing_held_back_needs_no_side_file() -> None:
    assert read(asked(annotations={"a": "b"}))[1] is None


def test_the_rest_of_the_fields() -> None:
    linux = asked().linux
    linux.overhead.cpu_quota = -1
    linux.security_context.run_as_user.value = 0
    linux.security_context.run_as_group.value = 7
    linux.security_context.supplemental_groups.append(9)
    linux.security_context.supplemental_groups_policy = pb.Strict
    linux.security_context.apparmor.profile_type = pb.SecurityProfile.Unconfined
    config, _ = read(
        asked(
            hostname="web-0",
            dns_config=pb.DNSConfig(servers=["10.0.0.10"], searches=["svc.local"], options=["ndots:5"]),
            port_mappings=[pb.PortMapping(protocol=pb.UDP, container_port=53, host_port=5353, host_ip="127.0.0.1")],
            linux=linux,
        )
    )
    assert config.hostname == "web-0"
    assert config.dns == DnsConfig(("10.0.0.10",), ("svc.local",), ("ndots:5",))
    assert config.port_mappings == (PortMapping("udp", 53, 5353, "127.0.0.1"),)
    assert config.overhead is not None
    assert config.overhead.cpu_quota == -1
    assert config.resources is None
    security = config.security
    assert (security.run_as_user, security.run_as_group, security.supplemental_groups) == (0, 7, (9,))
    assert security.supplemental_groups_strict
    assert security.apparmor == SecurityProfile(ProfileType.UNCONFINED)


def test_a_network_of_its_own() -> None:
    linux = asked().linux
    linux.security_context.namespace_options.network = pb.POD
    linux.sysctls["net.ipv4.ip_forward"] = "1"
    config, _ = read(asked(linux=linux))
    assert config.namespaces.network is NamespaceMode.POD
    assert config.sysctls == {"net.ipv4.ip_forward": "1"}
    assert read(asked(linux=pb.LinuxPodSandboxConfig()))[0].namespaces == NamespaceOptions()


def test_unknown_handler() -> None:
    with pytest.raises(Unsupported, match=r"'gvisor' is not configured \(configured: crun\)"):
        read(asked(), "gvisor")


def _ipc_sysctl_of_the_host(config: Any) -> None:
    config.linux.security_context.namespace_options.ipc = pb.NODE
    config.linux.sysctls["kernel.shm_rmid_forced"] = "1"


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            config = getattr(config, step)
        setattr(config, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.ClearField("metadata"), InvalidRequest),
        (_set("metadata.name", ""), InvalidRequest),
        (_set("metadata.uid", ""), InvalidRequest),
        (_set("metadata.namespace", ""), InvalidRequest),
        (_set("metadata.namespace", "a;b=c"), InvalidRequest),
        (_set("hostname", "a\nb"), InvalidRequest),
        (_set("log_directory", "var/log"), InvalidRequest),
        (_set("log_directory", "/var/../etc"), InvalidRequest),
        (_set("linux.cgroup_parent", "/../up"), InvalidRequest),
        (_set("linux.security_context.namespace_options.pid", pb.TARGET), InvalidRequest),
        (_set("linux.security_context.namespace_options.ipc", pb.CONTAINER), InvalidRequest),
        (_set("linux.security_context.namespace_options.ipc", 17), InvalidRequest),
        (_set("linux.security_context.namespace_options.userns_options.mode", pb.POD), Unsupported),
        (_set("linux.security_context.namespace_options.userns_options.mode", pb.CONTAINER), InvalidRequest),
        (_set("linux.security_context.selinux_options.level", "s0:c1"), None),
        (_set("linux.security_context.selinux_options.level", "s0:\n"), InvalidRequest),
        (_set("linux.security_context.run_as_user.value", -1), InvalidRequest),
        (_set("linux.security_context.run_as_group.value", 5), InvalidRequest),
        (_set("linux.security_context.seccomp_profile_path", "odd"), None),
        (lambda c: c.linux.security_context.supplemental_groups.append(2**31), InvalidRequest),
        (lambda c: c.linux.sysctls.update({"net.core.somaxconn": "1"}), InvalidRequest),
        (lambda c: c.linux.sysctls.update({"kernel.core_pattern": "|/x"}), InvalidRequest),
        (lambda c: c.linux.sysctls.update({"kernel.shm_rmid_forced": "1"}), None),
        (_ipc_sysctl_of_the_host, InvalidRequest),
        (lambda c: c.port_mappings.add(container_port=70000), InvalidRequest),
        (lambda c: c.port_mappings.add(host_ip="localhost"), InvalidRequest),
        (lambda c: c.dns_config.servers.append("a b"), InvalidRequest),
        (_set("linux.resources.cpu_shares", -1), InvalidRequest),
        (_set("linux.security_context.namespace_options.userns_options.mode", pb.NODE), None),
    ],
)
def test_refusals(change: Callable[[Any], None], error: type[Exception] | None) -> None:
    config = asked()
    change(config)
    if error is None:
        read(config)
    else:
        with pytest.raises(error):
            read(config)


def test_selinux_options_are_refused_only_where_the_host_has_selinux() -> None:
    config = asked()
    config.linux.security_context.selinux_options.level = "s0:c1,c2"
    assert read(config)[0].security.selinux == ("", "", "", "s0:c1,c2")
    with pytest.raises(Unsupported, match="this host has SELinux"):
        read(config, rules=SandboxRules(selinux=True))
    assert read(asked(), rules=SandboxRules(selinux=True))[0].security.selinux is None

"""What plugins are told of a pod."""

from typing import Any

import pytest

from adapters.network.capabilities import bandwidth, capability_args, cni_args, port_mapping, quantity, runtime_config
from adapters.network.conf import NetworkConfig
from domain.config import DnsConfig, PortMapping, SandboxConfig
from domain.errors import InvalidRequest
from domain.lifecycle import SandboxState
from domain.sandbox import Sandbox


def sandbox(name: str = "web-0", **values: Any) -> Sandbox:
    config = SandboxConfig(name, "uid", "default", **values)
    return Sandbox("a" * 64, SandboxState.SETTING_UP, config, "", 1, boot_id="b")


def network(*capabilities: dict[str, Any]) -> NetworkConfig:
    return NetworkConfig("n", "1.0.0", tuple({"type": "t", "capabilities": each} for each in capabilities))


def test_arguments() -> None:
    assert cni_args(sandbox()) == (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", "default"),
        ("K8S_POD_NAME", "web-0"),
        ("K8S_POD_INFRA_CONTAINER_ID", "a" * 64),
        ("K8S_POD_UID", "uid"),
    )


@pytest.mark.parametrize("name", ["a;K8S_POD_UID=x", "a=b", "a b", "a\n", "a\0", "ä", "a" * 254])
def test_no_argument_may_be_two(name: str) -> None:
    with pytest.raises(InvalidRequest, match="K8S_POD_NAME"):
        cni_args(sandbox(name))


def test_only_what_is_declared_true_and_there() -> None:
    pod = sandbox(dns=DnsConfig(("1.1.1.1",)), cgroup_parent="/p", port_mappings=(PortMapping("tcp", 80),))
    every = dict.fromkeys(("portMappings", "bandwidth", "dns", "cgroupPath", "io.kubernetes.cri.pod-annotations"), True)
    assert set(capability_args(network(every), pod, {"a": "b"})) == {
        "dns",
        "cgroupPath",
        "io.kubernetes.cri.pod-annotations",
    }
    assert capability_args(network({"dns": "yes"}, {"cgroupPath": True}), pod, {}) == {"cgroupPath": "/p"}
    assert runtime_config({"capabilities": {"dns": True, "cgroupPath": False}}, {"cgroupPath": 1}) == {}
    assert runtime_config({"capabilities": {"dns": True}}, {"dns": 1, "cgroupPath": 2}) == {"dns": 1}


def test_port_mappings() -> None:
    assert port_mapping(PortMapping("SCTP", 1, 65535, "::1")) == {
        "hostPort": 65535, "containerPort": 1, "protocol": "sctp", "hostIP": "::1",
    }  # fmt: skip
    for bad in (
        PortMapping("x", 1, 1),
        PortMapping("tcp", 0, 1),
        PortMapping("tcp", 1, 65536),
        PortMapping("tcp", 1, 1, "h"),
    ):
        with pytest.raises(InvalidRequest, match="port mapping"):
            port_mapping(bad)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("+5", 5), ("1.5k", 1500), ("1Ki", 1024), ("2M", 2_000_000), ("1Gi", 2**30), ("1e3", 1000), ("1E-1", 1), ("1P", 10**15),
     ("1E", 10**18), ("1500m", 2), ("1n", 1), ("3u", 1), (".5k", 500), ("5.", 5), ("1Ei", 2**60), ("1T", 10**12)],
)  # fmt: skip
def test_quantities(text: str, value: int) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "k", "1 k", "1K", "1ki", "-1", "1e", "1e999", "0x10", "1.2.3", "1kk", "٣", "1" * 20, "1\n"]
)
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError):
        quantity(text)


def test_bandwidth() -> None:
    assert bandwidth({}) == {}
    assert bandwidth({"kubernetes.io/egress-bandwidth": "1k"}) == {"egressRate": 1000, "egressBurst": 2**32 - 1}
    for bad in ("999", "1.1P", "fast"):
        with pytest.raises(InvalidRequest, match=r"kubernetes\.io/ingress-bandwidth"):
            bandwidth({"kubernetes.io/ingress-bandwidth": bad})

"""What of a pod the plugins are told: CNI_ARGS and the arguments of capabilities. Pure.

Conventions of the CNI project ("runtimeConfig"); a plugin gets only what it declares in its `capabilities`.
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from adapters.network.conf import NetworkConfig
from domain.config import PortMapping
from domain.errors import InvalidRequest
from domain.sandbox import Sandbox

INGRESS = "kubernetes.io/ingress-bandwidth"
EGRESS = "kubernetes.io/egress-bandwidth"
RATE_MIN, RATE_MAX = 1000, 10**15
"""Bits per second: 1k to 1P, Kubernetes' own bounds."""
BURST = (1 << 32) - 1
"""Bits. What other runtimes give: in effect the rate alone limits."""
PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
PORT_MAX = 65535
ARGUMENT = re.compile(r"[!-:<>-~]{0,253}")
"""Printable ASCII without `;` and `=`, which part CNI_ARGS."""
QUANTITY = re.compile(r"\+?(\d{1,19}(?:\.\d{0,9})?|\.\d{1,9})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?", re.ASCII)
SUFFIXES: Mapping[str, Fraction] = {
    suffix: Fraction(1000) ** power for suffix, power in zip("numkMGTPE", (-3, -2, -1, 1, 2, 3, 4, 5, 6), strict=True)
}

Arguments = tuple[tuple[str, str], ...]


def cni_args(sandbox: Sandbox) -> Arguments:
    """The names under which Kubernetes' plugins know a pod. Raises InvalidRequest for a value that would be two."""
    config = sandbox.config
    values = (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", config.namespace),
        ("K8S_POD_NAME", config.name),
        ("K8S_POD_INFRA_CONTAINER_ID", sandbox.id),
        ("K8S_POD_UID", config.uid),
    )
    for name, value in values:
        if not ARGUMENT.fullmatch(value):
            raise InvalidRequest(f"{name} is {value[:80]!r}: CNI plugins cannot be told that")
    return values


def capability_args(network: NetworkConfig, sandbox: Sandbox, annotations: Mapping[str, str]) -> dict[str, Any]:
    """By capability, as far as a plugin of the network declares it. Raises InvalidRequest."""
    config = sandbox.config
    dns = config.dns
    every: dict[str, Any] = {
        "portMappings": [port_mapping(each) for each in config.port_mappings if each.host_port > 0],
        "bandwidth": bandwidth(annotations),
        "dns": {
            "servers": list(dns.servers),
            "searches": list(dns.searches),
            "options": list(dns.options),
        }
        if dns is not None
        else {},
        "cgroupPath": config.cgroup_parent,
        "io.kubernetes.cri.pod-annotations": dict(annotations),
    }
    wanted = {name for plugin in network.plugins for name in declared(plugin)}
    return {name: value for name, value in every.items() if value and name in wanted}


def declared(plugin: Mapping[str, Any]) -> set[str]:
    """The capabilities that a plugin's configuration declares."""
    return {name for name, on in plugin.get("capabilities", {}).items() if on is True}


def runtime_config(plugin: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """One plugin's `runtimeConfig`."""
    return {name: given[name] for name in sorted(declared(plugin)) if name in given}


def port_mapping(mapping: PortMapping) -> dict[str, Any]:
    protocol = mapping.protocol.lower()
    if protocol not in PROTOCOLS:
        raise InvalidRequest(f"port mapping: protocol {mapping.protocol[:20]!r} is none of tcp, udp, sctp")
    if not (0 < mapping.host_port <= PORT_MAX and 0 < mapping.container_port <= PORT_MAX):
        raise InvalidRequest(f"port mapping: {mapping.host_port} to {mapping.container_port} are not both ports")
    made: dict[str, Any] = {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": protocol,
    }
    if mapping.host_ip:
        try:
            made["hostIP"] = str(ipaddress.ip_address(mapping.host_ip))
        except ValueError:
            raise InvalidRequest(f"port mapping: host IP {mapping.host_ip[:80]!r} is no address") from None
    return made


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """Rates in bits per second. Raises InvalidRequest for a bad quantity, whoever would read it."""
    made: dict[str, int] = {}
    for key, name in ((INGRESS, "ingress"), (EGRESS, "egress")):
        if key in annotations:
            made |= {f"{name}Rate": rate(key, annotations[key]), f"{name}Burst": BURST}
    return made


def rate(key: str, text: str) -> int:
    try:
        value = quantity(text)
    except ValueError:
        raise InvalidRequest(f"annotation {key}: {text[:40]!r} is not a quantity") from None
    if not RATE_MIN <= value <= RATE_MAX:
        raise InvalidRequest(f"annotation {key}: {text[:40]!r} is not between 1k and 1P")
    return value


def quantity(text: str) -> int:
    """A Kubernetes quantity, rounded up. Raises ValueError."""
    found = QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(text)
    number, suffix, exponent = found.groups()
    value = Fraction(number if not number.endswith(".") else f"{number}0")
    if suffix and suffix.endswith("i"):
        value *= 1024 ** ("KMGTPE".index(suffix[0]) + 1)
    elif suffix:
        value *= SUFFIXES[suffix]
    elif exponent:
        value *= Fraction(10) ** int(exponent)
    return math.ceil(value)

"""PodSandboxConfig of a request, as `domain.config` has it, checked; and what of it is held back."""

from dataclasses import dataclass
from typing import Any

from adapters.cri import checks, enums, held_back, security
from adapters.cri.port import Digester
from domain.config import DnsConfig, NamespaceMode, NamespaceOptions, PortMapping, SandboxConfig, SandboxSecrets
from domain.errors import InvalidRequest, Unsupported


@dataclass(frozen=True, slots=True)
class SandboxRules:
    """What this daemon and its host have. `handlers`: names a pod may give besides the empty one."""

    handlers: tuple[str, ...] = ()
    selinux: bool = False


def read(
    config: Any, handler: str, rules: SandboxRules, digest: Digester
) -> tuple[SandboxConfig, SandboxSecrets | None]:
    """The configuration, and the values that the log must not have (None where there are none)."""
    checks.require(config.HasField("metadata"), "config.metadata is missing")
    _check_handler(handler, rules)
    linux = config.linux
    namespaces = _namespaces(linux.security_context.namespace_options)
    context = security.of_sandbox(linux.security_context)
    if context.selinux is not None and rules.selinux:
        raise Unsupported("SELinux options are not built yet, and this host has SELinux: leave them out of the pod")
    shown, hidden = held_back.annotations(checks.keys("annotations", config.annotations))
    metadata = config.metadata
    made = SandboxConfig(
        name=checks.name("metadata.name", metadata.name),
        uid=checks.name("metadata.uid", metadata.uid),
        namespace=checks.name("metadata.namespace", metadata.namespace),
        attempt=metadata.attempt,
        hostname=checks.hostname(config.hostname),
        log_directory=checks.path("log_directory", config.log_directory),
        runtime_handler=handler,
        cgroup_parent=checks.inside("cgroup_parent", linux.cgroup_parent),
        namespaces=namespaces,
        dns=_dns(config.dns_config) if config.HasField("dns_config") else None,
        port_mappings=_ports(config.port_mappings),
        sysctls=checks.sysctls(
            linux.sysctls, namespaces.network is NamespaceMode.POD, namespaces.ipc is NamespaceMode.POD
        ),
        labels=checks.keys("labels", config.labels),
        annotations=shown,
        hidden=held_back.digests(((k, v.encode()) for k, v in hidden.items()), digest),
        security=context,
        overhead=security.resources(linux.overhead) if linux.HasField("overhead") else None,
        resources=security.resources(linux.resources) if linux.HasField("resources") else None,
    )
    return made, SandboxSecrets(hidden) if hidden else None


def _check_handler(handler: str, rules: SandboxRules) -> None:
    if handler and handler not in rules.handlers:
        held = ", ".join(rules.handlers) or "none besides the default"
        raise Unsupported(f"runtime handler {checks.shown(handler)} is not configured (configured: {held})")


def _namespaces(asked: Any) -> NamespaceOptions:
    modes = security.namespaces(asked)
    shared = (NamespaceMode.POD, NamespaceMode.NODE)
    if modes.network not in shared or modes.ipc not in shared:
        raise InvalidRequest("a pod's network and IPC namespace modes are POD (0) or NODE (2)")
    if modes.pid is NamespaceMode.TARGET:
        raise InvalidRequest("a pod's pid namespace mode cannot be TARGET (3)")
    return modes


def _dns(asked: Any) -> DnsConfig:
    return DnsConfig(
        servers=checks.words("dns_config.servers", asked.servers),
        searches=checks.words("dns_config.searches", asked.searches),
        options=checks.words("dns_config.options", asked.options),
    )


def _ports(asked: Any) -> tuple[PortMapping, ...]:
    checks.count("port_mappings", asked)
    return tuple(
        PortMapping(
            protocol=enums.known(enums.PROTOCOL, "port mapping: protocol", port.protocol),
            container_port=checks.between("port mapping: container_port", port.container_port, 0, 65535),
            host_port=checks.between("port mapping: host_port", port.host_port, 0, 65535),
            host_ip=checks.address("port mapping: host_ip", port.host_ip),
        )
        for port in asked
    )

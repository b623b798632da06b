"""From what a client asked for to an OCI runtime spec: pure, so that golden files can hold it to account.

What has to be looked up first (users, host paths, devices, the kernel) arrives as values in `Facts` and `Host`. Never
in the spec: pod annotations, image labels, anything else that a handler could take for an instruction
(CVE-2024-3154, CVE-2023-6476). `check` refuses what this version does not have before anything is appended.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from adapters import children
from adapters.oci import capabilities, cgroups, devices, mounts, resources, seccomp
from adapters.oci.seccomp import Profile
from domain.config import ContainerConfig, ContainerSecrets, NamespaceMode, ProfileType, SandboxConfig
from domain.container import Container
from domain.errors import InvalidRequest, Unsupported
from domain.events import User
from domain.sandbox import Sandbox

OCI_VERSION = "1.0.2"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TYPES = {"net": "network", "uts": "uts", "ipc": "ipc"}
"""Kinds of namespaces as the kernel calls them, and as the spec does."""

UNIT = "daybook.service"
GRACE = "io.kubernetes.pod.terminationGracePeriod"
"""The annotation in which the kubelet tells a container's grace, in seconds."""

GRACE_MAX_S = 24 * 3600
ENV_MAX = 128 * 1024
"""MAX_ARG_STRLEN: the kernel takes no longer string."""


class ImageConfig(Protocol):
    """What is needed of an image's config: hostile input, in the image's own words."""

    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def entrypoint(self) -> tuple[str, ...]: ...
    @property
    def cmd(self) -> tuple[str, ...]: ...
    @property
    def working_dir(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def volumes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Host:
    """The machine, as it was when the daemon started."""

    capabilities: tuple[str, ...]
    machine: str = "x86_64"
    kernel: tuple[int, int] = (6, 1)
    hostname: str = "localhost"
    cgroup_v2: bool = False
    swap: bool = True
    huge_pages: bool = True
    apparmor: str = ""
    """What AppArmor's RuntimeDefault is called here; empty: there is none, as `apparmor_problem` says."""
    apparmor_problem: str = "this machine has no AppArmor"
    selinux: bool = False
    recursive_read_only: bool = True
    oom_score_floor: int = -1000
    """Lower than this the daemon itself may not go (it lacks CAP_SYS_RESOURCE): runc would fail."""
    open_files: int = 1 << 20
    """The daemon's own hard limit of open files, which is the containers' too."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was looked up for one container. Paths of namespaces are empty where the pod has none of its own.

    `etc`: files of the sandbox to show in the container, as (path in the container, path on the host); `volumes`:
    the image's that need a mount, likewise.
    """

    rootfs: str
    user: User
    net: str = ""
    uts: str = ""
    ipc: str = ""
    pid: str = ""
    shm: str = "/dev/shm"
    etc: tuple[tuple[str, str], ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    seccomp: Profile | None = None
    sources: Mapping[str, mounts.Source] | None = None
    nodes: tuple[devices.Node, ...] = ()


# --- refusals --------------------------------------------------------------------------------------------------------


def check(config: ContainerConfig, sandbox: SandboxConfig, host: Host) -> None:
    """Raises Unsupported or InvalidRequest for what cannot become a spec; nothing has happened yet."""
    security = config.security
    if config.namespaces.userns or sandbox.namespaces.userns:
        raise Unsupported("user namespaces are not supported yet")
    if config.cdi_devices:
        raise Unsupported("CDI devices are not supported yet")
    if security.selinux is not None and host.selinux:
        # Where the host has no SELinux they mean nothing: pods that name them for other nodes run.
        raise Unsupported("SELinux options are not built yet, and this host has SELinux: leave them out")
    if security.privileged and not sandbox.security.privileged:
        raise InvalidRequest("a privileged container needs a privileged sandbox")
    _check_apparmor(config, host)
    _check_namespaces(config, sandbox)
    for mount in config.mounts:
        mounts.check(mount, host.recursive_read_only)
    for path in (*security.masked_paths, *security.readonly_paths):
        if not path.startswith("/"):
            raise InvalidRequest(f"masked or read-only path {path[:200]!r} is not absolute")
    if ".." in sandbox.cgroup_parent.split("/"):
        raise InvalidRequest(f"cgroup parent {sandbox.cgroup_parent[:200]!r} leads upwards")
    capabilities.effective(security.capabilities, security.privileged, host.capabilities)
    resources.check(config.resources)


def _check_apparmor(config: ContainerConfig, host: Host) -> None:
    """What was asked for by name is refused where it cannot be had; who asked for nothing gets what there is."""
    asked = config.security.apparmor
    if asked is None or config.security.privileged:
        return
    if asked.type is ProfileType.LOCALHOST:
        why = "is not supported yet" if host.apparmor else f"cannot be used: {host.apparmor_problem}"
        raise Unsupported(f"AppArmor profile {asked.localhost_ref[:200]!r} {why}")
    if asked.type is ProfileType.RUNTIME_DEFAULT and not host.apparmor:
        raise Unsupported(f"AppArmor profile RuntimeDefault cannot be used: {host.apparmor_problem}")


def _apparmor(config: ContainerConfig, host: Host) -> dict[str, str]:
    """No profile asked for is RuntimeDefault ("equivalent to not specifying a profile", says the CRI): as on the peers,
    and Kubernetes' Pod Security Standards count on it.
    """
    asked = config.security.apparmor
    unconfined = config.security.privileged or (asked is not None and asked.type is ProfileType.UNCONFINED)
    return {} if unconfined or not host.apparmor else {"apparmorProfile": host.apparmor}


def _check_namespaces(config: ContainerConfig, sandbox: SandboxConfig) -> None:
    mine, pod = config.namespaces, sandbox.namespaces
    for name, asked, held in (("network", mine.network, pod.network), ("ipc", mine.ipc, pod.ipc)):
        if asked not in (NamespaceMode.POD, NamespaceMode.NODE):
            raise InvalidRequest(f"{name} mode {asked.upper()}: a container is in its pod's, POD (0), or in NODE (2)")
        _check_host(name, asked, held)
    _check_host("pid", mine.pid, pod.pid)
    if mine.pid is NamespaceMode.POD and pod.pid is NamespaceMode.CONTAINER:
        raise InvalidRequest(
            "pid mode POD (0): the pod has no pid namespace of its own, its pid mode is CONTAINER (1); ask for it too"
        )
    if mine.pid is NamespaceMode.TARGET and not mine.target_id:
        raise InvalidRequest("pid mode TARGET without a target container")


def _check_host(name: str, asked: NamespaceMode, pods: NamespaceMode) -> None:
    """A container cannot get more of the host than its pod was given."""
    if asked is NamespaceMode.NODE and pods is not NamespaceMode.NODE:
        raise InvalidRequest(f"{name} mode NODE (2): only a pod with {name} mode NODE has the host's")


# --- building --------------------------------------------------------------------------------------------------------


def build(
    container: Container,
    sandbox: Sandbox,
    secrets: ContainerSecrets,
    image: ImageConfig,
    facts: Facts,
    host: Host,
) -> dict[str, Any]:
    """The OCI spec. Raises InvalidRequest, Unsupported.

    It names no hostname: the pod's UTS namespace got its name with the sandbox, and the host's must not be touched.
    """
    config = container.config
    check(config, sandbox.config, host)
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(config, sandbox.config, secrets, image, facts, host),
        "root": {"path": facts.rootfs, "readonly": config.security.readonly_rootfs},
        "mounts": mounts.build(config, facts.sources or {}, facts.shm, facts.etc, facts.volumes),
        "annotations": _annotations(container, sandbox),
        "linux": _linux(container, sandbox, facts, host),
    }


def _process(
    config: ContainerConfig,
    sandbox: SandboxConfig,
    secrets: ContainerSecrets,
    image: ImageConfig,
    facts: Facts,
    host: Host,
) -> dict[str, Any]:
    security = config.security
    given = capabilities.effective(security.capabilities, security.privileged, host.capabilities)
    score = config.resources.oom_score_adj if config.resources else 0
    return {
        "terminal": config.tty,
        "user": {"uid": facts.user.uid, "gid": facts.user.gid, "additionalGids": list(facts.user.groups)},
        "args": arguments(secrets, image),
        "env": environment(config, secrets, image, sandbox.hostname or host.hostname),
        "cwd": working_directory(config, image),
        "capabilities": capabilities.sets(given),
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": max(host.oom_score_floor, min(1000, score)),
        **_apparmor(config, host),
        "rlimits": limits(host),
    }


def limits(host: Host) -> list[dict[str, Any]]:
    """Of open files alone, see `adapters.children`; the CRI has no word for limits, so the rest is the daemon's unit's.

    Said in the spec because runc's own runtime raises its soft limit, and old ones let the container have that.
    """
    soft = children.descriptors(host.open_files)
    return [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": host.open_files}]


def arguments(secrets: ContainerSecrets, image: ImageConfig) -> list[str]:
    """command + args; without a command the image's entrypoint; without both also the image's cmd."""
    entrypoint = () if image.entrypoint == ("",) else image.entrypoint
    if secrets.command:
        args = (*secrets.command, *secrets.args)
    elif secrets.args:
        args = (*entrypoint, *secrets.args)
    else:
        args = (*entrypoint, *image.cmd)
    if not args or not args[0]:
        raise InvalidRequest("no command specified")
    if any("\0" in arg for arg in args):
        raise InvalidRequest("an argument contains a NUL byte")
    return list(args)


def environment(config: ContainerConfig, secrets: ContainerSecrets, image: ImageConfig, hostname: str) -> list[str]:
    """PATH, TERM where there is a terminal, HOSTNAME, the image's, then the client's: later ones win. (No HOME.)"""
    values: dict[str, tuple[str, str]] = {}
    defaults = [DEFAULT_PATH, *(["TERM=xterm"] if config.tty else []), f"HOSTNAME={hostname}"]
    for number, entry in enumerate((*defaults, *image.env), 1 - len(defaults)):
        name, _, value = entry.partition("=")
        values[name] = value, _variable(f"environment variable {number} of the image", name)
    for number, (name, raw) in enumerate(secrets.envs, 1):
        variable = _variable(f"environment variable {number}", name)
        try:
            values[name] = raw.decode(), variable
        except UnicodeDecodeError:
            raise InvalidRequest(f"{variable} is not UTF-8: JSON cannot carry it") from None
    for name, (value, variable) in values.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequest(f"{variable} cannot be: it has no name, '=' in its name or a NUL byte")
        if len(name) + len(value) + 2 > ENV_MAX:
            raise InvalidRequest(f"{variable} is longer than {ENV_MAX} bytes")
    return [f"{name}={value}" for name, (value, _) in values.items()]


def _variable(which: str, name: str) -> str:
    """How a variable is told: a value may stand where its name should, and is never quoted."""
    return f"{which}, {name}," if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,79}", name) else which


def working_directory(config: ContainerConfig, image: ImageConfig) -> str:
    path = config.working_dir or image.working_dir or "/"
    return mounts.clean(path)


def _annotations(container: Container, sandbox: Sandbox) -> dict[str, str]:
    """Only facts of ours, under the names that kata and gVisor look for."""
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": sandbox.id,
        "io.kubernetes.cri.sandbox-name": sandbox.config.name,
        "io.kubernetes.cri.sandbox-namespace": sandbox.config.namespace,
        "io.kubernetes.cri.sandbox-uid": sandbox.config.uid,
        "io.kubernetes.cri.container-name": container.config.name,
        **scope_properties(_cgroup(container.id, sandbox), container.config.annotations.get(GRACE, "")),
    }


def _cgroup(identifier: str, sandbox: Sandbox) -> str:
    return cgroups.path_for(sandbox.config.cgroup_parent, identifier)


def scope_properties(cgroups_path: str, grace: str) -> dict[str, str]:
    """What systemd is told of a scope, where the cgroup is one; runc and crun hand on annotations of this name.

    At a shutdown it ends with the grace of its pod and before the daemon, which so records the exit: without default
    dependencies systemd kills it some time after everything else. A scope that failed does not stay and block its name.
    """
    if ":" not in cgroups_path:
        return {}
    properties = {"CollectMode": "'inactive-or-failed'", "DefaultDependencies": "true", "After": f"['{UNIT}']"}
    if grace.isascii() and grace.isdecimal():
        properties["TimeoutStopUSec"] = f"uint64 {min(int(grace[:9]), GRACE_MAX_S) * 1_000_000}"
    return {f"org.systemd.property.{name}": value for name, value in properties.items()}


def _linux(container: Container, sandbox: Sandbox, facts: Facts, host: Host) -> dict[str, Any]:
    security = container.config.security
    privileged = security.privileged
    given = capabilities.effective(security.capabilities, privileged, host.capabilities)
    limits = resources.build(container.config.resources, host.swap, host.huge_pages)
    limits["devices"] = devices.rules(container.config.devices, facts.nodes, privileged)
    linux: dict[str, Any] = {
        "cgroupsPath": cgroups.path_for(sandbox.config.cgroup_parent, container.id),
        "namespaces": namespaces(container.config, facts, host.cgroup_v2),
        "resources": limits,
        "devices": devices.build(container.config.devices, facts.nodes, privileged),
        "rootfsPropagation": mounts.root_propagation(container.config.mounts),
        "maskedPaths": [] if privileged else list(security.masked_paths),
        "readonlyPaths": [] if privileged else list(security.readonly_paths),
    }
    if facts.seccomp is not None and not privileged:
        linux["seccomp"] = seccomp.convert(facts.seccomp, given, host.machine, host.kernel)
    return linux


def namespaces(config: ContainerConfig, facts: Facts, cgroup_v2: bool) -> list[dict[str, str]]:
    """A namespace that is not listed is the host's. UTS follows the network."""
    mine = config.namespaces
    out = [{"type": "mount"}]
    if mine.pid is NamespaceMode.CONTAINER:
        out.append({"type": "pid"})
    elif mine.pid is not NamespaceMode.NODE and facts.pid:
        out.append({"type": "pid", "path": facts.pid})
    if mine.ipc is NamespaceMode.POD and facts.ipc:
        out.append({"type": "ipc", "path": facts.ipc})
    if mine.network is NamespaceMode.POD:
        out += [{"type": kind, "path": path} for kind, path in (("network", facts.net), ("uts", facts.uts)) if path]
    if cgroup_v2 and not config.security.privileged:
        out.append({"type": "cgroup"})
    return out


def infra(sandbox: Sandbox, rootfs: str, program: str, pins: Mapping[str, str], oom_score_floor: int) -> dict[str, Any]:
    """The pod's pause: holds the pid namespace, nothing else. Its /dev and /proc are its own, its rest read-only.

    `pins`: kind (net, uts, ipc) -> path of each namespace that the pod has of its own; it is in all of them.
    """
    own = [{"type": "mount"}, {"type": "pid"}, *({"type": TYPES[kind], "path": pins[kind]} for kind in pins)]
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/pause", "-P"],
            "env": [],
            "cwd": "/",
            "capabilities": capabilities.sets(()),
            "noNewPrivileges": True,
            "oomScoreAdj": max(oom_score_floor, -998),
        },
        "root": {"path": rootfs, "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755"]},
            {"destination": "/pause", "type": "bind", "source": program, "options": ["bind", "ro", "nosuid", "nodev"]},
        ],
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": sandbox.id,
            "io.kubernetes.cri.sandbox-name": sandbox.config.name,
            "io.kubernetes.cri.sandbox-namespace": sandbox.config.namespace,
            "io.kubernetes.cri.sandbox-uid": sandbox.config.uid,
            **scope_properties(_cgroup(sandbox.id, sandbox), ""),
        },
        "linux": {
            "cgroupsPath": _cgroup(sandbox.id, sandbox),
            "namespaces": own,
            "resources": {"cpu": {"shares": 2}, "devices": devices.rules((), (), False)},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"],
        },
    }

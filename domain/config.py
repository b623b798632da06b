"""What a client asks for, as values: the CRI's configurations in Python, without protobuf.

Field names are the CRI's. `ContainerSecrets` and `SandboxSecrets` hold what never enters the log (design: environment
values, command, arguments, large annotations); in their place the configuration carries `Digest`s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from domain.records import Digest


class NamespaceMode(StrEnum):
    """Whose namespace: the pod's, the container's own, the host's, or another container's."""

    POD = "pod"
    CONTAINER = "container"
    NODE = "node"
    TARGET = "target"


class Propagation(StrEnum):
    """Mount propagation between host and container."""

    PRIVATE = "private"
    HOST_TO_CONTAINER = "host_to_container"
    BIDIRECTIONAL = "bidirectional"


class ProfileType(StrEnum):
    """Kind of a seccomp or AppArmor profile."""

    RUNTIME_DEFAULT = "runtime_default"
    UNCONFINED = "unconfined"
    LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    """`localhost_ref` is an absolute path (seccomp) or a loaded profile's name (AppArmor)."""

    type: ProfileType
    localhost_ref: str = ""


@dataclass(frozen=True, slots=True)
class NamespaceOptions:
    """The CRI's NamespaceOption. `userns` tells that the client asked for a user namespace of its own."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns: bool = False


@dataclass(frozen=True, slots=True)
class DnsConfig:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """`protocol`: tcp, udp or sctp."""

    protocol: str
    container_port: int
    host_port: int = 0
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """LinuxContainerResources; 0 and empty mean "not set", as in the CRI. Bytes, microseconds, shares."""

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit_in_bytes: int = 0
    memory_swap_limit_in_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: Mapping[str, int] = field(default_factory=dict)
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mount:
    """`image`: a reference where the mount is an image volume, else empty."""

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: Propagation = Propagation.PRIVATE
    idmapped: bool = False
    recursive_read_only: bool = False
    image: str = ""
    image_sub_path: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """`permissions`: some of r, w, m (cgroup device access)."""

    container_path: str
    host_path: str
    permissions: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """What both sandboxes and containers may ask for. `run_as_user`/`run_as_group` None: not given."""

    privileged: bool = False
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_strict: bool = False
    readonly_rootfs: bool = False
    no_new_privs: bool = False
    capabilities: Capabilities = Capabilities()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    selinux: tuple[str, str, str, str] | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """PodSandboxConfig without what must stay out of the log. `hidden` stands for annotations held back."""

    name: str
    uid: str
    namespace: str
    attempt: int = 0
    hostname: str = ""
    log_directory: str = ""
    runtime_handler: str = ""
    cgroup_parent: str = ""
    namespaces: NamespaceOptions = NamespaceOptions()
    dns: DnsConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[Digest, ...] = ()
    security: SecurityContext = SecurityContext()
    overhead: Resources | None = None
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """ContainerConfig without what must stay out of the log. `image` is what CreateContainer was given.

    `envs`, `command`, `args`, `hidden` stand for values in `ContainerSecrets`, in their order.
    """

    name: str
    attempt: int = 0
    image: str = ""
    user_specified_image: str = ""
    working_dir: str = ""
    command: tuple[Digest, ...] = ()
    args: tuple[Digest, ...] = ()
    envs: tuple[Digest, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[Digest, ...] = ()
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""
    namespaces: NamespaceOptions = NamespaceOptions()
    security: SecurityContext = SecurityContext()
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class SandboxSecrets:
    """Values that a sandbox's configuration holds back from the log, by annotation key."""

    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PullCredentials:
    """What a pull proves to a registry who asks with: user and password, or one of the tokens. In memory only.

    `identity_token`: an OAuth2 refresh token. `registry_token`: a bearer token as the registry itself takes it.
    `access`: the keyed hash of all that, under which the log knows it. Nothing of it is ever printed.
    """

    access: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ContainerSecrets:
    """Values that a container's configuration holds back from the log. Environment values are bytes (cri-api 0.37)."""

    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    envs: tuple[tuple[str, bytes], ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)


Withheld = ContainerSecrets | SandboxSecrets | PullCredentials
"""What a client's request may bring besides its command."""

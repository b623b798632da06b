"""Aggregates -> the CRI's messages. What a client refuses to see empty is never empty here.

Labels and annotations come back as they were given, those held back from the log included. A quarantined aggregate is
shown as it was last known, with a word about it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapters.cri import enums
from adapters.cri.pinned import UNPINNED, Pins
from adapters.cri.status import bounded
from domain import container as containers
from domain import events as e
from domain import sandbox as sandboxes
from domain.config import ContainerSecrets, Mount, NamespaceMode, Resources, SandboxSecrets
from domain.container import Container
from domain.image import Image, PulledImage
from domain.names import repo_digest
from domain.node import Quarantine
from domain.records import TaskUsage
from domain.sandbox import Sandbox
from proto import api_pb2 as pb

QUARANTINED = "daybook/quarantined"
"""Annotation of a shown aggregate that nothing is done to, and why."""

_UID_MAX = 2**63 - 1

Secrets = Callable[[str], ContainerSecrets | SandboxSecrets | None]
"""The private side file of an aggregate, by its id."""


# --- containers ------------------------------------------------------------------------------------------------------


def container(known: Container, secrets: Secrets, held: Quarantine | None = None) -> Any:
    """The entry of a list. Only for what `domain.container.view` lists."""
    config = known.config
    return pb.Container(
        id=known.id,
        pod_sandbox_id=known.sandbox_id,
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=_image_spec(known),
        image_ref=known.image_ref or known.image_id,
        state=_container_state(known),
        created_at=known.created_at,
        labels=config.labels,
        annotations=_annotations(known, secrets, held),
        image_id=known.image_id,
    )


def container_status(known: Container, secrets: Secrets, held: Quarantine | None = None) -> Any:
    config = known.config
    status = pb.ContainerStatus(
        id=known.id,
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        state=_container_state(known),
        created_at=known.created_at,
        started_at=known.started_at,
        finished_at=known.finished_at,
        exit_code=known.exit_code,
        image=_image_spec(known),
        image_ref=known.image_ref or known.image_id,
        reason=known.reason,
        message=bounded(quarantine_text(e.container_key(known.id), held) if held else containers.message(known)),
        labels=config.labels,
        annotations=_annotations(known, secrets, held),
        mounts=[_mount(mount) for mount in config.mounts],
        log_path=known.log_path,
        image_id=known.image_id,
        stop_signal=enums.signal_value(known.stop_signal),
    )
    if config.resources is not None:
        status.resources.linux.CopyFrom(resources(config.resources))
    if known.user is not None:
        status.user.linux.uid = known.user.uid
        status.user.linux.gid = known.user.gid
        status.user.linux.supplemental_groups.extend(known.user.groups)
    return status


def _container_state(known: Container) -> int:
    name = containers.view(known)
    assert name is not None, f"container {known.id} is not listed in state {known.state}"
    return int(pb.ContainerState.Value(name))


def _image_spec(known: Container) -> Any:
    """What the user wrote, where the kubelet told; else what CreateContainer was given."""
    config = known.config
    said = config.user_specified_image or config.image
    return pb.ImageSpec(image=said, user_specified_image=config.user_specified_image)


def _mount(mount: Mount) -> Any:
    return pb.Mount(
        container_path=mount.container_path,
        host_path=mount.host_path,
        readonly=mount.readonly,
        selinux_relabel=mount.selinux_relabel,
        propagation=enums.back(enums.PROPAGATION, mount.propagation),
        recursive_read_only=mount.recursive_read_only,
        mount_options=mount.options,
    )


def resources(known: Resources) -> Any:
    return pb.LinuxContainerResources(
        cpu_period=known.cpu_period,
        cpu_quota=known.cpu_quota,
        cpu_shares=known.cpu_shares,
        memory_limit_in_bytes=known.memory_limit_in_bytes,
        memory_swap_limit_in_bytes=known.memory_swap_limit_in_bytes,
        oom_score_adj=known.oom_score_adj,
        cpuset_cpus=known.cpuset_cpus,
        cpuset_mems=known.cpuset_mems,
        hugepage_limits=[pb.HugepageLimit(page_size=k, limit=v) for k, v in sorted(known.hugepage_limits.items())],
        unified=known.unified,
    )


def container_stats(known: Container, used: TaskUsage | None, secrets: Secrets) -> Any:
    """Whose reading it is, and the reading where there are cgroups. The rate (nano cores) the kubelet finds itself."""
    whose = pb.ContainerAttributes(
        id=known.id,
        metadata=pb.ContainerMetadata(name=known.config.name, attempt=known.config.attempt),
        labels=known.config.labels,
        annotations=_annotations(known, secrets, None),
    )
    if used is None:
        return pb.ContainerStats(attributes=whose)
    cpu = pb.CpuUsage(timestamp=used.at_ns, usage_core_nano_seconds=_number(used.cpu_ns))
    return pb.ContainerStats(attributes=whose, cpu=cpu, memory=_memory(used))


def _memory(used: TaskUsage) -> Any:
    room = max(0, used.limit - used.working_set)
    return pb.MemoryUsage(
        timestamp=used.at_ns,
        usage_bytes=_number(used.memory),
        working_set_bytes=_number(used.working_set),
        rss_bytes=_number(used.rss),
        available_bytes=_number(room) if used.limit else None,
        page_faults=_number(used.page_faults),
        major_page_faults=_number(used.major_page_faults),
    )


def _number(value: int) -> Any:
    return pb.UInt64Value(value=value)


# --- sandboxes -------------------------------------------------------------------------------------------------------


def sandbox(known: Sandbox, secrets: Secrets, held: Quarantine | None = None) -> Any:
    """The entry of a list. Only for what `domain.sandbox.view` lists."""
    return pb.PodSandbox(
        id=known.id,
        metadata=_sandbox_metadata(known),
        state=_sandbox_state(known),
        created_at=known.created_at,
        labels=known.config.labels,
        annotations=_annotations(known, secrets, held),
        runtime_handler=known.config.runtime_handler,
    )


def sandbox_status(known: Sandbox, secrets: Secrets, held: Quarantine | None = None) -> Any:
    modes = known.config.namespaces
    options = pb.NamespaceOption(
        network=enums.back(enums.NAMESPACE, modes.network),
        pid=enums.back(enums.NAMESPACE, modes.pid),
        ipc=enums.back(enums.NAMESPACE, modes.ipc),
        target_id=modes.target_id,
    )
    return pb.PodSandboxStatus(
        id=known.id,
        metadata=_sandbox_metadata(known),
        state=_sandbox_state(known),
        created_at=known.created_at,
        network=_network(known),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=options)),
        labels=known.config.labels,
        annotations=_annotations(known, secrets, held),
        runtime_handler=known.config.runtime_handler,
    )


def _sandbox_metadata(known: Sandbox) -> Any:
    config = known.config
    return pb.PodSandboxMetadata(name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt)


def _sandbox_state(known: Sandbox) -> int:
    name = sandboxes.view(known)
    assert name is not None, f"sandbox {known.id} is not listed in state {known.state}"
    return int(pb.PodSandboxState.Value(name))


def _network(known: Sandbox) -> Any:
    """Empty with the host's network: the kubelet puts the node's own addresses there."""
    if known.config.namespaces.network is NamespaceMode.NODE or not known.ips:
        return pb.PodSandboxNetworkStatus()
    return pb.PodSandboxNetworkStatus(ip=known.ips[0], additional_ips=[pb.PodIP(ip=ip) for ip in known.ips[1:]])


# --- both ------------------------------------------------------------------------------------------------------------


def quarantine_text(key: str, held: Quarantine) -> str:
    kind, name = e.split_key(key)
    return (
        f"{kind} {name} is quarantined: record {held.seq} of the log does not decode ({held.why}); shown as it was "
        f"before that record; `daybook replay why {name}` tells what is known"
    )


def _annotations(known: Container | Sandbox, secrets: Secrets, held: Quarantine | None) -> Mapping[str, str]:
    if not known.config.hidden and held is None:
        return known.config.annotations
    shown = dict(known.config.annotations)
    if known.config.hidden and (kept := secrets(known.id)):
        shown |= kept.annotations
    if held is not None:
        key = e.container_key(known.id) if isinstance(known, Container) else e.sandbox_key(known.id)
        shown[QUARANTINED] = bounded(quarantine_text(key, held))
    return shown


# --- images ----------------------------------------------------------------------------------------------------------


def image(held: PulledImage, references: Sequence[Image], pins: Pins = UNPINNED) -> Any:
    """One image under all its names."""
    tags = [name for name in sorted(i.reference for i in references) if "@" not in name]
    digests = sorted({repo_digest(i.reference, i.held.digest) for i in references if i.held and i.held.digest})
    uid, username = user_of(held.user)
    return pb.Image(
        id=held.image_id,
        repo_tags=tags,
        repo_digests=digests,
        pinned=pins.hold((*tags, *digests)),
        size=max(held.size, 1),
        uid=None if uid is None else pb.Int64Value(value=uid),
        username=username,
        spec=pb.ImageSpec(image=held.image_id),
    )


def user_of(user: str) -> tuple[int | None, str]:
    """uid or name of an image's user, never both and never neither; an image that names none runs as 0."""
    name = user.partition(":")[0]
    if not name:
        return 0, ""
    if name.isascii() and name.isdecimal() and len(name) <= 19 and int(name) <= _UID_MAX:
        return int(name), ""
    return None, bounded(name)

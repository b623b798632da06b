"""ContainerConfig of a request, as `domain.config` has it, checked; and what of it is held back."""

from typing import Any

from adapters.cri import checks, enums, held_back, security
from adapters.cri.port import Digester
from domain.config import ContainerConfig, ContainerSecrets, Device, Mount
from domain.errors import Unsupported


def read(config: Any, digest: Digester) -> tuple[ContainerConfig, ContainerSecrets]:
    """The configuration without its secrets, and these."""
    checks.require(config.HasField("metadata"), "config.metadata is missing")
    checks.require(bool(config.image.image), "config.image.image is empty")
    _refuse_unbuilt(config)
    secrets = _secrets(config)
    shown = {k: v for k, v in checks.keys("annotations", config.annotations).items() if k not in secrets.annotations}
    context = config.linux.security_context
    made = ContainerConfig(
        name=checks.name("metadata.name", config.metadata.name),
        attempt=config.metadata.attempt,
        image=checks.plain("image.image", config.image.image),
        user_specified_image=checks.plain("image.user_specified_image", config.image.user_specified_image),
        working_dir=checks.plain("working_dir", config.working_dir),
        command=held_back.texts(secrets.command, digest),
        args=held_back.texts(secrets.args, digest),
        envs=held_back.digests(secrets.envs, digest),
        mounts=_mounts(config.mounts),
        devices=_devices(config.devices),
        labels=checks.keys("labels", config.labels),
        annotations=shown,
        hidden=held_back.digests(((k, v.encode()) for k, v in secrets.annotations.items()), digest),
        log_path=checks.inside("log_path", config.log_path),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        stop_signal=enums.signal_name(config.stop_signal),
        namespaces=security.namespaces(context.namespace_options),
        security=security.of_container(context),
        resources=security.resources(config.linux.resources) if config.linux.HasField("resources") else None,
    )
    return made, secrets


def _refuse_unbuilt(config: Any) -> None:
    if config.CDI_devices:
        raise Unsupported("CDI devices are not built yet")
    for mount in config.mounts:
        if mount.HasField("image"):
            raise Unsupported("image volumes are not built yet")
        if mount.uidMappings or mount.gidMappings:
            raise Unsupported("id-mapped mounts are not built yet")


def _secrets(config: Any) -> ContainerSecrets:
    count = len(config.command) + len(config.args) + len(config.envs)
    checks.require(
        count <= checks.VALUES_MAX,
        f"{count} environment variables and arguments are more than {checks.VALUES_MAX}",
    )
    envs = tuple((env.key, env.value) for env in config.envs)
    checks.environment(envs)
    _, hidden = held_back.annotations(config.annotations)
    return ContainerSecrets(
        command=checks.arguments("command", config.command),
        args=checks.arguments("args", config.args),
        envs=envs,
        annotations=dict(sorted(hidden.items())),
    )


def _mounts(asked: Any) -> tuple[Mount, ...]:
    checks.count("mounts", asked)
    return tuple(
        Mount(
            container_path=checks.plain("mount: container_path", mount.container_path),
            host_path=checks.plain("mount: host_path", mount.host_path),
            readonly=mount.readonly,
            selinux_relabel=mount.selinux_relabel,
            propagation=enums.known(enums.PROPAGATION, "mount propagation", mount.propagation),
            recursive_read_only=mount.recursive_read_only,
            options=tuple(checks.plain("mount option", option, 64) for option in mount.mount_options),
        )
        for mount in asked
    )


def _devices(asked: Any) -> tuple[Device, ...]:
    checks.count("devices", asked)
    for device in asked:
        checks.require(not set(device.permissions) - set("rwm"), "device permissions are some of r, w, m")
    return tuple(
        Device(
            container_path=checks.path("device: container_path", device.container_path),
            host_path=checks.path("device: host_path", device.host_path),
            permissions=device.permissions,
        )
        for device in asked
    )

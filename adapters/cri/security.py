"""Security contexts, namespaces and resources of a request, as `domain.config` has them."""

from typing import Any

from adapters.cri import checks, enums
from domain.config import (
    Capabilities,
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    Resources,
    SecurityContext,
    SecurityProfile,
)
from domain.errors import InvalidRequest, Unsupported

UNLIMITED = -1
"""Some limits take it for "none"."""


def of_sandbox(asked: Any) -> SecurityContext:
    """A LinuxSandboxSecurityContext."""
    return SecurityContext(
        privileged=asked.privileged,
        run_as_user=_id("run_as_user", asked, "run_as_user"),
        run_as_group=_group(asked, named=False),
        supplemental_groups=_groups(asked),
        supplemental_groups_strict=_strict(asked),
        readonly_rootfs=asked.readonly_rootfs,
        seccomp=_seccomp(asked),
        apparmor=_profile("apparmor", asked),
        selinux=_selinux(asked),
    )


def of_container(asked: Any) -> SecurityContext:
    """A LinuxContainerSecurityContext."""
    return SecurityContext(
        privileged=asked.privileged,
        run_as_user=_id("run_as_user", asked, "run_as_user"),
        run_as_group=_group(asked, named=bool(asked.run_as_username)),
        run_as_username=checks.plain("run_as_username", asked.run_as_username, 256),
        supplemental_groups=_groups(asked),
        supplemental_groups_strict=_strict(asked),
        readonly_rootfs=asked.readonly_rootfs,
        no_new_privs=asked.no_new_privs,
        capabilities=_capabilities(asked.capabilities),
        seccomp=_seccomp(asked),
        apparmor=_profile("apparmor", asked) or _old_profile("apparmor_profile", asked.apparmor_profile),
        selinux=_selinux(asked),
        masked_paths=tuple(checks.plain("masked_paths", p) for p in asked.masked_paths),
        readonly_paths=tuple(checks.plain("readonly_paths", p) for p in asked.readonly_paths),
    )


def namespaces(asked: Any) -> NamespaceOptions:
    """A NamespaceOption. Absent user namespace options mean the host's, as do mode NODE without mappings."""
    if asked.HasField("userns_options"):
        _refuse_userns(asked.userns_options)
    return NamespaceOptions(
        network=enums.known(enums.NAMESPACE, "network namespace mode", asked.network),
        pid=enums.known(enums.NAMESPACE, "pid namespace mode", asked.pid),
        ipc=enums.known(enums.NAMESPACE, "IPC namespace mode", asked.ipc),
        target_id=checks.plain("target_id", asked.target_id, 128),
    )


def resources(asked: Any) -> Resources:
    """LinuxContainerResources. Zero is "not set"; -1 is "no limit" where the kernel has it."""
    for field in ("cpu_period", "cpu_shares"):
        checks.at_least(field, getattr(asked, field), 0)
    for field in ("cpu_quota", "memory_limit_in_bytes", "memory_swap_limit_in_bytes"):
        checks.at_least(field, getattr(asked, field), UNLIMITED)
    checks.between("oom_score_adj", asked.oom_score_adj, -1000, 1000)
    checks.count("hugepage_limits", asked.hugepage_limits, 64)
    checks.count("unified", asked.unified, 256)
    pages = {checks.plain("page_size", h.page_size, 64): h.limit for h in asked.hugepage_limits}
    return Resources(
        cpu_period=asked.cpu_period,
        cpu_quota=asked.cpu_quota,
        cpu_shares=asked.cpu_shares,
        memory_limit_in_bytes=asked.memory_limit_in_bytes,
        memory_swap_limit_in_bytes=asked.memory_swap_limit_in_bytes,
        oom_score_adj=asked.oom_score_adj,
        cpuset_cpus=checks.plain("cpuset_cpus", asked.cpuset_cpus),
        cpuset_mems=checks.plain("cpuset_mems", asked.cpuset_mems),
        hugepage_limits=dict(sorted(pages.items())),
        unified=checks.keys("unified", asked.unified),
    )


def _refuse_userns(asked: Any) -> None:
    mode = enums.known(enums.NAMESPACE, "user namespace mode", asked.mode)
    if mode is NamespaceMode.POD:
        raise Unsupported("user namespaces are not built yet: set userns_options.mode to NODE (2) or leave it out")
    if mode is not NamespaceMode.NODE or asked.uids or asked.gids:
        raise InvalidRequest("userns_options must be mode NODE without mappings")


def _selinux(asked: Any) -> tuple[str, str, str, str] | None:
    """User, role, type and level; None where none is given. Whether the host has SELinux is not known here."""
    given = asked.selinux_options
    if not (given.user or given.role or given.type or given.level):
        return None
    user, role, kind, level = (
        checks.plain(f"selinux_options.{field}", getattr(given, field), 256)
        for field in ("user", "role", "type", "level")
    )
    return user, role, kind, level


def _id(field: str, asked: Any, name: str) -> int | None:
    return checks.identity(field, getattr(asked, name).value) if asked.HasField(name) else None


def _group(asked: Any, named: bool) -> int | None:
    if asked.HasField("run_as_group") and not (named or asked.HasField("run_as_user")):
        raise InvalidRequest("run_as_group is given without a user")
    return _id("run_as_group", asked, "run_as_group")


def _groups(asked: Any) -> tuple[int, ...]:
    checks.count("supplemental_groups", asked.supplemental_groups, 65536)
    return tuple(checks.identity("supplemental group", gid) for gid in asked.supplemental_groups)


def _strict(asked: Any) -> bool:
    return enums.known(enums.STRICT_GROUPS, "supplemental_groups_policy", asked.supplemental_groups_policy)


def _capabilities(asked: Any) -> Capabilities:
    if asked.add_ambient_capabilities:
        raise Unsupported("ambient capabilities are not built")
    return Capabilities(
        add=tuple(checks.plain("capability", name, 64) for name in asked.add_capabilities),
        drop=tuple(checks.plain("capability", name, 64) for name in asked.drop_capabilities),
    )


def _seccomp(asked: Any) -> SecurityProfile | None:
    return _profile("seccomp", asked) or _old_profile("seccomp_profile_path", asked.seccomp_profile_path)


def _profile(field: str, asked: Any) -> SecurityProfile | None:
    """Absent is None, which means what it means for that field; present but empty is the runtime's default."""
    if not asked.HasField(field):
        return None
    given = getattr(asked, field)
    kind = enums.known(enums.PROFILE, f"{field} profile type", given.profile_type)
    if kind is not ProfileType.LOCALHOST:
        return SecurityProfile(kind)
    checks.require(bool(given.localhost_ref), f"{field}: localhost_ref is empty")
    return SecurityProfile(kind, checks.plain(f"{field}: localhost_ref", given.localhost_ref))


def _old_profile(field: str, text: str) -> SecurityProfile | None:
    """The deprecated spelling: `unconfined`, `runtime/default`, `localhost/<path or name>`."""
    match text.partition("/"):
        case ("", "", ""):
            return None
        case ("unconfined", "", ""):
            return SecurityProfile(ProfileType.UNCONFINED)
        case ("runtime" | "docker", "/", "default"):
            return SecurityProfile(ProfileType.RUNTIME_DEFAULT)
        case ("localhost", "/", ref) if ref:
            return SecurityProfile(ProfileType.LOCALHOST, checks.plain(field, ref))
    raise InvalidRequest(f"{field} {checks.shown(text)} is not a profile")

"""ContainerConfig -> ContainerConfig and its secrets."""

from collections.abc import Callable
from typing import Any

import pytest

from adapters.cri import checks, container_config
from domain import config as d
from domain.errors import InvalidRequest, Unsupported
from domain.records import Digest
from proto import api_pb2 as pb
from tests.support.cri_requests import DIGEST, SECRET
from tests.support.cri_requests import container_config as asked


def read(config: Any) -> tuple[d.ContainerConfig, d.ContainerSecrets]:
    return container_config.read(config, DIGEST)


def held(name: str, value: str) -> Digest:
    return Digest(name, len(value), DIGEST(value.encode()))


def test_the_usual() -> None:
    config, secrets = read(asked())
    assert config == d.ContainerConfig(
        name="app",
        image="sha256:" + "ab" * 32,
        user_specified_image="busybox:1.36",
        command=(held("", "sh"), held("", "-c"), held("", f"echo {SECRET}")),
        args=(held("", SECRET),),
        envs=(held("A", SECRET), held("B", "2")),
        mounts=(d.Mount("/data", "/srv/data", readonly=True),),
        labels={"io.kubernetes.container.name": "app"},
        annotations={"io.kubernetes.container.restartCount": "0"},
        hidden=(held("long", SECRET * 100),),
        log_path="app/0.log",
        resources=d.Resources(cpu_shares=2, oom_score_adj=1000),
    )
    assert secrets == d.ContainerSecrets(
        ("sh", "-c", f"echo {SECRET}"), (SECRET,), (("A", SECRET.encode()), ("B", b"2")), {"long": SECRET * 100}
    )
    assert SECRET not in repr(config)


def test_the_rest_of_the_fields() -> None:
    config = asked(
        stop_signal=pb.SIGNAL_SIGRTMINPLUS3,
        devices=[pb.Device(container_path="/dev/a", host_path="/dev/b", permissions="rw")],
        mounts=[
            pb.Mount(
                container_path="/a",
                host_path="/b",
                propagation=pb.PROPAGATION_BIDIRECTIONAL,
                recursive_read_only=True,
                mount_options=["noexec"],
            )
        ],
        working_dir="/srv",
        tty=True,
        stdin=True,
        stdin_once=True,
    )
    config.linux.resources.hugepage_limits.add(page_size="2MB", limit=4)
    config.linux.resources.unified["memory.high"] = "9"
    context = config.linux.security_context
    context.privileged = context.readonly_rootfs = context.no_new_privs = True
    context.run_as_username = "www"
    context.run_as_group.value = 33
    context.capabilities.add_capabilities.append("NET_ADMIN")
    context.capabilities.drop_capabilities.append("ALL")
    context.seccomp_profile_path = "localhost//var/lib/kubelet/seccomp/a.json"
    context.apparmor_profile = "localhost/my-profile"
    context.masked_paths.append("/proc/kcore")
    context.namespace_options.pid = pb.TARGET
    context.namespace_options.target_id = "abc"
    made, _ = read(config)
    assert made.stop_signal == "SIGRTMIN+3"
    assert made.devices == (d.Device("/dev/a", "/dev/b", "rw"),)
    assert made.mounts == (
        d.Mount("/a", "/b", propagation=d.Propagation.BIDIRECTIONAL, recursive_read_only=True, options=("noexec",)),
    )
    assert (made.working_dir, made.tty, made.stdin, made.stdin_once) == ("/srv", True, True, True)
    assert made.resources is not None
    assert (made.resources.hugepage_limits, made.resources.unified) == ({"2MB": 4}, {"memory.high": "9"})
    assert made.security == d.SecurityContext(
        privileged=True,
        run_as_username="www",
        run_as_group=33,
        readonly_rootfs=True,
        no_new_privs=True,
        capabilities=d.Capabilities(("NET_ADMIN",), ("ALL",)),
        seccomp=d.SecurityProfile(d.ProfileType.LOCALHOST, "/var/lib/kubelet/seccomp/a.json"),
        apparmor=d.SecurityProfile(d.ProfileType.LOCALHOST, "my-profile"),
        masked_paths=("/proc/kcore",),
    )
    assert made.namespaces == d.NamespaceOptions(pid=d.NamespaceMode.TARGET, target_id="abc")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", None, None),
        ("unconfined", None, d.SecurityProfile(d.ProfileType.UNCONFINED)),
        ("runtime/default", None, d.SecurityProfile(d.ProfileType.RUNTIME_DEFAULT)),
        ("docker/default", None, d.SecurityProfile(d.ProfileType.RUNTIME_DEFAULT)),
        ("unconfined", pb.SecurityProfile(), d.SecurityProfile(d.ProfileType.RUNTIME_DEFAULT)),
    ],
)
def test_an_absent_profile_is_none_and_an_empty_one_the_default(old: str, new: Any, expected: Any) -> None:
    config = asked()
    config.linux.security_context.seccomp_profile_path = old
    if new is not None:
        config.linux.security_context.seccomp.CopyFrom(new)
    assert read(config)[0].security.seccomp == expected


def _add(field: str, **values: Any) -> Callable[[Any], None]:
    return lambda config: getattr(config, field).add(**values)


def _context(**values: Any) -> Callable[[Any], None]:
    return lambda config: config.linux.security_context.MergeFrom(pb.LinuxContainerSecurityContext(**values))


def _resources(**values: Any) -> Callable[[Any], None]:
    return lambda config: config.linux.resources.MergeFrom(pb.LinuxContainerResources(**values))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.ClearField("metadata"), InvalidRequest),
        (lambda c: c.ClearField("image"), InvalidRequest),
        (lambda c: setattr(c.metadata, "name", "a/b"), InvalidRequest),
        (lambda c: setattr(c, "log_path", "../../etc/cron.d/x"), InvalidRequest),
        (lambda c: setattr(c, "working_dir", "/a\0"), InvalidRequest),
        (lambda c: setattr(c, "stop_signal", 99), InvalidRequest),
        (_add("envs", key="A=B"), InvalidRequest),
        (_add("envs", key="A", value=b"\0"), InvalidRequest),
        (_add("mounts", container_path="/a", propagation=9), InvalidRequest),
        (_add("mounts", container_path="/a", host_path="/b\n"), InvalidRequest),
        (_add("mounts", container_path="/a", image=pb.ImageSpec(image="x")), Unsupported),
        (_add("mounts", container_path="/a", uidMappings=[pb.IDMapping(length=1)]), Unsupported),
        (_add("CDI_devices", name="vendor/class=x"), Unsupported),
        (_add("devices", host_path="/dev/a", permissions="rwx"), InvalidRequest),
        (_add("devices", host_path="dev/a"), InvalidRequest),
        (_context(selinux_options=pb.SELinuxOption(type="t\n")), InvalidRequest),
        (_context(capabilities=pb.Capability(add_ambient_capabilities=["X"])), Unsupported),
        (_context(run_as_user=pb.Int64Value(value=2**31)), InvalidRequest),
        (_context(run_as_group=pb.Int64Value(value=1)), InvalidRequest),
        (_context(seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost)), InvalidRequest),
        (_context(seccomp_profile_path="localhost/"), InvalidRequest),
        (_context(apparmor_profile="other"), InvalidRequest),
        (_context(supplemental_groups_policy=5), InvalidRequest),
        (_context(namespace_options=pb.NamespaceOption(userns_options=pb.UserNamespace())), Unsupported),
        (_resources(cpu_period=-1), InvalidRequest),
        (_resources(memory_limit_in_bytes=-2), InvalidRequest),
        (_resources(oom_score_adj=1001), InvalidRequest),
        (lambda c: c.args.extend(["x"] * checks.VALUES_MAX), InvalidRequest),
    ],
)
def test_refusals_quote_no_secret(change: Callable[[Any], None], error: type[Any]) -> None:
    config = asked()
    change(config)
    with pytest.raises(error) as caught:
        read(config)
    assert SECRET not in caught.value.text


def test_the_largest_configuration_fits_into_a_record() -> None:
    from adapters.log.codec import PAYLOAD_BYTES_MAX, encode_value

    key = "K" * (checks.REQUEST_MAX // checks.VALUES_MAX - 12)
    config = asked(envs=[pb.KeyValue(key=f"{key}{i:05d}") for i in range(checks.VALUES_MAX - 4)])
    assert config.ByteSize() <= checks.REQUEST_MAX
    assert len(encode_value(read(config)[0])) < PAYLOAD_BYTES_MAX - 64 * 1024

"""What a client asks for, seen from inside a container of a pod with a network of its own: real runc only.

The questions are those that critest asks of a runtime.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import mountinfo
from adapters.oci import kernel
from domain import config as c
from domain.container import Container
from domain.errors import InvalidRequest
from tests.conformance import test_tasks
from tests.conformance.test_sandboxes import lines, pod, said
from tests.conformance.test_tasks import Lab, only_real, run_in

real = test_tasks.real
B = "/bin/busybox"
SECURITY = c.SecurityContext()
ADMIN = c.Capabilities(add=("SYS_ADMIN",))


def capable(*add: str, drop: tuple[str, ...] = ()) -> c.SecurityContext:
    return replace(SECURITY, capabilities=c.Capabilities(add=add, drop=drop))


async def status(lab: Lab, field: str, security: c.SecurityContext, pods: c.SecurityContext = SECURITY) -> str:
    (line,) = await said(lab, await pod(lab, security=pods), f"{B} grep ^{field}: /proc/self/status", security=security)
    return line.split("\t")[1]


# --- privileges ------------------------------------------------------------------------------------------------------


@only_real
async def test_capabilities(lab: Lab) -> None:
    made = await pod(lab)
    adds_a_bridge = f"{B} brctl addbr foobar 2> /dev/null; echo $?"
    assert await said(lab, made, adds_a_bridge, security=capable("NET_ADMIN")) == ["0"]
    assert await said(lab, made, adds_a_bridge) == ["1"]
    assert await status(lab, "CapBnd", capable(drop=("ALL",))) == "0" * 16
    assert int(await status(lab, "CapBnd", capable("ALL")), 16) == int(await status(lab, "CapEff", capable("ALL")), 16)
    assert await status(lab, "CapAmb", capable("ALL")) == await status(lab, "CapInh", capable("ALL")) == "0" * 16


@only_real
async def test_without_net_raw_there_is_no_raw_socket(lab: Lab) -> None:
    made, ping = await pod(lab), f"{B} ping -c 1 -W 1 127.0.0.1 2>&1"
    (_, refused), (_, unanswered) = [
        await said(lab, made, ping, security=capable(drop=drop)) for drop in (("NET_RAW",), ())
    ]
    assert (refused, unanswered) == ("ping: permission denied (are you root?)", "ping: sendto: Network is unreachable")


@only_real
async def test_privileged_means_the_containers_and_the_pods(lab: Lab) -> None:
    privileged = replace(SECURITY, privileged=True, masked_paths=("/etc",), readonly_paths=("/tmp",))
    made = await pod(lab, security=replace(SECURITY, privileged=True))
    shell = f"{B} brctl addbr b0 && echo net; cat /etc/passwd > /dev/null && echo > /tmp/x && echo free; ls /dev | {B} wc -l"
    net, free, devices = await said(lab, made, shell, security=privileged)
    assert (net, free) == ("net", "free")
    assert int(devices) > 15
    assert await said(lab, made, f"{B} brctl addbr b1 2> /dev/null; echo $?") == ["1"]
    with pytest.raises(InvalidRequest, match="needs a privileged sandbox"):
        await lab.created("exit 0", await pod(lab), security=privileged)


@only_real
async def test_masked_and_read_only_paths(lab: Lab) -> None:
    security = replace(SECURITY, masked_paths=("/etc/passwd", "/no/such"), readonly_paths=("/tmp", "/no/such"))
    told = await said(lab, await pod(lab), f"{B} wc -c < /etc/passwd; {B} touch /tmp/test 2>&1", security=security)
    assert told == ["0", "touch: /tmp/test: Read-only file system"]


@only_real
async def test_read_only_root(lab: Lab) -> None:
    shell = "(echo x > /x) 2> /dev/null; echo $?; echo x > /dev/shm/x; echo $?"
    made = await pod(lab)
    assert await said(lab, made, shell, security=replace(SECURITY, readonly_rootfs=True)) == ["1", "0"]
    assert await said(lab, made, shell) == ["0", "0"]


@only_real
async def test_no_new_privileges(lab: Lab) -> None:
    assert await status(lab, "NoNewPrivs", replace(SECURITY, no_new_privs=True)) == "1"
    assert await status(lab, "NoNewPrivs", SECURITY) == "0"


@only_real
async def test_users_and_groups(lab: Lab) -> None:
    made = await pod(lab)
    asked = replace(SECURITY, run_as_user=33, run_as_group=1002, supplemental_groups=(1234, 5678))
    assert await said(lab, made, "id -u; id -g; id -G", security=asked) == ["33", "1002", "1002 77 1234 5678"]
    strict = replace(asked, supplemental_groups_strict=True)
    container = await lab.running("id -G", made, security=strict)
    await lab.tasks().wait_exit(container)
    assert lines(lab, container) == ["1002 1234 5678"]
    assert container.user is not None
    assert (container.user.uid, container.user.gid, container.user.groups) == (33, 1002, (1002, 1234, 5678))


@only_real
async def test_seccomp_profiles(lab: Lab) -> None:
    def of(kind: c.ProfileType, path: str = "", **more: object) -> c.SecurityContext:
        return replace(SECURITY, seccomp=c.SecurityProfile(kind, path), **more)

    profile = lab.path / "profile.json"
    blocked = {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [blocked]}))
    mine, free = of(c.ProfileType.LOCALHOST, str(profile)), of(c.ProfileType.UNCONFINED)
    for security, mode in ((SECURITY, "0"), (free, "0"), (of(c.ProfileType.RUNTIME_DEFAULT), "2"), (mine, "2")):
        assert await status(lab, "Seccomp", security) == mode
    names_itself = f"{B} hostname mine 2> /dev/null; echo $?"
    made = await pod(lab)
    assert await said(lab, made, names_itself, security=replace(free, capabilities=ADMIN)) == ["0"]
    assert await said(lab, made, names_itself, security=replace(mine, capabilities=ADMIN)) == ["1"]
    master = replace(SECURITY, privileged=True)
    assert await status(lab, "Seccomp", replace(mine, privileged=True), master) == "0"
    with pytest.raises(InvalidRequest, match="seccomp profile /no/such"):
        await lab.created("exit 0", made, security=of(c.ProfileType.LOCALHOST, "/no/such"))


# --- mounts and devices ----------------------------------------------------------------------------------------------


@only_real
async def test_volumes_through_a_symlink_and_of_a_missing_path(lab: Lab) -> None:
    (lab.path / "there").mkdir()
    (lab.path / "there/flag").write_text("seen\n")
    (lab.path / "link").symlink_to(lab.path / "there")
    asked = (c.Mount("/v", str(lab.path / "link")), c.Mount("new/deep", str(lab.path / "made/now")))
    assert await said(lab, await pod(lab), "cat /v/flag; echo x > /new/deep/x; echo $?", mounts=asked) == ["seen", "0"]
    assert (lab.path / "made/now/x").read_text() == "x\n"


@only_real
async def test_devices(lab: Lab) -> None:
    made = await pod(lab)
    # Nothing answers to this number: whoever may open it is told so, whoever may not is told that.
    os.mknod(lab.path / "node", 0o666 | stat.S_IFCHR, os.makedev(1, 10))
    device = c.Device("/dev/mine", str(lab.path / "node"), "r")
    told = await said(lab, made, "cat /dev/mine 2>&1; (echo > /dev/mine) 2>&1", devices=(device,))
    assert [line.rpartition(": ")[2] for line in told] == ["No such device or address", "Operation not permitted"]


@only_real
async def test_read_only_mounts_and_what_is_mounted_below_them(lab: Lab) -> None:
    made = await pod(lab)
    (lab.path / "v/below").mkdir(parents=True)
    shell = "for f in /v/x /v/below/x; do (echo > $f) 2> /dev/null; echo $?; done"
    with mounted("tmpfs", lab.path / "v/below", "tmpfs", 0):
        plain = c.Mount("/v", str(lab.path / "v"), readonly=True)
        assert await said(lab, made, shell, mounts=(plain,)) == ["1", "0"]
        assert lab.tasks().host().recursive_read_only
        assert await said(lab, made, shell, mounts=(replace(plain, recursive_read_only=True),)) == ["1", "1"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("how", "kind", "inwards", "outwards"),
    [
        (c.Propagation.PRIVATE, kernel.MS_PRIVATE, False, False),
        (c.Propagation.HOST_TO_CONTAINER, 1 << 20, True, False),
        (c.Propagation.BIDIRECTIONAL, 1 << 20, True, True),
    ],
)
def test_mount_propagation(real: Lab, how: c.Propagation, kind: int, inwards: bool, outwards: bool) -> None:
    async def body(lab: Lab) -> None:
        made = await pod(lab, security=replace(SECURITY, privileged=True))
        top = lab.path / "top"
        for name in ("host", "inside"):
            (top / name).mkdir(parents=True)
        with mounted(str(top), top, "", kernel.MS_BIND):
            kernel.mount("", str(top), "", kernel.MS_REC | kind)
            shell = f"mount -t tmpfs x {top}/inside; {test_tasks.READY} while :; do sleep 0.05; done"
            container = await lab.running(
                shell,
                made,
                mounts=(c.Mount(str(top), str(top), propagation=how),),
                security=replace(SECURITY, privileged=True),
            )
            kernel.mount("tmpfs", str(top / "host"), "tmpfs", 0)
            assert (str(top / "host") in mount_points(container)) is inwards
            assert (str(top / "inside") in mount_points()) is outwards

    run_in(real, body)


def mount_points(container: Container | None = None) -> set[str]:
    pid = container.init.pid if container and container.init else os.getpid()
    return {line.split(" ")[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}


@contextmanager
def mounted(source: str, target: Path, kind: str, flags: int) -> Iterator[None]:
    kernel.mount(source, str(target), kind, flags)
    try:
        yield
    finally:
        # What goes takes its copies below the same path along.
        while points := mountinfo.points_below(str(target)):
            kernel.unmount(points[0], kernel.MNT_DETACH)

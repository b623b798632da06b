"""AppArmor's RuntimeDefault in real containers. Needs a machine with AppArmor: the guest of tests/guest is one."""

from dataclasses import replace
from typing import Any

import pytest

from adapters.oci import apparmor
from domain import config as c
from tests.conformance import test_tasks
from tests.conformance.test_sandboxes import lines, pod, said
from tests.conformance.test_tasks import FAR_S, Lab, never, only_real
from tests.support.elf32 import one_call

real = test_tasks.real
pytestmark = pytest.mark.skipif(not apparmor.enabled(), reason="this machine has no AppArmor: run it in the guest")

PLAIN = c.SecurityContext()
UNCONFINED = c.SecurityProfile(c.ProfileType.UNCONFINED)
CURRENT = "cat /proc/self/attr/current"
CONFINED = f"{apparmor.NAME} (enforce)"


def admin(asked: c.SecurityProfile | None) -> c.SecurityContext:
    return replace(PLAIN, apparmor=asked, capabilities=c.Capabilities(add=("SYS_ADMIN",)))


@only_real
async def test_who_is_confined(lab: Lab) -> None:
    made = await pod(lab, security=replace(PLAIN, privileged=True))
    asked = c.SecurityProfile(c.ProfileType.RUNTIME_DEFAULT)
    for security, expected in (
        (PLAIN, CONFINED),
        (replace(PLAIN, apparmor=asked, run_as_user=1000, no_new_privs=True), CONFINED),
        (replace(PLAIN, apparmor=UNCONFINED), "unconfined"),
        (replace(PLAIN, apparmor=asked, privileged=True), "unconfined"),
    ):
        assert await said(lab, made, CURRENT, security=security) == [expected]


@only_real
async def test_what_is_refused(lab: Lab) -> None:
    """The control is the same container without a profile. (>> opens for writing and writes nothing.)"""
    attempts = (
        "mount -t tmpfs none /tmp",
        "(: >> /proc/sys/kernel/core_pattern)",
        "(: >> /proc/sys/vm/panic_on_oom)",
        "(: >> /sys/kernel/uevent_helper)",
        "(: >> /sys/kernel/mm/ksm/run)",
    )
    shell = "; ".join(f"{attempt} 2> /dev/null; echo $?" for attempt in attempts)
    made = await pod(lab)
    sys_rw = c.Mount("/sys", "/sys")
    confined, free = [
        await said(lab, made, shell, security=admin(asked), mounts=(sys_rw,)) for asked in (None, UNCONFINED)
    ]
    assert "0" not in confined and len(confined) == len(attempts)
    assert free[:3] == ["0", "0", "0"]


@only_real
async def test_the_family_that_seccomp_does_not_see(lab: Lab) -> None:
    directory = lab.path / "bits"
    directory.mkdir()
    for name, family in (("alg", 38), ("unix", 1)):
        (directory / name).write_bytes(one_call(102, 1, words=(family, 5 if family == 38 else 1, 0)))
        (directory / name).chmod(0o755)
    mounts = (c.Mount("/bits", str(directory), readonly=True),)
    seccomp = replace(PLAIN, seccomp=c.SecurityProfile(c.ProfileType.RUNTIME_DEFAULT))
    shell = "/bits/alg; echo $?; /bits/unix; echo $?"
    assert await said(lab, await pod(lab), shell, security=seccomp, mounts=mounts) == [str(256 - 13), "3"]


@only_real
async def test_commands_are_confined_and_signals_arrive(lab: Lab) -> None:
    made = await pod(lab)
    waits = "sleep 1000 & kill -0 $!; echo $?"
    shell = f"trap 'echo told; exit 7' TERM; {waits}; {test_tasks.READY} while :; do sleep 0.05; done"
    container = await lab.running(shell, made)
    result: Any = await lab.tasks().exec_sync(container, ("/bin/cat", "/proc/self/attr/current"), 30)
    assert (result.code, result.stdout.decode().strip()) == (0, CONFINED)
    await lab.tasks().stop(container, lab.deadline(FAR_S), never)
    assert (await lab.tasks().wait_exit(container)).code == 7
    assert [line for line in lines(lab, container) if line in ("0", "told")] == ["0", "told"]


@only_real
async def test_a_second_daemon_replaces_the_profile(lab: Lab) -> None:
    path = lab.path / "profile"
    for _ in range(2):
        assert apparmor.load(str(path)) == apparmor.State(apparmor.NAME, "", enabled=True)
    with open(f"{apparmor.SECURITYFS}/profiles") as file:
        assert f"{CONFINED}\n" in file.read()

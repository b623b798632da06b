"""RuntimeDefault as the kernel will see it: by a model of what runc and libseccomp make of the OCI form."""

from collections.abc import Sequence
from typing import Any

import pytest

from adapters.oci import default_seccomp, seccomp
from adapters.oci.capabilities import BY_NUMBER, DEFAULT
from tests.support.seccomp_model import done

PERMITTED, EPERM, ENOSYS, UNKNOWN_FAMILY = (0, 0), (4, 1), (4, 38), (4, 97)


def profile(capabilities: Sequence[str], machine: str = "x86_64", kernel: tuple[int, int] = (6, 1)) -> dict[str, Any]:
    return seccomp.convert(default_seccomp.PROFILE, capabilities, machine, kernel)


NEEDS = {
    "unshare": ("CAP_SYS_ADMIN",),
    "setns": ("CAP_SYS_ADMIN",),
    "mount": ("CAP_SYS_ADMIN",),
    "umount2": ("CAP_SYS_ADMIN",),
    "move_mount": ("CAP_SYS_ADMIN",),
    "open_tree": ("CAP_SYS_ADMIN",),
    "fsopen": ("CAP_SYS_ADMIN",),
    "fsconfig": ("CAP_SYS_ADMIN",),
    "fsmount": ("CAP_SYS_ADMIN",),
    "fspick": ("CAP_SYS_ADMIN",),
    "mount_setattr": ("CAP_SYS_ADMIN",),
    "bpf": ("CAP_SYS_ADMIN", "CAP_BPF"),
    "perf_event_open": ("CAP_SYS_ADMIN", "CAP_PERFMON"),
    "syslog": ("CAP_SYS_ADMIN", "CAP_SYSLOG"),
    "open_by_handle_at": ("CAP_DAC_READ_SEARCH",),
    "chroot": ("CAP_SYS_CHROOT",),
    "settimeofday": ("CAP_SYS_TIME",),
    "clock_settime": ("CAP_SYS_TIME",),
    "init_module": ("CAP_SYS_MODULE",),
    "reboot": ("CAP_SYS_BOOT",),
    "acct": ("CAP_SYS_PACCT",),
    "kcmp": ("CAP_SYS_PTRACE",),
    "pidfd_getfd": ("CAP_SYS_PTRACE",),
    "iopl": ("CAP_SYS_RAWIO",),
    "vhangup": ("CAP_SYS_TTY_CONFIG",),
    "mbind": ("CAP_SYS_NICE",),
}


@pytest.mark.parametrize("name", NEEDS)
def test_takes_one_of_its_capabilities(name: str) -> None:
    others = [cap for cap in BY_NUMBER if cap not in NEEDS[name]]
    assert done(profile(others), name) == EPERM
    for capability in NEEDS[name]:
        assert done(profile([capability]), name) == PERMITTED


@pytest.mark.parametrize("name", ["keyctl", "add_key", "io_uring_setup", "pivot_root", "kexec_load", "userfaultfd"])
def test_nobody_gets(name: str) -> None:
    assert done(profile(BY_NUMBER), name) == EPERM


@pytest.mark.parametrize(
    "name", ["read", "execve", "fork", "socketcall", "futex_waitv", "landlock_add_rule", "seccomp"]
)
def test_everybody_gets(name: str) -> None:
    assert done(profile(()), name) == PERMITTED


def test_what_nobody_has_heard_of_is_as_on_an_older_kernel() -> None:
    assert done(profile(()), "invented_tomorrow") == ENOSYS


@pytest.mark.parametrize("flag", default_seccomp.NAMESPACES)
def test_clone_makes_no_namespaces(flag: int) -> None:
    for machine, position in (("x86_64", 0), ("aarch64", 0), ("s390x", 1)):
        call = [0, 0, 0, 0, 0, 0]
        call[position] = flag | 17
        assert done(profile(DEFAULT, machine), "clone", call) == EPERM
        assert done(profile(["CAP_SYS_ADMIN"], machine), "clone", call) == PERMITTED
        call[position] = 0x3D0F00  # what pthread_create asks for
        assert done(profile(DEFAULT, machine), "clone", call) == PERMITTED


def test_clone3_makes_libc_take_clone() -> None:
    assert done(profile(DEFAULT), "clone3") == ENOSYS
    assert done(profile(["CAP_SYS_ADMIN"]), "clone3") == PERMITTED


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        *((family, PERMITTED) for family in (1, 2, 10, 16, 17, 37, 39, 41, 44, 45)),
        (38, EPERM),
        (40, EPERM),
        (46, UNKNOWN_FAMILY),
        (1 << 63, UNKNOWN_FAMILY),
        ((1 << 32) + 38, UNKNOWN_FAMILY),  # the kernel takes the lower 32 bits: these are AF_ALG and AF_VSOCK again
        ((1 << 32) + 40, UNKNOWN_FAMILY),
    ],
)
def test_families_of_sockets(family: int, expected: tuple[int, int]) -> None:
    assert done(profile(BY_NUMBER), "socket", (family, 1, 0, 0, 0, 0)) == expected


def test_personalities_keep_their_protections() -> None:
    for value, expected in ((0, PERMITTED), (8, PERMITTED), (0xFFFFFFFF, PERMITTED), (0x0040000, EPERM), (6, ENOSYS)):
        assert done(profile(BY_NUMBER), "personality", (value, 0, 0, 0, 0, 0)) == expected


def test_tracing_needs_a_kernel_on_which_the_filter_holds() -> None:
    assert done(profile((), kernel=(4, 19)), "ptrace") == PERMITTED
    assert done(profile((), kernel=(4, 4)), "ptrace") == EPERM


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("x86_64", "arch_prctl"),
        ("aarch64", "cacheflush"),
        ("aarch64", "arm_fadvise64_64"),
        ("s390x", "s390_pci_mmio_read"),
    ],
)
def test_calls_of_one_architecture(machine: str, name: str) -> None:
    assert {done(profile((), one), name) for one in seccomp.MACHINES if one != machine} >= {ENOSYS}
    assert done(profile((), machine), name) == PERMITTED


@pytest.mark.parametrize("machine", [*seccomp.MACHINES, "unheard-of"])
@pytest.mark.parametrize("capabilities", [(), DEFAULT, BY_NUMBER])
def test_a_profile_for_every_machine(machine: str, capabilities: tuple[str, ...]) -> None:
    made = profile(capabilities, machine)
    plain = [rule for rule in made["syscalls"] if not rule.get("args")]
    given, kept = (
        {name for rule in plain for name in rule["names"] if rule["action"] == action}
        for action in ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")
    )
    assert not given & kept
    assert made.get("architectures", [""])[0] == seccomp.MACHINES.get(machine, ("", "", ()))[1]

"""What RuntimeDefault and profiles of files do in real containers: asked of the kernel, from inside.

The program that asks is the host's Python, shown to the container read-only.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.oci import kernel
from domain import config as c
from domain.errors import InvalidRequest, Unsupported
from tests.conformance import test_tasks
from tests.conformance.test_sandboxes import pod, said
from tests.conformance.test_tasks import Lab, only_real
from tests.support.elf32 import one_call

real = test_tasks.real
DEFAULT = c.SecurityContext(seccomp=c.SecurityProfile(c.ProfileType.RUNTIME_DEFAULT))
NOBODY = replace(DEFAULT, run_as_user=1000, run_as_group=1000, capabilities=c.Capabilities(drop=("ALL",)))
HOSTS = tuple(c.Mount(path, path, readonly=True) for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir())

NUMBERS = {
    "x86_64": {
        "unshare": 272, "clone": 56, "clone3": 435, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
        "keyctl": 250, "bpf": 321, "fsopen": 430, "io_uring_setup": 425, "ptrace": 101, "socket": 41,
        "personality": 135, "perf_event_open": 298, "newest": 999,
    },
    "aarch64": {
        "unshare": 97, "clone": 220, "clone3": 435, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41,
        "keyctl": 219, "bpf": 280, "fsopen": 430, "io_uring_setup": 425, "ptrace": 117, "socket": 198,
        "personality": 92, "perf_event_open": 241, "newest": 999,
    },
}[os.uname().machine]  # fmt: skip

ASK = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def ask(number, *values):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, values))
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps([ask(*call) for call in json.load(open("/ask/calls"))]))
"""


async def asked(lab: Lab, security: c.SecurityContext, *calls: tuple[Any, ...]) -> list[str]:
    """What the kernel answers to each (name, arguments...) in a container with this security context."""
    directory = lab.path / "ask"
    directory.mkdir(exist_ok=True)
    (directory / "calls").write_text(json.dumps([[NUMBERS[name], *values] for name, *values in calls]))
    (directory / "ask.py").write_text(ASK)
    mounts = (*HOSTS, c.Mount("/ask", str(directory), readonly=True))
    lines = await said(lab, await pod(lab), "/usr/bin/python3 /ask/ask.py 2>&1", security=security, mounts=mounts)
    assert len(lines) == 1, lines
    return [str(answer) for answer in json.loads(lines[0])]


NEWUSER, NEWNS = 0x10000000, 0x00020000
WITH_FS = 0x00000200
"""CLONE_FS beside a new user or mount namespace is refused by the kernel itself (EINVAL): so no child is made."""
REFUSED = (
    ("unshare", 0),
    ("clone", NEWUSER | WITH_FS),
    ("clone", NEWNS | WITH_FS),
    ("setns", 9999, 0),
    ("mount", 0, 0, 0, 0, 0),
    ("umount2", 0, 0),
    ("bpf", 9999, 0, 0),
    ("fsopen", 0, 0),
    ("perf_event_open", 0, 0, 0, 0, 0),
    ("pivot_root", 0, 0),
    ("keyctl", 0, 0),
    ("io_uring_setup", 0, 0),
    ("personality", 0x40000),
    ("socket", 38, 5, 0),
    ("socket", 40, 1, 0),
)
WITH_ADMIN = 9
"""So many of the above are CAP_SYS_ADMIN's, the others nobody's."""


@only_real
async def test_somebody_without_capabilities(lab: Lab) -> None:
    refused = (*REFUSED, ("unshare", NEWUSER))
    assert await asked(lab, NOBODY, *refused) == ["EPERM"] * len(refused)
    others = (
        ("clone3", 0, 0),
        ("newest",),
        ("socket", (1 << 32) + 40, 1, 0),
        ("socket", 1, 1, 0),
        ("socket", 16, 3, 0),
    )
    assert await asked(lab, NOBODY, *others) == ["ENOSYS", "ENOSYS", "EAFNOSUPPORT", "ok", "ok"]
    permitted = (("ptrace", 1, 999999, 0, 0), ("personality", 0xFFFFFFFF))
    assert await asked(lab, NOBODY, *permitted) == ["ESRCH", "ok"]


@only_real
async def test_with_the_capability(lab: Lab) -> None:
    admin = replace(DEFAULT, capabilities=c.Capabilities(add=("SYS_ADMIN",)))
    told = await asked(lab, admin, *REFUSED)
    assert told[WITH_ADMIN:] == ["EPERM"] * (len(REFUSED) - WITH_ADMIN)
    assert told[:3] == ["ok", "EINVAL", "EINVAL"]
    assert not {"EPERM", "ENOSYS"} & set(told[:WITH_ADMIN])


@only_real
async def test_without_a_profile_the_kernel_decides(lab: Lab) -> None:
    """The control of the tests above: nothing but the profile refuses these to somebody without capabilities."""
    free = replace(NOBODY, seccomp=c.SecurityProfile(c.ProfileType.UNCONFINED))
    told = await asked(lab, free, ("unshare", NEWUSER), ("socket", (1 << 32) + 40, 1, 0), ("clone3", 0, 0))
    assert told[0] == "ok" and told[2] == "EINVAL"


@only_real
async def test_ordinary_programs(lab: Lab) -> None:
    program = (
        "import threading, subprocess, tempfile, socket, os\n"
        "done = []\n"
        "threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "subprocess.run(['/usr/bin/dpkg', '--version'], check=True, stdout=subprocess.DEVNULL)\n"
        "socket.socketpair(); open('/tmp/x', 'w').write('y'); os.chmod('/tmp/x', 0o4755)\n"
        "print(len(done), os.sched_getaffinity(0) != set())\n"
    )
    (lab.path / "ordinary.py").write_text(program)
    mounts = (*HOSTS, c.Mount("/ordinary.py", str(lab.path / "ordinary.py"), readonly=True))
    shell = "/usr/bin/python3 /ordinary.py 2>&1"
    assert await said(lab, await pod(lab), shell, security=DEFAULT, mounts=mounts) == ["8 True"]


@only_real
async def test_programs_of_32_bits(lab: Lab) -> None:
    """`socketcall` is theirs to use, the families within it are none of seccomp's; `socket` is filtered as elsewhere."""
    if os.uname().machine != "x86_64":
        pytest.skip("the program is x86's")
    directory = lab.path / "bits"
    directory.mkdir()
    programs = {
        "socketcall": one_call(102, 1, words=(1, 1, 0)),
        "socket": one_call(359, 1, 1, 0),
        "alg": one_call(359, 38, 5, 0),
        "mount": one_call(21),
    }
    for name, data in programs.items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o755)
    shell = "; ".join(f"/bits/{name}; echo $?" for name in programs)
    mounts = (c.Mount("/bits", str(directory), readonly=True),)
    told = await said(lab, await pod(lab), shell, security=NOBODY, mounts=mounts)
    assert told == ["3", "3", "255", "255"], "a descriptor, or -EPERM in eight bits"


# --- profiles of files -----------------------------------------------------------------------------------------------


def of_file(lab: Lab, document: Any) -> c.SecurityContext:
    path = lab.path / "profile.json"
    path.write_text(json.dumps(document))
    return replace(c.SecurityContext(), seccomp=c.SecurityProfile(c.ProfileType.LOCALHOST, str(path)))


@only_real
async def test_a_profile_with_keys_in_any_case_holds(lab: Lab) -> None:
    rules = [{"NAMES": ["mkdir", "mkdirat"], "Action": "SCMP_ACT_ERRNO", "errnoret": 11}]
    security = of_file(lab, {"DefaultAction": "SCMP_ACT_ALLOW", "SYSCALLS": rules})
    (told,) = await said(lab, await pod(lab), "/bin/busybox mkdir /tmp/x 2>&1", security=security)
    assert told.endswith("Resource temporarily unavailable")


@only_real
async def test_a_profile_that_would_be_laxer_than_it_says_makes_no_container(lab: Lab) -> None:
    made = await pod(lab)
    for document, kind, words in (
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["mkdir"]}, InvalidRequest, r"syscalls\[0\]: "),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, Unsupported, "nobody would answer"),
        ({"defaultAction": "SCMP_ACT_ERRNO"}, InvalidRequest, "no program can be started"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdri"], "action": "SCMP_ACT_KILL"}]},
            InvalidRequest,
            "'mkdri' is no system call",
        ),
    ):
        with pytest.raises(kind, match=words):
            await lab.created("exit 0", made, security=of_file(lab, document))


@pytest.mark.skipif(kernel.knows_syscall() is None, reason="libseccomp is not installed")
def test_libseccomp_is_asked_for_names() -> None:
    known = kernel.knows_syscall()
    assert known is not None and known("mkdir") and known("s390_sthyi") and not known("mkdri") and not known("")

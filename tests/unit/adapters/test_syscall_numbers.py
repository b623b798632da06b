"""System calls that Python and libc lack are called by number. The numbers used are those that all architectures share.

Since Linux 5.1 a new call has one number everywhere (alpha adds 110); the older ones differ and are never used so.
"""

import re
from pathlib import Path

from adapters import children
from adapters.images import rootfs
from adapters.oci import kernel

COMMON_FROM = 424
COMMON = {
    "move_mount": (429, rootfs._MOVE_MOUNT),
    "fsopen": (430, rootfs._FSOPEN),
    "fsconfig": (431, rootfs._FSCONFIG),
    "fsmount": (432, rootfs._FSMOUNT),
    "openat2": (437, kernel.SYS_OPENAT2),
}
CALLERS = {"adapters/oci/kernel.py", "adapters/images/rootfs.py", "adapters/children.py"}
IOPRIO = {"x86_64": (251, 252), "aarch64": (30, 31)}
"""Older than that, and so a pair for each machine; on any other it is left alone."""


def test_each_number_is_the_kernels_on_every_architecture() -> None:
    for name, (expected, used) in COMMON.items():
        assert used == expected >= COMMON_FROM, name
    assert children.IOPRIO_CALLS == IOPRIO


def test_nobody_else_calls_by_number() -> None:
    found = {
        str(path)
        for folder in ("adapters", "domain", "service", "tools")
        for path in Path(folder).rglob("*.py")
        if re.search(r"\.syscall\(", path.read_text())
    }
    assert found == CALLERS

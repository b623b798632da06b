"""`python deviating.py COMMAND ...`: becomes the command, with everything that a process inherits set to an odd value.

What a parent may hand on, knowingly (a unit's CPUAffinity=, Nice=, LimitNOFILE=) or not (nohup, a shell's ulimit).
Standard library alone: it runs by its path.
"""

import ctypes
import os
import resource
import signal
import sys

OPEN_FILES = (5000, 6000)
IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN)
BLOCKED = (signal.SIGUSR2, signal.SIGTERM)
IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
IDLE, PR_SET_TIMERSLACK, ADDR_NO_RANDOMIZE = 3 << 13, 29, 0x0040000


def may_lower() -> bool:
    """CAP_SYS_RESOURCE, which the root of a container need not have."""
    with open("/proc/self/status") as file:
        (mask,) = (line.split()[1] for line in file if line.startswith("CapEff:"))
    return bool(int(mask, 16) >> 24 & 1)


def score() -> int:
    """Under the unit it is -999; what may not be lowered is raised instead."""
    return -777 if may_lower() else 300


def deviate() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 7)
    assert libc.syscall(IOPRIO_SET[os.uname().machine], 1, 0, IDLE) == 0
    assert libc.prctl(PR_SET_TIMERSLACK, 777_000, 0, 0, 0) == 0
    assert libc.personality(ADDR_NO_RANDOMIZE) >= 0
    resource.setrlimit(resource.RLIMIT_NOFILE, OPEN_FILES)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score()))
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    read, write = os.pipe()
    os.dup2(read, 77, inheritable=True)
    os.dup2(write, 78, inheritable=True)


if __name__ == "__main__":
    deviate()
    os.execv(sys.argv[1], sys.argv[1:])

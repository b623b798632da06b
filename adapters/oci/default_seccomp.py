"""The seccomp profile of RuntimeDefault: what Docker's and containerd's permit, as tables.

What is permitted to all is in PERMITTED and BY_MACHINE, what takes a capability in BY_CAPABILITY; REFUSED exists and
nobody gets it. What stands nowhere answers ENOSYS, as on a kernel that lacks it, so that libraries take their older
way; what is refused on purpose answers EPERM. Names that the installed libseccomp does not know are left out by the
runtime and so answer ENOSYS too. `clone3` hides its flags behind a pointer: ENOSYS makes libc take `clone`.
"""

from adapters.oci.seccomp import ALLOW, EQ, ERRNO, GT, LT, MACHINES, MASKED, Argument, Condition, Profile, Rule

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

# fmt: off
PERMITTED = (
    # files by path
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchmodat fchmodat2 fchownat fstatat64 futimesat "
    "getcwd lchown lchown32 link linkat lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open "
    "openat openat2 readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64 statx symlink "
    "symlinkat truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes listmount statmount",
    # files that are open
    "close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fchdir fchmod fchown fchown32 "
    "fcntl fcntl64 fdatasync flock fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents getdents64 "
    "ioctl lseek _llseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile "
    "sendfile64 splice sync sync_file_range syncfs tee vmsplice write writev",
    # extended attributes
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr "
    "lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    # waiting for files and events; asynchronous input and output of the old kind
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd "
    "eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll ppoll ppoll_time64 "
    "pselect6 pselect6_time64 select _newselect signalfd signalfd4 io_cancel io_destroy io_getevents io_pgetevents "
    "io_pgetevents_time64 io_setup io_submit",
    # memory
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap "
    "mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease "
    "remap_file_pages",
    # processes and threads
    "execve execveat exit exit_group fork vfork wait4 waitid waitpid getpgid getpgrp getpid getppid getsid gettid "
    "setpgid setsid set_tid_address get_thread_area set_thread_area get_robust_list set_robust_list rseq futex "
    "futex_requeue futex_time64 futex_wait futex_waitv futex_wake pidfd_open pidfd_send_signal prctl seccomp "
    "restart_syscall getcpu landlock_add_rule landlock_create_ruleset landlock_restrict_self uretprobe",
    # signals
    "alarm kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend "
    "rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill",
    # who a process is, and what it may
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 "
    "getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups "
    "setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    # limits, scheduling, the machine
    "getpriority setpriority getrlimit setrlimit ugetrlimit prlimit64 getrusage ioprio_get ioprio_set "
    "sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler "
    "sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler sched_yield getrandom sysinfo times uname",
    # time: adjtimex and its kin only read without CAP_SYS_TIME, the kernel sees to that
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
    "clock_nanosleep clock_nanosleep_time64 getitimer setitimer gettimeofday nanosleep time timer_create timer_delete "
    "timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime "
    "timerfd_gettime64 timerfd_settime timerfd_settime64",
    # sockets but `socket` itself: see FAMILIES. On 32 bits `socketcall` has its arguments behind a pointer, where no
    # filter sees them; refusing it would end every 32-bit program, so its families are AppArmor's to refuse
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 "
    "recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    # System V and POSIX messages, semaphores, shared memory
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 "
    "mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
)

BY_MACHINE = (
    (("amd64", "x32"),        "arch_prctl"),
    (("amd64", "x32", "x86"), "modify_ldt"),
    (("arm", "arm64"),        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
    (("ppc64le",),            "swapcontext sync_file_range2"),
    (("riscv64",),            "riscv_flush_icache riscv_hwprobe"),
    (("s390", "s390x"),       "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
)

BY_CAPABILITY = (
    ("CAP_BPF",             "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON",         "perf_event_open"),
    ("CAP_SYSLOG",          "syslog"),
    ("CAP_SYS_ADMIN",       "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr "
                            "lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree "
                            "open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns "
                            "syslog umount umount2 unshare"),
    ("CAP_SYS_BOOT",        "reboot"),
    ("CAP_SYS_CHROOT",      "chroot"),
    ("CAP_SYS_MODULE",      "delete_module finit_module init_module"),
    ("CAP_SYS_NICE",        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT",       "acct"),
    ("CAP_SYS_PTRACE",      "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO",       "ioperm iopl"),
    ("CAP_SYS_TIME",        "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG",  "vhangup"),
)

REFUSED = (
    # the kernel's keys are not in any namespace; io_uring and userfaultfd have been the way out too often
    "add_key keyctl request_key io_uring_enter io_uring_register io_uring_setup userfaultfd",
    # the machine's, whatever capability somebody has
    "kexec_file_load kexec_load migrate_pages move_pages pivot_root swapoff swapon sysfs uselib ustat vm86 vm86old",
    "pciconfig_iobase pciconfig_read pciconfig_write rtas s390_guarded_storage s390_sthyi spu_create spu_run "
    "subpage_prot switch_endian sys_debug_setcontext",
)

TRACED = "process_vm_readv process_vm_writev ptrace"
TRACED_FROM = (4, 8)
"""Before this kernel a traced process could get round its filter."""

NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (NEWTIME is none of clone's, only of clone3's.)"""

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, both with UNAME26, and the question what it is."""
WEAKER, ASKING = tuple(1 << bit for bit in range(18, 28)), 1 << 31
"""Flags of a personality that take protections away, ADDR_NO_RANDOMIZE first; and a bit that the question alone has."""

AF_ALG, AF_VSOCK, FAMILY_MAX = 38, 40, 45
FAMILIES = (
    (ALLOW, None,         LT, AF_ALG),
    (ERRNO, EPERM,        EQ, AF_ALG),
    (ALLOW, None,         EQ, 39),
    (ERRNO, EPERM,        EQ, AF_VSOCK),
    *((ALLOW, None,       EQ, family) for family in range(AF_VSOCK + 1, FAMILY_MAX + 1)),
    (ERRNO, EAFNOSUPPORT, GT, FAMILY_MAX),
)
"""The first argument of `socket`. No two rows meet: of two conditions on one argument runc makes alternatives, so that
"not 38" and "not 40" together would permit both. And never "permit all above 40": a filter compares 64 bits, the kernel
takes the lower 32 (0x1_0000_0028 is AF_VSOCK again).
"""
# fmt: on


def _profile() -> Profile:
    rules = [
        Rule(tuple(" ".join(PERMITTED).split()), ALLOW),
        *(Rule(tuple(names.split()), ALLOW, includes=Condition(arches=arches)) for arches, names in BY_MACHINE),
        Rule(tuple(TRACED.split()), ALLOW, includes=Condition(kernel=TRACED_FROM)),
        Rule(tuple(TRACED.split()), ERRNO, EPERM, excludes=Condition(kernel=TRACED_FROM)),
        *_by_capability(),
        *_clone(),
        *(Rule(("personality",), ALLOW, arguments=(Argument(0, EQ, value),)) for value in PERSONALITIES),
        *(Rule(("personality",), ERRNO, EPERM, (Argument(0, MASKED, ASKING | flag, flag),)) for flag in WEAKER),
        *(Rule(("socket",), action, errno, (Argument(0, op, value),)) for action, errno, op, value in FAMILIES),
        Rule(tuple(" ".join(REFUSED).split()), ERRNO, EPERM),
    ]
    arches = tuple((native, others) for _, native, others in MACHINES.values())
    return Profile("of RuntimeDefault", ERRNO, ENOSYS, tuple(rules), arch_map=arches)


def _by_capability() -> list[Rule]:
    """Permitted with any of the capabilities that bring it; refused with none of them."""
    holders: dict[str, tuple[str, ...]] = {}
    for capability, names in BY_CAPABILITY:
        for name in names.split():
            holders[name] = (*holders.get(name, ()), capability)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, capabilities in holders.items():
        alike.setdefault(capabilities, []).append(name)
    given = [Rule(tuple(names.split()), ALLOW, includes=Condition(caps=(cap,))) for cap, names in BY_CAPABILITY]
    kept = [Rule(tuple(names), ERRNO, EPERM, excludes=Condition(caps=caps)) for caps, names in alike.items()]
    return given + kept


def _clone() -> list[Rule]:
    """Without CAP_SYS_ADMIN no new namespaces. s390 has the flags in the second argument."""
    admin, s390 = ("CAP_SYS_ADMIN",), ("s390", "s390x")
    rules = [
        Rule(("clone", "clone3"), ALLOW, includes=Condition(caps=admin)),
        Rule(("clone3",), ERRNO, ENOSYS, excludes=Condition(caps=admin)),
    ]
    for index, includes, excludes in ((0, (), s390), (1, s390, ())):
        when = {"includes": Condition(arches=includes), "excludes": Condition(arches=excludes, caps=admin)}
        rules.append(Rule(("clone",), ALLOW, None, (Argument(index, MASKED, sum(NAMESPACES), 0),), **when))
        rules += [Rule(("clone",), ERRNO, EPERM, (Argument(index, MASKED, flag, flag),), **when) for flag in NAMESPACES]
    return rules


PROFILE = _profile()

OLD = (
    "_sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle lock mpx multiplexer "
    "nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname prof profil putpmsg query_module readdir security "
    "sgetmask sigaction signal sigpending sigsuspend ssetmask stty syscall sysmips timerfd tuxcall ulimit vserver "
    "cachectl get_tls usr26 usr32"
)
"""Of former kernels, and of 32-bit programs before libc knew better: ENOSYS."""

NAMES = frozenset(name for rule in PROFILE.rules for name in rule.names) | frozenset(OLD.split())
"""Every system call that this table knows of."""

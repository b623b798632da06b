"""Where everything of a container and a sandbox lies: every path is a pure function of the two roots and an id.

So the ledger of what may exist under an id is known before it exists, and removal needs the id alone. `data` outlives
a boot; `run` need not (and may: nothing infers a reboot from an empty /run). Directories are 0700. An id is checked
before it is joined to a path. Network namespaces alone lie elsewhere: where CNI daemons look for them.
"""

import re
from dataclasses import dataclass

ID = re.compile(r"[0-9a-f]{64}")
DIRECTORY_MODE = 0o700
NETNS = "/var/run/netns"
"""Spelled exactly so in CNI_NETNS: some put the path of their own mount of the host before it."""
LOG_DIGITS = 12
PIN = re.compile(r"daybook-([0-9a-f]{12})-([0-9a-f]{64})")
"""The file of a network namespace of ours: which log's, and whose. Nothing else in that directory is ours."""


def checked(identifier: str) -> str:
    """The id itself. Raises ValueError where it is not 64 lower-case hex digits."""
    if not ID.fullmatch(identifier):
        raise ValueError(f"not an id: {identifier[:80]!r}")
    return identifier


@dataclass(frozen=True, slots=True)
class ContainerPaths:
    """One container. The bundle directory is made first and removed last: while it exists it names all the rest."""

    directory: str
    task: str
    exit_copy: str
    attach_link: str

    @property
    def owner(self) -> str:
        """Which log made this, at which sequence, in which boot."""
        return f"{self.directory}/owner"

    @property
    def config(self) -> str:
        return f"{self.directory}/config.json"

    @property
    def cgroup(self) -> str:
        """The spec's cgroupsPath, so that nobody need read the spec for it."""
        return f"{self.directory}/cgroup"

    @property
    def rootfs(self) -> str:
        return f"{self.directory}/rootfs"

    @property
    def upper(self) -> str:
        return f"{self.directory}/upper"

    @property
    def work(self) -> str:
        return f"{self.directory}/work"

    @property
    def monitor(self) -> str:
        """conmon's pid, start time and boot id, written before it may go."""
        return f"{self.directory}/monitor"

    @property
    def pidfile(self) -> str:
        """The container's init, written by runc."""
        return f"{self.directory}/pidfile"

    @property
    def runtime_log(self) -> str:
        """What the runtime itself says at the creation: never on the container's stderr."""
        return f"{self.directory}/runtime.log"

    @property
    def joined(self) -> str:
        """The process whose pid namespace the container is in, where that is not its own."""
        return f"{self.directory}/joined"

    @property
    def exit(self) -> str:
        """conmon's word on how the container ended (its persist directory is the bundle)."""
        return f"{self.directory}/exit"

    @property
    def oom(self) -> str:
        return f"{self.directory}/oom"

    @property
    def control(self) -> str:
        """conmon's fifo: window sizes, reopening of the log."""
        return f"{self.directory}/ctl"

    @property
    def attach(self) -> str:
        """conmon's attach socket. Its path may be too long to connect to: use `attach_link`."""
        return f"{self.attach_link}/attach"

    @property
    def stop_sent(self) -> str:
        """Exists once the stop signal has been sent."""
        return f"{self.directory}/stop-sent"

    @property
    def fifo(self) -> str:
        """runc's own: exists while the created process waits for its start."""
        return f"{self.task}/exec.fifo"

    @property
    def state(self) -> str:
        return f"{self.task}/state.json"


@dataclass(frozen=True, slots=True)
class ExecPaths:
    """One command that is run inside a container: made before it, removed when nothing of it is left.

    The directory's name, and so the cgroup's, begins with the container's id.
    """

    directory: str

    @property
    def name(self) -> str:
        return self.directory.rpartition("/")[2]

    @property
    def container_id(self) -> str:
        return self.name.partition(".")[0]

    @property
    def cgroup(self) -> str:
        """The cgroup's name below the container's."""
        return f"exec-{self.name.partition('.')[2]}"

    @property
    def spec(self) -> str:
        """The OCI process. Without it a runtime that comes late starts nothing."""
        return f"{self.directory}/process.json"

    @property
    def pidfile(self) -> str:
        """The process in the container, written by runc when it has been started."""
        return f"{self.directory}/pid"

    @property
    def process(self) -> str:
        """The same with its start time and boot, once it was seen."""
        return f"{self.directory}/process"

    @property
    def log(self) -> str:
        """What runc itself says: the command's own stderr is another matter."""
        return f"{self.directory}/log"

    @property
    def kept(self) -> str:
        """The path of the cgroup, where what the command has left in it may live on."""
        return f"{self.directory}/kept"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.spec, self.pidfile, self.process, self.log, self.kept)


@dataclass(frozen=True, slots=True)
class SandboxPaths:
    """One sandbox: its directory on disk, and what it has pinned and mounted while the machine is up.

    `net`: the file on which its network namespace is pinned.
    """

    directory: str
    run: str
    task: str
    net: str

    @property
    def owner(self) -> str:
        return f"{self.directory}/owner"

    @property
    def cgroup(self) -> str:
        """The infra container's cgroupsPath."""
        return f"{self.directory}/cgroup"

    @property
    def hostname(self) -> str:
        return f"{self.directory}/hostname"

    @property
    def hosts(self) -> str:
        return f"{self.directory}/hosts"

    @property
    def resolv_conf(self) -> str:
        return f"{self.directory}/resolv.conf"

    def pin(self, kind: str) -> str:
        """The file on which the pod's namespace of a kind (net, uts, ipc) is pinned."""
        return self.net if kind == "net" else f"{self.run}/{kind}"

    @property
    def ipc(self) -> str:
        return self.pin("ipc")

    @property
    def net_link(self) -> str:
        """Leads to `net`, so that whoever finds the directory finds the pin, whichever log it is named after.

        Daemons before this one pinned the network here.
        """
        return f"{self.run}/net"

    @property
    def uts(self) -> str:
        return self.pin("uts")

    @property
    def shm(self) -> str:
        return f"{self.run}/shm"

    @property
    def infra(self) -> str:
        """The infra container's bundle."""
        return f"{self.run}/infra"

    @property
    def infra_config(self) -> str:
        return f"{self.infra}/config.json"

    @property
    def infra_rootfs(self) -> str:
        return f"{self.infra}/rootfs"

    @property
    def infra_pidfile(self) -> str:
        return f"{self.infra}/pidfile"

    @property
    def infra_log(self) -> str:
        return f"{self.infra}/log"

    @property
    def infra_state(self) -> str:
        return f"{self.task}/state.json"

    @property
    def pinned(self) -> tuple[str, ...]:
        """Every file of the directory that a namespace may be pinned on."""
        return (self.ipc, self.net_link, self.uts)

    @property
    def places(self) -> tuple[str, ...]:
        """What tells that something of the sandbox exists: one of these does."""
        return (self.directory, self.run, self.task, self.net)


@dataclass(frozen=True, slots=True)
class Layout:
    """The two roots. `runtime_root` is what runc gets as --root; conmon gets `exits` and `attach`.

    `netns` is everybody's; `log_id`: whose pins in it are ours.
    """

    data: str
    run: str
    log_id: str
    netns: str = NETNS

    @property
    def containers(self) -> str:
        return f"{self.data}/containers"

    @property
    def sandboxes(self) -> str:
        return f"{self.data}/sandboxes"

    @property
    def sandboxes_run(self) -> str:
        return f"{self.run}/sandboxes"

    @property
    def runtime_root(self) -> str:
        return f"{self.run}/runc"

    @property
    def infra_root(self) -> str:
        """runc's --root for infra containers: their ids are sandbox ids and must not look like containers."""
        return f"{self.run}/runc-infra"

    @property
    def exits(self) -> str:
        return f"{self.run}/exits"

    @property
    def attach(self) -> str:
        return f"{self.run}/attach"

    @property
    def execs(self) -> str:
        """A directory for each command that runs inside a container, `CONTAINER.NAME`."""
        return f"{self.run}/execs"

    @property
    def apparmor(self) -> str:
        """The text of the AppArmor profile that the kernel got from this daemon."""
        return f"{self.run}/apparmor-profile"

    @property
    def containers_known(self) -> tuple[str, ...]:
        """Directories whose entries are called by container ids."""
        return (self.containers, self.runtime_root, self.exits, self.attach)

    @property
    def directories(self) -> tuple[str, ...]:
        """What must exist before the first container."""
        return (
            self.data,
            self.run,
            self.containers,
            self.sandboxes,
            self.sandboxes_run,
            self.runtime_root,
            self.infra_root,
            self.exits,
            self.attach,
            self.execs,
        )

    def container(self, container_id: str) -> ContainerPaths:
        checked(container_id)
        return ContainerPaths(
            directory=f"{self.containers}/{container_id}",
            task=f"{self.runtime_root}/{container_id}",
            exit_copy=f"{self.exits}/{container_id}",
            attach_link=f"{self.attach}/{container_id}",
        )

    def exec(self, container_id: str, name: str) -> ExecPaths:
        return ExecPaths(f"{self.execs}/{checked(container_id)}.{name}")

    def sandbox(self, sandbox_id: str) -> SandboxPaths:
        checked(sandbox_id)
        return SandboxPaths(
            directory=f"{self.sandboxes}/{sandbox_id}",
            run=f"{self.sandboxes_run}/{sandbox_id}",
            task=f"{self.infra_root}/{sandbox_id}",
            net=f"{self.netns}/daybook-{self.log_id[:LOG_DIGITS]}-{sandbox_id}",
        )

    def pinned_by(self, name: str) -> str:
        """The sandbox of our log whose network a file in `netns` holds, by the file's name; empty for all others."""
        named = PIN.fullmatch(name)
        return named[2] if named and named[1] == self.log_id[:LOG_DIGITS] else ""

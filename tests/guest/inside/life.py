"""A pod's whole life on an installed Daybook, as a client sees it: run inside the guest, with Daybook's own Python.

    python -m tests.guest.inside.life cgroupfs systemd      once with each cgroup driver; under systemd as process 1
    python -m tests.guest.inside.life --child cgroupfs      the daemon is a child of this process: no systemd here

It prints each step with its time as it passes; the first that does not hold ends it with status 1 and what the daemon
said. Nothing here decides by time; every wait is bounded.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from adapters.cri import client
from proto import api_pb2 as pb
from tests.guest.inside.daemons import ChildDaemon, Daemon, UnitDaemon
from tests.support.inventory import NOTHING, Inventory, inventory
from tests.support.limits import SLOWNESS
from tests.support.oci_layout import make_oci_layout

T = TypeVar("T")
CALL_S, WAIT_S, POLL_S = 30.0 * SLOWNESS, 20.0 * SLOWNESS, 0.02
IMAGE = "registry.example/busybox:1"
BRIDGE, SUBNET = "life0", "10.89.7"
CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "life",
    "plugins": [
        {
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": f"{SUBNET}.0/24"}]]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
NET_D, CONFLIST_NAME = Path("/etc/cni/net.d"), "10-life.conflist"
UID, GRACE_S, MEMORY_LIMIT = 1000, 10, 24 << 20
TOKEN = "what a service account's token would be"
SAYS = "id -u; cat /var/run/secrets/token; echo kept > /scratch/mine; trap 'exit 5' TERM; echo ready; "
WAITS = SAYS + "while :; do sleep 0.1; done"
EATS = "eaten=x; while :; do eaten=$eaten$eaten; done"
PARENTS = {"cgroupfs": "/life/pod-1", "systemd": "life-pod1.slice"}


class Wrong(AssertionError):
    """A step did not show what it had to."""


def need(true: object, text: str) -> None:
    if not true:
        raise Wrong(text)


def until(what: Callable[[], T], text: str, seconds: float = WAIT_S) -> T:
    """The first true value. Raises Wrong."""
    end = time.monotonic() + seconds
    while not (found := what()):
        need(time.monotonic() < end, f"not within {seconds:g} s: {text}")
        time.sleep(POLL_S)
    return found


@dataclass
class Life:
    """One pod on one daemon with one cgroup driver."""

    daemon: Daemon
    driver: str
    scratch: Path
    pod_id: str = ""
    app_id: str = ""
    pid: int = 0
    address: str = ""
    seen: set[str] = field(default_factory=set)

    def call(self, rpc: str, **fields: Any) -> Any:
        stubs = client.connect(self.daemon.socket)
        stub = next(getattr(s, rpc) for s in stubs if hasattr(s, rpc))
        return stub(getattr(pb, f"{rpc}Request")(**fields), timeout=CALL_S, wait_for_ready=True)

    # --- the steps -----------------------------------------------------------------------------------------------

    def the_daemon_answers_with_this_driver(self) -> None:
        told = self.call("RuntimeConfig").linux.cgroup_driver
        need(told == getattr(pb, self.driver.upper()), f"the daemon tells cgroup driver {told}")
        need(self.conditions().get("RuntimeReady") == "", f"not ready: {self.conditions()}")

    def a_pod_network_is_found(self) -> None:
        NET_D.mkdir(parents=True, exist_ok=True)
        (NET_D / CONFLIST_NAME).write_text(json.dumps(CONFLIST))
        until(lambda: self.conditions().get("NetworkReady") == "", f"the network is ready: {self.conditions()}")

    def an_image_is_loaded(self) -> None:
        layout = make_oci_layout(self.scratch / "layout")
        client.load(self.daemon.admin, f"oci:{layout.path}:latest", IMAGE)
        need(self.call("ListImages").images[0].id == layout.image_id, "the image has another id than its configuration")

    def a_pod_gets_an_address(self) -> None:
        self.pod_id = self.call("RunPodSandbox", config=self.pod_config()).pod_sandbox_id
        self.seen.add(self.pod_id)
        self.address = self.call("PodSandboxStatus", pod_sandbox_id=self.pod_id).status.network.ip
        need(self.address.startswith(f"{SUBNET}."), f"the pod's address is {self.address!r}")
        run("busybox", "ping", "-c", "1", "-W", "5", self.address)

    def a_container_runs_as_a_user_with_its_mounts(self) -> None:
        self.app_id = self.start("app", WAITS)
        until(lambda: "ready" in self.log("app"), "the container says that it is ready")
        need(self.log("app") == [str(UID), TOKEN, "ready"], f"the container's log: {self.log('app')}")
        need((self.scratch / "bound/mine").read_text() == "kept\n", "what it wrote is not in the bound directory")
        self.pid = self.told_pid()
        owner = Path(f"/proc/{self.pid}").stat().st_uid
        need(owner == UID, f"process {self.pid} belongs to {owner}")

    def its_cgroup_is_where_the_driver_puts_it(self) -> None:
        parts = Path(f"/proc/{self.pid}/cgroup").read_text()
        wanted = f"{self.app_id}.scope" if self.driver == "systemd" else f"/life/pod-1/{self.app_id}"
        need(wanted in parts and self.driver_parent() in parts, f"process {self.pid} is in {parts}")

    def a_command_runs_in_it(self) -> None:
        done = self.exec("id -u; echo oops >&2; exit 3")
        need((done.exit_code, done.stdout, done.stderr) == (3, f"{UID}\n".encode(), b"oops\n"), f"it answered {done}")

    def statistics_are_told(self) -> None:
        stats = self.call("ContainerStats", container_id=self.app_id).stats
        need(stats.memory.working_set_bytes.value > 0, f"no memory: {stats}")
        need(stats.cpu.usage_core_nano_seconds.value > 0, f"no CPU time: {stats}")

    def running_out_of_memory_is_seen(self) -> None:
        eater = self.start("eater", EATS, memory_limit_in_bytes=MEMORY_LIMIT)
        until(lambda: self.status(eater).state == pb.CONTAINER_EXITED, "the kernel kills it")
        status = self.status(eater)
        need(
            (status.exit_code, status.reason) == (137, "OOMKilled"), f"it ended with {status.exit_code} {status.reason}"
        )
        self.call("RemoveContainer", container_id=eater)

    def a_restart_leaves_everything_as_it_is(self) -> None:
        with self.unchanged():
            self.daemon.restart()
        need(self.exec("true").exit_code == 0, "no command runs after the restart")

    def so_does_kill_9(self) -> None:
        with self.unchanged():
            self.daemon.kill9()
        need(self.exec("true").exit_code == 0, "no command runs after kill -9")

    def a_stop_lets_it_end(self) -> None:
        self.call("StopContainer", container_id=self.app_id, timeout=GRACE_S)
        need(self.status(self.app_id).exit_code == 5, f"its exit code is {self.status(self.app_id).exit_code}")

    def nothing_is_left(self) -> None:
        self.call("StopPodSandbox", pod_sandbox_id=self.pod_id)
        self.call("RemovePodSandbox", pod_sandbox_id=self.pod_id)
        self.call("RemoveImage", image=pb.ImageSpec(image=IMAGE))
        need(not self.call("ListPodSandbox").items and not self.call("ListContainers").containers, "still listed")
        left = self.left_over()
        need(left == NOTHING, f"left: {left}")
        need(links() == {"lo", BRIDGE}, f"links are left: {links()}")
        need(self.address not in os.listdir("/var/lib/cni/networks/life"), f"{self.address} is still taken")
        rules = run("iptables-save")
        need(self.pod_id[:12] not in rules and self.address not in rules, f"rules are left: {rules}")
        (NET_D / CONFLIST_NAME).unlink()

    def the_log_is_whole(self) -> None:
        run("daybook", "replay", "check")

    # --- what they are made of -----------------------------------------------------------------------------------

    def conditions(self) -> dict[str, str]:
        """Empty where a condition holds, else why not."""
        found = self.call("Status").status.conditions
        return {each.type: "" if each.status else each.message or each.reason for each in found}

    def driver_parent(self) -> str:
        return PARENTS[self.driver]

    def pod_config(self) -> Any:
        options = pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER)
        context = pb.LinuxSandboxSecurityContext(namespace_options=options)
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name="life", namespace="default", uid=f"life-{self.driver}"),
            hostname="life",
            log_directory=str(self.scratch / "logs"),
            port_mappings=[pb.PortMapping(host_port=8089, container_port=80)],
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=self.driver_parent(), security_context=context),
        )

    def start(self, name: str, shell: str, **resources: int) -> str:
        context = pb.LinuxContainerSecurityContext(
            namespace_options=pb.NamespaceOption(network=pb.POD, pid=pb.CONTAINER),
            run_as_user=pb.Int64Value(value=UID),
            seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
        )
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=IMAGE),
            command=["sh", "-c", shell],
            log_path=f"{name}.log",
            mounts=self.mounts(),
            linux=pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(**resources), security_context=context),
        )
        made = self.call("CreateContainer", pod_sandbox_id=self.pod_id, config=config, sandbox_config=self.pod_config())
        self.seen.add(made.container_id)
        self.call("StartContainer", container_id=made.container_id)
        return str(made.container_id)

    def mounts(self) -> list[Any]:
        """A file that anybody may read, as a token is mounted, and a directory of the user's own."""
        token, bound = self.scratch / "token", self.scratch / "bound"
        token.write_text(f"{TOKEN}\n")
        token.chmod(0o644)
        bound.mkdir(exist_ok=True)
        os.chown(bound, UID, UID)
        return [
            pb.Mount(container_path="/var/run/secrets/token", host_path=str(token), readonly=True),
            pb.Mount(container_path="/scratch", host_path=str(bound)),
        ]

    def left_over(self) -> Inventory:
        """Looked for until nothing is left: the daemon cleans up in the background."""
        end = time.monotonic() + WAIT_S
        while (left := inventory(self.seen)) != NOTHING and time.monotonic() < end:
            time.sleep(POLL_S)
        return left

    def exec(self, shell: str) -> Any:
        return self.call("ExecSync", container_id=self.app_id, cmd=["sh", "-c", shell], timeout=int(CALL_S))

    def status(self, container_id: str) -> Any:
        return self.call("ContainerStatus", container_id=container_id).status

    def told_pid(self) -> int:
        return int(json.loads(self.call("ContainerStatus", container_id=self.app_id, verbose=True).info["info"])["pid"])

    def log(self, name: str) -> list[str]:
        path = self.scratch / f"logs/{name}.log"
        return [line.split(" ", 3)[3] for line in path.read_text().splitlines()] if path.exists() else []

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What the daemon tells of pod and container, and the container's process, are the same afterwards."""

        def told() -> tuple[Any, ...]:
            pod = self.call("PodSandboxStatus", pod_sandbox_id=self.pod_id).status
            return pod, self.status(self.app_id), self.told_pid(), started_at(self.pid)

        before = told()
        yield
        after = told()
        need(before == after, f"before: {before}\nafter: {after}")


STEPS: tuple[Callable[[Life], None], ...] = (
    Life.the_daemon_answers_with_this_driver,
    Life.a_pod_network_is_found,
    Life.an_image_is_loaded,
    Life.a_pod_gets_an_address,
    Life.a_container_runs_as_a_user_with_its_mounts,
    Life.its_cgroup_is_where_the_driver_puts_it,
    Life.a_command_runs_in_it,
    Life.statistics_are_told,
    Life.running_out_of_memory_is_seen,
    Life.a_restart_leaves_everything_as_it_is,
    Life.so_does_kill_9,
    Life.a_stop_lets_it_end,
    Life.nothing_is_left,
    Life.the_log_is_whole,
)


def run(*argv: str) -> str:
    """Raises Wrong."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_S)
    need(done.returncode == 0, f"{' '.join(argv)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(run("ip", "-json", "link"))}


def started_at(pid: int) -> str:
    """When a process began, in ticks since the boot (proc(5), field 22)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def live(daemon: Daemon, driver: str, scratch: Path) -> None:
    """All steps, told as they pass. Raises what the first one raises that does not hold."""
    life = Life(daemon, driver, scratch)
    for step in STEPS:
        begun = time.monotonic()
        try:
            step(life)
        except (Wrong, grpc.RpcError, OSError, subprocess.SubprocessError):
            sys.stdout.write(f"FAIL {driver}: {step.__name__.replace('_', ' ')}\n")
            raise
        sys.stdout.write(f"ok {time.monotonic() - begun:6.1f} s  {driver}: {step.__name__.replace('_', ' ')}\n")
        sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="life")
    parser.add_argument("drivers", nargs="+", choices=sorted(PARENTS))
    parser.add_argument("--child", action="store_true", help="the daemon is a child of this process")
    arguments = parser.parse_args()
    daemon: Daemon = ChildDaemon() if arguments.child else UnitDaemon()
    try:
        for driver in arguments.drivers:
            scratch = Path(f"/var/tmp/life-{driver}")
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "logs").mkdir(parents=True)
            daemon.configure(driver)
            live(daemon, driver, scratch)
            shutil.rmtree(scratch)
    except (Wrong, grpc.RpcError, OSError, subprocess.SubprocessError):
        sys.stdout.write(f"{traceback.format_exc()}\nthe daemon said:\n{daemon.said()}\n")
        return 1
    finally:
        daemon.end()
        subprocess.run(["ip", "link", "delete", BRIDGE], stderr=subprocess.DEVNULL, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

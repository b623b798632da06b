"""Small realistic histories, made by the domain itself: `Node.decide` with a fixed clock and fixed ids, recovery by
`reconcile` on a made-up world. Each builder returns the log it wrote; the same builder always writes the same records.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.log.memory import MemoryLog
from domain import commands as c
from domain import events as e
from domain.config import ContainerConfig, SandboxConfig
from domain.decision import Accept
from domain.image import PulledImage
from domain.node import AGGREGATES, Node
from domain.observations import (
    ExitFile,
    ImageObservation,
    ImageState,
    InfraState,
    MonitorState,
    NamespaceState,
    SandboxObservation,
    TaskObservation,
    TaskState,
    World,
)
from domain.records import Cause, Draft, Evidence, Now, Process, Record
from domain.recovery import LogFacts, reconcile

SECOND = 10**9
START_NS = 1_790_000_000 * SECOND
BOOTS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
RUNC = e.Binary("/usr/sbin/runc", "1.1.5", "1.1.5+ds1-1+deb12u1")
CONMON = e.Binary("/usr/bin/conmon", "2.1.6", "2.1.6+ds1-1")
NGINX = "docker.io/library/nginx:1.25"
SANDBOX, OTHER_SANDBOX = "5a" * 32, "5b" * 32
CONTAINER, OTHER_CONTAINER = "c0" * 32, "c1" * 32
KUBELET, ADMIN = "daybook.sock", "admin.sock"
AGENTS = {KUBELET: "kubelet/v1.35.0", ADMIN: "crictl/v1.35.0"}
RPC = {
    c.RunSandbox: "RunPodSandbox",
    c.StopSandbox: "StopPodSandbox",
    c.RemoveSandbox: "RemovePodSandbox",
}


def memory_log() -> MemoryLog:
    return MemoryLog(aggregates=AGGREGATES)


@dataclass
class History:
    """A daemon without a world: what would be an effect is told as its outcome. `log` is any event log with
    `append_sync`; `newest` holds the last sequence of each aggregate, which is what led to what it owes."""

    log: Any = field(default_factory=memory_log)
    node: Node = field(default_factory=Node)
    wall_ns: int = START_NS
    boot_ns: int = 3600 * SECOND
    boot: int = 0
    requests: int = 0
    newest: dict[str, int] = field(default_factory=dict)

    @property
    def now(self) -> Now:
        return Now(self.wall_ns, self.boot_ns, BOOTS[self.boot])

    def wait(self, ms: int) -> "History":
        self.wall_ns += ms * 10**6
        self.boot_ns += ms * 10**6
        return self

    # --- what asks ---

    def ask(self, command: c.Command, socket: str = KUBELET) -> list[Record]:
        """A client's request."""
        self.requests += 1
        what = RPC.get(type(command), type(command).__name__)
        cause = Cause("rpc", what, f"r-{self.requests}", self.wall_ns, AGENTS[socket], socket)
        return self.decide(command, cause)

    def effect(self, what: str, command: c.Command, key: str) -> list[Record]:
        """The outcome of an effect that an aggregate owed."""
        return self.decide(command, Cause("effect", what, led_by=self.newest.get(key, 0)))

    def watch(self, command: c.Command, key: str) -> list[Record]:
        return self.decide(command, Cause("watch", "WatchTask", led_by=self.newest.get(key, 0)))

    def due(self, command: c.Command, key: str) -> list[Record]:
        """A command that a state owes."""
        return self.decide(command, Cause("due", type(command).__name__, led_by=self.newest.get(key, 0)))

    def decide(self, command: c.Command, cause: Cause) -> list[Record]:
        decision = self.node.decide(command, self.now)
        assert isinstance(decision, Accept), decision
        return [record for key, event in decision.events for record in self.put(key, event, cause)]

    def put(self, key: str, event: Any, cause: Cause) -> list[Record]:
        """An event as it is, whether the tables permit it or not."""
        draft = Draft(key, self.node.next_version(key), event, cause)
        records = list(self.log.append_sync([draft], cause, self.now))
        for record in records:
            self.newest[key] = record.seq
            self.node.apply(record.key, record.version, record.event)
        self.wait(5)
        return records

    # --- the daemon ---

    def start(self, world: Mapping[str, Any] | None = None, images: ImageObservation | None = None) -> "History":
        """A daemon starts and finds a world: `world` by key, images whole unless told otherwise."""
        seen = world or {}
        found = World(
            self.now.boot_id,
            {i: seen[k] for i, k in self._keys("container") if k in seen},
            {i: seen.get(k, WHOLE) for i, k in self._keys("sandbox")},
            images or self._images(),
        )
        facts = LogFacts(self.log.log_id, self.log.head().seq, whole=True)
        findings = reconcile(self.node, found, facts, self.now)
        self.put(e.NODE_KEY, e.NodeStarted("0.1.0", 4242, RUNC, CONMON), Cause("recovery", "start"))
        for finding in findings:
            for event in finding.events:
                self.put(finding.key, event, Cause("recovery", finding.row))
        return self

    def _keys(self, kind: str) -> list[tuple[str, str]]:
        held = {"container": self.node.containers, "sandbox": self.node.sandboxes}[kind]
        return [(name, f"{kind}/{name}") for name in held]

    def _images(self) -> ImageObservation:
        whole = {i.held.image_id: ImageState.COMPLETE for i in self.node.images.values() if i.held}
        return ImageObservation(whole)

    def stop_daemon(self) -> "History":
        self.decide(c.RecordNode(e.NodeStopped()), Cause("admin", "stop"))
        return self

    def down(self, seconds: int, reboot: bool = False) -> "History":
        self.wait(seconds * 1000)
        if reboot:
            self.boot, self.boot_ns = self.boot + 1, 20 * SECOND
        return self

    # --- steps of a life ---

    def pull(self, reference: str = NGINX) -> "History":
        self.ask(c.PullImage(reference))
        self.wait(1400)
        pulled = PulledImage("sha256:" + "1a" * 32, "sha256:" + "2b" * 32, ("sha256:" + "3c" * 32,), 187_654_321)
        self.effect("PullImage", c.RecordPulled(reference, pulled), e.image_key(reference))
        return self

    def run_pod(self, sandbox_id: str = SANDBOX, name: str = "web-0") -> "History":
        config = SandboxConfig(name, f"uid-{name}", "default", log_directory=f"/var/log/pods/default_{name}")
        key = e.sandbox_key(sandbox_id)
        self.ask(c.RunSandbox(sandbox_id, config, "h-" + name))
        self.wait(40)
        self.effect("SetUpSandbox", c.RecordNetworkSet(sandbox_id, ("10.88.0.7",), "{}"), key)
        self.effect("SetUpSandbox", c.RecordSandboxReady(sandbox_id, None), key)
        return self

    def request_create(self, container_id: str = CONTAINER, name: str = "nginx", **config: Any) -> "History":
        made = ContainerConfig(name, image=NGINX, user_specified_image="nginx:1.25", log_path=f"{name}/0.log", **config)
        self.ask(c.CreateContainer(container_id, SANDBOX, NGINX, made, "h-" + name))
        self.wait(30)
        return self

    def created(self, container_id: str = CONTAINER) -> "History":
        made = c.RecordCreated(container_id, self.process(7001), self.process(7000), e.User(0, 0), RUNC)
        self.effect("CreateTask", made, e.container_key(container_id))
        return self

    def process(self, pid: int) -> Process:
        return Process(pid, 360_000 + pid, BOOTS[self.boot])

    def started(self, container_id: str = CONTAINER) -> "History":
        self.ask(c.StartContainer(container_id))
        self.wait(8)
        self.effect("StartTask", c.RecordStarted(container_id), e.container_key(container_id))
        return self

    def running(self, **config: Any) -> "History":
        """Up to a running container in a ready pod."""
        return self.start().pull().run_pod().request_create(**config).created().started()

    def exited(self, code: int | None, source: str = "exit-file", **told: Any) -> "History":
        record = c.RecordExit(CONTAINER, code, self.wall_ns, Evidence(source), **told)
        self.watch(record, e.container_key(CONTAINER))
        return self

    def stop(self, grace_s: int = 30, container_id: str = CONTAINER) -> "History":
        self.ask(c.StopContainer(container_id, grace_s))
        return self

    def remove(self, container_id: str = CONTAINER, socket: str = KUBELET) -> "History":
        key = e.container_key(container_id)
        self.ask(c.RemoveContainer(container_id), socket)
        self.wait(12)
        self.effect("RemoveTask", c.RecordContainerRemoved(container_id), key)
        return self

    def end_pod(self, sandbox_id: str = SANDBOX) -> "History":
        """Stop and removal of a pod whose containers have ended."""
        key = e.sandbox_key(sandbox_id)
        if self.node.sandboxes[sandbox_id].state not in ("STOPPING", "STOPPED"):
            self.ask(c.StopSandbox(sandbox_id))
        self.effect("TearDownSandbox", c.RecordNetworkReleased(sandbox_id), key)
        self.effect("TearDownSandbox", c.RecordSandboxStopped(sandbox_id), key)
        self.ask(c.RemoveSandbox(sandbox_id))
        self.effect("RemoveSandbox", c.RecordSandboxRemoved(sandbox_id), key)
        return self


WHOLE = SandboxObservation(NamespaceState.NSFS, InfraState.NONE, cached=True, leftovers=True)
GONE = SandboxObservation()
ALIVE = MonitorState.ALIVE


def seen(task: str, **more: Any) -> TaskObservation:
    """One container as a sweep finds it: `task` is a value of TaskState."""
    return TaskObservation(TaskState(task), **more)


# --- the histories ---------------------------------------------------------------------------------------------------

HERE = e.container_key(CONTAINER)


def clean_life(log: Any = None) -> History:
    """Pull, pod, container, stop within its grace, removal of all, the daemon leaves."""
    h = History(log or memory_log()).running().wait(90_000)
    h.stop().wait(1200).exited(0).wait(300)
    h.remove().end_pod()
    return h.stop_daemon()


def crash_in_create(log: Any = None) -> History:
    """@D: the daemon dies inside a create; the kubelet asks again and gets the same id."""
    h = History(log or memory_log()).start().pull().run_pod().request_create()
    h.down(7).start({HERE: seen("absent", leftovers=True)}).wait(2500)
    return h.request_create(OTHER_CONTAINER).created().started()


def crash_in_create_forgotten(log: Any = None) -> History:
    """@D without a retry: the name is given up after ten minutes."""
    h = History(log or memory_log()).start().pull().run_pod().request_create()
    h.down(7).start({HERE: seen("absent", leftovers=True)}).wait(600_000)
    h.due(c.RemoveContainer(CONTAINER), HERE)
    h.effect("RemoveTask", c.RecordContainerRemoved(CONTAINER), HERE)
    return h


def exit_while_down(log: Any = None) -> History:
    """@J: it ended while nobody watched, conmon left the code."""
    h = History(log or memory_log()).running().wait(20_000).stop_daemon()
    ended = h.wall_ns + 30 * SECOND
    return h.down(95).start({HERE: seen("stopped", exit=ExitFile(3, ended), leftovers=True)})


def exit_unknown(log: Any = None) -> History:
    """@K: the daemon died, the machine was booted anew, nothing tells how the container ended."""
    h = History(log or memory_log()).running().wait(20_000).down(180, reboot=True)
    return h.start({HERE: seen("absent"), e.sandbox_key(SANDBOX): GONE})


def exit_garbage(log: Any = None) -> History:
    """@J with an exit file that holds no number."""
    h = History(log or memory_log()).running().wait(20_000).down(30)
    file = ExitFile(None, h.wall_ns, "1\x1b[2J37")
    return h.start({HERE: seen("stopped", exit=file, leftovers=True)})


def stop_across_restart(log: Any = None) -> History:
    """A stop of the pod with a grace; the daemon is killed in between, the deadline holds."""
    h = History(log or memory_log()).running().wait(60_000).stop(30).wait(4_000)
    h.down(6).start({HERE: seen("running", monitor=ALIVE)})
    return h.wait(20_100).exited(137)


def stop_by_pod(log: Any = None) -> History:
    """StopPodSandbox stops its container; it ends in time."""
    h = History(log or memory_log()).running().wait(5_000)
    h.ask(c.StopSandbox(SANDBOX), ADMIN)
    h.due(c.StopContainer(CONTAINER, 0), e.sandbox_key(SANDBOX))
    h.wait(60).exited(137)
    h.effect("TearDownSandbox", c.RecordNetworkReleased(SANDBOX), e.sandbox_key(SANDBOX))
    h.effect("TearDownSandbox", c.RecordSandboxStopped(SANDBOX), e.sandbox_key(SANDBOX))
    return h


def out_of_memory(log: Any = None) -> History:
    """The kernel kills it: the counter goes from 0 to 1, conmon tells 137."""
    h = History(log or memory_log()).running().wait(33_000)
    h.watch(c.RecordOom(CONTAINER, 1), HERE)
    return h.exited(137, oom=True)


def killed_by_another(log: Any = None) -> History:
    """SIGKILL that nobody asked Daybook for."""
    return History(log or memory_log()).running().wait(33_000).exited(137)


def failed_start(log: Any = None) -> History:
    h = History(log or memory_log()).start().pull().run_pod().request_create().created()
    h.ask(c.StartContainer(CONTAINER))
    text = 'runc start exited with 1: exec: "/nope": no such file or directory'
    h.effect("StartTask", c.RecordStartFailed(CONTAINER, "RuntimeFailed", text), HERE)
    return h


def undone_start(log: Any = None) -> History:
    """@F: the daemon died before the runtime was told."""
    h = History(log or memory_log()).start().pull().run_pod().request_create().created()
    h.ask(c.StartContainer(CONTAINER))
    return h.down(3).start({HERE: seen("created", monitor=ALIVE)})


def failed_pull(log: Any = None) -> History:
    h = History(log or memory_log()).start()
    h.ask(c.PullImage(NGINX))
    h.wait(10_000)
    text = "RegistryUnavailable: dial tcp 192.0.2.1:443: i/o timeout"
    h.effect("PullImage", c.RecordPullFailed(NGINX, "RegistryUnavailable", text), e.image_key(NGINX))
    return h


def in_progress(log: Any = None) -> History:
    """A create, a stop and a pull are open at the head."""
    h = History(log or memory_log()).running().stop(600)
    h.request_create(OTHER_CONTAINER, "sidecar")
    h.ask(c.PullImage("docker.io/library/redis:7"))
    return h


def hostile(log: Any = None) -> History:
    """Names, labels, addresses and messages that would like to be obeyed by a terminal, or to fill it."""
    evil = "\x1b]0;owned\x07\x1b[2Jline\nbreak\r\u202egnp.exe\u2028\x9b31m"
    h = History(log or memory_log()).start().pull()
    config = SandboxConfig(evil, "uid", "ns\n" + "n" * 5000, labels={"big": "x" * 10**6, evil: evil})
    h.ask(c.RunSandbox(SANDBOX, config, "h"))
    h.effect("SetUpSandbox", c.RecordNetworkSet(SANDBOX, (evil,), evil), e.sandbox_key(SANDBOX))
    h.effect("SetUpSandbox", c.RecordSandboxReady(SANDBOX, None), e.sandbox_key(SANDBOX))
    h.request_create(name=evil).created()
    h.ask(c.StartContainer(CONTAINER))
    h.effect("StartTask", c.RecordStartFailed(CONTAINER, evil, evil * 400), HERE)
    return h


def released_quarantine(log: Any = None) -> History:
    """A record that does not fit quarantines the container, a person gives it up."""
    h = failed_start(log)
    draft = Draft(HERE, h.node.next_version(HERE), e.ContainerStarted(5))
    (record,) = h.log.append_sync([draft], Cause("effect", "StartTask"), h.now)
    h.node.quarantine(HERE, record.version, record.seq, "it does not fit")
    h.decide(c.RecordNode(e.QuarantineReleased(HERE)), Cause("admin", "purge --quarantined"))
    return h


ALL: Mapping[str, Callable[..., History]] = {
    made.__name__: made
    for made in (
        clean_life,
        crash_in_create,
        crash_in_create_forgotten,
        exit_while_down,
        exit_unknown,
        exit_garbage,
        stop_across_restart,
        stop_by_pod,
        out_of_memory,
        killed_by_another,
        failed_start,
        undone_start,
        failed_pull,
        in_progress,
        hostile,
        released_quarantine,
    )
}

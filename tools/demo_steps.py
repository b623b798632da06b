"""What `tools/demo` shows: a daemon that is killed while containers run, and what it knows after its restart.

Each step says what it found, with a check mark; the first thing that is not so ends the demo with status 1 and names
the step. Whatever happens, everything that was started is ended and everything that was made is removed.

    the image   an OCI layout of busybox, in plain Python     the stage    directories, the daemon, its client
    outside     what exists on this machine, by the kernel    the steps    in the order of STEPS
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from adapters.cri import client
from proto import api_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
BUSYBOX = Path("/bin/busybox")
IMAGE = "demo.example/busybox:1"
EXIT_CODE = 7
B_LASTS_S = 3
GONE_S = 5
DAEMONS = ("service.main serve", "bin/daybook serve", "/daybook/monitors")
"""What the command line or the cgroup of a daemon or of its monitors has, whosever they are."""

ANSWER_S = 30
"""How long one call, one start of the daemon or one wait may take."""

A_DOES = "i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done"
B_DOES = f"sleep {B_LASTS_S}; exit {EXIT_CODE}"
HOST_NETWORK = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
"""The pod's and its containers' namespaces: the machine's network, a pid namespace for each container."""


MARGIN = "     │ "


class Wrong(Exception):
    """Something is not as the demo says it is."""


# --- the image -------------------------------------------------------------------------------------------------------


def write_layout(directory: Path, busybox: bytes) -> None:
    """An OCI layout with one layer: busybox and the applets that the demo uses."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = layer_of(busybox)
    config = {
        "architecture": architecture(os.uname().machine),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(gzip.compress(layer, 1, mtime=0), "layer.v1.tar+gzip")],
    }
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def layer_of(busybox: bytes) -> bytes:
    """A tar archive; the same bytes each time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            tar.addfile(_entry(name, tarfile.DIRTYPE))
        program = _entry("bin/busybox", tarfile.REGTYPE)
        program.size = len(busybox)
        tar.addfile(program, io.BytesIO(busybox))
        for applet in ("sh", "sleep"):
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE)
            link.linkname = "busybox"
            tar.addfile(link)
    return raw.getvalue()


def _entry(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755
    return info


def architecture(machine: str) -> str:
    """The name that images give to what the kernel calls `machine`."""
    return {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le"}.get(machine, machine)


# --- outside ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outside:
    """What on this machine carries one of some names: by the kernel and the disk, not by the daemon's word."""

    mounts: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()
    cgroups: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def outside(names: Sequence[str], directories: Sequence[Path] = ()) -> Outside:
    """`directories` are searched for names of files; mounts, processes and cgroups are searched everywhere."""

    def named(text: str) -> bool:
        return any(name in text for name in names)

    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if named(line)]
    processes = [pid for pid in _pids() if named(_process_text(pid))]
    cgroups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if named(path)]
    files = [
        os.path.join(path, name)
        for directory in directories
        for path, below, plain in os.walk(directory)
        for name in (*below, *plain)
        if named(name)
    ]
    return Outside(tuple(mounts), tuple(processes), tuple(cgroups), tuple(files))


def _pids() -> Iterator[int]:
    own = os.getpid()
    return (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != own)


def _process_text(pid: int) -> str:
    """Command line and cgroups; nothing for a zombie or what has gone meanwhile."""
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return ""
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return command + Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def started_at(pid: int) -> int:
    """The process's start in clock ticks since boot: pid and this number name a process for as long as the boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def daemon_cgroups() -> set[str]:
    """The cgroups in which daemons keep the monitors of their containers."""
    return {path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(("/daybook", "/daybook/monitors"))}


def wait_end(handle: int, limit_s: float) -> bool:
    """Whether the process behind a pidfd ended within the limit."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))


# --- the stage -------------------------------------------------------------------------------------------------------


@dataclass
class Pod:
    """What the client was told, kept to be compared with what it is told later."""

    sandbox: str = ""
    a: str = ""
    b: str = ""
    c: str = ""
    told: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    a_pid: int = 0
    a_started: int = 0
    a_ticks: int = 0
    b_handle: int = -1
    b_ended_ns: int = 0

    @property
    def containers(self) -> dict[str, str]:
        return {"A": self.a, "B": self.b, "C": self.c}

    @property
    def ids(self) -> list[str]:
        return [each for each in (self.sandbox, self.a, self.b, self.c) if each]


class Stage:
    """Directories of our own, the daemon in them, and a client of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data, self.run, self.logs = directory / "data", directory / "run", directory / "logs"
        self.name = directory.name
        self._cgroups_before = daemon_cgroups()
        self.pod = Pod()
        self.daemon: subprocess.Popen[bytes] | None = None
        self._stubs = client.connect(str(self.run / "admin.sock"))
        self.logs.mkdir()
        (directory / "daemon.log").touch()
        paths = f'[paths]\ndata = "{self.data}"\nrun = "{self.run}"\n'
        (directory / "config.toml").write_text(paths)

    @property
    def names(self) -> list[str]:
        """What the command line or the cgroup of each of our processes has, and the path of each of our mounts."""
        return [str(self.data), str(self.run), f"/{self.name}/"]

    def own_cgroups(self, patience_s: float = 0) -> list[str]:
        """The daemon's own cgroups, where they came with it and no other daemon on this machine uses them."""
        found = sorted(daemon_cgroups() - self._cgroups_before)
        until = time.monotonic() + patience_s
        while found and not outside(DAEMONS).processes and time.monotonic() < until:
            time.sleep(0.05)
            found = sorted(daemon_cgroups() - self._cgroups_before)
        return [] if outside(DAEMONS).processes else found

    def start_daemon(self) -> None:
        """In a session of its own, so that Ctrl-C is ours. Returns when it answers."""
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                self._command("serve"),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        # a fresh channel: the old one waits longer and longer between attempts to connect
        self._stubs = client.connect(str(self.run / "admin.sock"))
        until = time.monotonic() + ANSWER_S
        while not (self.run / "admin.sock").exists() or not self._answers():
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise Wrong(f"the daemon does not answer; it said:\n{self.last_words()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.call("Version", limit_s=1)
        except OSError:
            return False
        return True

    def last_words(self) -> str:
        lines = (self.directory / "daemon.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-12:])

    def call(self, name: str, limit_s: float = ANSWER_S, **fields: Any) -> Any:
        """One call of the CRI. What goes wrong is an OSError with the daemon's words."""
        stub = next(stub for stub in self._stubs if hasattr(stub, name))
        try:
            return getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s)
        except grpc.RpcError as error:
            raise OSError(f"{name}: {error.details()}") from None

    def daybook(self, *words: str) -> str:
        """The command `daybook`: what it printed. Raises Wrong where its status is not 0."""
        done = subprocess.run(self._command(*words), cwd=ROOT, capture_output=True, text=True, timeout=2 * ANSWER_S)
        if done.returncode:
            raise Wrong(
                f"daybook {words[0]} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def replay(self, *words: str) -> str:
        return self.daybook("replay", words[0], "--log", str(self.data / "log"), *words[1:])

    def _command(self, name: str, *words: str) -> list[str]:
        config = [] if name == "replay" else ["--config", str(self.directory / "config.toml")]
        return [sys.executable, "-m", "service.main", name, *config, *words]

    # --- requests ---

    def sandbox_request(self) -> Any:
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name="demo", uid="demo-uid", namespace="default"),
            log_directory=str(self.logs),
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=f"/{self.name}",
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=HOST_NETWORK),
            ),
        )

    def create(self, name: str, script: str) -> str:
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=IMAGE),
            command=["/bin/sh", "-c", script],
            log_path=f"{name}.log",
            linux=pb.LinuxContainerConfig(
                security_context=pb.LinuxContainerSecurityContext(namespace_options=HOST_NETWORK)
            ),
        )
        made = self.call("CreateContainer", pod_sandbox_id=self.pod.sandbox, config=config)
        return str(made.container_id)

    def status(self, container_id: str) -> Any:
        return self.call("ContainerStatus", container_id=container_id).status

    def pid(self, container_id: str) -> int:
        told = self.call("ContainerStatus", container_id=container_id, verbose=True)
        return int(json.loads(told.info["info"])["pid"])

    def ticks(self) -> int:
        """How much container A has written to its log."""
        return len((self.logs / "A.log").read_text().splitlines())

    def told(self) -> dict[str, tuple[Any, ...]]:
        """Ids and times of the pod and its containers, as the daemon answers now."""
        pod = self.call("PodSandboxStatus", pod_sandbox_id=self.pod.sandbox).status
        found: dict[str, tuple[Any, ...]] = {"pod": (pod.id, pod.created_at)}
        for each in self.call("ListContainers").containers:
            found[each.metadata.name] = (each.id, each.created_at)
        return found


# --- saying it -------------------------------------------------------------------------------------------------------


def colour(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() else text


def say(text: str = "") -> None:
    print(text, flush=True)


def check(holds: bool, what: str, instead: object = "") -> None:
    """Says what was found to be so. Raises Wrong where it is not."""
    if not holds:
        raise Wrong(f"not so: {what}" + (f" (but: {instead})" if instead != "" else ""))
    say(f"     {colour('32', '✓')} {what}")


def quote(text: str) -> None:
    """Output of a command, indented; on a terminal wrapped to its width."""
    width = max(60, shutil.get_terminal_size().columns - len(MARGIN)) if sys.stdout.isatty() else 10_000
    for line in text.rstrip().splitlines():
        for part in wrapped(line, width):
            say(colour("2", f"{MARGIN}{part}"))


def wrapped(line: str, width: int) -> list[str]:
    """The line; what does not fit goes on below, with the line's own indent and a little more."""
    if len(line) <= width:
        return [line]
    indent = " " * (min(len(line) - len(line.lstrip()), width // 2) + 4)
    return textwrap.wrap(line, width, subsequent_indent=indent, replace_whitespace=False)


def short(identifier: str) -> str:
    return identifier[:13]


def clock(ns: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(ns // 10**9)) + f".{ns % 10**9 // 10**6:03d}"


# --- the steps -------------------------------------------------------------------------------------------------------


def daemon_up(stage: Stage) -> None:
    stage.start_daemon()
    assert stage.daemon is not None
    version = stage.call("Version")
    named = f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}"
    check(version.runtime_name == "daybook", f"it answers on admin.sock: {named} (pid {stage.daemon.pid})", named)


def image_loaded(stage: Stage) -> None:
    write_layout(stage.directory / "image", BUSYBOX.read_bytes())
    image_id = stage.daybook("load", str(stage.directory / "image"), IMAGE).strip()
    shown = stage.call("ListImages").images
    check([each.id for each in shown] == [image_id], f"daybook load: {IMAGE} is {image_id[:19]}", shown)


def pod_started(stage: Stage) -> None:
    pod = stage.pod
    pod.sandbox = stage.call("RunPodSandbox", config=stage.sandbox_request()).pod_sandbox_id
    pod.a, pod.c, pod.b = (stage.create(*each) for each in (("A", A_DOES), ("C", A_DOES), ("B", B_DOES)))
    for each in (pod.a, pod.b):
        stage.call("StartContainer", container_id=each)
    pod.a_pid, pod.b_handle = stage.pid(pod.a), os.pidfd_open(stage.pid(pod.b))
    pod.a_started, pod.told = started_at(pod.a_pid), stage.told()
    states = {name: _state(stage, each) for name, each in pod.containers.items()}
    check(len(set(pod.ids)) == 4, f"pod {short(pod.sandbox)} on the host's network", pod.ids)
    check(states["A"] == "RUNNING", f"container A {short(pod.a)} runs (pid {pod.a_pid})", states)
    check(
        states["B"] == "RUNNING", f"container B {short(pod.b)} runs, and will exit with {EXIT_CODE} by itself", states
    )
    check(states["C"] == "CREATED", f"container C {short(pod.c)} is created and not started", states)


def _state(stage: Stage, container_id: str) -> str:
    return str(pb.ContainerState.Name(stage.status(container_id).state)).removeprefix("CONTAINER_")


def daemon_killed(stage: Stage) -> None:
    daemon, pod = stage.daemon, stage.pod
    assert daemon is not None
    daemon.kill()
    ended = daemon.wait(ANSWER_S)
    check(ended == -signal.SIGKILL, f"the daemon is gone by SIGKILL (pid {daemon.pid})", ended)
    check(not wait_end(pod.b_handle, 0), "B was still running when the daemon died")
    pod.a_ticks = stage.ticks()
    check(wait_end(pod.b_handle, ANSWER_S), "B has ended by itself meanwhile, and no daemon was there to see it")
    pod.b_ended_ns = time.time_ns()
    time.sleep(0.5)
    check(started_at(pod.a_pid) == pod.a_started, f"A still runs as pid {pod.a_pid}")
    more = stage.ticks() - pod.a_ticks
    check(more > 0, f"A went on writing its log: {more} lines since", more)


def daemon_back(stage: Stage) -> None:
    stage.start_daemon()
    pod = stage.pod
    told = stage.told()
    check(told == pod.told, "pod, A, B and C have the same ids and the same created times as before", told)
    check(_state(stage, pod.a) == "RUNNING", "A is RUNNING", _state(stage, pod.a))
    check((stage.pid(pod.a), started_at(pod.a_pid)) == (pod.a_pid, pod.a_started), f"A is the same process {pod.a_pid}")
    b = stage.status(pod.b)
    exited = (_state(stage, pod.b), b.exit_code)
    check(exited == ("EXITED", EXIT_CODE), f"B is EXITED with code {b.exit_code}", exited)
    off_ms = (b.finished_at - pod.b_ended_ns) / 10**6
    seen = f"B finished at {clock(b.finished_at)}; the kernel told the demo at {clock(pod.b_ended_ns)}"
    check(abs(off_ms) < 1000 and b.finished_at >= b.started_at, f"{seen} ({off_ms:+.0f} ms)", b.finished_at)


def retried(stage: Stage) -> None:
    """As the kubelet does that lost the reply."""
    pod = stage.pod
    again = stage.call("RunPodSandbox", config=stage.sandbox_request()).pod_sandbox_id
    check(again == pod.sandbox, f"RunPodSandbox once more: the same id {short(again)}", again)
    again = stage.create("C", A_DOES)
    check(again == pod.c, f"CreateContainer of C once more: the same id {short(again)}", again)
    check(len(stage.call("ListContainers").containers) == 3, "and no container came to be twice")


def explained(stage: Stage) -> None:
    why = stage.replay("why", stage.pod.b)
    quote(why)
    told = f"exited with code {EXIT_CODE}" in why and "evidence: the exit file" in why and "cause: recovery @J" in why
    check(told, "daybook replay why B: the code, what it rests on, and the row of recovery that found it")


def removed(stage: Stage) -> None:
    pod = stage.pod
    stage.call("StopContainer", container_id=pod.a, timeout=0)
    a = stage.status(pod.a)
    check(_state(stage, pod.a) == "EXITED", f"A is stopped (code {a.exit_code}, {a.reason})", a)
    for each in pod.containers.values():
        stage.call("RemoveContainer", container_id=each)
    stage.call("StopPodSandbox", pod_sandbox_id=pod.sandbox)
    stage.call("RemovePodSandbox", pod_sandbox_id=pod.sandbox)
    stage.call("RemoveImage", image=pb.ImageSpec(image=IMAGE))
    left = (stage.call("ListContainers"), stage.call("ListPodSandbox"), stage.call("ListImages"))
    check(not any(each.ByteSize() for each in left), "all containers, the pod and the image are removed", left)


def daemon_stopped(stage: Stage) -> None:
    assert stage.daemon is not None
    stage.daemon.terminate()
    ended = stage.daemon.wait(ANSWER_S)
    check(ended == 0, "SIGTERM: the daemon ends with status 0", f"{ended}\n{stage.last_words()}")


def timeline(stage: Stage) -> None:
    log = stage.replay("log")
    quote(log)
    check(stage.pod.b[:12] in log, "daybook replay log: the timeline outlives what it tells of")
    verdict = stage.replay("check")
    quote(verdict)
    check("problems: 0" in verdict, "daybook replay check: the log is whole, lawful and consistent")


def nothing_left(stage: Stage) -> None:
    """The pod's parent cgroup is ours, as it is the kubelet's on a node: it must be empty, and then we remove it.

    The daemon's own, where there was none before, must have gone with the daemon.
    """
    remove_cgroups([f"/{stage.name}"])
    left, own = outside([*stage.pod.ids, *stage.names], [stage.data, stage.run]), stage.own_cgroups(GONE_S)
    check(not left.mounts, "no mount is left", left.mounts)
    check(not left.processes, "no process is left", left.processes)
    check(not left.cgroups and not own, "no cgroup is left", (left.cgroups, own))
    check(not left.files, "no file or directory of the pod or a container is left", left.files)
    stays = sorted(f"{each.parent.name}/{each.name}" for each in (*stage.data.iterdir(), *stage.run.iterdir()))
    say(colour("2", f"{MARGIN}what a daemon keeps: {', '.join(stays)}"))


STEPS: tuple[tuple[str, Callable[[Stage], None]], ...] = (
    ("The daemon starts", daemon_up),
    ("An image is loaded, made from busybox and without a registry", image_loaded),
    ("A pod with three containers", pod_started),
    ("The daemon is killed", daemon_killed),
    ("The daemon is started again", daemon_back),
    ("A client that lost its replies asks again", retried),
    ("Why did B end?", explained),
    ("All is stopped and removed", removed),
    ("The daemon is stopped", daemon_stopped),
    ("What the log says", timeline),
    ("Nothing is left, seen from outside", nothing_left),
)


# --- clean up --------------------------------------------------------------------------------------------------------


def clean_up(stage: Stage) -> None:
    """Ends and removes whatever of this demo is still there, in whatever state it is."""
    if stage.pod.b_handle >= 0:
        os.close(stage.pod.b_handle)
    if stage.daemon is not None and stage.daemon.poll() is None:
        stage.daemon.kill()
        stage.daemon.wait()
    if outside(stage.names) != Outside():
        with contextlib.suppress(Wrong, subprocess.TimeoutExpired):
            stage.daybook("purge", "--yes")
    force(stage)
    shutil.rmtree(stage.directory, ignore_errors=True)


def force(stage: Stage) -> None:
    """What `daybook purge` could not: processes by their pids, mounts, cgroups."""
    left = outside(stage.names)
    for pid in left.processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + GONE_S
    while outside(stage.names).processes and time.monotonic() < until:
        time.sleep(0.05)
    for mount in reversed(left.mounts):
        subprocess.run(["umount", mount], capture_output=True)
    remove_cgroups([f"/{stage.name}"])
    remove_cgroups(stage.own_cgroups())


def remove_cgroups(names: Sequence[str]) -> None:
    """The cgroups whose path has one of these names, deepest first; what is not empty stays."""
    for path in sorted(outside(names).cgroups, reverse=True) if names else ():
        with contextlib.suppress(OSError):
            os.rmdir(path)


# --- main ------------------------------------------------------------------------------------------------------------


def perform(stage: Stage, steps: Iterable[tuple[str, Callable[[Stage], None]]]) -> str:
    """Runs the steps; the name of the one that went wrong, or an empty string."""
    for number, (title, step) in enumerate(steps, 1):
        say(f"\n {number:2}  {colour('1', title)}")
        begun = time.monotonic()
        try:
            step(stage)
        except (Wrong, OSError, subprocess.SubprocessError) as error:
            say(f"     {colour('31', '✗')} {error}")
            return title
        say(colour("2", f"     {time.monotonic() - begun:.2f} s"))
    return ""


def interrupted(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Status 0 where everything was as said, 1 where a step went wrong, 130 after Ctrl-C or SIGTERM."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    on_signal(interrupted)
    begun = time.monotonic()
    stage = Stage(Path(tempfile.mkdtemp(prefix="daybook-demo-")))
    try:
        status = told(stage)
    except KeyboardInterrupt:
        say("\nInterrupted; cleaning up.")
        status = 130
    finally:
        on_signal(signal.SIG_IGN)
        clean_up(stage)
    left = outside(stage.names)
    if left != Outside() or stage.directory.exists():
        say(f"\n{colour('31', 'The demo could not clean up')}: {left} {stage.directory}")
        return status or 1
    if status == 0:
        say(f"\n{colour('32', 'All as promised')}, in {time.monotonic() - begun:.1f} s. Nothing of it is left.")
    return status


def told(stage: Stage) -> int:
    say(f"Daybook's demo. Everything happens below {stage.directory}")
    wrong = perform(stage, STEPS)
    if wrong:
        say(f"\n{colour('31', 'The demo went wrong')} at step: {wrong}. The daemon's last words:")
        quote(stage.last_words())
    return 1 if wrong else 0


def on_signal(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())

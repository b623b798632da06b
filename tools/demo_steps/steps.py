"""What the demo shows, step by step. Each step raises Wrong or OSError where something is not as it says."""

import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from tools.demo_steps import ending, image, outside
from tools.demo_steps.ground import PLUGINS, free_port
from tools.demo_steps.saying import Wrong, check, clock, cut, listed, note, quote, short, sorry, title, width
from tools.demo_steps.stage import ANSWER_S, IMAGE, PORT, Container, Stage, bundles, fetched, wait

GRACE_S = 4
JOB_CODE = 7
HELLO = "hello from demo-pod"
LISTENS = f"web listens on port {PORT}"
GOES_ON = "slow is asked to end, and goes on"
ONCE = "late runs, and once only"
NOTICES_S = 2.0
"""How much later than it should a stop may come on a busy machine."""

WEB = f"""
trap "echo web is asked to end, and ends; exit 0" TERM
echo "hello from $(hostname)" >/www/index.html; httpd -p {PORT} -h /www; echo {LISTENS}
i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.1; done
"""
SLOW = f'trap "echo {GOES_ON}" TERM; echo slow runs; while true; do sleep 0.1; done'
JOB = f"until [ -e /signals/end ]; do sleep 0.02; done; exit {JOB_CODE}"
LATE = f"echo {ONCE}"


# --- before ----------------------------------------------------------------------------------------------------------


def daemon_up(stage: Stage) -> None:
    stage.start_daemon()
    assert stage.daemon is not None
    version = stage.call("Version")
    named = f"{version.runtime_name} {version.runtime_version}"
    what = f"{named} answers on its socket: CRI {version.runtime_api_version}, pid {stage.daemon.pid}"
    check(version.runtime_name == "daybook", what, named)
    bad = {name: why for name, why in stage.conditions().items() if why}
    check(not bad, f"status: {listed(list(stage.conditions()))}", bad)
    ground = stage.ground
    note(f"its pods' network: {ground.subnet} on bridge {ground.bridge}, by CNI's {listed(list(PLUGINS))}")


def image_loaded(stage: Stage) -> None:
    image.write_layout(stage.directory / "image", image.BUSYBOX.read_bytes())
    image_id = stage.daybook("load", str(stage.directory / "image"), IMAGE).strip()
    shown = stage.call("ListImages").images
    check([each.id for each in shown] == [image_id], f"{IMAGE} is {image_id[:19]}, made from busybox just now", shown)


def pod_started(stage: Stage) -> None:
    pod = stage.pod
    pod.host_port = free_port()
    pod.id = stage.run_pod()
    pod.address = stage.pod_status().network.ip
    inside = outside.is_address(pod.address) and ip_address(pod.address) in stage.ground.subnet
    check(inside, f"RunPodSandbox: pod {short(pod.id)} has the address {pod.address}", pod.address or "none")
    what = f"from outside: CNI's host-local has reserved {pod.address}, and nothing else"
    check(reserved(stage) == [pod.address], what, reserved(stage))


def containers_started(stage: Stage) -> None:
    pod = stage.pod
    made = Container("web", WEB), Container("slow", SLOW), Container("job", JOB, ((stage.signals, "/signals"),))
    pod.containers = {each.name: each for each in made}
    does = ("is a web server", "ignores SIGTERM", f"works until it is done, then exits with {JOB_CODE}")
    for each, what in zip(made, does, strict=True):
        stage.start(each)
        state = stage.state(each)
        check(state == "RUNNING", f"{each.name:4} {short(each.id)} runs as pid {each.pid}; it {what}", state)
    line = stage.line(pod["web"], LISTENS)
    check(line.split(" ", 1)[1] == f"stdout F {LISTENS}", f"web's log: {line}", line)
    stage.line(pod["slow"], "slow runs")


def used(stage: Stage) -> None:
    reachable(stage)
    command = ["sh", "-c", f"hostname; cat /www/index.html >&2; exit {JOB_CODE}"]
    done = stage.call("ExecSync", container_id=stage.pod["web"].id, cmd=command, timeout=ANSWER_S)
    answer = (done.stdout.decode().strip(), done.stderr.decode().strip(), done.exit_code)
    what = f"ExecSync in web: stdout {answer[0]!r}, stderr {answer[1]!r}, exit code {answer[2]}"
    check(answer == ("demo-pod", HELLO, JOB_CODE), what, answer)
    stage.during = stage.ours()
    unseen = [kind for kind, lines in stage.during.items() if not lines]
    check(not unseen, f"from outside, all of it bears the demo's name: {counted(stage.during)}", unseen)


def reachable(stage: Stage) -> None:
    """From the host: the pod's address, and the host port that leads to it."""
    pod = stage.pod
    for address, port in ((pod.address, PORT), ("127.0.0.1", pod.host_port)):
        try:
            answer = fetched(address, port)
        except http.client.HTTPException as error:
            answer = repr(error)
        check(answer == HELLO, f"http://{address}:{port}/ says {answer!r}", answer)


def counted(seen: outside.Seen) -> str:
    return ", ".join(f"{outside.count(kind, lines)} {kind}" for kind, lines in seen.items())


# --- the kill --------------------------------------------------------------------------------------------------------


def daemon_killed(stage: Stage) -> None:
    """In the middle of two calls: each has had its effect begun, which is seen from outside."""
    daemon, pod = stage.daemon, stage.pod
    assert daemon is not None
    pod.told = stage.told()
    stage.asked_ns = time.time_ns()
    stage.calls["StopContainer"] = stage.ask("StopContainer", container_id=pod["slow"].id, timeout=GRACE_S)
    stage.line(pod["slow"], GOES_ON)
    check(not stage.calls["StopContainer"].done(), f"StopContainer: slow has had SIGTERM, and {GRACE_S} s to end")
    pod.containers["late"] = late = Container("late", LATE)
    known = bundles(stage)
    stage.calls["CreateContainer"] = stage.ask("CreateContainer", **stage.creation(late))
    wait(lambda: bundles(stage) - known, "CreateContainer makes a directory", pause_s=0.0005)
    daemon.kill()
    stage.killed_ns = time.time_ns()
    ended = daemon.wait(ANSWER_S)
    [late.id] = bundles(stage) - known
    check(
        ended == -signal.SIGKILL, f"SIGKILL: the daemon is gone, in the middle of creating late {short(late.id)}", ended
    )
    unanswered = [name for name, call in stage.calls.items() if call.exception(ANSWER_S) is not None]
    check("StopContainer" in unanswered, f"no answer came to {listed(unanswered)}", unanswered)


def meanwhile(stage: Stage) -> None:
    pod, job, web = stage.pod, stage.pod["job"], stage.pod["web"]
    check(not outside.wait_end(job.handle, 0), "job was still running when the daemon died")
    (stage.signals / "end").touch()
    check(outside.wait_end(job.handle, ANSWER_S), "job is done: it ends, and no daemon is there to see it")
    stage.job_ended_ns = time.time_ns()
    lines = len(stage.lines(web))
    wait(lambda: len(stage.lines(web)) > lines, "web writes its log")
    alive = outside.started_at(web.pid) == web.started
    check(alive, f"web is still process {web.pid}, and goes on writing its log: line {len(stage.lines(web))}")
    check(fetched(pod.address, PORT) == HELLO, f"http://{pod.address}:{PORT}/ still answers")


def daemon_back(stage: Stage) -> None:
    stage.start_daemon()
    stage.back_ns = time.time_ns()
    pod, gone = stage.pod, (stage.back_ns - stage.killed_ns) / 10**9
    check(stage.conditions() != {}, f"it answers again, {gone:.2f} s after the kill")
    now = stage.told()
    told = {name: now.get(name) for name in pod.told}
    what = f"{listed(list(told))} have the same ids and times, the pod the same address {pod.address}"
    check(told == pod.told, what, f"{told}, before {pod.told}")
    web, slow = pod["web"], pod["slow"]
    same = stage.pid(web), outside.started_at(web.pid)
    check(same == (web.pid, web.started), f"web is RUNNING as pid {web.pid}, the same process", same)
    ended_meanwhile(stage, pod["job"])
    state = stage.state(slow)
    check(state in ("RUNNING", "EXITED"), f"slow is {state}: the daemon knows of the stop and its deadline", state)


def ended_meanwhile(stage: Stage, job: Container) -> None:
    status = stage.status(job)
    off_ms = (status.finished_at - stage.job_ended_ns) / 10**6
    holds = (stage.state(job), status.exit_code) == ("EXITED", JOB_CODE) and abs(off_ms) < 1000
    when = f"{clock(status.finished_at)}, {off_ms:+.0f} ms from when the kernel said so"
    check(holds, f"job is EXITED with code {status.exit_code} at {when}", status)


# --- after -----------------------------------------------------------------------------------------------------------


def asked_again(stage: Stage) -> None:
    """The same requests, as the kubelet sends them that lost the replies."""
    pod, late = stage.pod, stage.pod["late"]
    again, address = stage.run_pod(), stage.pod_status().network.ip
    what = f"RunPodSandbox once more: the same id {short(again)}, the same address {address}"
    check((again, address) == (pod.id, pod.address), what, (again, address))
    again = stage.call("CreateContainer", **stage.creation(late)).container_id
    check(again == late.id, f"CreateContainer once more: late is {short(again)}, as in its first attempt", again)
    once(stage)
    stage.call("StartContainer", container_id=late.id)
    wait(lambda: stage.state(late) == "EXITED", "late ends")
    said = [line.split(" ", 3)[3] for line in stage.lines(late)]
    check(said == [ONCE], f"late is started; its log has one line: {listed(said)}", said)


def once(stage: Stage) -> None:
    """What there is of each, from outside: neither the retry nor the attempt before it left a second one."""
    pod, running = stage.pod, outside.processes()
    monitors = {name: monitors_of(each, running) for name, each in pod.containers.items()}
    expected = {name: int(stage.state(each) != "EXITED") for name, each in pod.containers.items()}
    check(monitors == expected, "nothing is there twice: one monitor for each container that has not ended", monitors)
    links = [line for line in stage.ours()["links"] if f"in bridge {stage.ground.bridge}" in line]
    found = (bundles(stage), os.listdir(stage.data / "sandboxes"), reserved(stage), len(links))
    ids = {each.id for each in pod.containers.values()}
    what = f"and one pod, one address, one link, {len(ids)} containers' directories"
    check(found == (ids, [pod.id], [pod.address], 1), what, found)


def monitors_of(container: Container, running: Iterable[outside.Process]) -> int:
    return sum(container.id in each.about and "conmon" in each.about.split(" ")[0] for each in running)


def reserved(stage: Stage) -> list[str]:
    """The addresses that CNI's host-local has given away."""
    return sorted(filter(outside.is_address, map(os.path.basename, outside.belongings(stage.reserved))))


def stop_kept(stage: Stage) -> None:
    slow = stage.pod["slow"]
    stage.call("StopContainer", container_id=slow.id, timeout=GRACE_S)
    status = stage.status(slow)
    after, back = ((ns - stage.asked_ns) / 10**9 for ns in (status.finished_at, stage.back_ns))
    # A stop whose deadline passes while no daemon is there comes when one is back.
    kept = GRACE_S - 0.1 <= after <= max(GRACE_S, back) + NOTICES_S
    what = f"slow was killed {after:.2f} s after the first StopContainer, which gave it {GRACE_S} s"
    check(kept and stage.state(slow) == "EXITED", what, after)
    check(status.exit_code == 128 + signal.SIGKILL, f"its exit code is {status.exit_code}: SIGKILL", status.exit_code)


def removed(stage: Stage) -> None:
    pod, web = stage.pod, stage.pod["web"]
    stage.call("StopContainer", container_id=web.id, timeout=GRACE_S)
    status = stage.status(web)
    what = f"web is stopped: it ended by itself at SIGTERM, with code {status.exit_code}"
    check((stage.state(web), status.exit_code) == ("EXITED", 0), what, status)
    stage.call("StopPodSandbox", pod_sandbox_id=pod.id)
    check(not reserved(stage), f"the pod is stopped: {pod.address} is given back", reserved(stage))
    with socket.socket() as probe:
        refused = probe.connect_ex(("127.0.0.1", pod.host_port))
    check(refused == errno.ECONNREFUSED, f"port {pod.host_port} of the host leads nowhere", os.strerror(refused))
    for each in pod.containers.values():
        stage.call("RemoveContainer", container_id=each.id)
    stage.call("RemovePodSandbox", pod_sandbox_id=pod.id)
    stage.call("RemoveImage", image={"image": IMAGE})
    left = (stage.call("ListContainers"), stage.call("ListPodSandbox"), stage.call("ListImages"))
    names = [*pod.containers, "the pod", "the image"]
    check(not any(each.ByteSize() for each in left), f"{listed(names)} are removed", left)


def daemon_stopped(stage: Stage) -> None:
    assert stage.daemon is not None
    stage.daemon.terminate()
    ended = stage.daemon.wait(ANSWER_S)
    check(ended == 0, "SIGTERM: the daemon ends with status 0", f"{ended}\n{stage.last_words()}")


# --- the log ---------------------------------------------------------------------------------------------------------


def timeline(stage: Stage) -> None:
    records = [json.loads(line) for line in stage.replay("log", "--json").splitlines()]
    for each in records:
        quote(row(each, len(str(len(records)))))
    ids = {each["id"] for each in records}
    known = all(each.id in ids for each in stage.pod.containers.values())
    check(known, f"daybook replay log: {len(records)} records; they outlive what they tell of")


def row(record: dict[str, Any], seq_width: int) -> str:
    """One record in one line; what is too long is cut."""
    who = {"sandbox": "pod", "node": "daemon"}.get(record["kind"], record["name"].rpartition("/")[2])
    who = "image" if record["kind"] == "image" else who
    event = record["event"].partition("/")[0].partition(".")[2]
    cause = record["cause"]
    outcome = f"outcome of {cause['led_by']}" if cause["led_by"] else "outcome"
    why = {"rpc": cause["what"].rpartition("/")[2], "effect": outcome}.get(cause["kind"])
    why = why or f"{cause['kind']} {cause['what']}"
    line = f"{record['seq']:>{seq_width}}  {record['time'][11:23]}  {who:<6}  {event:<17}  {why:<16}  {record['words']}"
    return cut(line, width() - 7)


ENDS = {
    "web": ("exited with code 0", "asked"),
    "slow": (f"code {128 + signal.SIGKILL}", "SIGKILL"),
    "job": (f"exited with code {JOB_CODE}", "nobody asked", "the exit file", "found by recovery: @J"),
    "late": ("exited with code 0", "nobody asked"),
}
"""Words that must be in the answer to why each ended."""


def explained(stage: Stage) -> None:
    for name, words in ENDS.items():
        conclusion = "\n".join(json.loads(stage.replay("why", stage.pod[name].id, "--json"))["conclusion"])
        note(f"daybook replay why {short(stage.pod[name].id)}, which is {name}:")
        quote(conclusion)
        missing = [each for each in words if each not in conclusion]
        check(not missing, f"{name}: why it ended, and how that is known", missing)


def log_checked(stage: Stage) -> None:
    verdict = stage.replay("check")
    quote(verdict)
    check("problems: 0" in verdict, "daybook replay check: the log is whole, lawful and consistent")


# --- nothing is left -------------------------------------------------------------------------------------------------


def nothing_left(stage: Stage) -> None:
    """First the demo removes what is its own and not the daemon's: the bridge, and the pod's parent cgroup.

    That cgroup is ours as it is the kubelet's on a node: it goes only if it is empty.
    """
    hanging = sorted(line for line in stage.ours()["links"] if " in bridge " in line)
    check(not hanging, f"no link is on bridge {stage.ground.bridge} any more", "; ".join(hanging))
    ending.remove_cgroups([path for path in outside.look(["cgroups"])["cgroups"] if path.endswith(f"/{stage.name}")])
    restored = stage.machine.restore(stage.ground)
    note(
        f"what CNI's plugins and pins leave on every machine, the demo removes itself: {listed(restored) or 'nothing'}"
    )
    own, left = stage.own_cgroups(ending.GONE_S), settled(stage)
    for kind, lines in stage.during.items():
        check(
            not left[kind],
            f"{kind:10} {outside.count(kind, lines):3} came, all are gone",
            "; ".join(sorted(left[kind])),
        )
    check(not own, "and no cgroup of the daemon itself is left", own)
    tell_strangers(stage)


def settled(stage: Stage) -> outside.Seen:
    """What is left, after what is just ending has had its time."""
    until = time.monotonic() + ending.GONE_S
    while any((left := stage.ours()).values()) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def tell_strangers(stage: Stage) -> None:
    """What else came meanwhile. It bears nothing of the demo: others are at work on this machine."""
    came = outside.newer(outside.look([k for k in outside.KINDS if k != "processes"]), stage.before)
    strange = [line for line in outside.told(came) if stage.name not in line]
    if not strange:
        note("nothing else on this machine has changed either")
        return
    note(f"what else came meanwhile bears no mark of the demo, others are at work: {len(strange)} lines")
    quote("\n".join(cut(line, width() - 7) for line in strange[:5]))


STEPS: tuple[tuple[str, Callable[[Stage], None]], ...] = (
    ("A daemon starts, with directories and a network of its own", daemon_up),
    ("An image, without a registry", image_loaded),
    ("A pod with an address", pod_started),
    ("Three containers", containers_started),
    ("They are there: network, host port, exec", used),
    ("The daemon is killed, in the middle of a stop and of a create", daemon_killed),
    ("Meanwhile, without a daemon", meanwhile),
    ("The daemon is started again", daemon_back),
    ("The client that lost its replies asks again", asked_again),
    ("The stop keeps the deadline that it had", stop_kept),
    ("All is stopped and removed", removed),
    ("The daemon is stopped", daemon_stopped),
    ("What happened, by the log", timeline),
    ("Why did they end?", explained),
    ("Is the log itself sound?", log_checked),
    ("Nothing is left, seen from outside", nothing_left),
)


def perform(stage: Stage, steps: Iterable[tuple[str, Callable[[Stage], None]]]) -> str:
    """Runs the steps; the name of the one that went wrong, or an empty string."""
    for number, (name, step) in enumerate(steps, 1):
        title(number, name)
        try:
            step(stage)
        except (Wrong, OSError, subprocess.SubprocessError) as error:
            sorry(str(error))
            return name
    return ""

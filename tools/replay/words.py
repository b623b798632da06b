"""Events and causes in words: what a person reads first of a record. Pure; bounds and escapes are `text`'s.

`EVENT` has an entry for every class of `domain.events.WIRE`; a test holds that.
"""

import signal
from collections.abc import Callable, Mapping
from typing import Any

from domain import events as e
from domain import recovery
from domain.records import Cause, Process
from tools.replay.text import count, printable, short, size

Words = Callable[[Any], str]

SOCKETS = {"daybook.sock": "the kubelet's socket", "admin.sock": "the admin socket"}
"""Who may use a socket is all that is known of the who (design: peers of grpc.aio have no pid)."""

ROWS: Mapping[str, tuple[str, str]] = {
    **{row[0]: (str(row[4]), row[5]) for row in recovery.CONTAINER_ROWS},
    **{row[0]: (str(row[4]), row[5]) for row in recovery.SANDBOX_ROWS},
    **{row[0]: (str(row[3]), row[4]) for row in recovery.IMAGE_ROWS},
}
"""Letter of a recovery row -> its verdict and its explanation."""


def event_words(event: Any) -> str:
    words = EVENT.get(type(event))
    return words(event) if words else ""


def cause_words(cause: Cause) -> str:
    """Who or what had the event appended, on one line."""
    led = f" (after {cause.led_by})" if cause.led_by else ""
    what = printable(cause.what, 80)
    match cause.kind:
        case "rpc":
            request = f" request {printable(cause.request, 80)}" if cause.request else ""
            return f"{what}{request}, {_client(cause)}{led}"
        case "due":
            return f"due: {what}{led}"
        case "effect":
            return f"outcome of {what}{led}"
        case "watch":
            return f"seen by {what}{led}"
        case "recovery" | "reconcile":
            return f"{cause.kind} {row_words(cause.what)}{led}".rstrip()
        case _:
            return f"{printable(cause.kind, 40)} {what}{led}".rstrip()


def asker_words(cause: Cause) -> str:
    """Who asked, before what was asked."""
    if cause.kind != "rpc":
        return cause_words(cause)
    request = f", request {printable(cause.request, 80)}" if cause.request else ""
    return f"{_client(cause)} ({printable(cause.what, 80)}{request})"


def _client(cause: Cause) -> str:
    name = cause.socket.rsplit("/", 1)[-1]
    socket = f" on {SOCKETS.get(name, printable(name, 80))}" if name else ""
    return f"{printable(cause.agent, 80) or 'a client'}{socket}"


def row_words(row: str) -> str:
    """`@K EXIT: gone (...)`; what is no row of the tables stays as it is."""
    verdict, why = ROWS.get(row, ("", ""))
    shown = printable(row, 40)
    return f"{shown} {verdict}{': ' if why else ''}{why}" if verdict else shown


def code_words(code: int) -> str:
    """An exit code and, where shells and the kernel mean a signal by it, which."""
    name = signal_name(code - 128)
    return f"code {code} ({name})" if name else f"code {code}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _process(process: Process | None) -> str:
    return f"pid {process.pid}" if process else "none"


def _binary(binary: e.Binary) -> str:
    parts = [binary.path, binary.version, f"({binary.package})" if binary.package else ""]
    return printable(" ".join(filter(None, parts)), 120)


def _then(then: str) -> str:
    return f", then {printable(then, 20)}" if then else ""


def failure_words(event: Any) -> str:
    """Class and text of a failure; some texts begin with the class's name already."""
    said = event.text.startswith(f"{event.error}:")
    return printable(event.text) if said else f"{printable(event.error, 40)}: {printable(event.text)}"


def _created(event: e.ContainerCreateRequested) -> str:
    config = event.config
    image = printable(config.user_specified_image or event.image_ref, 120)
    return f"{printable(config.name, 80)} (attempt {config.attempt}) of {image} in sandbox {fit_id(event.sandbox_id)}"


def fit_id(name: str) -> str:
    return printable(short(name), 80)


def _exited(event: e.ContainerExited) -> str:
    known = event.evidence.source != "none"
    parts = [code_words(event.code) if known else "code unknown", f"evidence: {printable(event.evidence.source, 40)}"]
    parts += ["out of memory"] if event.oom else []
    parts += [printable(event.text)] if event.text else []
    parts += [f"unreadable exit file: {printable(event.evidence.quote)}"] if event.evidence.quote else []
    return ", ".join(parts)


def _run(event: e.SandboxRunRequested) -> str:
    config = event.config
    handler = f", handler {printable(config.runtime_handler, 40)}" if config.runtime_handler else ""
    return f"{printable(config.namespace, 80)}/{printable(config.name, 80)} (attempt {config.attempt}){handler}"


def _source(event: e.ImagePullRequested) -> str:
    return f"from {printable(event.source)}" if event.source else ""


def _pulled(event: e.ImagePulled) -> str:
    return f"{fit_hash(event.image_id)}, {count(len(event.layers), 'layer')}, {size(event.size)}"


def fit_hash(digest: str) -> str:
    """`sha256:` and twelve digits."""
    algorithm, colon, value = digest.partition(":")
    return printable(f"{algorithm}:{short(value)}" if colon else digest, 80)


def _resources(event: Any) -> str:
    found = event.resources
    if found is None:
        return ""
    parts = {
        "cpu shares": found.cpu_shares,
        "cpu quota": found.cpu_quota,
        "memory limit": found.memory_limit_in_bytes,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value)


def _made(event: e.ContainerCreated) -> str:
    return f"init {_process(event.init)}, monitor {_process(event.monitor)}, {_binary(event.runtime)}"


def _daemon(event: e.NodeStarted) -> str:
    programs = f"{_binary(event.runtime)}, {_binary(event.monitor)}"
    return f"daybook {printable(event.version, 40)}, pid {event.pid}, {programs}"


def _nothing(_: Any) -> str:
    return ""


# fmt: off
EVENT: Mapping[type, Words] = {
    e.ContainerCreateRequested:   _created,
    e.ContainerAdjusted:          lambda ev: f"by {printable(ev.by, 80)}: {count(len(ev.changes), 'change')}",
    e.ContainerCreated:           _made,
    e.ContainerCreateFailed:      failure_words,
    e.ContainerCreateInterrupted: lambda ev: "the daemon died inside the create; id and name are kept for a retry",
    e.ContainerStartRequested:    _nothing,
    e.ContainerStarted:           lambda ev: f"OOM counter {ev.oom_kills}" if ev.oom_kills else "",
    e.ContainerStartFailed:       failure_words,
    e.ContainerStopRequested:     lambda ev: f"{printable(ev.signal, 40)}, grace {ev.grace_s} s{_then(ev.then)}",
    e.ContainerStopMoved:         lambda ev: f"grace now {ev.grace_s} s{_then(ev.then)}",
    e.ContainerExited:            _exited,
    e.ContainerOom:               lambda ev: f"the kernel's counter went from {ev.kills_at_start} to {ev.kills}",
    e.ContainerMonitorLost:       lambda ev: "conmon died: the exit code will be unknown",
    e.ContainerResourcesUpdated:  _resources,
    e.ContainerRemoveRequested:   _nothing,
    e.ContainerRemoved:           _nothing,
    e.SandboxRunRequested:        _run,
    e.SandboxNetworkSet:          lambda ev: f"addresses {printable(', '.join(ev.ips[:8])) or 'none'}",
    e.SandboxReady:               lambda ev: f"infra {_process(ev.infra)}" if ev.infra else "",
    e.SandboxRunFailed:           failure_words,
    e.SandboxDied:                lambda ev: printable(ev.text),
    e.SandboxStopRequested:       lambda ev: _then(ev.then)[2:],
    e.SandboxNetworkReleased:     _nothing,
    e.SandboxNetworkLeaked:       lambda ev: f"after {count(ev.attempts, 'attempt')}: {printable(ev.text)}",
    e.SandboxStopped:             _nothing,
    e.SandboxResourcesUpdated:    _resources,
    e.SandboxRemoveRequested:     _nothing,
    e.SandboxRemoved:             _nothing,
    e.ImagePullRequested:         lambda ev: _source(ev) or ("with credentials" if ev.access else ""),
    e.ImagePulled:                _pulled,
    e.ImagePullFailed:            failure_words,
    e.ImageRemoveRequested:       _nothing,
    e.ImageRemoved:               _nothing,
    e.ImageLost:                  lambda ev: printable(ev.text),
    e.NodeStarted:                _daemon,
    e.NodeStopped:                lambda ev: printable(ev.text),
    e.NodeAdopted:                lambda ev: printable(ev.text),
    e.QuarantineReleased:         lambda ev: printable(ev.key, 120),
}
# fmt: on

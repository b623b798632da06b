"""The lifecycle a second time, read from the prose: plain branches over strings, no table, nothing of `domain`.

It is naive on purpose. Where it and the tables of `domain` differ, one of them is wrong: look at the prose.
Events are wire names without their version, states and verdicts the words of the prose. Deviations that were decided
while building: a stopped sandbox is STOPPED, one that died NOTREADY; `wait` is a third answer besides already and join;
an interrupted create accepts a retry with any request hash; a name that is being removed is waited for; what a look
finds dead besides (a monitor at @G, the image before at a failed pull) is recorded with it, so that twice is once.
"""

from collections.abc import Mapping

ALIVE_STATES = ("CREATED", "STARTING", "RUNNING", "STOPPING")


# --- which event leads where -----------------------------------------------------------------------------------------


def container_next(state: str | None, event: str) -> str | None:
    """The state after the event, None where it cannot happen."""
    if event == "container.create_requested":
        return "CREATING" if state in (None, "INTERRUPTED") else None
    if state == "CREATING":
        if event == "container.adjusted":
            return "CREATING"
        if event == "container.created":
            return "CREATED"
        if event == "container.create_failed":
            return "REMOVING"
        if event == "container.create_interrupted":
            return "INTERRUPTED"
        return None
    if event == "container.start_requested":
        return "STARTING" if state == "CREATED" else None
    if event == "container.started":
        return "RUNNING" if state == "STARTING" else None
    if event == "container.start_failed":
        return "EXITED" if state == "STARTING" else None
    if event == "container.stop_requested":
        return "STOPPING" if state in ("CREATED", "STARTING", "RUNNING") else None
    if event == "container.stop_moved":
        return "STOPPING" if state == "STOPPING" else None
    if event == "container.exited":
        return "EXITED" if state in ALIVE_STATES else None
    if event == "container.oom":
        return state if state in ("RUNNING", "STOPPING") else None
    if event == "container.monitor_lost":
        return state if state in ("CREATED", "RUNNING", "STOPPING") else None
    if event == "container.resources_updated":
        return state if state in ("CREATED", "RUNNING") else None
    if event == "container.remove_requested":
        return "REMOVING" if state in ("CREATED", "INTERRUPTED", "EXITED") else None
    if event == "container.removed":
        return "REMOVED" if state == "REMOVING" else None
    return None


def sandbox_next(state: str | None, event: str) -> str | None:
    if event == "sandbox.run_requested":
        return "SETTING_UP" if state is None else None
    if event == "sandbox.network_set":
        return "SETTING_UP" if state == "SETTING_UP" else None
    if event == "sandbox.ready":
        return "READY" if state == "SETTING_UP" else None
    if event == "sandbox.run_failed":
        return "REMOVING" if state == "SETTING_UP" else None
    if event == "sandbox.died":
        return "NOTREADY" if state == "READY" else None
    if event == "sandbox.stop_requested":
        return "STOPPING" if state in ("SETTING_UP", "READY", "NOTREADY", "STOPPING") else None
    if event == "sandbox.network_released":
        return state if state in ("STOPPING", "STOPPED", "REMOVING") else None
    if event == "sandbox.network_leaked":
        return state if state in ("STOPPING", "REMOVING") else None
    if event == "sandbox.stopped":
        return "STOPPED" if state == "STOPPING" else None
    if event == "sandbox.resources_updated":
        return state if state in ("READY", "NOTREADY") else None
    if event == "sandbox.remove_requested":
        return "REMOVING" if state == "STOPPED" else None
    if event == "sandbox.removed":
        return "REMOVED" if state == "REMOVING" else None
    return None


def image_next(state: str | None, event: str, had_one: bool = False) -> str | None:
    """`had_one`: the reference meant an image before the pull."""
    if event == "image.pull_requested":
        return "PULLING" if state in (None, "ABSENT", "PRESENT") else None
    if event == "image.pulled":
        return "PRESENT" if state == "PULLING" else None
    if event == "image.pull_failed":
        if state != "PULLING":
            return None
        return "PRESENT" if had_one else "ABSENT"
    if event == "image.remove_requested":
        return "REMOVING" if state == "PRESENT" else None
    if event == "image.removed":
        return "ABSENT" if state == "REMOVING" else None
    if event == "image.lost":
        return {"PRESENT": "ABSENT", "PULLING": "PULLING"}.get(state or "")
    return None


# --- what is answered to a command -----------------------------------------------------------------------------------


def container_answer(state: str, command: str, same_hash: bool = True) -> str:
    """An event's name, `already`, `join`, `wait`, or `refuse <error>`."""
    if command == "CreateContainer":
        if state == "INTERRUPTED":
            return "container.create_requested"
        if state == "REMOVING":
            return "wait"
        if not same_hash:
            return "refuse NameTaken"
        if state == "CREATING":
            return "join"
        return "already" if state == "CREATED" else "refuse NameTaken"
    if command == "StartContainer":
        if state == "CREATED":
            return "container.start_requested"
        if state == "STARTING":
            return "join"
        return "refuse NotFound" if state == "INTERRUPTED" else "refuse WrongState"
    if command in ("StopContainer", "RemoveContainer"):
        return _stop_or_remove(state, removal=command == "RemoveContainer")
    return _container_report(state, command)


def _stop_or_remove(state: str, removal: bool) -> str:
    """Permitted in every state in progress. A removal of something alive is a stop first."""
    if state == "CREATING":
        return "container.create_failed"
    if removal and state in ("CREATED", "INTERRUPTED", "EXITED"):
        return "container.remove_requested"
    if removal and state == "REMOVING":
        return "join"
    if state in ("CREATED", "STARTING", "RUNNING"):
        return "container.stop_requested"
    if state == "STOPPING":
        return "container.stop_moved"
    return "already"


def _container_report(state: str, command: str) -> str:
    """Reports of effects and watchers: on time they are events, too late they are nothing."""
    event = {
        "RecordAdjusted": "container.adjusted",
        "RecordCreated": "container.created",
        "RecordCreateFailed": "container.create_failed",
        "RecordCreateInterrupted": "container.create_interrupted",
        "RecordStarted": "container.started",
        "RecordStartFailed": "container.start_failed",
        "RecordExit": "container.exited",
        "RecordOom": "container.oom",
        "RecordMonitorLost": "container.monitor_lost",
        "RecordContainerRemoved": "container.removed",
    }[command]
    if state == "STARTING" and command in ("RecordExit", "RecordMonitorLost"):
        return "wait"
    return event if container_next(state, event) else "already"


def sandbox_answer(state: str, command: str, same_hash: bool = True) -> str:
    if command == "RunSandbox":
        if state == "REMOVING":
            return "wait"
        if not same_hash:
            return "refuse NameTaken"
        if state == "SETTING_UP":
            return "join"
        return "already" if state == "READY" else "refuse NameTaken"
    if command == "StopSandbox":
        if state in ("SETTING_UP", "READY", "NOTREADY"):
            return "sandbox.stop_requested"
        return "join" if state == "STOPPING" else "already"
    if command == "RemoveSandbox":
        if state == "STOPPED":
            return "sandbox.remove_requested"
        return "join" if state == "REMOVING" else "sandbox.stop_requested"
    event = {
        "RecordNetworkSet": "sandbox.network_set",
        "RecordSandboxReady": "sandbox.ready",
        "RecordRunFailed": "sandbox.run_failed",
        "RecordSandboxDied": "sandbox.died",
        "RecordNetworkReleased": "sandbox.network_released",
        "RecordNetworkLeaked": "sandbox.network_leaked",
        "RecordSandboxStopped": "sandbox.stopped",
        "RecordSandboxRemoved": "sandbox.removed",
    }[command]
    return event if sandbox_next(state, event) else "already"


def image_answer(state: str, command: str) -> str:
    if command == "PullImage":
        if state in ("ABSENT", "PRESENT"):
            return "image.pull_requested"
        return "join" if state == "PULLING" else "wait"
    if command == "RemoveImage":
        if state == "PRESENT":
            return "image.remove_requested"
        return {"ABSENT": "already", "PULLING": "wait", "REMOVING": "join"}[state]
    event = {
        "RecordPulled": "image.pulled",
        "RecordPullFailed": "image.pull_failed",
        "RecordImageRemoved": "image.removed",
        "RecordImageLost": "image.lost",
    }[command]
    return event if image_next(state, event) else "already"


# --- what the CRI shows ----------------------------------------------------------------------------------------------


def container_view(state: str, ever_created: bool) -> str | None:
    if state in ("CREATING", "INTERRUPTED", "REMOVED"):
        return None
    if state == "REMOVING" and not ever_created:
        return None
    if state in ("CREATED", "STARTING"):
        return "CONTAINER_CREATED"
    return "CONTAINER_RUNNING" if state in ("RUNNING", "STOPPING") else "CONTAINER_EXITED"


def sandbox_view(state: str, ever_ready: bool) -> str | None:
    if state == "READY":
        return "SANDBOX_READY"
    if state in ("SETTING_UP", "REMOVED") or (state == "REMOVING" and not ever_ready):
        return None
    return "SANDBOX_NOTREADY"


# --- recovery --------------------------------------------------------------------------------------------------------

Verdict = tuple[str, str, tuple[str, ...]]
"""Row, verdict, names of the events."""


def recover_container(folded: str, task: str, monitor: str) -> Verdict:
    """`folded`: a state, NO_RECORD or QUARANTINED."""
    if folded == "QUARANTINED":
        return "@T", "HOLD", ()
    if task == "unreadable":
        return "@A", "HOLD", ()
    if folded == "NO_RECORD":
        return ("@B", "MATCH", ()) if task == "absent" else ("@C", "ORPHAN", ())
    if folded == "REMOVED":
        return ("@N", "MATCH", ()) if task == "absent" else ("@O", "ORPHAN", ())
    if folded in ("CREATING", "INTERRUPTED"):
        return "@D", "INTERRUPT", ("container.create_interrupted",) if folded == "CREATING" else ()
    if folded == "REMOVING":
        return "@M", "RESUME", ()
    if folded == "EXITED":
        if task == "running":
            return "@S", "CONTRADICTION", ()
        return ("@R", "RESUME", ()) if task == "created" else ("@L", "MATCH", ())
    if task == "stopped":
        return "@J", "EXIT", ("container.exited",)
    if task in ("absent", "other_pid"):
        return "@K", "EXIT", ("container.exited",)
    return _recover_living(folded, task, monitor)


def _recover_living(folded: str, task: str, monitor: str) -> Verdict:
    lost = ("container.monitor_lost",) if monitor == "dead" else ()
    if folded == "STARTING":
        if task == "created":
            return "@F", "UNDO", ("container.start_failed",)
        return "@G", "ADVANCE", ("container.started", *lost)
    if folded == "STOPPING":
        return "@I", "RESUME", lost
    if folded == "CREATED" and task == "running":
        return "@P", "CONTRADICTION", ("container.exited",)
    if folded == "RUNNING" and task == "created":
        return "@Q", "CONTRADICTION", ("container.exited",)
    if lost:
        return "@U", "MONITOR_LOST", lost
    return ("@E" if folded == "CREATED" else "@H"), "MATCH", ()


def exit_of(file: str, code: int) -> tuple[int, str]:
    """Code and evidence of an exit that recovery finds: `file` is code, garbage or absent."""
    return (code, "exit-file") if file == "code" else (255, "none")


def sandbox_is_whole(needs_namespace: bool, needs_infra: bool, namespace: str, infra: str) -> bool:
    if needs_namespace and namespace != "nsfs":
        return False
    return not (needs_infra and infra != "alive")


def recover_sandbox(folded: str, whole: bool, anything_left: bool, same_boot: bool) -> tuple[str, tuple[str, ...]]:
    """Verdict and events; the prose has no letters here. `anything_left`: namespace, file, infra, cache, directory."""
    if folded == "QUARANTINED":
        return "HOLD", ()
    if folded in ("NO_RECORD", "REMOVED"):
        return ("ORPHAN", ()) if anything_left else ("MATCH", ())
    if folded == "SETTING_UP":
        return ("RESUME", ()) if same_boot else ("RUN_FAILED", ("sandbox.run_failed",))
    if folded == "READY":
        return ("MATCH", ()) if whole and same_boot else ("DIED", ("sandbox.died",))
    if folded in ("STOPPING", "REMOVING"):
        return "RESUME", ()
    return "MATCH", ()


def recover_image(folded: str, store: str, held: str = "") -> tuple[str, tuple[str, ...]]:
    """`held`: what the store has of the image that the reference meant before its pull, empty where it meant none, or
    the very one that it means now."""
    if folded == "QUARANTINED":
        return "HOLD", ()
    if folded == "PULLING":
        lost = ("image.lost",) if held in ("incomplete", "absent") else ()
        if store == "complete":
            return "ADVANCE", (*lost, "image.pulled")
        return "PULL_FAILED", ("image.pull_failed", *lost)
    if folded == "PRESENT":
        return ("MATCH", ()) if store == "complete" else ("LOST", ("image.lost",))
    if folded == "REMOVING":
        return "RESUME", ()
    if folded == "NO_RECORD" and store != "absent":
        return "ORPHAN", ()
    return "MATCH", ()


# --- names and listing -----------------------------------------------------------------------------------------------


class Ledger:
    """Who holds which name, and what is listed, told only by the names of the events."""

    def __init__(self) -> None:
        self.names: dict[object, str] = {}
        self.hashes: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.reached: set[str] = set()
        self.exit_codes: dict[str, int] = {}

    def claim(self, key: str, name: object, request_hash: str) -> None:
        assert self.names.get(name, key) == key, f"{name} belongs to {self.names[name]}, yet {key} got it"
        self.names[name] = key
        self.hashes[key] = request_hash

    def saw(self, key: str, event: str) -> None:
        kind = key.split("/")[0]
        following = container_next if kind == "container" else sandbox_next
        state = following(self.states.get(key), event)
        assert state is not None, f"{event} cannot follow {self.states.get(key)}"
        self.states[key] = state
        if event in ("container.created", "sandbox.ready"):
            self.reached.add(key)
        if state == "REMOVED":
            del self.states[key]
            self.reached.discard(key)
            self.names = {name: held for name, held in self.names.items() if held != key}

    def listed(self) -> Mapping[str, str]:
        found = {}
        for key, state in self.states.items():
            view = container_view if key.startswith("container/") else sandbox_view
            if (shown := view(state, key in self.reached)) is not None:
                found[key] = shown
        return found

"""What a story comes to, in plain sentences: why it ended, on what evidence, or that nobody can know.

Rule: a sentence says what is on record or that it is not. Who sent a signal that is not ours is never guessed.
"""

from collections.abc import Iterator

from domain import events as e
from domain.container import Container
from domain.image import Image
from domain.lifecycle import ContainerState, ImageState, SandboxState
from domain.records import Record
from domain.sandbox import Sandbox
from tools.replay.story import Daemon, Story, elapsed
from tools.replay.text import instant, printable, size, span
from tools.replay.words import code_words, event_words, failure_words, fit_hash, row_words, signal_name

S, B, I = ContainerState, SandboxState, ImageState  # noqa: E741  (shorthand, as in the tables)

LATER_MAX = 5
KILLED_CODE = 128 + 9
EVIDENCE = {
    "exit-file": "evidence: the exit file that conmon left",
    "wait-status": "evidence: the wait status of the process",
    "start-error": "evidence: the runtime refused the start",
    "contradiction": "evidence: the runtime contradicts the log",
    "none": "evidence: none",
}


def conclusion(story: Story) -> list[str]:
    """The sentences, most important first."""
    held = list(_held(story, story.key))
    ended = list(_ended(story, story.key))
    return [*held, *(f"before record {_broken(story, story.key)}: {text}" for text in ended)] if held else ended


def headline(story: Story, key: str) -> str:
    """The first sentence on an aggregate of the story."""
    return next(iter([*_held(story, key), *_ended(story, key)]), "nothing is known of it")


def _broken(story: Story, key: str) -> int:
    """The first record of an aggregate that cannot be used; 0 where all can."""
    return next((s.record.seq for s in story.of(key) if s.problem or not isinstance(s.record, Record)), 0)


def _held(story: Story, key: str) -> Iterator[str]:
    """What a quarantine leaves: why, and what the records after it say, which count no more but can be read."""
    seq = _broken(story, key)
    if not seq:
        return
    steps = [step for step in story.of(key) if step.record.seq >= seq]
    why = steps[0].problem or getattr(steps[0].record, "why", "")
    yield f"unknown since record {seq}, which cannot be used: {printable(why)}"
    yield from _released(story, key) or ["quarantined: Daybook does nothing to it until a person decides"]
    for step in steps[1:][-LATER_MAX:]:
        if isinstance(step.record, Record):
            words = event_words(step.event)
            said = f"{step.record.wire.rsplit('/', 1)[0]}{': ' if words else ''}{words}"
            yield f"record {step.record.seq} can be read, but not relied on: {said}"


def _released(story: Story, key: str) -> list[str]:
    """A quarantine that a person ended."""
    given_up = [r for r in story.events(e.NODE_KEY, e.QuarantineReleased) if r.event.key == key]
    return [f"given up at {instant(r.at.wall_ns)} (record {r.seq}) by {story.asker(r)}" for r in given_up]


def _ended(story: Story, key: str) -> Iterator[str]:
    match story.last.get(key):
        case Container() as container:
            yield from _container(story, container, key)
        case Sandbox() as sandbox:
            yield from _sandbox(story, sandbox, key)
        case Image() as image:
            yield from _image(story, image, key)
        case _:
            yield "unknown: no record of it can be used"


# --- container -------------------------------------------------------------------------------------------------------


def _container(story: Story, known: Container, key: str) -> Iterator[str]:
    yield from _container_end(story, known, key)
    yield from _interruptions(story, key)
    yield from _removal(story, key, e.ContainerRemoveRequested, e.ContainerRemoved)


def _container_end(story: Story, known: Container, key: str) -> Iterator[str]:
    exits = story.events(key, e.ContainerExited)
    if exits:
        yield from _exit(story, known, exits[-1])
        return
    if refused := story.events(key, e.ContainerStartFailed):
        yield f"start failed: {_failure(refused[-1])}"
        yield from _by_row(story, refused[-1])
        return
    if not known.ever_created:
        yield from _create(story, known, key)
        return
    match known.state:
        case S.CREATED:
            yield "created, never started"
        case S.STARTING:
            yield f"its start is going on since {_when(story, key, e.ContainerStartRequested)}"
        case S.RUNNING:
            yield f"still running, since {instant(known.started_at)}"
        case S.STOPPING:
            yield "still being stopped"
            yield from _stop(story, key, None)
        case _:
            yield "removed before it was ever started" if not known.started_at else "removed"
    yield from _conditions(story, key)


def _create(story: Story, known: Container, key: str) -> Iterator[str]:
    if failed := story.events(key, e.ContainerCreateFailed):
        yield f"create failed: {_failure(failed[-1])}"
    elif known.state is S.CREATING:
        yield f"its creation is going on since {_when(story, key, e.ContainerCreateRequested)}"
    else:
        yield "never created: nobody asked again after its creation was interrupted"


def _interruptions(story: Story, key: str) -> Iterator[str]:
    requests = story.events(key, e.ContainerCreateRequested)
    for broken in story.events(key, e.ContainerCreateInterrupted):
        again = next((r for r in requests if r.seq > broken.seq), None)
        told = f"retried at {instant(again.at.wall_ns)} (record {again.seq})" if again else "not retried so far"
        yield f"create interrupted by the death of the daemon, found at record {broken.seq}; {told}"
        yield from _by_row(story, broken)


def _exit(story: Story, known: Container, exited: Record) -> Iterator[str]:
    event: e.ContainerExited = exited.event
    absent = _absence(story, exited)
    if event.evidence.source == "none":
        why = "the daemon was not running and no exit code was left" if absent else "no exit code was left"
        yield f"unknown: {why}{_cited(exited)}; found ended at {instant(event.at)}"
    elif event.evidence.source == "contradiction":
        yield f"unknown: {printable(event.text)}{_cited(exited)}"
    else:
        yield f"exited with {code_words(event.code)} at {instant(event.at)}{_after_start(known, event)}"
    yield from _oom(story, exited)
    yield from _stop(story, exited.key, exited)
    yield from _unasked(story, exited)
    yield EVIDENCE.get(event.evidence.source, f"evidence: {printable(event.evidence.source, 40)}")
    if event.evidence.quote:
        yield f"its exit file could not be read, it said: {printable(event.evidence.quote)}"
    if absent is not None:
        yield _absence_words(absent)
    yield from _by_row(story, exited)
    yield from _monitor(story, exited.key)


def _after_start(known: Container, event: e.ContainerExited) -> str:
    return f", {span(event.at - known.started_at)} after its start" if known.started_at else ", never started"


def _cited(record: Record) -> str:
    return f" (row {printable(record.cause.what, 20)})" if record.cause.what.startswith("@") else ""


def _by_row(story: Story, record: Record) -> Iterator[str]:
    if record.cause.what.startswith("@"):
        yield f"found by {printable(record.cause.kind, 20)}: {row_words(record.cause.what)}"


def _absence(story: Story, found: Record) -> Daemon | None:
    """The start of the daemon at which this was found, where it ended while no daemon was there to see it."""
    if found.cause.kind != "recovery":
        return None
    return next((d for d in reversed(story.daemons) if d.started.seq <= found.seq and d.since is not None), None)


def _absence_words(absent: Daemon) -> str:
    assert absent.since is not None
    how = "when it was stopped" if absent.left else "its last sign of life"
    since = f"{instant(absent.since.at.wall_ns)} (record {absent.since.seq}, {how})"
    boot = "; the machine was booted anew in between" if absent.rebooted else ""
    started = f"{instant(absent.started.at.wall_ns)} (record {absent.started.seq})"
    return f"the daemon was gone at some time between {since} and {started}{boot}"


def _oom(story: Story, exited: Record) -> Iterator[str]:
    counted = story.events(exited.key, e.ContainerOom)
    if counted:
        first: e.ContainerOom = counted[0].event
        last: e.ContainerOom = counted[-1].event
        yield f"OOM: the kernel's counter went from {first.kills_at_start} to {last.kills} (record {counted[-1].seq})"
    elif exited.event.oom:
        yield "OOM: it was killed for want of memory, by the kernel's own log or conmon's note"


def _stop(story: Story, key: str, exited: Record | None) -> Iterator[str]:
    asked = story.events(key, e.ContainerStopRequested)
    if not asked:
        return
    first = asked[-1]
    event: e.ContainerStopRequested = first.event
    yield (
        f"stop asked at {instant(first.at.wall_ns)} (record {first.seq}) by {story.asker(first)}: "
        f"{printable(event.signal, 40)}, grace {event.grace_s} s"
    )
    moved = story.events(key, e.ContainerStopMoved)
    for each in moved:
        yield f"stop moved at {instant(each.at.wall_ns)} by {story.asker(each)}: grace {each.event.grace_s} s"
    for daemon in story.daemons:
        if first.seq < daemon.started.seq and (exited is None or daemon.started.seq < exited.seq):
            yield f"the daemon was started anew during the stop (record {daemon.started.seq}); the deadline stayed"
    if exited is not None:
        yield _stop_end(first, (moved or asked)[-1], exited)


def _stop_end(first: Record, newest: Record, exited: Record) -> str:
    """How the end lies to the deadline: by boot time, unless nobody watched or the machine was booted anew."""
    deadline: e.Deadline = newest.event.deadline
    took = elapsed(first, exited)
    if exited.cause.kind == "recovery":
        took = exited.event.at - first.at.wall_ns
        late = took >= newest.event.grace_s * 10**9
    else:
        late = deadline.boot_id != exited.at.boot_id or exited.at.boot_ns >= deadline.boot_ns
    if exited.event.evidence.source == "none":
        return f"whether the stop ended it is unknown; it was found ended {span(took)} after the stop was asked for"
    killed, when = exited.event.code == KILLED_CODE, f"{span(took)} after the stop was asked for"
    if late:
        return f"{'killed' if killed else 'ended'} {when}: the grace was over, SIGKILL was due"
    strange = "; Daybook sends SIGKILL only after the grace, so who sent it is unknown" if killed else ""
    return f"ended {when}, within its grace{strange}"


def _unasked(story: Story, exited: Record) -> Iterator[str]:
    """An end by a signal that Daybook was not asked to send."""
    if story.events(exited.key, e.ContainerStopRequested) or exited.event.evidence.source != "exit-file":
        return
    name = signal_name(exited.event.code - 128)
    if not name:
        yield "nobody asked Daybook to stop it"
    elif exited.event.oom:
        yield f"nobody asked Daybook to stop it; {name} fits the out-of-memory kill"
    else:
        yield f"nobody asked Daybook to stop it; the code means {name}, who sent it is unknown"


def _conditions(story: Story, key: str) -> Iterator[str]:
    counted = story.events(key, e.ContainerOom)
    if counted:
        last = counted[-1]
        yield f"the kernel killed a process in it: its OOM counter stands at {last.event.kills} (record {last.seq})"
    yield from _monitor(story, key)


def _monitor(story: Story, key: str) -> Iterator[str]:
    for lost in story.events(key, e.ContainerMonitorLost):
        when = f"{instant(lost.event.at)} (record {lost.seq})"
        yield f"its monitor conmon was lost at {when}: no exit code, no log lines since"


# --- sandbox ---------------------------------------------------------------------------------------------------------


def _sandbox(story: Story, known: Sandbox, key: str) -> Iterator[str]:
    yield from _sandbox_end(story, known, key)
    for asked in story.events(key, e.SandboxStopRequested):
        yield f"stop asked at {instant(asked.at.wall_ns)} (record {asked.seq}) by {story.asker(asked)}"
    for leaked in story.events(key, e.SandboxNetworkLeaked):
        yield f"its network could not be released: {printable(leaked.event.text)} (record {leaked.seq})"
    yield from _removal(story, key, e.SandboxRemoveRequested, e.SandboxRemoved)


def _sandbox_end(story: Story, known: Sandbox, key: str) -> Iterator[str]:
    if failed := story.events(key, e.SandboxRunFailed):
        yield f"set-up failed: {_failure(failed[-1])}"
        yield from _by_row(story, failed[-1])
    elif died := story.events(key, e.SandboxDied):
        yield f"died, seen at {instant(died[-1].event.at)}: {printable(died[-1].event.text)}"
        yield from _by_row(story, died[-1])
        if (absent := _absence(story, died[-1])) is not None:
            yield _absence_words(absent)
    elif known.state is B.SETTING_UP:
        yield f"its set-up is going on since {_when(story, key, e.SandboxRunRequested)}"
    elif known.state is B.READY:
        yield f"still running, ready since {_when(story, key, e.SandboxReady)}"
    elif known.state is B.STOPPING:
        yield "still being stopped"
    else:
        yield "stopped on request" if known.ready else "stopped on request before it was ready"


# --- image -----------------------------------------------------------------------------------------------------------


def _image(story: Story, known: Image, key: str) -> Iterator[str]:
    match known.state:
        case I.PULLING:
            yield f"its pull is going on since {_when(story, key, e.ImagePullRequested)}"
        case I.REMOVING:
            yield f"its removal is going on since {_when(story, key, e.ImageRemoveRequested)}"
        case I.PRESENT if known.held is not None:
            held = f"{fit_hash(known.held.image_id)}, {size(known.held.size)}"
            yield f"present since {_when(story, key, e.ImagePulled)}: {held}"
        case _:
            yield "not present"
    last = story.events(key, e.ImagePullFailed, e.ImageLost, e.ImageRemoveRequested, e.ImagePulled)[-1:]
    for record in last:
        yield from _image_end(story, record)
    for pulled in story.events(key, e.ImagePullRequested)[-1:]:
        yield f"the last pull was asked at {instant(pulled.at.wall_ns)} (record {pulled.seq}) by {story.asker(pulled)}"


def _image_end(story: Story, record: Record) -> Iterator[str]:
    match record.event:
        case e.ImagePullFailed():
            yield f"the last pull failed: {_failure(record)}"
        case e.ImageLost():
            yield f"lost: {printable(record.event.text)} (record {record.seq})"
        case e.ImageRemoveRequested():
            yield f"removal asked at {instant(record.at.wall_ns)} (record {record.seq}) by {story.asker(record)}"
    yield from _by_row(story, record)


# --- shared ----------------------------------------------------------------------------------------------------------


def _removal(story: Story, key: str, asked: type, done: type) -> Iterator[str]:
    for removed in story.events(key, done)[-1:]:
        by = next(iter(story.events(key, asked)[-1:]), removed)
        yield f"removed at {instant(removed.at.wall_ns)} (record {removed.seq}), asked by {story.asker(by)}"


def _failure(record: Record) -> str:
    return f"{failure_words(record.event)} (record {record.seq})"


def _when(story: Story, key: str, kind: type) -> str:
    found = story.events(key, kind)
    return f"{instant(found[-1].at.wall_ns)} (record {found[-1].seq})" if found else "an unknown time"

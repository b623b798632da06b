"""`replay check`: whether the log is as it was written, fits the tables, and never led to a state that must not be."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from adapters.log.checkpoint import digest
from domain import effects as f
from domain import events as e
from domain.due import due
from domain.fold import Replayed, fold
from domain.node import SCHEMA, Node
from domain.records import Head, Record
from tools.replay.judge import Judge
from tools.replay.names import Names
from tools.replay.text import fit, instant, line, plain, printable, short
from tools.replay.walk import Found, Log, Step, Walk, misplaced

PROBLEMS_MAX = 1000
PROBLEMS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """`kind`: record (bytes, chain, gap, payload), index, version, fit (no such row), invariant, checkpoint."""

    seq: int
    key: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Open:
    """What an aggregate owed at the head, and since when."""

    key: str
    state: str
    effect: str
    seq: int
    at_ns: int


@dataclass(slots=True)
class Report:
    log_id: str
    head: Head
    records: int = 0
    problems: list[Problem] = field(default_factory=list)
    found: int = 0
    open: list[Open] = field(default_factory=list)
    checkpoint: str = ""
    names: Names = field(default_factory=Names)

    @property
    def sound(self) -> bool:
        return not self.found

    def add(self, problem: Problem) -> None:
        self.found += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


@dataclass(slots=True)
class Checker:
    """`take` every record in order. `since`: the record that brought each aggregate into its state."""

    report: Report
    walk: Walk = field(default_factory=Walk)
    judge: Judge = field(default_factory=Judge)
    since: dict[str, tuple[int, int]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def take(self, record: Found) -> None:
        quarantined = record.key in self.walk.node.quarantined
        step = self.walk.take(record)
        self.report.records += 1
        for kind, text in self._objections(step, quarantined):
            self.report.add(Problem(record.seq, record.key, kind, text))
        for text in self.judge.after(self.walk.node, step):
            self.report.add(Problem(record.seq, record.key, "invariant", text))
        if step.transition and step.transition[0] != step.transition[1] and isinstance(record, Record):
            self.since[record.key] = (record.seq, record.at.wall_ns)
        if step.after is None:
            self.since.pop(record.key, None)

    def _objections(self, step: Step, quarantined: bool) -> Iterator[tuple[str, str]]:
        record = step.record
        if not isinstance(record, Record):
            yield "record", record.why
            return
        expected = self.versions.get(record.key, 0) + 1
        self.versions[record.key] = record.version
        if record.version != expected and not quarantined:
            yield "version", f"it is event {record.version} of its aggregate, {expected} was due"
        if misplaced(record) or (step.problem and not quarantined):
            yield "fit", misplaced(record) or step.problem

    def finish(self) -> Iterator[Open]:
        """The whole node once more, and what is in progress."""
        node, seq = self.walk.node, self.walk.done.seq
        for text in self.judge.whole(node):
            self.report.add(Problem(seq, "", "invariant", text))
        for key in sorted(self.since):
            try:
                owed = due(node, key).effect
            except (KeyError, AttributeError, AssertionError) as error:
                self.report.add(Problem(seq, key, "fit", f"what it owes cannot be told ({error})"))
                continue
            if owed is not None and not isinstance(owed, f.QUIET):
                yield Open(key, _state(node, key), type(owed).__name__, *self.since[key])


def _state(node: Node, key: str) -> str:
    kind, name = e.split_key(key)
    group: Any = {"sandbox": node.sandboxes, "container": node.containers, "image": node.images}[kind]
    return str(group[name].state)


def check(log: Log) -> Report:
    """Reads the log twice, three times where it has a checkpoint."""
    report = Report(log.log_id, log.head())
    checker = Checker(report, Walk(names=report.names))
    saved = log.load_checkpoint(SCHEMA)
    at_checkpoint = _take_all(checker, log.read(), saved[0] if saved else None)
    report.open = list(checker.finish())
    known = {(problem.seq, problem.text) for problem in report.problems}
    for wrong in log.verify():
        if (wrong.seq, wrong.why) not in known:
            report.add(Problem(wrong.seq, wrong.key, "index" if "index" in wrong.why else "record", wrong.why))
    report.checkpoint = _checkpoint(report, log, saved, at_checkpoint, checker.walk.done)
    return report


def _take_all(checker: Checker, records: Iterable[Found], saved: int | None) -> bytes | None:
    """The digest of the node as it was at the checkpoint's sequence; None where it cannot be compared."""
    at_checkpoint = _digest(checker.walk) if saved == 0 else None
    for record in records:
        checker.take(record)
        if record.seq == saved:
            at_checkpoint = _digest(checker.walk)
    return at_checkpoint


def _digest(walk: Walk) -> bytes | None:
    return digest(walk.node.snapshot()) if walk.done.whole else None


def _checkpoint(report: Report, log: Log, saved: Any, at_checkpoint: bytes | None, full: Replayed) -> str:
    if saved is None:
        return "none that fits this log and this version of daybook"
    seq, kept = saved
    if at_checkpoint is None:
        return f"at record {seq}: not compared, the records up to it cannot all be used"
    if digest(kept) != at_checkpoint:
        report.add(Problem(seq, "", "checkpoint", "the checkpoint differs from the replay of the records up to it"))
        return f"at record {seq}: differs from the replay"
    tail = fold(log.read(after=seq), Replayed(Node.restore(kept), seq))
    if full.whole and digest(tail.node.snapshot()) != digest(full.node.snapshot()):
        report.add(Problem(full.seq, "", "checkpoint", "checkpoint and tail differ from the full replay"))
        return f"at record {seq}: with the tail it differs from the replay"
    return f"at record {seq}: agrees with the replay ({at_checkpoint.hex()})"


# --- how it looks ----------------------------------------------------------------------------------------------------


def text_of(report: Report) -> Iterator[str]:
    yield line(f"log {printable(report.log_id)}")
    yield f"head: record {report.head.seq}, hash {report.head.hash.hex()}"
    yield f"records: {report.records} read, invariants held against the node after each"
    yield f"checkpoint {report.checkpoint}"
    yield f"in progress at the head: {len(report.open)}"
    for each in report.open:
        since = f"since {instant(each.at_ns)} (record {each.seq})"
        yield line(f"  {_who(each.key, report.names)}  {each.state}, owes {each.effect} {since}")
    yield f"problems: {report.found}"
    for problem in report.problems[:PROBLEMS_SHOWN]:
        yield line(
            f"  record {problem.seq}  {problem.kind}  {_who(problem.key, report.names)}  {printable(problem.text)}"
        )
    if report.found > PROBLEMS_SHOWN:
        yield f"  and {report.found - PROBLEMS_SHOWN} more"


def _who(key: str, names: Names) -> str:
    kind, name = e.split_key(key)
    called = names.of(key)
    if kind == "image" or not key:
        return fit(key or "-", 80)
    return fit(f"{kind}/{short(name)}" if name else kind, 40) + (f" {fit(called, 60)}" if called else "")


def value_of(report: Report) -> dict[str, Any]:
    return {
        "log": plain(report.log_id),
        "head": {"seq": report.head.seq, "hash": report.head.hash.hex()},
        "records": report.records,
        "sound": report.sound,
        "found": report.found,
        "problems": [plain(problem) for problem in report.problems],
        "open": [plain(each) | {"name": plain(report.names.of(each.key))} for each in report.open],
        "checkpoint": report.checkpoint,
    }

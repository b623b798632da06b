"""The command on real logs: beside a writer, on a copy, on what is no log; exit status; nothing is written."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.log.lmdb_log import LmdbLog
from adapters.log.store import open_writing
from domain.config import ContainerConfig
from domain.events import container_key, sandbox_key
from domain.node import AGGREGATES, SCHEMA
from domain.records import Cause, Now, Record
from tests.support import histories
from tests.support.histories import CONTAINER, SANDBOX
from tests.unit.domain import builders as b
from tools.replay import cli, listing
from tools.replay.cli import OK, PROBLEMS, UNREADABLE, main
from tools.replay.names import Names, Unresolved

ROOT = Path(__file__).parents[3]
COMMANDS = (["log"], ["state"], ["state", CONTAINER], ["why", "nginx"], ["why", SANDBOX[:6]], ["check"])
WRITER = """
import sys, time
from adapters.log.lmdb_log import LmdbLog
from domain.events import NodeStopped
from domain.records import Cause, Draft, Now
log = LmdbLog(sys.argv[1], ballast_bytes=0, map_bytes=2**26)
end, version = time.monotonic() + 20, 0
print("writing", flush=True)
while time.monotonic() < end:
    version += 1
    log.append_sync([Draft("node", version, NodeStopped("x" * 300))], Cause("admin", "test"), Now(1, version, "boot"))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    log = LmdbLog(tmp_path / "log", aggregates=AGGREGATES, ballast_bytes=0, map_bytes=2**24)
    made = histories.clean_life(log)
    log.save_checkpoint(log.head().seq, SCHEMA, made.node.snapshot())
    log.close()
    return tmp_path / "log"


def state_of(directory: Path) -> dict[str, Any]:
    files = [directory, *sorted(directory.iterdir())]
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_size, path.is_file() and digest(path)) for path in files
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: "-".join(each)[:20])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_copy_is_not_touched(
    directory: Path, arguments: list[str], form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = state_of(directory)
    assert main([arguments[0], "--log", str(directory), "--copy", *form, *arguments[1:]]) == OK
    assert state_of(directory) == before
    out = capsys.readouterr().out
    assert out.endswith("\n")
    for line in out.splitlines() if form else ():
        json.loads(line)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: "-".join(each)[:20])
def test_a_log_at_rest_is_read_where_it_is(
    directory: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([arguments[0], "--log", str(directory), *arguments[1:]]) == OK
    live = capsys.readouterr().out
    assert main([arguments[0], "--log", str(directory), "--copy", *arguments[1:]]) == OK
    assert capsys.readouterr().out == live


def test_a_copy_can_be_read_only(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in directory.iterdir():
        path.chmod(0o400)
    directory.chmod(0o500)
    try:
        assert main(["check", "--log", str(directory), "--copy"]) == OK
    finally:
        directory.chmod(0o700)
    assert "agrees with the replay" in capsys.readouterr().out


def test_a_log_that_is_being_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "log"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        lengths, end = [0], time.monotonic() + 15
        while time.monotonic() < end and (len(lengths) < 8 or lengths[-1] < 50):
            assert main(["log", "--log", str(directory), "--json"]) == OK
            found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
            assert not [each for each in found if "unreadable" in each]
            lengths.append(len(found))
        assert lengths == sorted(lengths) and len(set(lengths)) > 2
        assert writer.poll() is None
        assert main(["check", "--log", str(directory)]) == OK
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("copy", [[], ["--copy"]], ids=["live", "copy"])
def test_what_is_no_log_is_not_read(tmp_path: Path, copy: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.mdb").write_bytes(b"\0" * 9000)
    (tmp_path / "lock.mdb").write_bytes(b"")
    for directory in (tmp_path, tmp_path / "absent"):
        assert main(["check", "--log", str(directory), *copy]) == UNREADABLE
        said = capsys.readouterr()
        assert said.err.startswith("daybook replay: cannot ")
        assert not said.out
    assert not (tmp_path / "absent").exists()


def test_an_empty_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LmdbLog(tmp_path / "log", ballast_bytes=0, map_bytes=2**24).close()
    for command in (["log"], ["state"], ["check"]):
        assert main([*command, "--log", str(tmp_path / "log")]) == OK
    assert main(["why", "x", "--log", str(tmp_path / "log")]) == PROBLEMS
    assert "the log knows no sandbox, container or image x" in capsys.readouterr().err


def test_check_says_by_its_status_that_something_is_wrong(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_writing(directory, 2**24)
    with store.begin() as txn:
        txn.delete((9).to_bytes(8, "big"), db=store._db[b"records"])
    store.close()
    assert main(["check", "--log", str(directory), "--copy"]) == PROBLEMS
    assert "record 9  record  container/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["why", "sidecar"], "the log knows no sandbox, container or image sidecar"),
        (["why", "\x1b[2J"], r"the log knows no sandbox, container or image \x1b[2J"),
        (["state", "--at", "999"], "the log ends at record 20"),
    ],
)
def test_what_is_not_there(directory: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([arguments[0], "--log", str(directory), *arguments[1:]]) == PROBLEMS
    assert capsys.readouterr().err == f"daybook replay: {why}\n"


def test_a_name_that_may_mean_several(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log", ballast_bytes=0, map_bytes=2**24)
    histories.in_progress(log)
    log.close()
    assert main(["why", "c", "--log", str(tmp_path / "log")]) == PROBLEMS
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "daybook replay: c may mean 2 aggregates, give an id:"
    assert [line.split()[-1] for line in lines[1:]] == ["default/web-0/nginx", "default/web-0/sidecar"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["log", "--since", "-1"],
        ["log", "--since", "soon"],
        ["log", "--since", "-5y"],
        ["log", "--kind", "pod"],
        ["plan"],
    ],
)
def test_arguments_that_mean_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        cli.sys, "stdout", type("Out", (), {"encoding": "ascii", "write": staticmethod(written.append)})
    )
    cli._write("müde")
    assert written == ["m\\xfcde\n"]


def test_the_module_is_a_command_and_ends_quietly_when_nobody_reads(directory: Path) -> None:
    command = f"{sys.executable} -m tools.replay log --log {directory} --copy | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith(" 1  2026-09-21T14:13:20.000Z  node")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "seqs"),
    [
        (["--since", "18"], [18, 19, 20]),
        (["--since", "3", "--until", "4"], [3, 4]),
        (["--kind", "image"], [2, 3]),
        (["--kind", "node", "--limit", "1"], [1]),
        (["--id", "5a5a"], [4, 5, 6, 15, 16, 17, 18, 19]),
        (["--id", "container/c0"], list(range(7, 15))),
        (["--wire", "container.exited"], [12]),
        (["--wire", "container.exited/1"], [12]),
        (["--wire", "container.exited/2"], []),
        (["--limit", "2"], [1, 2]),
        (["--until", "2026-09-21T14:13:20Z", "--limit", "1"], [1]),
        (["--until", "2026-09-21T14:13:19"], []),
        (["--since", "2026-09-21T15:13:20+01:00", "--until", "2"], [1, 2]),
        (["--since", "2027-01-01"], []),
        (["--until", "-1d", "--kind", "image"], [2, 3]),
        (["--since", "-10m"], []),
    ],
)
def test_filters(directory: Path, arguments: list[str], seqs: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "--log", str(directory), "--copy", "--json", *arguments]) == OK
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == seqs


@pytest.mark.parametrize("first", [True, False])
def test_options_go_before_the_command_as_well(
    directory: Path, first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--log", str(directory), "--copy", "--json"]
    assert main([*options, "log", "--limit", "1"] if first else ["log", "--limit", "1", *options]) == OK
    assert json.loads(capsys.readouterr().out)["seq"] == 1
    assert main(["--log", "/nonexistent", "log", "--limit", "1", *options]) == OK, "the later one counts"


def test_why_without_an_id_lists_what_ended_last(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "--log", str(directory), "--copy"]) == OK
    (told,) = capsys.readouterr().out.splitlines()
    assert told.lstrip().startswith("12 ") and "container.exited" in told


def test_what_ended_last_is_bounded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    records = list(histories.clean_life().log.read())
    ended = next(record for record in records if "exited" in getattr(record, "wire", ""))
    told = list(listing.endings([*records, *[ended] * 30], Names(), 20))
    assert told == [ended] * 20


def named(*attempts: tuple[str, str, int]) -> Names:
    """Containers (id, name, attempt) of one pod, in this order, by a clock that runs backwards."""
    names = Names()
    cause = Cause("cri", "test")
    asked = [(sandbox_key("s"), b.run_requested(name="web"))]
    asked += [
        (container_key(key), replace(b.create_requested(box="s"), config=ContainerConfig(name, attempt=at)))
        for key, name, at in attempts
    ]
    for seq, (key, event) in enumerate(asked, 1):
        names.learn(Record(seq, Now(10**18 - seq * 10**9, seq, "boot"), key, 1, "", event, cause, b"", 0))
    return names


def test_of_attempts_the_newest_is_meant_and_the_others_are_told() -> None:
    names = named(("aa", "app", 0), ("bb", "app", 1), ("cc", "app", 2), ("dd", "db", 0))
    key, others = names.newest("default/web/app")
    assert key == container_key("cc")
    assert others.startswith("default/web/app: the newest of 3, attempt 2 (cc, asked for 2001-09-09T01:46:36")
    assert others.index("attempt 2 (cc") < others.index("attempt 1 (bb") < others.index("attempt 0 (aa")
    assert names.newest("default/web/app/1") == (container_key("bb"), "") == (names.resolve("app/1"), "")
    assert names.newest("db") == (container_key("dd"), "")
    for wrong in ("default/web/app/3", "default/web/app/", "/0", "app/01"):
        with pytest.raises(Unresolved, match="knows no"):
            names.newest(wrong)


def test_different_things_of_one_name_are_no_attempts() -> None:
    names = named(("aa", "app", 0), ("ab", "db", 1))
    with pytest.raises(Unresolved, match="may mean 2"):
        names.newest("a")
    many = named(*[(f"a{n}", "app", n) for n in range(30)])
    assert many.newest("app")[1].endswith(" and 19 more")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["log", "--since", "yesterday"], "write 42, 2026-11-22T17:09, -10m"),
        (["log", "--until", "99999-01-01"], "write 42, 2026-11-22T17:09, -10m"),
        (["log", "--since", "9" * 30], "like 42"),
        (["log", "--limit", "x"], "like 42"),
        (["state", "--at=-1"], "like 42"),
    ],
)
def test_wrong_arguments_name_the_valid_forms(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert why in said and "_bound" not in said and "_sequence" not in said

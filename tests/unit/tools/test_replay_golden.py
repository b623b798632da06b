"""What `replay` prints of each history, word for word: people will paste it. `GOLDEN=write` writes the files anew."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.log import store
from adapters.log.lmdb_log import LmdbLog
from adapters.log.record import Entry, lay, unpack
from domain.node import AGGREGATES
from domain.records import Head
from tests.support import histories
from tests.support.histories import CONTAINER, SANDBOX, History
from tools.replay.cli import answer, main, parser
from tools.replay.names import Unresolved

GOLDEN = Path(__file__).parents[2] / "golden" / "replay"
TEXT = (["log"], ["state"], ["why", "default/web-0/nginx"], ["why", "web-0"], ["check"])
ASKED: dict[str, tuple[list[str], ...]] = {
    "failed_pull": (["log"], ["state"], ["why", "docker.io"], ["check"]),
    "hostile": (
        ["log"],
        ["state"],
        ["state", CONTAINER],
        ["state", SANDBOX],
        ["why", CONTAINER],
        ["why", SANDBOX],
        ["check"],
    ),
    "in_progress": (
        *TEXT,
        ["state", "--at", "9"],
        ["state", CONTAINER, "--at", "8"],
        ["why", "c1"],
        ["why", "redis:7"],
    ),
}
JSON = (
    ("clean_life", ["why", "nginx"]),
    ("exit_unknown", ["why", "nginx"]),
    ("in_progress", ["state"]),
    ("in_progress", ["check"]),
    ("hostile", ["state", CONTAINER]),
)


def said(log: Any, *arguments: str) -> tuple[list[str], int]:
    lines: list[str] = []
    try:
        status = answer(parser().parse_args(arguments), log, lines.append)
    except Unresolved as unresolved:
        return str(unresolved).splitlines(), 1
    return lines, status


def session(log: Any, asked: tuple[list[str], ...]) -> str:
    """Commands and answers, as a terminal would show them."""
    parts = []
    for arguments in asked:
        lines, status = said(log, *arguments)
        parts.append(f"$ daybook replay {' '.join(arguments)}\n" + "\n".join(lines) + f"\n[{status}]\n")
    return "\n".join(parts)


def hold(name: str, text: str) -> None:
    """Compares with the golden file, or writes it."""
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: GOLDEN=write pytest {__file__}"
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", histories.ALL)
def test_text(name: str) -> None:
    hold(f"{name}.txt", session(histories.ALL[name]().log, ASKED.get(name, TEXT)))


@pytest.mark.parametrize(("name", "arguments"), JSON, ids=[f"{name}-{asked[0]}" for name, asked in JSON])
def test_json(name: str, arguments: list[str]) -> None:
    (line,), _ = said(histories.ALL[name]().log, arguments[0], "--json", *arguments[1:])
    assert line.isascii()
    hold(f"{name}.{arguments[0]}.json", json.dumps(json.loads(line), indent=1) + "\n")


def test_log_as_json_lines() -> None:
    lines, _ = said(histories.exit_unknown().log, "log", "--json")
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 14))
    hold("exit_unknown.log.json", "\n".join(lines[-3:]) + "\n")


def test_a_broken_chain() -> None:
    log = histories.clean_life().log
    old = unpack(log.store.records[10])
    entry = Entry(old.key, old.version, old.wire, b"\x81\xa2at\x63")
    log.store.records[10] = lay(Head(9, old.link), [entry], old.cause, old.at)[0][0]
    hold("broken_chain.txt", session(log, (["why", "nginx"], ["check"])))


def test_missing_records() -> None:
    log = histories.clean_life().log
    for seq in (8, 9):
        del log.store.records[seq]
    hold("missing_records.txt", session(log, (["log", "--since", "6", "--until", "11"], ["check"])))


def test_a_flipped_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(store, "uuid4", lambda: type("Id", (), {"hex": "f" * 32}))
    directory = lmdb_history(tmp_path, histories.exit_while_down)
    flip(directory, 9)
    text = ""
    for asked in (["log"], ["state"], ["why", "nginx"], ["why", "web-0"], ["check"]):
        status = main([asked[0], "--log", str(directory), "--copy", *asked[1:]])
        text += f"$ daybook replay {' '.join(asked)}\n{capsys.readouterr().out}[{status}]\n\n"
    hold("quarantined.txt", text)


def lmdb_history(directory: Path, made: Callable[[Any], History]) -> Path:
    log = LmdbLog(directory / "log", aggregates=AGGREGATES, ballast_bytes=0, map_bytes=2**24)
    made(log)
    log.close()
    return directory / "log"


def flip(directory: Path, seq: int) -> None:
    """One bit of one record, in every copy of it that LMDB's file holds."""
    log = LmdbLog(directory, ballast_bytes=0, map_bytes=2**24)
    row = log.store.row(seq)
    log.close()
    assert row is not None
    path = directory / "data.mdb"
    data = path.read_bytes()
    assert row in data
    path.write_bytes(data.replace(row, row[:-20] + bytes([row[-20] ^ 1]) + row[-19:]))

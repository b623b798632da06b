"""The rendered tables: complete, fresh in README, written between the markers and nowhere else."""

from itertools import pairwise
from pathlib import Path

import pytest

from domain import events as e
from domain import lifecycle as t
from domain import recovery as r
from tools.lifecycle import BEGIN, END, main, objection, render, replaced
from tools.tidy import ROOT


def test_readme_tables_are_fresh() -> None:
    assert not (why := objection(ROOT / "README.md")), why


def test_every_row_state_and_command_is_there() -> None:
    text = render()
    for rows in (t.CONTAINER_TRANSITIONS, t.SANDBOX_TRANSITIONS, t.IMAGE_TRANSITIONS):
        assert all(f"`{e.short_name(row[1])}`" in text and row[3] in text for row in rows)
    for permitted in (t.CONTAINER_PERMITTED, t.SANDBOX_PERMITTED, t.IMAGE_PERMITTED):
        assert all(f"| {command.__name__} |" in text for _, command in permitted)
        assert all(cell.why in text for cell in permitted.values() if isinstance(cell, t.Refuse))
    for recovery in (r.CONTAINER_ROWS, r.SANDBOX_ROWS, r.IMAGE_ROWS):
        assert all(f"| {row[0]} |" in text and row[-1] in text for row in recovery)


def test_tables_are_rectangular() -> None:
    lines = render().splitlines()
    for before, after in pairwise(lines):
        if before.startswith("|") and after.startswith("|"):
            assert before.count("|") == after.count("|")


def test_every_change_of_state_is_an_arrow() -> None:
    text = render()
    assert text.count("stateDiagram-v2") == 3
    assert "    STARTING --> EXITED: start_failed, exited" in text
    assert "    PULLING --> PRESENT: pulled, pull_failed" in text
    assert "RUNNING --> RUNNING" not in text


def test_sets_of_states_are_told_shortly() -> None:
    assert "| @A | any | unreadable | any | HOLD |" in render()
    assert "| @M | REMOVING | any but unreadable | any | RESUME |" in render()


def test_only_what_is_between_the_markers_changes(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert "stale" in objection(path)
    assert main(["--write", str(path)]) == 0
    assert path.read_text() == f"before\n{BEGIN}\n{render()}{END}\nafter\n" == replaced(path.read_text())
    assert not objection(path)


@pytest.mark.parametrize("text", ["no markers", BEGIN, f"{END} {BEGIN}"])
def test_a_file_without_markers_is_left_alone(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    assert "add both lines" in objection(path)
    assert main(["--write", str(path)]) == 1
    assert path.read_text() == text
    assert BEGIN in capsys.readouterr().err


def test_a_missing_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing" in objection(tmp_path / "README.md")
    assert main(["--write", str(tmp_path / "README.md")]) == 1


def test_without_arguments_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == render()

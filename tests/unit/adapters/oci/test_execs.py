"""execs: the OCI process of a command, and what runc's own log says."""

import json
from pathlib import Path

import pytest

from adapters.oci import execs
from adapters.oci.layout import Layout
from domain.errors import ExecFailed

CON = "c" * 64


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "d/containers" / CON).mkdir(parents=True)
    (tmp_path / "r/execs").mkdir(parents=True)
    return Layout(str(tmp_path / "d"), str(tmp_path / "r"), "0" * 32)


def test_the_containers_own_process_with_other_arguments(layout: Layout) -> None:
    process = {
        "args": ["server", "--secret"],
        "terminal": True,
        "consoleSize": {"height": 1, "width": 1},
        "user": {"uid": 33, "additionalGids": [5]},
        "env": ["A=b"],
        "capabilities": {"bounding": ["CAP_KILL"]},
        "noNewPrivileges": True,
        "apparmorProfile": "some",
    }
    paths = layout.container(CON)
    Path(paths.config).write_text(json.dumps({"process": process, "root": {}}))
    made = execs.spec_of(paths, ("ls", "-l"))
    kept = {k: v for k, v in process.items() if k not in ("args", "terminal", "consoleSize")}
    assert made == {**kept, "args": ["ls", "-l"], "terminal": False}


@pytest.mark.parametrize("text", [None, "", "{}", '{"process": 3}', "not json"])
def test_without_a_configuration_there_is_no_command(layout: Layout, text: str | None) -> None:
    paths = layout.container(CON)
    if text is not None:
        Path(paths.config).write_text(text)
    with pytest.raises(ExecFailed, match=r"config\.json"):
        execs.spec_of(paths, ("ls",))


def test_only_what_has_an_id_is_a_ledger(layout: Layout) -> None:
    for name in (f"{CON}.abcd-1", "stranger", "c.1"):
        (Path(layout.execs) / name).mkdir()
    (found,) = execs.ledgers(layout)
    assert (found.container_id, found.cgroup) == (CON, "exec-abcd-1")
    assert found == layout.exec(CON, "abcd-1")


def test_a_pid_file_that_is_no_number_is_none(layout: Layout) -> None:
    paths = layout.exec(CON, "abcd-1")
    Path(paths.directory).mkdir()
    assert execs._pid(paths) == 0
    for text, pid in ((b"", 0), (b"12", 12), (b"1x", 0), (b"-1", 0)):
        Path(paths.pidfile).write_bytes(text)
        assert execs._pid(paths) == pid

"""The demo's parts: the image it makes, what it sees from outside, how it ends. The whole of it runs as `real`."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import demo_steps as demo
from tools.demo_steps import Outside, Stage, Wrong

BUSYBOX = b"\x7fELF, or nearly"
LIMIT_S = 100
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# --- the image -------------------------------------------------------------------------------------------------------


def blob(directory: Path, descriptor: dict[str, str]) -> bytes:
    data = (directory / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert descriptor["size"] == len(data)
    return data


def test_every_blob_of_the_layout_is_what_its_name_says(tmp_path: Path) -> None:
    demo.write_layout(tmp_path, BUSYBOX)
    [named] = json.loads((tmp_path / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(tmp_path, named))
    config = json.loads(blob(tmp_path, manifest["config"]))
    layer = gzip.decompress(blob(tmp_path, manifest["layers"][0]))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["architecture"] == demo.architecture(os.uname().machine)
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_the_layer_has_busybox_and_a_shell() -> None:
    with tarfile.open(fileobj=io.BytesIO(demo.layer_of(BUSYBOX))) as tar:
        program = tar.extractfile("bin/busybox")
        assert program is not None and program.read() == BUSYBOX
        assert tar.getmember("bin/sh").linkname == tar.getmember("bin/sleep").linkname == "busybox"


def test_the_same_busybox_gives_the_same_image() -> None:
    assert demo.layer_of(BUSYBOX) == demo.layer_of(BUSYBOX)


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")])
def test_architecture(machine: str, name: str) -> None:
    assert demo.architecture(machine) == name


# --- outside ---------------------------------------------------------------------------------------------------------


def test_outside_sees_a_process_by_its_command_line_and_a_file_by_its_name(tmp_path: Path) -> None:
    name = f"demo-test-{os.getpid()}-{time.monotonic_ns()}"
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / name).touch()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name])
    try:
        until = time.monotonic() + 10
        while not demo.outside([name]).processes and time.monotonic() < until:
            time.sleep(0.01)
        assert demo.outside([name], [tmp_path]) == Outside(
            processes=(child.pid,), files=(str(tmp_path / "below" / name),)
        )
        assert demo.started_at(child.pid) > 0
        handle = os.pidfd_open(child.pid)
        assert not demo.wait_end(handle, 0)
        child.kill()
        assert demo.wait_end(handle, 10)
        os.close(handle)
        assert demo.outside([name]).processes == (), "a zombie is no process that is left"
    finally:
        child.kill()
        child.wait()


def test_outside_of_names_that_nothing_has_is_empty(tmp_path: Path) -> None:
    assert demo.outside(["no-such-name-anywhere"], [tmp_path]) == Outside()


# --- saying it -------------------------------------------------------------------------------------------------------


def test_check_says_what_holds_and_raises_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    demo.check(True, "water is wet")
    assert "✓ water is wet" in capsys.readouterr().out
    with pytest.raises(Wrong, match=r"not so: snow is black \(but: white\)"):
        demo.check(False, "snow is black", "white")


@pytest.mark.parametrize("line", ["short", "  an indented line " + "word " * 40, "x" * 300])
def test_wrapped_lines_fit_and_lose_no_word(line: str) -> None:
    parts = demo.wrapped(line, 60)
    assert all(len(part) <= 60 for part in parts)
    assert "".join(parts).replace(" ", "") == line.replace(" ", "")


# --- how it ends -----------------------------------------------------------------------------------------------------


def fine(stage: Stage) -> None:
    assert stage.logs.is_dir()


def wrong(stage: Stage) -> None:
    raise Wrong("not so: all is well")


def broken(stage: Stage) -> None:
    raise ConnectionError("Version: no daemon")


def interrupt(stage: Stage) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.mark.parametrize(
    ("step", "status", "said"),
    [
        (fine, 0, "All as promised"),
        (wrong, 1, "at step: The second step"),
        (broken, 1, "at step: The second step"),
        (interrupt, 130, "Interrupted"),
    ],
)
def test_status_and_clean_up(
    step: object,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "STEPS", (("The first step", fine), ("The second step", step)))
    assert demo.main() == status
    assert said in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_no_step_follows_a_wrong_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert demo.perform(Stage(tmp_path), [("a", fine), ("b", wrong), ("c", fine)]) == "b"
    assert " c" not in capsys.readouterr().out


# --- the whole -------------------------------------------------------------------------------------------------------


def run_demo(directory: Path, path: str = "") -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(directory), "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [sys.executable, "-m", "tools.demo_steps"],
        cwd=demo.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(directory: Path) -> list[object]:
    return [*directory.iterdir(), *(each for each in demo.outside([f"{directory}/"]).processes)]


@pytest.mark.real
@pytest.mark.slow
def test_the_demo_ends_with_0_and_leaves_nothing(tmp_path: Path) -> None:
    with run_demo(tmp_path) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 0, said
    assert "✗" not in said and said.count("✓") > 25
    assert left(tmp_path) == []


@pytest.mark.real
@pytest.mark.slow
def test_a_broken_part_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    programs, work = tmp_path / "programs", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    (programs / "conmon").write_text('#!/bin/sh\n[ "$1" = --version ] && echo conmon version 0 || exit 9\n')
    (programs / "conmon").chmod(0o755)
    with run_demo(work, str(programs)) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1, said
    assert "went wrong at step: A pod with three containers" in said
    assert left(work) == []


@pytest.mark.real
@pytest.mark.slow
def test_interrupted_while_the_daemon_is_dead_it_cleans_up(tmp_path: Path) -> None:
    said = ""
    with run_demo(tmp_path) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said += line
            if "B was still running" in line:
                running.send_signal(signal.SIGINT)
        running.wait(LIMIT_S)
    assert running.returncode == 130, said
    assert "could not" not in said
    assert left(tmp_path) == []

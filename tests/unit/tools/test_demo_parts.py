"""The demo's parts: the image it makes, how it speaks, how it ends. The whole of it runs as `real`."""

import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tools.demo_steps import __main__ as demo
from tools.demo_steps import image, outside, saying, steps
from tools.demo_steps.ground import BIN_DIRS
from tools.demo_steps.saying import Wrong
from tools.demo_steps.stage import ROOT, Stage

BUSYBOX = b"\x7fELF, or nearly"
LIMIT_S = 100
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    saying.PACE.lap()  # it runs since the import: the first line of a long session would tell seconds, not milliseconds
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
    image.write_layout(tmp_path, BUSYBOX)
    [named] = json.loads((tmp_path / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(tmp_path, named))
    config = json.loads(blob(tmp_path, manifest["config"]))
    layer = gzip.decompress(blob(tmp_path, manifest["layers"][0]))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["architecture"] == image.architecture(os.uname().machine)
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_the_layer_has_busybox_and_a_shell() -> None:
    with tarfile.open(fileobj=io.BytesIO(image.layer_of(BUSYBOX))) as tar:
        program = tar.extractfile("bin/busybox")
        assert program is not None and program.read() == BUSYBOX
        assert tar.getmember("bin/sh").linkname == tar.getmember("bin/sleep").linkname == "busybox"


def test_the_same_busybox_gives_the_same_image() -> None:
    assert image.layer_of(BUSYBOX) == image.layer_of(BUSYBOX)


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")])
def test_architecture(machine: str, name: str) -> None:
    assert image.architecture(machine) == name


# --- saying it -------------------------------------------------------------------------------------------------------


def test_check_says_what_holds_and_raises_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    saying.check(True, "water is wet")
    # Since the demo's begin, which here is the begin of the tests: on a slow machine that is long ago.
    assert re.fullmatch(r" +✓ water is wet +(\d+ ms|\d+\.\d+ s)\n", capsys.readouterr().out)
    with pytest.raises(Wrong, match=r"not so: snow is black \(but: white\)"):
        saying.check(False, "snow is black", "white")


@pytest.mark.parametrize("length", [10, 82, 83, 84, 93, 94, 300])
def test_nothing_is_wider_than_a_hundred_columns(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = "ab " * (length // 3) + "c" * (length % 3)
    saying.check(True, words)
    saying.quote(words)
    saying.note(words)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines()[2:])) <= saying.WIDTH
    assert re.sub(r"[\s✓│]|\d+ ms", "", said) == 3 * re.sub(r"\s", "", words)


RECORD = {
    "seq": 7, "time": "2026-11-22T20:11:42.470Z", "kind": "container", "name": "default/demo/web",
    "event": "container.create_requested/1", "words": "web (attempt 0) of " + "x" * 99,
    "cause": {"kind": "rpc", "what": "RuntimeService/CreateContainer", "led_by": 0},
}  # fmt: skip


def test_a_record_is_one_line_and_names_its_cause() -> None:
    line = steps.row(RECORD, 2)
    assert line.startswith(" 7  20:11:42.470  web     create_requested   CreateContainer   web (attempt 0)")
    assert len(line) == saying.WIDTH - 7
    found = steps.row({**RECORD, "cause": {"kind": "recovery", "what": "@J", "led_by": 0}}, 2)
    assert "recovery @J" in found
    found = steps.row({**RECORD, "kind": "sandbox", "cause": {"kind": "effect", "what": "x", "led_by": 6}}, 2)
    assert "  pod   " in found and "outcome of 6 " in found


@pytest.mark.parametrize("line", ["short", "  an indented line " + "word " * 40, "x" * 300])
def test_wrapped_lines_fit_and_lose_no_word(line: str) -> None:
    parts = saying.wrapped(line, 60)
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


@pytest.mark.real
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
    monkeypatch.setattr(steps, "STEPS", (("The first step", fine), ("The second step", step)))
    assert demo.main([]) == status
    assert said in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
def test_no_step_follows_a_wrong_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert steps.perform(Stage(tmp_path), [("a", fine), ("b", wrong), ("c", fine)]) == "b"
    assert " c" not in capsys.readouterr().out


@pytest.mark.real
def test_what_cannot_be_cleaned_up_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(steps, "STEPS", (("The first step", fine),))
    monkeypatch.setattr(demo, "clean_up", lambda stage: None)
    assert demo.main([]) == 1
    said = capsys.readouterr().out
    [kept] = tmp_path.iterdir()
    assert "could not clean up" in said and str(kept) in said


# --- the whole -------------------------------------------------------------------------------------------------------


def start(directory: Path, *options: str, path: str = "", wrapper: Sequence[str] = ()) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(directory), "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [*wrapper, sys.executable, "-m", "tools.demo_steps", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(directory: Path, said: str) -> list[str]:
    """What bears the name, the bridge or the subnet of the demo that said this, and what is in its directory."""
    name = re.search(r"daybook-demo-\w{8}", said)
    assert name is not None, said
    marks = [f"dbdemo-{name[0][-8:]}", *(found[1] for found in re.finditer(r"(10\.213\.\d+\.)0/24", said))]
    seen = outside.look([kind for kind in outside.KINDS if kind != "files"])
    return [*map(str, directory.iterdir()), *outside.told(outside.bearing(seen, [name[0]], marks))]


def plugins(directory: Path, *names: str, **scripts: str) -> str:
    """A directory with some of Debian's plugins, and with scripts in place of others."""
    directory.mkdir()
    for name in names:
        (directory / name).symlink_to(Path(BIN_DIRS[0]) / name)
    for name, text in scripts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return str(directory)


@pytest.mark.real
@pytest.mark.slow
def test_the_demo_ends_with_0_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 0, said
    assert "✗" not in said and "\x1b" not in said and said.count("✓") > 45
    assert max(map(len, said.splitlines()[2:])) <= saying.WIDTH
    assert left(tmp_path, said) == []


ALONE = """
ip link set lo up; echo 0 >/proc/sys/net/ipv4/ip_forward
"$@" || exit
echo "after: $(iptables-save | grep -e ^-A -e ' - ' | wc -l) rules, $(ip -o link | wc -l) link, forwarding" \
  $(cat /proc/sys/net/ipv4/ip_forward)
"""


@pytest.mark.real
@pytest.mark.slow
def test_where_no_pod_ever_was_it_is_as_if_none_had_been(tmp_path: Path) -> None:
    """In a network namespace of its own: portmap's chains and forwarding, which others may need, go here too."""
    with start(tmp_path, wrapper=("unshare", "--net", "sh", "-c", ALONE, "sh")) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 0, said
    assert "after: 0 rules, 1 link, forwarding 0" in said
    # And the shared mount of the network namespaces, where nobody had made it before.
    told = " ".join(said.split())
    assert "the bridge, portmap's three chains" in told and "net.ipv4.ip_forward" in told
    assert left(tmp_path, said) == []


@pytest.mark.real
@pytest.mark.slow
def test_a_broken_part_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    programs, work = tmp_path / "programs", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    (programs / "conmon").write_text('#!/bin/sh\n[ "$1" = --version ] && echo conmon version 0 || exit 9\n')
    (programs / "conmon").chmod(0o755)
    with start(work, path=str(programs)) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1, said
    assert "went wrong at step: Three containers" in said
    assert left(work, said) == []


@pytest.mark.real
@pytest.mark.slow
def test_a_missing_plugin_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    programs, work = plugins(tmp_path / "cni", "bridge", "host-local"), tmp_path / "work"
    work.mkdir()
    with start(work, "--cni-bin", programs) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1, said
    assert f"CNI plugin portmap not found in {programs}" in " ".join(said.split())
    assert left(work, said) == []


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("command", "step"), [("ADD", "A pod with an address"), ("DEL", "All is stopped and removed")])
def test_a_plugin_that_fails_is_named_and_nothing_is_left(command: str, step: str, tmp_path: Path) -> None:
    """Where DEL fails, the pod's rules stay: the demo says so, and removes them by itself."""
    script = f'#!/bin/sh\n[ "$CNI_COMMAND" = {command} ] && echo "no {command} today" >&2 && exit 9\n'
    script += f"exec {BIN_DIRS[0]}/portmap\n"
    programs, work = plugins(tmp_path / "cni", "bridge", "host-local", portmap=script), tmp_path / "work"
    work.mkdir()
    with start(work, "--cni-bin", programs) as running:
        said, _ = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1, said
    assert f"went wrong at step: {step}" in said
    assert left(work, said) == []


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("after", ["They are there: network, host port, exec", "Meanwhile, without a daemon"])
def test_a_wrong_step_with_everything_up_leaves_nothing(
    after: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    names = [name for name, _ in steps.STEPS]
    whole = steps.STEPS[: names.index(after) + 1]
    monkeypatch.setattr(steps, "STEPS", (*whole, ("The wrong step", wrong)))
    assert demo.main([]) == 1
    said = capsys.readouterr().out
    assert "at step: The wrong step" in said and "could not clean up" not in said
    assert left(tmp_path, said) == []


@pytest.mark.real
@pytest.mark.slow
def test_interrupted_while_the_daemon_is_dead_it_cleans_up(tmp_path: Path) -> None:
    said = ""
    with start(tmp_path) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said += line
            if "job was still running" in line:
                running.send_signal(signal.SIGINT)
        running.wait(LIMIT_S)
    assert running.returncode == 130, said
    assert "could not" not in said
    assert left(tmp_path, said) == []

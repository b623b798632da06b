"""The text of AppArmor's RuntimeDefault, and what comes of it on machines that can and that cannot."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.oci import apparmor

GOLDEN = Path("tests/golden/apparmor")
TEXTS = {
    "with_abi": lambda: apparmor.text("unconfined", abi=True),
    "without_abi": lambda: apparmor.text("unconfined", abi=False),
    "confined_daemon": lambda: apparmor.text("lxc-1//&:ns:unconfined", abi=True),
}


@pytest.mark.parametrize("name", TEXTS)
def test_golden(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("DAYBOOK_GOLDEN") == "write":
        path.write_text(TEXTS[name]())
    assert TEXTS[name]() == path.read_text()


# --- which paths are denied, by a small model of AppArmor's globs ----------------------------------------------------


def glob(pattern: str) -> re.Pattern[str]:
    out, depth = "", 0
    for part in re.findall(r"\*\*|\[[^]]*]|.", pattern):
        if part == "**":
            out += ".*"
        elif part == "*":
            out += "[^/]*"
        elif part == "{":
            out, depth = out + "(?:", depth + 1
        elif part == "}":
            out, depth = out + ")", depth - 1
        elif part == "," and depth:
            out += "|"
        else:
            out += part if part.startswith("[") else re.escape(part)
    return re.compile(out)


RULES = re.findall(r"^  deny (/\S+) (\w+),$", apparmor.text("unconfined", abi=True), re.MULTILINE)


def denied(path: str, access: str = "w") -> bool:
    return any(access in accesses and glob(pattern).fullmatch(path) for pattern, accesses in RULES)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/s", "/proc/sys/kernel/sched_rt_runtime_us",
        "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sh/x", "/proc/sys/kernel/random/uuid", "/proc/sys/vm/panic_on_oom",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/keys/root_maxkeys", "/proc/sys/k", "/proc/sys/kernelx/y",
        "/proc/sysvipc/shm", "/proc/scsi/scsi", "/proc/irq/1/smp_affinity", "/proc/sysrq-trigger", "/proc/mtrr",
        "/proc/self", "/proc/s/x", "/proc/sy/x", "/proc/fs/x/y",
        "/sys/kernel/mm/ksm/run", "/sys/f/x", "/sys/fsx/y", "/sys/firmware/efi/vars/x", "/sys/fs/bpf/x", "/sys/fs/c/x",
        "/sys/fs/cg", "/sys/fs/cgroups/x", "/sys/fs/selinux/enforce", "/sys/devices/virtual/powercap/x", "/sys/block/x/y",
    ],
)  # fmt: skip
def test_may_not_be_written(path: str) -> None:
    assert denied(path)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/oom_score_adj", "/proc/4711/attr/current", "/proc/12/task/13/comm", "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/shm_rmid_forced", "/sys/fs/cgroup/x/cgroup.procs", "/sys/fs/cgroup/memory/x", "/etc/passwd",
        "/procs/x/y", "/system/x",
    ],
)  # fmt: skip
def test_may_be_written(path: str) -> None:
    assert not denied(path)


@pytest.mark.parametrize("path", ["/proc/kcore", "/sys/firmware/acpi/x", "/sys/kernel/security/apparmor/profiles"])
def test_may_not_even_be_read(path: str) -> None:
    assert denied(path, "r")


def test_what_gives_more_than_paths_is_denied() -> None:
    text = apparmor.text("unconfined", abi=True)
    assert "  deny mount,\n" in text and "  deny network alg,\n" in text
    assert "pivot_root" not in text and "change_profile" not in text, "what is not permitted is refused"


@pytest.mark.skipif(
    shutil.which("apparmor_parser") is None, reason="apparmor is not installed: its parser is not asked"
)
@pytest.mark.parametrize("name", TEXTS)
def test_the_parser_takes_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(TEXTS[name]())
    done = subprocess.run(
        ["apparmor_parser", "--skip-kernel-load", "--skip-cache", str(tmp_path / "profile")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- machines --------------------------------------------------------------------------------------------------------

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with AppArmor whose parser is a shell script. Returns the file of what the parser was called with."""

    def make(script: str | None, *, on: str = "Y\n", securityfs: bool = True) -> Path:
        (tmp_path / "enabled").write_text(on)
        monkeypatch.setattr(apparmor, "ENABLED", str(tmp_path / "enabled"))
        monkeypatch.setattr(apparmor, "SECURITYFS", str(tmp_path if securityfs else tmp_path / "no"))
        (tmp_path / "abi").write_text("")
        monkeypatch.setattr(apparmor, "ABI", str(tmp_path / "abi"))
        calls = tmp_path / "calls"
        calls.write_text("")
        if script is not None:
            (tmp_path / "parser").write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{script}\n')
            (tmp_path / "parser").chmod(0o755)
        monkeypatch.setattr(apparmor, "PARSER", str(tmp_path / "parser"))
        return calls

    return make


def test_the_profile_is_replaced_at_each_start(machine: Machine, tmp_path: Path) -> None:
    calls, path = machine("exit 0"), tmp_path / "profile"
    for _ in range(2):
        assert apparmor.load(str(path)) == apparmor.State("daybook-default", "", enabled=True)
    assert calls.read_text() == f"--replace --skip-cache {path}\n" * 2
    assert path.read_text() == apparmor.text(apparmor.own_label(), abi=True)


def test_a_parser_that_knows_no_abi_gets_none(machine: Machine, tmp_path: Path) -> None:
    calls, path = machine('! grep -q "abi <" "$3"'), tmp_path / "profile"
    assert apparmor.load(str(path)).profile == "daybook-default"
    assert len(calls.read_text().splitlines()) == 2 and "abi <" not in path.read_text()


@pytest.mark.parametrize(
    ("script", "more", "expected"),
    [
        (None, {}, "is not there: apt-get install apparmor"),
        ("echo warn >&2; echo 'Access denied. You need policy admin privileges' >&2; exit 243", {}, "Access denied"),
        ("exit 1", {}, "exit 1"),
        ("exit 0", {"securityfs": False}, "securityfs is not mounted"),
    ],
)
def test_a_machine_that_cannot_says_why(
    machine: Machine, tmp_path: Path, script: str | None, more: dict[str, bool], expected: str
) -> None:
    machine(script, **more)
    state = apparmor.load(str(tmp_path / "profile"))
    assert (state.profile, state.enabled) == ("", True)
    assert expected in state.problem


def test_a_parser_that_hangs_is_killed(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("exec sleep 1000")
    monkeypatch.setattr(apparmor, "PARSER_LIMIT_S", 0.1)
    assert "killed after 0.1 s" in apparmor.load(str(tmp_path / "profile")).problem


def test_a_directory_that_cannot_be_written_is_told(machine: Machine) -> None:
    machine("exit 0")
    assert "No such file" in apparmor.load("/no/such/profile").problem


@pytest.mark.parametrize("on", ["N\n", ""])
def test_where_there_is_none_nobody_is_asked(machine: Machine, tmp_path: Path, on: str) -> None:
    calls = machine("exit 0", on=on)
    assert apparmor.load(str(tmp_path / "profile")) == apparmor.State()
    assert calls.read_text() == ""


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("unconfined\n", "unconfined"),
        ("daybookd (enforce)\n", "daybookd"),
        ("a//&b (complain)\0", "a//&b"),
        ('odd"name (enforce)\n', "unconfined"),
        ("", "unconfined"),
    ],
)
def test_the_daemons_own_label(told: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "current").write_text(told)
    monkeypatch.setattr(apparmor, "LABELS", ("/no/such", str(tmp_path / "current")))
    assert apparmor.own_label() == expected

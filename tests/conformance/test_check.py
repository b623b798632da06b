"""`daybook check` on the real machine: it tries what it tells of, and leaves nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.life import Pod
from tests.support.daemon import Machine, machine

pytestmark = [pytest.mark.real, pytest.mark.slow]

TRIED = ("overlay", "namespaces", "openat2", "pidfd", "cgroups")


@pytest.fixture
def m() -> Iterator[Machine]:
    with machine() as made:
        yield made


def checked(m: Machine) -> tuple[int, dict[str, dict[str, Any]]]:
    done = m.command("check", "--json", seconds=120)
    return done.returncode, {fact["what"]: fact for fact in json.loads(done.stdout)}


def of_the_machine() -> tuple[str, set[str], set[str]]:
    """Mounts, cgroups, namespaces that something holds."""
    mounts = Path("/proc/self/mountinfo").read_text()
    groups = {path for path, _, _ in os.walk("/sys/fs/cgroup") if "/check-" in path}
    threads = {str(p) for p in Path("/proc").glob("[0-9]*/cmdline") if _is_ours(p)}
    return mounts, groups, threads


def _is_ours(path: Path) -> bool:
    try:
        return path.read_bytes() == b"/bin/sleep\x0060\x00"
    except OSError:
        return False


def test_a_fit_machine_is_fit_and_nothing_is_left(m: Machine) -> None:
    before = of_the_machine()
    status, told = checked(m)
    assert status == 0, told
    assert {what: told[what]["level"] for what in TRIED} == dict.fromkeys(TRIED, "ok")
    assert of_the_machine() == before
    assert not m.data.exists() and not m.run.exists()
    assert sorted(p.name for p in m.base.iterdir()) == ["bin", "config.toml", "pods"]


def test_beside_a_daemon_it_disturbs_nothing(m: Machine) -> None:
    m.start()
    m.load()
    pod = Pod(m).running("touch /shared/up; exec sleep 1000")
    before = sorted(str(p) for p in m.data.iterdir()), pod.status()
    assert checked(m)[0] == 0
    assert (sorted(str(p) for p in m.data.iterdir()), pod.status()) == before
    pod.remove()
    m.terminate()


def test_a_daemon_with_mounts_of_its_own_is_told(m: Machine) -> None:
    """What PrivateTmp= and ProtectSystem= of a unit do."""
    m.launcher = ("unshare", "--mount", "--propagation", "slave")
    daemon = m.start()
    status, told = checked(m)
    assert status == 1 and f"pid {daemon.pid}" in told["mount namespace"]["found"]
    assert "mount namespace" in daemon.said() or not os.access("/proc/1/ns/mnt", os.R_OK), (
        "serve warns where it can see"
    )


@pytest.mark.parametrize(
    ("table", "what", "named"),
    [
        ({"images": {"policy": "{base}/bad"}}, "pull files", "bad"),
        ({"images": {"registries_conf": "{base}/bad"}}, "pull files", "bad"),
        ({"paths": {"data": "/proc/daybook"}}, "data", "/proc"),
    ],
)
def test_what_does_not_work_fails(m: Machine, table: dict[str, dict[str, str]], what: str, named: str) -> None:
    (m.base / "bad").write_text("][")
    given = {name: {key: v.format(base=m.base) for key, v in keys.items()} for name, keys in table.items()}
    m.config_file.write_text(
        "\n".join(f"[{n}]\n{k} = {json.dumps(v)}" for n, keys in given.items() for k, v in keys.items())
    )
    status, told = checked(m)
    assert status == 1 and told[what]["level"] == "FAIL" and named in told[what]["found"], told


def test_a_kernel_that_forbids_is_told_by_what_was_tried(m: Machine) -> None:
    """Without CAP_SYS_ADMIN nothing can be mounted or unshared; every version is the same."""
    argv = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-m", "service.main"]
    words = ["check", "--json", "--config", str(m.config_file)]
    done = subprocess.run([*argv, *words], capture_output=True, text=True, timeout=120)
    told = {fact["what"]: fact for fact in json.loads(done.stdout)}
    assert done.returncode == 1
    assert [told[what]["level"] for what in ("overlay", "namespaces")] == ["FAIL", "FAIL"], told
    assert told["openat2"]["level"] == "ok"


def test_a_run_directory_behind_a_link_works_to_the_end(m: Machine) -> None:
    """/var/run is one on every Debian."""
    (m.base / "var").symlink_to(m.base)
    places = {"data": str(m.base / "var" / "data"), "run": str(m.base / "var" / "run")}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in places.items())
    m.config_file.write_text(f'[paths]\n{text}[network]\nconf_dir = "/nonexistent/net.d"\n[log]\nmap_gib = 1\n')
    m.start()
    m.load()
    pod = Pod(m).running(
        "touch /shared/up; exec sleep 1000",
    )
    pod.stop()
    pod.remove()
    assert m.terminate() == 0

"""Daybook on Debian 12 as its users have it: Debian's kernel 6.1, systemd as process 1, cgroup v2 alone, AppArmor.

The guest is built and Daybook is installed by README's lines (see README.md beside this file).
"""

import sys
from collections.abc import Iterator

import pytest

from tests.guest import qemu, readme, roots
from tests.guest.image import image
from tests.guest.qemu import Guest
from tests.support.limits import SLOWNESS

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(1200)]

BOOTED_S, LIFE_LIMIT_S = 120.0 * SLOWNESS, 400.0 * SLOWNESS
INSIDE_SLOWNESS = 5 * SLOWNESS
"""An emulated CPU; on a machine with nothing else to do this is far too much."""


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with qemu.boot(image(12), roots.tests()) as booted:
        yield booted


@pytest.fixture(scope="module")
def installed(guest: Guest) -> Guest:
    """README's lines that a build cannot type: they need systemd."""
    for line in readme.install().units:
        guest.check(line)
    return guest


def test_it_is_a_debian_12_with_its_own_kernel_systemd_and_cgroups(guest: Guest) -> None:
    assert guest.check("cat /etc/debian_version").startswith("12.")
    assert guest.check("uname -r").startswith("6.1.")
    assert guest.check("cat /proc/1/comm") == "systemd"
    assert guest.check("stat --file-system --format=%T /sys/fs/cgroup") == "cgroup2fs"
    assert guest.check("cat /sys/module/apparmor/parameters/enabled") == "Y"
    assert "127.0.0.1" in guest.check("cat /etc/hosts")
    assert guest.check("cat /etc/resolv.conf") == "", "the builder's name servers are in the image"


def test_daybook_finds_it_fit(installed: Guest) -> None:
    said = installed.check("daybook check")
    assert "FAIL" not in said, said


def test_the_daemon_has_put_its_profile_into_the_kernel(installed: Guest) -> None:
    """What it does there is asked by tests/conformance/test_apparmor.py, which runs on such a machine alone."""
    assert "daybook-default (enforce)" in installed.check("cat /sys/kernel/security/apparmor/profiles").splitlines()
    assert installed.check("daybook check | grep -w AppArmor").split() == ["ok", "AppArmor", "daybook-default"]


def test_the_unit_runs_and_nothing_has_failed(installed: Guest) -> None:
    assert installed.check("systemctl is-active daybook.service") == "active"
    assert installed.check("systemctl is-system-running --wait", BOOTED_S) == "running"


@pytest.mark.parametrize("driver", ["cgroupfs", "systemd"])
def test_a_pods_life(installed: Guest, driver: str) -> None:
    command = f"cd {qemu.TREE} && DAYBOOK_TEST_SLOWNESS={INSIDE_SLOWNESS:g} /opt/daybook/bin/python -m tests.guest.inside.life {driver}"
    done = installed.run(command, LIFE_LIMIT_S, sys.stdout.write)
    assert done.status == 0, done.text[-6000:]

"""Daybook on Debian 13's Python, runc, conmon, skopeo and CNI plugins, on this machine's kernel, without systemd."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import roots
from tests.guest.rooted import Rooted, entered, own_cgroups
from tests.support.limits import SLOWNESS

pytestmark = [pytest.mark.debian13, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT_S = 300.0 * SLOWNESS


@pytest.fixture(scope="module")
def debian() -> Iterator[Rooted]:
    with entered(roots.daybook(13), roots.tests()) as made:
        yield made
    assert made.place.name not in Path("/proc/self/mountinfo").read_text()
    assert not made.place.exists() and own_cgroups() == []


def test_it_is_a_debian_13(debian: Rooted) -> None:
    said = debian.run("cat /etc/debian_version; /opt/daybook/bin/python --version; cat /etc/resolv.conf", LIMIT_S)
    assert said.status == 0
    version, python = said.text.splitlines()
    assert version.startswith("13.") and python.startswith("Python 3.13.")


def test_daybook_finds_it_fit(debian: Rooted) -> None:
    said = debian.run("daybook check", LIMIT_S)
    assert said.status == 0 and "FAIL" not in said.text, said.text


def test_a_pods_life(debian: Rooted) -> None:
    done = debian.run("/opt/daybook/bin/python -m tests.guest.inside.life --child cgroupfs", LIMIT_S, sys.stdout.write)
    assert done.status == 0, done.text[-6000:]

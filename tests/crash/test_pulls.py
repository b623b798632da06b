"""The daemon dies in a pull from a registry that asks for credentials: nothing of it stays, and a retry succeeds."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from grpc import StatusCode

from domain import events as e
from tests.conformance.test_registry import BOTH, ME, SECRETS, Site, site
from tests.crash.life import refused
from tests.support.daemon import until
from tests.support.registry import Fault

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture
def s() -> Iterator[Site]:
    with site(login=BOTH) as made:
        made.make()
        yield made


def pulling(s: Site) -> list[str]:
    return [p for p in s.m.left().processes if "skopeo" in p]


def end_well(s: Site) -> None:
    """After a restart: nothing of the broken pull, no secret, and the same pull succeeds."""
    until(lambda: not s.authfiles(), 5, "the credentials are gone")
    s.assert_clean()
    failed = s.events(s.name())[-1]
    assert isinstance(failed, e.ImagePullFailed) and failed.error == "Cancelled"
    s.assert_no_secret()
    s.registry.faults.clear()
    assert s.pull(s.name(), **ME) == s.built["1"].image_id
    s.remove(s.name())
    s.assert_clean()
    s.assert_no_secret()


def test_killed_while_a_blob_comes_in_slowly(s: Site) -> None:
    """skopeo lives on with its authfile; the next daemon ends it by its ledger."""
    s.hold(fault=Fault("slow", chunk=1024, pause=0.05))
    call = s.begin(s.name(), **ME)
    assert s.registry.hanging.wait(20)
    s.m.kill9()
    assert call.code() is StatusCode.UNAVAILABLE
    assert pulling(s) and s.authfiles(), "the premise: it goes on without a daemon"
    s.m.start()
    until(lambda: not pulling(s), 5)
    end_well(s)


def test_a_retry_may_come_before_the_clean_up(s: Site) -> None:
    s.hold()
    s.begin(s.name(), **ME)
    assert s.registry.hanging.wait(20)
    s.m.kill9()
    s.registry.faults.clear()
    s.m.start()
    assert s.pull(s.name(), **ME) == s.built["1"].image_id
    until(lambda: not s.authfiles() and not pulling(s), 5)
    s.remove(s.name())
    s.assert_clean()


@pytest.mark.parametrize("pid", ["daemon first", "skopeo first"])
def test_both_are_killed(s: Site, pid: str) -> None:
    s.hold()
    s.begin(s.name(), **ME)
    assert s.registry.hanging.wait(20)
    if pid == "daemon first":
        s.m.kill9()
    for line in pulling(s):
        os.kill(int(line.split(" ", 1)[0]), signal.SIGKILL)
    if pid == "skopeo first":
        s.m.kill9()
    s.m.start()
    until(lambda: not s.authfiles(), 5)
    s.assert_clean()
    s.registry.faults.clear()
    assert s.pull(s.name(), **ME) == s.built["1"].image_id


@pytest.mark.parametrize(
    ("point", "done"),
    [
        ("append-before ImagePullRequested", False),
        ("append-after ImagePullRequested", False),
        ("begin images.pull", False),
        ("end images.pull", True),
        ("append-before ImagePulled", True),
        ("append-after ImagePulled", True),
        ("append-before ImagePullFailed", False),
        ("append-after ImagePullFailed", False),
    ],
)
def test_killed_at_every_step(s: Site, point: str, done: bool) -> None:
    """Where the image was whole and noted, recovery knows it; the retry costs a look at the registry's manifest."""
    s.m.terminate()
    s.m.faulty = True
    s.m.start()
    s.m.fault_file.write_text(json.dumps([f"{point} 1"]))
    auth = {"username": "me", "password": "wrong"} if "Failed" in point else ME
    with refused(StatusCode.UNAVAILABLE):
        s.pull(s.name(), **auth)
    s.m.start()
    until(lambda: not s.authfiles(), 5)
    assert bool(s.listed()) == done
    if not done:
        s.assert_clean()
    s.assert_no_secret()
    assert s.pull(s.name(), **ME) == s.built["1"].image_id
    s.remove(s.name())
    s.assert_clean()


def test_dies_again_in_the_recovery(s: Site) -> None:
    s.hold()
    s.begin(s.name(), **ME)
    assert s.registry.hanging.wait(20)
    s.m.kill9()
    s.m.faulty = True
    s.m.fault_file.write_text(json.dumps(["begin images.clean 1"]))
    with ThreadPoolExecutor(1) as beside:
        daemon = s.m.spawn()
        beside.submit(daemon.wait, 20).result()
    assert s.authfiles(), "the premise: nothing was cleaned up yet"
    s.m.start()
    end_well(s)


def test_told_to_stop_in_a_pull() -> None:
    with site(login=BOTH) as s:
        s.make()
        s.hold()
        call = s.begin(s.name(), **ME)
        assert s.registry.hanging.wait(20)
        assert s.m.terminate() == 0
        assert call.exception(5) is not None
        assert not pulling(s) and not s.authfiles()
        s.assert_no_secret()
        assert not [x for x in SECRETS if x in (s.m.daemon.said() if s.m.daemon else "")]
        s.m.start()
        end_well(s)

"""What stands in the way of a pin is told with the path and what to do. Real mounts: tests/conformance/test_netns.py."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from adapters.oci import kernel, netns
from domain.errors import NetworkFailed


@pytest.mark.parametrize("number", [*netns.REMEDIES, errno.EPERM, errno.EIO])
def test_what_stands_in_the_way(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kernel, "mount", refuse)
    with pytest.raises(NetworkFailed) as caught:
        netns.prepare(f"{tmp_path}/netns")
    beginning, _, remedy = caught.value.text.partition("; ")
    assert beginning == f"cannot pin network namespaces in {tmp_path}/netns: {os.strerror(number)}" and remedy


def test_a_lock_that_nobody_gives_back_is_waited_for_and_then_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    shared = iter([False, False, True])
    monkeypatch.setattr(netns, "LOCK_S", 0.05)
    monkeypatch.setattr(netns, "_shared", lambda where: next(shared))
    monkeypatch.setattr(kernel, "mount", lambda *given: calls.append(given[3]))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        netns.prepare(str(tmp_path))
    finally:
        os.close(fd)
    assert calls == [kernel.MS_BIND | kernel.MS_REC]


def test_whoever_has_the_lock_may_have_done_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = iter([False, True])
    monkeypatch.setattr(netns, "_shared", lambda where: next(shared))
    monkeypatch.setattr(kernel, "mount", lambda *given: pytest.fail("bound twice"))
    netns.prepare(str(tmp_path))

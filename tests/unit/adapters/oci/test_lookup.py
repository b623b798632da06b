import os
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.oci import default_seccomp, lookup
from domain.config import Device, Mount, ProfileType, SecurityContext, SecurityProfile
from domain.errors import InvalidRequest, RuntimeFailed

MOUNTINFO = b"""1 0 8:1 / / rw shared:1 - ext4 /dev/a rw
2 1 8:2 / /data rw - ext4 /dev/b rw
3 1 8:3 / /data/slave rw master:4 - ext4 /dev/c rw
4 1 8:4 / /with\\040space rw shared:5 - ext4 /dev/d rw
"""


@pytest.mark.parametrize(
    ("path", "shared", "slave"),
    [("/x", True, False), ("/data/x", False, False), ("/data/slave", False, True), ("/datax", True, False),
     ("/with space/x", True, False), ("/", True, False)],
)  # fmt: skip
def test_propagation(path: str, shared: bool, slave: bool) -> None:
    found = lookup.propagating(path, MOUNTINFO)
    assert (found.path, found.shared, found.slave) == (path, shared, slave)


@pytest.mark.parametrize(
    ("release", "options", "there"),
    [
        ("6.1.0-18-amd64", ["ro", "rro"], True),
        ("5.12.0", ["rro"], True),
        ("5.10.0-9", ["rro"], False),
        ("6.1.0", ["ro"], False),
        ("6.1.0", None, False),
        ("6.1.0", "rro", False),
    ],
)
def test_recursive_read_only_needs_the_runtime_and_the_kernel(
    monkeypatch: pytest.MonkeyPatch, release: str, options: object, there: bool
) -> None:
    uname = os.uname_result(("Linux", "node", release, "#1", "x86_64"))
    monkeypatch.setattr(lookup.os, "uname", lambda: uname)
    monkeypatch.setattr(lookup.runc, "features", lambda path: {"mountOptions": options})
    assert lookup.host("/usr/sbin/runc").recursive_read_only is there


def test_sources_are_resolved_and_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    mounts = (Mount("/v", f"{tmp_path}/link"), Mount("/w", f"{tmp_path}/new/deep"))
    found = lookup.sources(mounts)
    assert found[f"{tmp_path}/link"].path == f"{tmp_path}/there" and (tmp_path / "there").is_dir()
    assert (tmp_path / "new/deep").is_dir()


def test_devices(tmp_path: Path) -> None:
    (node,) = lookup.nodes((Device("/dev/mine", "/dev/null", "rw"),), False)
    assert (node.path, node.kind, node.major, node.minor) == ("/dev/mine", "c", 1, 3)
    for wrong in ("/nonexistent", "/etc/passwd", str(tmp_path)):
        with pytest.raises(InvalidRequest):
            lookup.nodes((Device("/dev/x", wrong, "r"),), False)


def profile(kind: ProfileType, path: str = "") -> SecurityContext:
    return SecurityContext(seccomp=SecurityProfile(kind, path))


def test_which_seccomp_profile(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL"}]}'
    )
    default, localhost = profile(ProfileType.RUNTIME_DEFAULT), profile(ProfileType.LOCALHOST, str(file))
    assert lookup.seccomp_profile(default, "") is default_seccomp.PROFILE
    for asked, configured in ((default, str(file)), (localhost, ""), (localhost, "/no/such")):
        found = lookup.seccomp_profile(asked, configured)
        assert found is not None and found.name == str(file) and len(found.rules) == 1
    for unconfined in (SecurityContext(), profile(ProfileType.UNCONFINED), replace(localhost, privileged=True)):
        assert lookup.seccomp_profile(unconfined, "/no/such") is None


@pytest.mark.parametrize("path", ["", "p.json", "/no/such", "/"])
def test_a_seccomp_profile_that_cannot_be_read(path: str) -> None:
    with pytest.raises(InvalidRequest, match="seccomp profile"):
        lookup.seccomp_profile(profile(ProfileType.LOCALHOST, path), "")


def test_a_profile_of_the_configuration_is_not_the_clients_fault() -> None:
    with pytest.raises(RuntimeFailed, match=r"runtime\.seccomp_profile of the node's configuration: .*No such file"):
        lookup.seccomp_profile(profile(ProfileType.RUNTIME_DEFAULT), "/no/such")


def test_a_misspelled_call_in_a_rule_that_refuses_it(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdri"], "action": "SCMP_ACT_KILL"}]}'
    )
    with pytest.raises(InvalidRequest, match="'mkdri' is no system call"):
        lookup.seccomp_profile(profile(ProfileType.LOCALHOST, str(file)), "")

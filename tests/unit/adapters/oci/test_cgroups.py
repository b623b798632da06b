import pytest

from adapters.oci import cgroups

V1 = b"""30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2 = cgroups.Hierarchies({}, "/cg")
HYBRID = cgroups.Hierarchies({"memory": "/cg/memory", "systemd": "/cg/systemd"}, "/cg/unified")


@pytest.mark.parametrize(
    ("parent", "path", "directory"),
    [
        ("", "/daybook/ID", "/daybook/ID"),
        ("/", "/ID", "/ID"),
        ("/kubepods/podX", "/kubepods/podX/ID", "/kubepods/podX/ID"),
        ("kubepods/podX/", "/kubepods/podX/ID", "/kubepods/podX/ID"),
        ("/test.slice", "test.slice:daybook:ID", "/test.slice/daybook-ID.scope"),
        ("/a.slice/a-b.slice", "a-b.slice:daybook:ID", "/a.slice/a-b.slice/daybook-ID.scope"),
        ("-.slice", "-.slice:daybook:ID", "/daybook-ID.scope"),
    ],
)
def test_paths(parent: str, path: str, directory: str) -> None:
    assert cgroups.path_for(parent, "ID") == path
    assert cgroups.directory_for(path) == directory


def test_hierarchies() -> None:
    found = cgroups.parsed(V1)
    assert found.v1["memory"] == "/sys/fs/cgroup/memory"
    assert found.v1["cpuacct"] == found.v1["cpu"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.v1["systemd"] == "/sys/fs/cgroup/systemd"
    assert found.unified == "/sys/fs/cgroup/unified" and not found.v2 and len(found.roots) == 4
    assert cgroups.parsed(b"30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").v2


@pytest.mark.parametrize("path", ["", "/", "//", "/a/../b"])
def test_the_root_is_never_anybodys(path: str) -> None:
    assert cgroups.directories(path) == ()


@pytest.mark.parametrize(
    ("hierarchies", "membership", "delegated", "home"),
    [
        (V2, "0::/system.slice/daybook.service", "/cg/system.slice/daybook.service", "/system.slice/daybook.service/monitors"),
        (V2, "0::/user.slice/session-1.scope", "", "/daybook/monitors"),
        (V2, "0::/a:b/c.service", "/cg/a:b/c.service", "/a:b/c.service/monitors"),
        (V2, "0::/", "/cg/", "/daybook/monitors"),
        (V2, "", "", "/daybook/monitors"),
        (HYBRID, "2:memory:/m\n1:name=systemd:/s/d.service\n0::/s/d.service", "/cg/systemd/s/d.service", "/s/d.service/monitors"),
        (HYBRID, "2:memory:/m\n1:name=systemd:/s/d.service\n0::/s/d.service", "/cg/memory/m", "/daybook/monitors"),
    ],
)  # fmt: skip
def test_monitors_live_in_what_systemd_delegated(
    monkeypatch: pytest.MonkeyPatch, hierarchies: cgroups.Hierarchies, membership: str, delegated: str, home: str
) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: hierarchies)
    monkeypatch.setattr(cgroups, "_read", lambda path: membership if path == "/proc/self/cgroup" else "")
    monkeypatch.setattr(cgroups, "_delegated", lambda directory: directory == delegated)
    assert cgroups.monitors_home() == home

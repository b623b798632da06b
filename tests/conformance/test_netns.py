"""Pins of network namespaces in a directory that others use too: what they do before, between and after."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import mountinfo
from adapters.host.fitness import FAIL
from adapters.host.fitness import pin_directory as pins_in
from adapters.oci import kernel, namespaces, netns
from adapters.oci.layout import NETNS, Layout
from adapters.oci.sandboxes import Sandboxes
from domain.errors import NetworkFailed
from domain.observations import Mark, NamespaceState
from domain.sandbox import Sandbox
from tests.conformance import test_tasks
from tests.conformance.test_sandboxes import KUBELET, pod, said, seen
from tests.conformance.test_tasks import LOG_ID, MARK, Lab, only_real, run_in
from tests.support.namespaces import held, pins

lab, real = test_tasks.lab, test_tasks.real
pytestmark = pytest.mark.real
OTHER_LOG = "0123456789ab" + "f" * 20
SOMEBODYS = "somebodys"


def shell(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: what is mounted or made shared in it is nobody else's."""
    made = tmp_path / "room"
    made.mkdir()
    shell("mount", "-t", "tmpfs", "--make-private", "room", str(made))
    yield made
    # With all that is mounted in it, hidden or not.
    while mountinfo.count_at(str(made)):
        kernel.unmount(str(made), kernel.MNT_DETACH)
    assert not list(mountinfo.points_below(str(made)))


# --- the directory ---------------------------------------------------------------------------------------------------


def missing(room: Path) -> None: ...


def plain(room: Path) -> None:
    (room / "netns").mkdir()


def a_link(room: Path) -> None:
    (room / "elsewhere").mkdir()
    (room / "netns").symlink_to("elsewhere")


def a_link_to_nothing_yet(room: Path) -> None:
    (room / "netns").symlink_to("elsewhere/deep")


def a_private_mount(room: Path) -> None:
    plain(room)
    shell("mount", "-t", "tmpfs", "--make-private", "other", str(room / "netns"))


def shared_already(room: Path) -> None:
    plain(room)
    shell("mount", "--bind", str(room / "netns"), str(room / "netns"))
    shell("mount", "--make-shared", str(room / "netns"))


def below_a_shared_mount(room: Path) -> None:
    """As under systemd, where /run is one."""
    shell("mount", "--make-shared", str(room))
    plain(room)


def below_a_slave_mount(room: Path) -> None:
    below_a_shared_mount(room)
    shell("mount", "--make-slave", str(room))


KINDS = (
    missing,
    plain,
    a_link,
    a_link_to_nothing_yet,
    a_private_mount,
    shared_already,
    below_a_shared_mount,
    below_a_slave_mount,
)


def as_iproute2(directory: Path) -> None:
    """What `ip netns add` does to the directory before its own pin, whatever is there."""
    where = str(directory.resolve())
    try:
        kernel.mount("", where, "none", kernel.MS_SHARED | kernel.MS_REC)
    except OSError:
        kernel.mount(where, where, "none", kernel.MS_BIND | kernel.MS_REC)
        kernel.mount("", where, "none", kernel.MS_SHARED | kernel.MS_REC)


def pinned(directory: Path, name: str) -> str:
    path = f"{directory}/{name}"
    namespaces.make({"net": path})
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_pin_goes_whatever_the_directory_was(room: Path, kind: Callable[[Path], None]) -> None:
    directory = room / "netns"
    kind(room)
    netns.prepare(str(directory))
    before = mountinfo.count_at(str(directory.resolve()))
    path = pinned(directory, "ours")
    as_iproute2(directory)
    netns.prepare(str(directory))
    others = pinned(directory, SOMEBODYS)
    assert mountinfo.count_at(str(directory.resolve())) == before and mountinfo.is_shared(str(directory))
    for _ in range(2):
        netns.unpin(path)
        assert not mountinfo.count_at(path) and not os.path.lexists(path)
    assert namespaces.is_pinned(others)
    kernel.unmount(others, kernel.MNT_DETACH)
    os.unlink(others)
    assert not mountinfo.count_at(others)


@pytest.mark.parametrize("kind", [plain, a_link, a_private_mount, below_a_shared_mount, below_a_slave_mount])
def test_pins_of_others_from_before_are_still_theirs_to_take_away(room: Path, kind: Callable[[Path], None]) -> None:
    kind(room)
    theirs = [pinned(room / "netns", f"{SOMEBODYS}-{n}") for n in range(3)]
    inodes = {os.stat(path).st_ino for path in theirs}
    netns.prepare(str(room / "netns"))
    assert all(map(namespaces.is_pinned, theirs)) and inodes <= held()
    for path in theirs:
        kernel.unmount(path, kernel.MNT_DETACH)
        os.unlink(path)
        assert not mountinfo.count_at(path)
    assert not inodes & held()


def another_bind_on_the_pin(directory: Path, path: str) -> None:
    for _ in range(3):
        shell("mount", "--bind", path, path)


def another_namespace_on_the_pin(directory: Path, path: str) -> None:
    shell("mount", "--bind", "/proc/self/ns/net", path)


def the_directory_over_itself(directory: Path, path: str) -> None:
    shell("mount", "--make-private", str(directory))
    shell("mount", "--rbind", str(directory), str(directory))


def the_bare_directory_over_itself(directory: Path, path: str) -> None:
    shell("mount", "--make-private", str(directory))
    for _ in range(2):
        shell("mount", "--bind", str(directory), str(directory))


def a_file_system_over_the_directory(directory: Path, path: str) -> None:
    shell("mount", "-t", "tmpfs", "cover", str(directory))


def the_directory_unmounted(directory: Path, path: str) -> None:
    shell("umount", "--lazy", str(directory))


def the_pin_unmounted(directory: Path, path: str) -> None:
    shell("umount", path)


@pytest.mark.parametrize(
    "foreign",
    [
        another_bind_on_the_pin,
        another_namespace_on_the_pin,
        the_directory_over_itself,
        the_bare_directory_over_itself,
        a_file_system_over_the_directory,
        the_directory_unmounted,
        the_pin_unmounted,
    ],
)
@pytest.mark.parametrize("kind", [plain, below_a_shared_mount])
def test_what_others_did_to_a_pin_is_undone_with_it(
    room: Path, kind: Callable[[Path], None], foreign: Callable[[Path, str], None]
) -> None:
    kind(room)
    directory = room / "netns"
    netns.prepare(str(directory))
    path, others = pinned(directory, "ours"), pinned(directory, SOMEBODYS)
    inodes = [os.stat(each).st_ino for each in (path, others)]
    foreign(directory, path)
    netns.unpin(path)
    assert not mountinfo.count_at(path) and not os.path.lexists(path) and inodes[0] not in held()
    assert (inodes[1] in held()) == (foreign is not the_directory_unmounted)


def test_a_pin_that_somebody_has_open_goes(room: Path) -> None:
    plain(room)
    netns.prepare(str(room / "netns"))
    path = pinned(room / "netns", "ours")
    with open(path, "rb"):
        netns.unpin(path)
    assert not os.path.lexists(path)


def test_a_directory_that_cannot_be_written(room: Path) -> None:
    plain(room)
    shell("mount", "-o", "remount,ro", str(room))
    with pytest.raises(NetworkFailed, match=r"cannot pin .* in .*netns: Read-only file system; .*remount,rw"):
        netns.prepare(str(room / "netns"))
    assert not mountinfo.count_at(str(room / "netns")), "it was touched"
    assert pins_in(room / "netns").level == FAIL
    shell("mount", "-o", "remount,rw", str(room))
    (room / "netns").rmdir()
    shell("mount", "-o", "remount,ro", str(room))
    with pytest.raises(NetworkFailed, match="Read-only file system"):
        netns.prepare(str(room / "netns"))


def test_what_is_no_directory(room: Path) -> None:
    (room / "file").write_text("")
    (room / "loop").symlink_to("loop")
    for name in ("file", "loop", "file/netns"):
        with pytest.raises(NetworkFailed, match=r"cannot pin network namespaces in .*; "):
            netns.prepare(str(room / name))


# --- pods ------------------------------------------------------------------------------------------------------------


@only_real
async def test_ip_netns_before_the_first_pin_and_between(lab: Lab) -> None:
    names = [f"{SOMEBODYS}-{os.getpid()}-{n}" for n in range(2)]
    try:
        shell("ip", "netns", "add", names[0])
        made = await pod(lab)
        assert lab.sandboxes().netns(made.id) == f"{NETNS}/daybook-{LOG_ID[:12]}-{made.id}"
        shell("ip", "netns", "add", names[1])
        shell("ip", "netns", "delete", names[0])
        assert seen(lab, made) is NamespaceState.NSFS
        assert await said(lab, made, "/bin/busybox readlink /proc/self/ns/net") == [
            f"net:[{pins(lab.layout.sandbox(made.id))['net']}]"
        ]
        await lab.sandboxes().remove(made.id)
        shell("ip", "netns", "exec", names[1], "true")
    finally:
        for name in filter(lambda each: os.path.exists(f"{NETNS}/{each}"), names):
            shell("ip", "netns", "delete", name)


@only_real
async def test_ip_netns_after_a_pin_of_ours(lab: Lab) -> None:
    name = f"{SOMEBODYS}-{os.getpid()}"
    made = await pod(lab)
    shell("ip", "netns", "add", name)
    try:
        await lab.sandboxes().remove(made.id)
        shell("ip", "netns", "exec", name, "true")
    finally:
        shell("ip", "netns", "delete", name)


@only_real
async def test_two_daemons_leave_each_others_pins_alone(lab: Lab) -> None:
    made = await pod(lab)
    second = Layout(str(lab.path / "d2"), str(lab.path / "r2"), OTHER_LOG)
    other = replace(made, id=lab.new_id())
    await Sandboxes(second).set_up(other.id, other, {"log_id": OTHER_LOG, "seq": 1})
    try:
        assert set(lab.sandboxes().observe([], lab.boot_id())) == {made.id}
        assert set(Sandboxes(second).observe([], lab.boot_id())) == {other.id}
        await lab.sandboxes().remove(other.id)
        assert Sandboxes(second).netns(other.id)
        await lab.sandboxes().remove(made.id)
        assert Sandboxes(second).netns(other.id)
    finally:
        await Sandboxes(second).remove(other.id)
    assert not os.path.lexists(second.sandbox(other.id).net)


@only_real
async def test_a_pin_alone_is_ours_by_its_name(lab: Lab) -> None:
    path = lab.layout.sandbox(lab.new_id()).net
    netns.prepare(NETNS)
    namespaces.make({"net": path})
    found = lab.sandboxes().observe([], lab.boot_id())[lab.ids[-1]]
    assert (found.namespace, found.leftovers, found.mark) == (NamespaceState.NSFS, True, Mark(LOG_ID, 0))
    await lab.sandboxes().remove(lab.ids[-1])
    assert lab.ids[-1] not in lab.sandboxes().observe([], lab.boot_id())


@only_real
async def test_a_pod_of_another_log_goes_with_its_pin(lab: Lab) -> None:
    """As after `daybook adopt`: the directories are the same, the log is another."""
    made = lab.sandbox(KUBELET)
    before = Sandboxes(replace(lab.layout, log_id=OTHER_LOG))
    await before.set_up(made.id, made, {"log_id": OTHER_LOG, "seq": 1})
    path = before.netns(made.id)
    assert lab.sandboxes().netns(made.id) == path != lab.layout.sandbox(made.id).net
    await lab.sandboxes().remove(made.id)
    assert not os.path.lexists(path)


@only_real
async def test_a_link_to_what_is_not_the_pods_is_not_followed(lab: Lab) -> None:
    made, other = await pod(lab), await pod(lab)
    link = lab.layout.sandbox(made.id).net_link
    for target in (lab.layout.sandbox(other.id).net, "/proc/self/ns/net", f"{lab.path}/daybook-{'0' * 12}-{made.id}"):
        os.unlink(link)
        os.symlink(target, link)
        assert namespaces.network_places(lab.layout.sandbox(made.id)) == (lab.layout.sandbox(made.id).net,)
    await lab.sandboxes().remove(made.id)
    assert lab.sandboxes().netns(other.id)


async def of_an_older_daemon(lab: Lab) -> Sandbox:
    """Its network is pinned below the run directory, like the rest."""
    made = await pod(lab)
    paths = lab.layout.sandbox(made.id)
    netns.unpin(paths.net)
    os.unlink(paths.net_link)
    namespaces.make({"net": paths.net_link})
    return made


@only_real
async def test_a_pod_of_an_older_daemon_is_whole_and_goes(lab: Lab) -> None:
    made = await of_an_older_daemon(lab)
    path = lab.layout.sandbox(made.id).net_link
    assert seen(lab, made) is NamespaceState.NSFS and lab.sandboxes().netns(made.id) == path
    inode = os.stat(path).st_ino
    assert await said(lab, made, "/bin/busybox readlink /proc/self/ns/net") == [f"net:[{inode}]"]
    for keep in (True, True, False, False):
        await lab.sandboxes().tear_down(made.id, keep_network=keep)
        assert lab.sandboxes().netns(made.id) == (path if keep else "")
    assert inode not in held()
    assert seen(lab, made) is NamespaceState.ABSENT


@only_real
async def test_a_pod_of_an_older_daemon_goes_at_once(lab: Lab) -> None:
    made = await of_an_older_daemon(lab)
    await lab.sandboxes().remove(made.id)
    assert lab.sandboxes().observe([], lab.boot_id()) == {}


def test_the_run_directory_behind_a_link_and_with_a_space(tmp_path: Path) -> None:
    (tmp_path / "a real\tplace").mkdir()
    (tmp_path / "by link").symlink_to("a real\tplace")
    there = Lab(True, tmp_path / "by link")
    there.build_image()

    async def body(lab: Lab) -> None:
        for older in (False, True):
            made = await (of_an_older_daemon(lab) if older else pod(lab))
            for keep in (True, False):
                await lab.sandboxes().tear_down(made.id, keep_network=keep)
            await lab.sandboxes().remove(made.id)

    run_in(there, body)
    assert not list(mountinfo.points_below(str(tmp_path)))


def test_a_pod_whose_pin_has_no_place_says_why_and_leaves_nothing(room: Path, real: Lab) -> None:
    plain(room)
    shell("mount", "-o", "remount,ro", str(room))
    real.netns = str(room / "netns")

    async def body(lab: Lab) -> None:
        made = lab.sandbox(KUBELET)
        with pytest.raises(NetworkFailed, match="Read-only file system; make it writable"):
            await lab.sandboxes().set_up(made.id, made, MARK)
        await lab.sandboxes().remove(made.id)
        assert lab.sandboxes().observe([], lab.boot_id()) == {}

    run_in(real, body)


def test_many_at_once(room: Path, real: Lab) -> None:
    """All of them before the directory is a mount: it becomes one once."""
    real.netns = str(room / "netns")

    async def body(lab: Lab) -> None:
        made = [lab.sandbox(KUBELET) for _ in range(12)]
        adapter = lab.sandboxes()
        await asyncio.gather(*(adapter.set_up(each.id, each, MARK) for each in made))
        assert mountinfo.count_at(lab.netns) == 1
        await asyncio.gather(*(adapter.remove(each.id) for each in made))
        assert os.listdir(lab.netns) == []

    run_in(real, body)

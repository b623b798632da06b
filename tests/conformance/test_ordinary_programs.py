"""Programs and images as people have them: not root, no directory entries, odd configurations; by the real daemon.

The daemon's parent has umask 077, as root's shell has it where an administrator hardened it.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from adapters.oci import kernel
from proto import api_pb2 as pb
from tests.crash.life import Pod, container_config, pod_config, refused
from tests.support.daemon import Machine, machine, until
from tests.support.oci_layout import busybox_files, make_oci_layout

pytestmark = [pytest.mark.real, pytest.mark.slow]

UID = 1000
NUMBERS = itertools.count(1)
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def served() -> Iterator[Machine]:
    before = os.umask(0o077)
    try:
        with machine() as made:
            made.start()
            yield made
            assert made.terminate() == 0
            assert made.left().mounts == ()
    finally:
        os.umask(before)


@pytest.fixture
def m(served: Machine) -> Iterator[Machine]:
    yield served
    runtime, images = served.cri()
    for pod in runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=5).items:
        runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), timeout=30)
    for image in images.ListImages(pb.ListImagesRequest(), timeout=5).images:
        images.RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=image.id)), timeout=30)
    served.await_clean()


class Ran:
    """What a container that has ended left: its status, its lines."""

    def __init__(self, pod: Pod) -> None:
        self.status = pod.ended()
        self.log = pod.machine.pod_logs / pod.name / "app.log"
        text = self.log.read_text()
        self.lines = [line.split(" ", 3)[3] for line in text.splitlines()]

    @property
    def code(self) -> int:
        return int(self.status.exit_code)


def image(m: Machine, name: str, config: Mapping[str, Any] | None = None, **files: Mapping[str, Any]) -> str:
    """An image of busybox and, above it, layers of their own. Its reference."""
    reference = f"registry.example/{name}:1"
    m.layout(name, files=busybox_files(), more_layers=list(files.values()), config=config)
    m.load(reference, name)
    return reference


def ran(m: Machine, reference: str, script: str, *, user: int | None = UID, change: Any = None, **more: Any) -> Ran:
    pod = Pod(m, f"pod-{next(NUMBERS)}").run()
    config = container_config(script, image=reference, **more)
    if user is not None:
        config.linux.security_context.run_as_user.value = user
    if change is not None:
        change(config)
    request = pb.CreateContainerRequest(pod_sandbox_id=pod.sandbox_id, config=config)
    pod.container_id = m.cri()[0].CreateContainer(request, timeout=30).container_id
    pod.start()
    return Ran(pod)


def mount(host: Path, inside: str, **more: Any) -> Any:
    return pb.Mount(host_path=str(host), container_path=inside, **more)


# --- not root --------------------------------------------------------------------------------------------------------


def test_a_program_that_is_not_root_reads_what_is_mounted_for_it(m: Machine, tmp_path: Path) -> None:
    """The service account's token below /var/run, one file in a directory that the image lacks, a host path that
    nobody has made, a working directory that the image lacks."""
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)
    token = tmp_path / "token"
    token.mkdir(mode=0o755)
    (token / "token").write_text("secret\n")
    (token / "token").chmod(0o644)
    (token / "app.yaml").write_text("a: b\n")
    (token / "app.yaml").chmod(0o644)
    (token).chmod(0o755)
    mounts = [
        mount(token, TOKEN, readonly=True),
        mount(token / "app.yaml", "/etc/app/conf.d/app.yaml"),
        mount(tmp_path / "not/yet/there", "/srv/made"),
    ]
    script = f"cat {TOKEN}/token /etc/app/conf.d/app.yaml && ls -d /srv/made /srv/made/. . && id -u"
    found = ran(m, image(m, "plain"), script, mounts=mounts, working_dir="/deep/down/there")
    assert (found.code, found.lines) == (0, ["secret", "a: b", ".", "/srv/made", "/srv/made/.", "1000"])
    assert {oct((tmp_path / p).stat().st_mode & 0o777) for p in ("not", "not/yet", "not/yet/there")} == {"0o755"}


def test_layers_without_entries_for_their_directories(m: Machine) -> None:
    files = {"opt/app/bin/run": b"#!/bin/sh\necho ran\n", "opt/app/etc/conf": b"conf\n"}
    found = ran(m, image(m, "bare", first=files), "/opt/app/bin/run && cat /opt/app/etc/conf")
    assert (found.code, found.lines) == (0, ["ran", "conf"])


def test_what_is_the_daemons_own_stays_its_own(m: Machine) -> None:
    ran(m, image(m, "plain"), "true")
    assert oct(m.data.stat().st_mode & 0o777) == "0o700"
    for path in (m.data, *m.data.glob("log/*"), *m.data.glob("private/*"), m.data / "key", m.data / "owner.json"):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in m.run.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_log_is_for_root_and_its_group(m: Machine) -> None:
    assert oct(ran(m, image(m, "plain"), "echo x").log.stat().st_mode & 0o7777) == "0o640"


# --- who runs --------------------------------------------------------------------------------------------------------

HOSTILE = {
    "etc/passwd": b"1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/:/bin/sh\nx:x:1000:7::/:\n",
    "etc/group": b"44:x:0:\n",
}


@pytest.mark.parametrize(("user", "config"), [(1000, {}), (None, {"User": "1000"}), (None, {"User": "1000:45"})])
def test_a_number_is_not_the_name_of_an_account(m: Machine, user: int | None, config: Mapping[str, Any]) -> None:
    reference = image(m, "hostile" + str(len(str(config))), config, first=HOSTILE)
    found = ran(m, reference, "id -u; id -g", user=user)
    gid = "45" if "45" in str(config) else "7"
    assert (found.code, found.lines) == (0, ["1000", gid])
    assert found.status.user.linux.uid == 1000


# --- odd configurations ----------------------------------------------------------------------------------------------


def test_selinux_options_mean_nothing_here(m: Machine) -> None:
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("this host has SELinux: there they are refused")

    def labelled(config: Any) -> None:
        config.linux.security_context.selinux_options.type = "spc_t"
        config.linux.security_context.selinux_options.level = "s0:c1,c2"

    assert ran(m, image(m, "plain"), "true", change=labelled).code == 0


def test_odd_entries_do_not_condemn_an_image(m: Machine) -> None:
    config = {"Env": ["PATH=/bin", "ODD", "", "=8300", "EVEN=1"], "User": ":33", "StopSignal": "no signal"}
    found = ran(m, image(m, "odd", config), "echo $EVEN $ODD; id -u; id -g", user=None)
    assert (found.code, found.lines) == (0, ["1", "0", "33"])


# --- what the image says of directories and signals ------------------------------------------------------------------

VOLUME_FILES = {"data/seed": b"seed\n", "var/log/real/x": b"", "var/lib/app": "/data"}


@pytest.mark.parametrize("read_only", [False, True])
def test_volumes_exist_and_can_be_written_also_in_a_read_only_root(m: Machine, read_only: bool) -> None:
    config = {"Volumes": {"/data": {}, "/new/deep": {}, "/var/lib/app/sub": {}, "/proc/x": {}, "/": {}}}
    reference = image(m, f"volumes-{read_only}".lower(), config, first=VOLUME_FILES)

    def sealed(config: Any) -> None:
        config.linux.security_context.readonly_rootfs = read_only

    script = "cat /data/seed; for d in /data /new/deep /data/sub; do echo x >$d/w && cat $d/w; done; touch /etc/x"
    found = ran(m, reference, f"({script}) 2>/dev/null", user=None, change=sealed)
    assert (found.code, found.lines) == (int(read_only), ["seed", "x", "x", "x"])


def test_a_volume_in_a_mount_of_the_client_is_a_directory_of_it(m: Machine, tmp_path: Path) -> None:
    reference = image(m, "nested", {"Volumes": {"/srv/db/data": {}}})
    found = ran(m, reference, "echo x >/srv/db/data/f", user=None, mounts=[mount(tmp_path, "/srv/db")])
    assert found.code == 0 and (tmp_path / "data/f").read_text() == "x\n"


@pytest.mark.parametrize("there", [False, True])
def test_a_working_directory_that_is_a_link_into_a_volume(m: Machine, tmp_path: Path, there: bool) -> None:
    """Judged when the mounts are there, by the runtime. A link to what nobody has made is an error of the image."""
    tmp_path.chmod(0o755)
    if there:
        (tmp_path / "app").mkdir()
        (tmp_path / "app/file").write_text("found\n")
        for path in (tmp_path / "app", tmp_path / "app/file"):
            path.chmod(0o755)
    reference = image(m, f"linked-{there}".lower(), {"WorkingDir": "/app"}, first={"app": "/mnt/data/app"})
    mounts = [mount(tmp_path, "/mnt/data")]
    if there:
        assert ran(m, reference, "cat file", mounts=mounts).lines == ["found"]
        assert ran(m, reference, "pwd", mounts=mounts, working_dir="/mnt/data/new", user=None).lines == [
            "/mnt/data/new"
        ]
    else:
        with refused(StatusCode.INTERNAL, "/app"):
            ran(m, reference, "true", mounts=mounts)


def test_a_working_directory_in_a_read_only_root(m: Machine) -> None:
    def sealed(config: Any) -> None:
        config.linux.security_context.readonly_rootfs = True

    reference = image(m, "sealed", {"WorkingDir": "/not/in/the/image"}, first={"l": "/else/where"})
    assert ran(m, reference, "pwd", change=sealed).lines == ["/not/in/the/image"]
    assert ran(m, reference, "pwd -P", change=sealed, working_dir="/l/x").lines == ["/else/where/x"]


@pytest.mark.parametrize("signal", ["sigusr1", "usr1", "Usr1", "SIGUSR1", "10"])
def test_a_stop_signal_in_any_case(m: Machine, signal: str) -> None:
    reference = image(m, f"stops-{signal.lower()}", {"StopSignal": signal})
    pod = Pod(m, f"stops-{signal.lower()}").run()
    pod.create(
        "trap 'exit 33' USR1; trap 'exit 44' TERM; touch /shared/up; while :; do sleep 0.05 & wait $!; done",
        image=reference,
    )
    pod.start()
    until((pod.shared / "up").exists)
    pod.stop(10)
    assert pod.ended().exit_code == 33


def test_an_image_that_runs_is_listed_when_its_tag_has_moved(m: Machine) -> None:
    reference = image(m, "moves")
    old = m.layout("moves")
    pod = Pod(m, "moved").running("touch /shared/up; while :; do sleep 0.05; done", image=reference)
    m._layouts["moves"] = make_oci_layout(m.base / "layout-moved", files={**busybox_files(), "new": b"new"})
    new_id = m.load(reference, "moves")

    def listed() -> dict[str, tuple[list[str], list[str]]]:
        images = m.cri()[1].ListImages(pb.ListImagesRequest(), timeout=5).images
        return {i.id: (list(i.repo_tags), list(i.repo_digests)) for i in images}

    alone = f"registry.example/moves@{old.manifest}"
    assert listed()[old.image_id] == ([], [alone]) and listed()[new_id][0] == [reference]
    for name in (old.image_id, alone):
        asked = pb.ImageSpec(image=name)
        assert m.cri()[1].ImageStatus(pb.ImageStatusRequest(image=asked), timeout=5).image.id == old.image_id
        with refused(StatusCode.FAILED_PRECONDITION, "uses it"):
            m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=asked), timeout=30)
    m.restart()
    assert listed()[old.image_id] == ([], [alone])
    pod.remove()
    m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=old.image_id)), timeout=30)
    assert list(listed()) == [new_id]


def test_dns_options_that_say_nothing_leave_the_pod_the_hosts(m: Machine) -> None:
    pod = Pod(m, "dns")
    config = pod_config(m, "dns")
    config.dns_config.SetInParent()
    pod.sandbox_id = pod.ask("RunPodSandbox", config=config).pod_sandbox_id
    pod.create("cat /etc/resolv.conf", image=image(m, "plain")).start()
    assert Ran(pod).log.read_text().count("nameserver") == Path("/etc/resolv.conf").read_text().count("nameserver")


@pytest.mark.parametrize("name", ["a\rb", "a\u2028b", "a\x85b", "a\x1cb"])
def test_a_mount_that_somebody_has_named_oddly_stops_nothing(m: Machine, tmp_path: Path, name: str) -> None:
    """Any pod's author names directories that the kubelet mounts (subPath)."""
    source, target = tmp_path / name, tmp_path / "target"
    source.mkdir()
    target.mkdir()
    kernel.mount(str(source), str(target), "none", kernel.MS_BIND)
    try:
        reference = image(m, "plain")
        pod = Pod(m, f"pod-{next(NUMBERS)}").running("touch /shared/up; while :; do sleep 0.05; done", image=reference)
        assert ran(m, reference, "true", mounts=[mount(target, "/data")], user=None).code == 0
        m.restart()
        pod.stop()
        pod.remove()
        assert m.command("check").returncode == 0
    finally:
        kernel.unmount(str(target))

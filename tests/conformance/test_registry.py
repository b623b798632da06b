"""Pulls from registries through the real daemon, as the kubelet asks for them: credentials, mirrors, cancellation,
failures. The registry is a scripted one on the loopback address (`tests.support.registry`)."""

import base64
import ctypes
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from domain import events as e
from domain.records import Record
from proto import api_pb2 as pb
from tests.crash.life import Pod, refused
from tests.support.daemon import Machine, machine, until
from tests.support.oci_layout import BuiltImage, make_oci_layout
from tests.support.registry import TOKEN, Fault, LoopbackRegistry

pytestmark = [pytest.mark.real, pytest.mark.slow]

ME = {"username": "me", "password": "s3cret-of-mine"}
BOTH = ("me", "s3cret-of-mine")
SECRETS = ("s3cret-of-mine", base64.b64encode(b"me:s3cret-of-mine").decode(), "refresh-of-mine")
NOISE = os.urandom(512 * 1024)


class Site:
    """A machine with a registry beside it; images are made as they are asked for by tag."""

    def __init__(self, m: Machine, registry: LoopbackRegistry) -> None:
        self.m, self.registry = m, registry
        self.built: dict[str, BuiltImage] = {}
        self.calls: list[Any] = []

    def make(self, tag: str = "1", **more: Any) -> BuiltImage:
        layers = [{"seed": tag.encode(), "noise": NOISE + tag.encode()}, {"top": tag.encode() * 2}]
        config = {"Cmd": ["sh"], "Env": [f"TAG={tag}"], **more.pop("config", {})}
        self.built[tag] = make_oci_layout(self.registry.layout, tag=tag, config=config, more_layers=layers, **more)
        return self.built[tag]

    def name(self, tag: str = "1") -> str:
        return f"{self.registry.host}/x:{tag}"

    def hold(self, tag: str = "1", fault: Fault | None = None) -> None:
        """The blob of the second layer does not come to its end."""
        self.registry.faults[f"blobs/{self.built[tag].layers[1]}"] = fault or Fault("hang")

    def request(self, image: str, **auth: str) -> Any:
        return pb.PullImageRequest(image=pb.ImageSpec(image=image), auth=pb.AuthConfig(**auth) if auth else None)

    def pull(self, image: str, timeout: float = 60, **auth: str) -> str:
        return str(self.m.cri()[1].PullImage(self.request(image, **auth), timeout=timeout).image_ref)

    def begin(self, image: str, timeout: float = 60, **auth: str) -> Any:
        """A call that nobody holds would be cancelled."""
        self.calls.append(self.m.cri()[1].PullImage.future(self.request(image, **auth), timeout=timeout))
        return self.calls[-1]

    def status(self, image: str) -> Any:
        return self.m.cri()[1].ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image=image)), timeout=5).image

    def listed(self) -> list[Any]:
        return list(self.m.cri()[1].ListImages(pb.ListImagesRequest(), timeout=5).images)

    def remove(self, image: str) -> None:
        self.m.cri()[1].RemoveImage(pb.RemoveImageRequest(image=pb.ImageSpec(image=image)), timeout=30)

    def events(self, image: str) -> list[Any]:
        return [r.event for r in self.m.records() if isinstance(r, Record) and r.key == e.image_key(image)]

    def files(self) -> list[Path]:
        """Everything that the daemon has on disk, but for what images consist of."""
        # os.walk goes on where a directory vanishes meanwhile, Path.rglob does not.
        walked = [
            Path(top, name) for root in (self.m.data, self.m.run) for top, _, names in os.walk(root) for name in names
        ]
        found = [p for p in walked if p.is_file() and not p.is_symlink()]
        return [p for p in [*found, *self.m.base.glob("*.log")] if "images" not in p.parts]

    def authfiles(self) -> list[Path]:
        return [p for p in self.files() if p.name == "auth.json"]

    def assert_no_secret(self, *more: str) -> None:
        for path in self.files():
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue  # a pull that runs meanwhile takes its own files away
            assert not [s for s in (*SECRETS, *more) if s.encode() in data], path

    def assert_clean(self, seconds: float = 5) -> None:
        self.m.await_clean(seconds=seconds)
        assert not self.authfiles() and not self.listed()


@contextmanager
def site(
    config: dict[str, Any] | None = None, before: Callable[[Machine], None] | None = None, **more: Any
) -> Iterator[Site]:
    with machine() as m, LoopbackRegistry(m.base / "layout", **more) as registry:
        made = Site(m, registry)
        m.write_config({"images": dict(config or {}), "daemon": {"reconcile_s": 2}})
        if before is not None:
            before(m)
        m.start()
        yield made
        if m.daemon is not None and not m.daemon.dead():
            assert "Traceback" not in m.daemon.said(10**6)
            assert m.terminate() == 0
        assert m.replay("check").returncode == 0


@pytest.fixture
def s() -> Iterator[Site]:
    with site() as made:
        yield made


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bearer", [False, True], ids=["basic", "bearer"])
def test_credentials_of_the_request(bearer: bool) -> None:
    with site(login=BOTH, bearer=bearer, refresh="refresh-of-mine" if bearer else "") as s:
        s.make()
        here = s.registry.host
        wrong: list[dict[str, str]] = [
            {},
            {"username": "me", "password": "wrong"},
            {**ME, "server_address": "https://elsewhere.test"},
            {"identity_token": "wrong"},
        ]
        for auth in wrong:
            with refused(StatusCode.UNKNOWN, s.name(), "cannot pull image"):
                s.pull(s.name(), **auth)
        s.assert_clean()
        right: list[dict[str, str]] = [
            ME,
            {"auth": base64.b64encode(b"me:s3cret-of-mine\0\0").decode()},
            {**ME, "server_address": f"http://{here}/v2/"},
            {**ME, "identity_token": "wrong"},
        ]
        right += [{"identity_token": "refresh-of-mine"}] if bearer else []
        for auth in right:
            assert s.pull(s.name(), **auth) == s.built["1"].image_id
            s.remove(s.name())
        s.assert_clean()
        s.assert_no_secret()
        asked = [ev for ev in s.events(s.name()) if isinstance(ev, e.ImagePullRequested)]
        assert len({ev.access for ev in asked}) == (5 if bearer else 4), "none, wrong password, token, right (thrice)"


def test_credentials_are_in_a_private_file_while_the_pull_is_open_and_nowhere_else() -> None:
    with site(login=BOTH) as s:
        s.make()
        s.hold(fault=Fault("slow", chunk=64 * 1024, pause=0.1))
        call = s.begin(s.name(), **ME)
        assert s.registry.hanging.wait(20)
        (file,) = s.authfiles()
        assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
        for entry in filter(str.isdecimal, os.listdir("/proc")):
            try:
                told = Path(f"/proc/{entry}/cmdline").read_bytes() + Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            assert int(entry) == os.getpid() or not [x for x in SECRETS if x.encode() in told], entry
        assert call.result().image_ref == s.built["1"].image_id
        assert not s.authfiles()
        s.assert_no_secret()


def test_a_registry_token_is_refused_unless_it_is_permitted() -> None:
    with site(bearer=True) as s:
        s.make()
        with refused(StatusCode.INVALID_ARGUMENT, "images.allow_registry_token", "process list"):
            s.pull(s.name(), registry_token=TOKEN)
        assert s.registry.asked == [] and s.events(s.name()) == []
        s.m.terminate()
        s.m.write_config({"images": {"allow_registry_token": True}})
        s.m.start()
        assert s.pull(s.name(), registry_token=TOKEN) == s.built["1"].image_id
        s.assert_no_secret(TOKEN)


def test_the_machines_own_authfile_is_for_those_who_bring_nothing() -> None:
    def before(m: Machine) -> None:
        (m.base / "host-auth.json").write_text("{}")
        m.write_config({"images": {"auth_file": str(m.base / "host-auth.json")}})

    with site(before=before, login=BOTH) as s:
        s.make()
        with refused(StatusCode.UNKNOWN, s.name()):
            s.pull(s.name())
        entry = {"auth": base64.b64encode(b"me:s3cret-of-mine").decode()}
        (s.m.base / "host-auth.json").write_text(json.dumps({"auths": {s.registry.host: entry}}))
        assert s.pull(s.name()) == s.built["1"].image_id
        with refused(StatusCode.UNKNOWN, s.name()):
            s.pull(s.name(), username="me", password="wrong")


def test_nobody_is_answered_by_the_pull_of_another() -> None:
    """Not while it is open, and not when it is done: the registry decides each time."""
    with site(login=BOTH) as s:
        s.make()
        s.hold(fault=Fault("slow", chunk=64 * 1024, pause=0.1))
        with ThreadPoolExecutor(4) as clients:
            mine = clients.submit(s.pull, s.name(), **ME)
            assert s.registry.hanging.wait(20)
            same = clients.submit(s.pull, s.name(), auth=base64.b64encode(b"me:s3cret-of-mine").decode())
            others = [clients.submit(s.pull, s.name(), **auth) for auth in ({}, {"username": "me", "password": "no"})]
            assert mine.result(30) == same.result(30) == s.built["1"].image_id
            for other in others:
                with refused(StatusCode.UNKNOWN, s.name()):
                    other.result(30)
        digest = f"{s.registry.host}/x@{s.built['1'].manifest}"
        assert s.pull(digest, **ME) == s.built["1"].image_id
        for image in (s.name(), digest):
            with refused(StatusCode.UNKNOWN, image):
                s.pull(image)
        assert s.status(s.name()).id == s.built["1"].image_id, "what is here stays here"


# --- names -----------------------------------------------------------------------------------------------------------


def test_one_id_everywhere(s: Site) -> None:
    made = s.make("1", multi_arch=True)
    here = f"{s.registry.host}/x"
    ids = {s.pull(s.name()), s.pull(f"{here}@{made.index}"), s.pull(f"{s.registry.host}/other/x:1")}
    assert ids == {made.image_id}
    (image,) = s.listed()
    assert image.id == made.image_id
    assert list(image.repo_tags) == sorted([s.name(), f"{s.registry.host}/other/x:1"])
    assert list(image.repo_digests) == sorted([f"{here}@{made.index}", f"{s.registry.host}/other/x@{made.index}"])
    for name in (s.name(), f"{here}@{made.index}", made.image_id, made.image_id[7:], made.image_id[7:20]):
        assert s.status(name) == image, name
    pod = Pod(s.m).run().create("exit 0", image=s.name())
    (listed,) = pod.ask("ListContainers").containers
    status = pod.status()
    assert {listed.image_id, status.image_id} == {made.image_id}
    assert status.image_ref == listed.image_ref == f"{here}@{made.index}"
    with refused(StatusCode.FAILED_PRECONDITION, pod.container_id, "uses it"):
        s.remove(made.image_id)
    pod.remove_pod()
    s.remove(f"{here}@{made.index}")
    s.remove(made.image_id)
    s.assert_clean()


def test_a_mirror_serves_a_registry_that_is_not_there() -> None:
    with site() as s:
        s.make()
        conf = s.m.base / "registries.conf"
        conf.write_text(
            f'[[registry]]\nprefix = "registry.test"\nlocation = "127.0.0.1:1"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{s.registry.host}"\ninsecure = true\n'
            f'[[registry]]\nlocation = "blocked.test"\nblocked = true\n'
        )
        s.m.terminate()
        s.m.write_config({"images": {"registries_conf": str(conf)}})
        s.m.start()
        assert s.pull("registry.test/some/x:1") == s.built["1"].image_id
        assert "/v2/some/x/manifests/1" in s.registry.asked
        assert list(s.status("registry.test/some/x:1").repo_tags) == ["registry.test/some/x:1"]
        with refused(StatusCode.UNKNOWN, "blocked"):
            s.pull("blocked.test/x:1")


def test_a_registry_without_a_certificate_must_be_named(s: Site) -> None:
    """By its configuration, where it is not on the loopback; no name resolution is needed for the refusal."""
    s.make()
    name = s.name().replace("127.0.0.1", "127.0.0.1.nip.invalid")
    with refused(StatusCode.UNKNOWN, "RegistryUnavailable"):
        s.pull(name)


def test_pinned_images() -> None:
    def before(m: Machine) -> None:
        m.write_config({"images": {"pinned": ["127.0.0.1:*", "pause"]}})

    with site(before=before) as s:
        s.make()
        s.pull(s.name())
        assert s.listed()[0].pinned and s.status(s.name()).pinned
        s.m.load("q.io/other:1")
        assert [i.pinned for i in s.listed() if "q.io/other:1" in i.repo_tags] == [False]
        s.remove(s.name())
        assert not s.status(s.name()).id, "a pin binds the collector, not who asks by name"


# --- sharing, cancelling ---------------------------------------------------------------------------------------------


def test_pulls_of_one_image_share_one(s: Site) -> None:
    s.make()
    s.hold(fault=Fault("slow", chunk=64 * 1024, pause=0.05))
    with ThreadPoolExecutor(8) as clients:
        ids = {f.result(30) for f in [clients.submit(s.pull, s.name()) for _ in range(8)]}
    assert ids == {s.built["1"].image_id}
    assert sum("/blobs/" in path for path in s.registry.asked) == 1 + len(s.built["1"].layers)


def test_three_at_once_the_others_wait_their_turn(s: Site) -> None:
    tags = [str(n) for n in range(5)]
    for tag in tags:
        s.make(tag)
        s.hold(tag)
    calls = {tag: s.begin(s.name(tag)) for tag in tags}
    until(lambda: s.registry.held == 3, 20, "three pulls are under way")
    until(lambda: len(s.m.records()) >= 6, 20, "five are on record")
    assert s.registry.most_held == 3
    s.registry.faults.clear()
    for tag in tags:
        until(lambda tag=tag: calls[tag].done(), 30)
    assert s.registry.most_held == 3
    assert {i.id for i in s.listed()} <= {b.image_id for b in s.built.values()}


def test_a_deadline_of_a_millisecond(s: Site) -> None:
    s.make()
    for _ in range(5):
        with refused(StatusCode.DEADLINE_EXCEEDED):
            s.pull(s.name(), timeout=0.001)
    s.assert_clean()


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_pull_that_nobody_waits_for_is_gone_within_a_second(how: str) -> None:
    with site(login=BOTH) as s:
        s.make()
        s.hold()
        calls = [s.begin(s.name(), **ME) for _ in range(2)]
        last = s.begin(s.name(), timeout=60 if how == "cancel" else 3, **ME)
        assert s.registry.hanging.wait(20)
        for call in calls:
            call.cancel()
        time.sleep(0.3)
        assert s.authfiles() and s.m.left().processes, "one still waits for it"
        if how == "cancel":
            last.cancel()
        else:
            assert last.code() is StatusCode.DEADLINE_EXCEEDED
        began = time.monotonic()
        until(lambda: not s.authfiles() and not s.m.left().processes and not s.m.left().paths, 5)
        assert time.monotonic() - began < 1
        s.assert_clean()
        failed = s.events(s.name())[-1]
        assert isinstance(failed, e.ImagePullFailed) and failed.error == "Cancelled" and "last client" in failed.text
        s.registry.faults.clear()
        assert s.pull(s.name(), **ME) == s.built["1"].image_id


# --- failures: a clear error, the right code, nothing left ------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "fault", "code", "texts"),
    [
        ("manifest", Fault("status", 404), StatusCode.UNKNOWN, ("manifest",)),
        ("manifest", Fault("status", 500), StatusCode.UNKNOWN, ("RegistryUnavailable: ",)),
        ("manifest", Fault("status", 503), StatusCode.UNKNOWN, ("RegistryUnavailable: ",)),
        ("manifest", Fault("status", 429, code="TOOMANYREQUESTS"), StatusCode.UNKNOWN, ("toomanyrequests",)),
        ("manifest", Fault("status", 403, code="DENIED"), StatusCode.UNKNOWN, ("denied",)),
        ("blob", Fault("status", 404), StatusCode.UNKNOWN, ("cannot pull image",)),
        ("blob", Fault("status", 502), StatusCode.UNKNOWN, ("RegistryUnavailable: ",)),
        ("blob", Fault("corrupt"), StatusCode.UNKNOWN, ("cannot pull image",)),
        ("blob", Fault("truncate"), StatusCode.UNKNOWN, ("RegistryUnavailable: ",)),
        ("blob", Fault("hang"), StatusCode.DEADLINE_EXCEEDED, ("no progress for 1 s",)),
        ("manifest", Fault("hang"), StatusCode.DEADLINE_EXCEEDED, ("no progress for 1 s",)),
    ],
    ids=lambda given: f"{given.kind}{given.status}" if isinstance(given, Fault) else None,
)
def test_a_registry_that_fails(what: str, fault: Fault, code: StatusCode, texts: tuple[str, ...]) -> None:
    with site({"progress_timeout_s": 1}) as s:
        made = s.make()
        key = "manifests/1" if what == "manifest" else f"blobs/{made.layers[1]}"
        s.registry.faults[key] = fault
        with refused(code) as _:
            try:
                s.pull(s.name(), timeout=30)
            except grpc.RpcError as error:
                assert all(t in error.details().lower() or t in error.details() for t in texts), error.details()
                raise
        s.assert_clean(40)
        s.registry.faults.clear()
        assert s.pull(s.name()) == made.image_id


def test_what_a_digest_names_must_be_it(s: Site) -> None:
    made = s.make()
    other = s.make("2")
    blobs = s.registry.layout / "blobs/sha256"
    (blobs / made.manifest[7:]).write_bytes((blobs / other.manifest[7:]).read_bytes())
    with refused(StatusCode.UNKNOWN, made.manifest):
        s.pull(f"{s.registry.host}/x@{made.manifest}")
    s.assert_clean()


def test_nobody_listens(s: Site) -> None:
    with refused(StatusCode.UNKNOWN, "RegistryUnavailable: cannot pull image 127.0.0.1:1/x:1: "):
        s.pull("127.0.0.1:1/x:1")
    s.assert_clean()


def test_a_disk_that_fills_up_during_a_pull() -> None:
    def before(m: Machine) -> None:
        """The image store and the directories of pulls share a small disk; the log has another."""
        for name in ("images", "pulls"):
            (m.data / name).mkdir(parents=True, mode=0o700)
        m.data.chmod(0o700)
        disk = m.base / "disk.img"
        with disk.open("wb") as file:
            file.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(disk), str(m.data / "images")], check=True)
        (m.data / "images" / "lost+found").rmdir()

    with site(before=before) as s:
        s.make("small")
        s.pull(s.name("small"))
        free = os.statvfs(s.m.data / "images").f_bavail
        make_oci_layout(s.registry.layout, tag="big", more_layers=[{f"part{n}": os.urandom(8 << 20)} for n in range(4)])
        with refused(StatusCode.RESOURCE_EXHAUSTED, s.name("big"), "no space left"):
            s.pull(s.name("big"))
        until(lambda: os.statvfs(s.m.data / "images").f_bavail >= free - 64, 5, "the room is given back")
        assert [i.id for i in s.listed()] == [s.built["small"].image_id]
        assert not [p for p in s.m.left().paths if p.startswith("data/pulls") and len(Path(p).name) == 32]
        pod = Pod(s.m).run().create("exit 3", image=s.name("small")).start()
        assert pod.ended().exit_code == 3
        pod.remove_pod()
        s.make("another")
        assert s.pull(s.name("another")) == s.built["another"].image_id
        s.remove(s.name("small"))
        s.remove(s.name("another"))
        assert s.m.terminate() == 0
        subprocess.run(["umount", str(s.m.data / "images")], check=True)


# --- the file system ---------------------------------------------------------------------------------------------------


def test_image_fs_info_is_there_from_the_start_and_cheap(s: Site) -> None:
    def ask() -> Any:
        return s.m.cri()[1].ImageFsInfo(pb.ImageFsInfoRequest(), timeout=5)

    for filesystem in (*ask().image_filesystems, *ask().container_filesystems):
        assert Path(filesystem.fs_id.mountpoint).is_dir() and filesystem.timestamp > 0
    for tag in "123":
        s.make(tag)
        s.pull(s.name(tag))
    used = ask().image_filesystems[0]
    assert used.used_bytes.value > 3 * len(NOISE) and used.inodes_used.value > 10
    times = []
    for _ in range(200):
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    print(f"ImageFsInfo p50 {sorted(times)[100] * 1000:.2f} ms")
    assert sorted(times)[100] < 0.02
    s.m.kill9()
    for mark in (s.m.data / "pulls" / "synced").iterdir():
        assert int(mark.read_text()) > 0, "so that the next daemon need not walk the store"
    s.m.start()
    assert ask().image_filesystems[0].used_bytes == used.used_bytes
    assert ask().image_filesystems[0].inodes_used == used.inodes_used


# --- Debian's registry ---------------------------------------------------------------------------------------------------


def bcrypt(password: str) -> str:
    """By libcrypt, which every Debian has; Python has no crypt any more from 3.13 on."""
    libcrypt = ctypes.CDLL("libcrypt.so.1")
    libcrypt.crypt.restype = ctypes.c_char_p
    found = libcrypt.crypt(password.encode(), b"$2b$04$" + b"saltsaltsaltsaltsaltse")
    assert found and found.startswith(b"$2b$04$"), "libcrypt does not know bcrypt"
    return str(found.decode())


@contextmanager
def debians_registry(base: Path, login: tuple[str, str]) -> Iterator[str]:
    """docker-registry on the loopback address, with basic authentication; its host and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    (base / "htpasswd").write_text(f"{login[0]}:{bcrypt(login[1])}\n")
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(base / "registry")}},
        "http": {"addr": host},
        "auth": {"htpasswd": {"realm": "tests", "path": str(base / "htpasswd")}},
    }
    (base / "registry.yml").write_text(json.dumps(config))
    with (base / "registry.log").open("wb") as log:
        words = ["docker-registry", "serve", str(base / "registry.yml")]
        child = subprocess.Popen(words, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        until(lambda: _listens(host), 20, "the registry listens")
        yield host
    finally:
        child.terminate()
        child.wait(20)


def _listens(host: str) -> bool:
    name, _, port = host.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((name, int(port))) == 0


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="needs Debian's docker-registry")
def test_debians_registry(s: Site) -> None:
    """A registry that nobody wrote for these tests, and that skopeo has pushed to."""
    made = s.make()
    with debians_registry(s.m.base, BOTH) as host:
        name, digest = f"{host}/some/app:v1", f"{host}/some/app@{made.manifest}"
        push = ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", ":".join(BOTH)]
        subprocess.run([*push, f"oci:{made.path}:1", f"docker://{name}"], check=True)
        for auth in ({}, {"username": "me", "password": "wrong"}):
            with refused(StatusCode.UNKNOWN, name, "nauthorized"):
                s.pull(name, **auth)
        with refused(StatusCode.UNKNOWN, "manifest unknown"):
            s.pull(f"{host}/some/app:v2", **ME)
        assert s.pull(name, **ME) == s.pull(digest, **ME) == made.image_id
        (image,) = s.listed()
        assert (list(image.repo_tags), list(image.repo_digests)) == ([name], [digest])
        s.remove(name)
    with refused(StatusCode.UNKNOWN, "RegistryUnavailable: ", "connection refused"):
        s.pull(name, **ME)
    s.assert_clean()
    s.assert_no_secret()

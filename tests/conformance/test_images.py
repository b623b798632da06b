"""The port `Images`: one suite over the fake and over skopeo with a loopback registry; then what only skopeo shows."""

import asyncio
import errno
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.images import images as real_images
from adapters.images import rootfs
from adapters.images.archives import loads, plain
from adapters.images.fake import FakeImages, fake_image
from adapters.images.images import SkopeoImages
from adapters.images.process import Ledger
from adapters.images.rootfs import RootMounts, mount_overlay, mounts_below, unmount
from adapters.images.skopeo import Settings
from adapters.images.sync import sync_image
from adapters.oci import kernel
from domain.config import PullCredentials
from domain.errors import (
    Failure,
    InvalidRequest,
    PullFailed,
    RegistryUnavailable,
    StorageFailed,
    TimedOut,
)
from domain.image import PulledImage
from domain.observations import ImageState
from tests.support.oci_layout import BuiltImage, busybox_files, make_docker_archive, make_oci_layout
from tests.support.registry import Fault, LoopbackRegistry

BOOT = "11111111-2222-3333-4444-555555555555"
REAL = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("skopeo") or not Path("/bin/busybox").exists(),
    reason="needs root, skopeo and busybox-static",
)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(happened: Callable[[], bool]) -> None:
    """For what only polling can see (another process' files); bounded by the test's own limit."""
    while not happened():
        await asyncio.sleep(0.002)


class FakeWorld:
    """Publishes images and breaks them, for the contract."""

    def __init__(self) -> None:
        self.images: Any = FakeImages()

    def publish(self, tag: str, seed: str, *, user: str = "") -> tuple[str, PulledImage]:
        image = fake_image(seed, layers=2, user=user)
        self.images.offer(f"q.io/x:{tag}", image)
        return f"q.io/x:{tag}", image

    def unreachable(self, reference: str) -> None:
        self.images.fail[reference] = RegistryUnavailable("RegistryUnavailable: down")

    def reachable(self, reference: str) -> None:
        self.images.fail.pop(reference, None)

    def lock(self, reference: str, *login: str) -> None:
        self.images.logins[reference] = login

    async def stuck(self, reference: str) -> "asyncio.Task[PulledImage]":
        self.images.hold[reference] = asyncio.Event()
        task = asyncio.ensure_future(self.images.pull(reference, ""))
        for _ in range(5):
            await asyncio.sleep(0)
        return task

    def unstick(self, reference: str) -> None:
        self.images.hold.pop(reference).set()

    def close(self) -> None:
        pass


class RealWorld:
    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.layout = directory / "layout"
        self.built: dict[str, BuiltImage] = {}
        self.registry = LoopbackRegistry(self.layout, login=settings.pop("login", None))
        self.registry.__enter__()
        self.settings = Settings(**settings)
        self.images = self.daemon()

    def daemon(self, boot_id: str = BOOT) -> SkopeoImages:
        """A new daemon on the same store."""
        base = self.directory
        return SkopeoImages(base / "images", base / "run", base / "pulls", boot_id, self.settings)

    def make(self, tag: str, seed: str, **more: Any) -> BuiltImage:
        config = {"Env": ["PATH=/bin", f"SEED={seed}"], "Cmd": ["sh"], **more.pop("config", {})}
        # incompressible, so that a fault falls into the middle of the second layer's blob
        noise = b"".join(hashlib.sha256(f"{seed}{n}".encode()).digest() for n in range(8000))
        layers = [{"seed": seed.encode(), "noise": noise}, {"top": seed.encode() * 2}]
        self.built[tag] = make_oci_layout(self.layout, tag=tag, config=config, more_layers=layers, **more)
        return self.built[tag]

    def reference(self, tag: str) -> str:
        return f"{self.registry.host}/x:{tag}"

    def publish(self, tag: str, seed: str, *, user: str = "") -> tuple[str, PulledImage]:
        made = self.make(tag, seed, config={"User": user})
        return self.reference(tag), PulledImage(made.image_id, made.named, made.diff_ids, 0, user)

    def fault(self, tag: str, layer: int, fault: Fault) -> None:
        self.registry.faults[f"blobs/{self.built[tag].layers[layer]}"] = fault

    def unreachable(self, reference: str) -> None:
        self.registry.faults[f"manifests/{reference.rpartition(':')[2]}"] = Fault("status", 503)

    def reachable(self, reference: str) -> None:
        self.registry.faults.clear()

    def lock(self, reference: str, *login: str) -> None:
        self.registry.login = login

    async def stuck(self, reference: str) -> "asyncio.Task[PulledImage]":
        self.fault(reference.rpartition(":")[2], 1, Fault("hang"))
        task = asyncio.ensure_future(self.images.pull(reference, ""))
        await until(lambda: self.registry.hanging.is_set() or task.done())
        return task

    def unstick(self, reference: str) -> None:
        self.registry.faults.clear()

    # --- looking from outside ----------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        mark, found = os.fsencode(self.directory), []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if mark in Path(f"/proc/{entry}/cmdline").read_bytes() and int(entry) != os.getpid():
                        found.append(int(entry))
                except OSError:
                    continue
        return found

    def runs(self) -> list[Path]:
        return [p for p in (self.directory / "pulls").glob("*") if len(p.name) == 32]

    def assert_nothing_left(self) -> None:
        assert self.processes() == []
        assert self.runs() == []
        assert mounts_below(self.directory) == ()
        assert not [p for p in os.listdir("/var/tmp") if p.startswith("storage")]
        assert not [p for p in (self.directory / "images" / "overlay").glob("compat*")]

    def close(self) -> None:
        self.registry.__exit__()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for point in mounts_below(self.directory):
            unmount(point)


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.real, REAL])])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = FakeWorld() if request.param == "fake" else RealWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealWorld]:
    made = RealWorld(tmp_path)
    yield made
    made.close()


# --- the contract ----------------------------------------------------------------------------------------------------


def test_a_pull_brings_what_the_reference_means(world: Any) -> None:
    async def body() -> None:
        reference, expected = world.publish("a", "one", user="33")
        assert not world.images.present(expected.image_id)
        got = await world.images.pull(reference, "")
        assert (got.image_id, got.digest, got.layers, got.user) == (
            expected.image_id,
            expected.digest,
            expected.layers,
            "33",
        )
        assert got.size > 0
        assert world.images.present(got.image_id)
        seen = world.images.observe()
        assert seen.readable and seen.images == {got.image_id: ImageState.COMPLETE} and seen.stray == ()
        assert seen.names == {reference: got}
        assert len(world.images.layers(got.image_id)) == len(got.layers)

    run(body())


def test_a_second_pull_answers_the_same(world: Any) -> None:
    async def body() -> None:
        reference, _ = world.publish("a", "one")
        assert await world.images.pull(reference, "") == await world.images.pull(reference, "")

    run(body())


def test_a_tag_that_moved_means_the_new_image(world: Any) -> None:
    async def body() -> None:
        reference, _ = world.publish("a", "one")
        old = await world.images.pull(reference, "")
        world.publish("a", "two")
        new = await world.images.pull(reference, "")
        assert new.image_id != old.image_id
        assert set(world.images.observe().images) == {old.image_id, new.image_id}
        assert world.images.present(old.image_id)
        assert world.images.observe().names == {reference: new}

    run(body())


def test_by_digest(world: Any) -> None:
    async def body() -> None:
        reference, expected = world.publish("a", "one")
        by_digest = f"{reference.rpartition(':')[0]}@{expected.digest}"
        got = await world.images.pull(by_digest, "")
        assert (got.image_id, got.digest) == (expected.image_id, expected.digest)
        assert await world.images.pull(by_digest, "") == got
        assert await world.images.pull(reference, "") == got

    run(body())


def test_what_nobody_has_is_a_failed_pull(world: Any) -> None:
    async def body() -> None:
        reference, _ = world.publish("a", "one")
        missing = reference.removesuffix("a") + "missing"
        with pytest.raises(PullFailed, match=missing):
            await world.images.pull(missing, "")
        assert world.images.observe().images == {}

    run(body())


def test_a_registry_that_is_down_has_its_own_error(world: Any) -> None:
    async def body() -> None:
        reference, _ = world.publish("a", "one")
        world.unreachable(reference)
        with pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable"):
            await world.images.pull(reference, "")
        world.reachable(reference)
        assert world.images.present((await world.images.pull(reference, "")).image_id)

    run(body())


def test_credentials_are_the_registrys_to_judge(world: Any) -> None:
    """At each pull anew, also of what is here already."""

    async def body() -> None:
        reference, expected = world.publish("a", "one")
        await world.images.pull(reference, "")
        world.lock(reference, "me", "secret")
        right, wrong = PullCredentials("h", "me", "secret"), PullCredentials("i", "me", "wrong")
        for each in (None, wrong):
            with pytest.raises(PullFailed) as caught:
                await world.images.pull(reference, "", credentials=each)
            assert "RegistryUnavailable" not in caught.value.text and "wrong" not in caught.value.text
        assert (await world.images.pull(reference, "", credentials=right)).image_id == expected.image_id
        assert "secret" not in str(world.images.observe())

    run(body())


@pytest.mark.parametrize("reference", ["", "UPPER", "x@sha256:12", "a/../b", "sha256:" + "a" * 64])
def test_a_bad_reference_is_refused(world: Any, reference: str) -> None:
    with pytest.raises(InvalidRequest):
        run(world.images.pull(reference, ""))


@pytest.mark.parametrize("source", ["dir:/etc", "oci:relative", "docker-archive:", "/x", "docker://q.io/x"])
def test_a_bad_source_is_refused(world: Any, source: str) -> None:
    with pytest.raises(InvalidRequest):
        run(world.images.pull("q.io/x:1", source))


def test_a_cancelled_pull_leaves_no_image_and_can_be_repeated(world: Any) -> None:
    async def body() -> None:
        reference, expected = world.publish("a", "one")
        task = await world.stuck(reference)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = world.images.observe()
        assert (dict(seen.images), dict(seen.names), seen.stray) == ({}, {}, ())
        world.unstick(reference)
        assert (await world.images.pull(reference, "")).image_id == expected.image_id

    run(body())


def test_removal_and_its_repetition(world: Any) -> None:
    async def body() -> None:
        reference, _ = world.publish("a", "one")
        other, _ = world.publish("b", "one")
        kept, _ = world.publish("c", "two")
        image = await world.images.pull(reference, "")
        await world.images.pull(other, "")
        second = await world.images.pull(kept, "")
        for _ in range(2):
            await world.images.remove(image.image_id)
            assert not world.images.present(image.image_id)
        assert world.images.present(second.image_id)
        assert world.images.observe().names == {kept: second}
        with pytest.raises(StorageFailed):
            world.images.layers(image.image_id)
        with pytest.raises(InvalidRequest):
            await world.images.remove("../../etc")

    run(body())


def test_usage_grows_and_shrinks(world: Any) -> None:
    async def body() -> None:
        assert (await world.images.usage()).bytes == 0
        reference, _ = world.publish("a", "one")
        image = await world.images.pull(reference, "")
        full = await world.images.usage()
        assert full.bytes >= image.size and full.inodes > 0 and full.mountpoint and full.at_ns > 0
        await world.images.remove(image.image_id)
        assert (await world.images.usage()).bytes == 0

    run(body())


def test_cleaning_a_clean_store_changes_nothing(world: Any) -> None:
    async def body() -> None:
        await world.images.clean()
        reference, _ = world.publish("a", "one")
        await world.images.pull(reference, "")
        before = world.images.observe()
        await world.images.clean()
        assert world.images.observe() == before

    run(body())


# --- the fake's own ----------------------------------------------------------------------------------------------------


def test_a_killed_fake_leaves_what_the_next_daemon_cleans() -> None:
    async def body() -> None:
        world = FakeWorld()
        reference, expected = world.publish("a", "one")
        task = await world.stuck(reference)
        after = world.images.kill()
        world.unstick(reference)
        await asyncio.sleep(0)
        assert not task.done() and after.observe().stray
        task.cancel()
        await after.clean()
        assert after.observe().stray == () and not after.present(expected.image_id)
        assert await after.pull(reference, "") == expected

    run(body())


# --- only the real one ---------------------------------------------------------------------------------------------------


@pytest.mark.real
@REAL
class TestReal:
    def test_the_id_is_the_digest_of_the_configuration(self, real: RealWorld) -> None:
        async def body() -> None:
            made = real.make("a", "one", config={"Volumes": {"/v": {}}, "StopSignal": "SIGUSR1"})
            got = await real.images.pull(real.reference("a"))
            blob = (made.path / "blobs/sha256" / made.image_id[7:]).read_bytes()
            assert got.image_id == "sha256:" + hashlib.sha256(blob).hexdigest()
            assert got.stop_signal == "SIGUSR1"
            config = real.images.image_config(got.image_id)
            assert config.env == ("PATH=/bin", "SEED=one") and config.cmd == ("sh",) and config.volumes == ("/v",)
            assert all((lower).is_dir() for lower in real.images.layers(got.image_id))
            assert (real.images.layers(got.image_id)[0] / "top").read_bytes() == b"oneone"

        run(body())

    def test_a_multi_arch_tag_means_the_index(self, real: RealWorld) -> None:
        async def body() -> None:
            made = real.make("m", "one", multi_arch=True)
            assert (await real.images.pull(real.reference("m"))).digest == made.index
            assert (await real.images.pull(real.reference("m"))).digest == made.index
            by_index = f"{real.registry.host}/x@{made.index}"
            assert (await real.images.pull(by_index)).digest == made.index
            by_manifest = f"{real.registry.host}/x@{made.manifest}"
            got = await real.images.pull(by_manifest)
            assert (got.digest, got.image_id) == (made.manifest, made.image_id)

        run(body())

    @pytest.mark.parametrize("other", [("amd64", "v1"), ("386", "")])
    def test_an_index_without_the_machines_own_name(self, real: RealWorld, other: tuple[str, str]) -> None:
        """skopeo by itself finds neither on x86."""
        if os.uname().machine != "x86_64":
            pytest.skip("these are names of what an x86 runs")

        async def body() -> None:
            platform = {"architecture": other[0], "variant": other[1], "os": "linux"}
            made = real.make("m", "one", multi_arch=True, platform=platform)
            got = await real.images.pull(real.reference("m"))
            assert (got.digest, got.image_id) == (made.index, made.image_id)
            await real.images.remove(got.image_id)
            got = await real.images.pull(f"{real.registry.host}/x@{made.index}")
            assert (got.digest, got.image_id) == (made.index, made.image_id)
            loaded = await real.images.pull("q.io/loaded:1", f"oci:{made.path}:m")
            assert loaded.image_id == made.image_id

        run(body())

    def test_a_repeated_pull_asks_only_for_the_manifest(self, real: RealWorld) -> None:
        async def body() -> None:
            real.make("a", "one")
            await real.images.pull(real.reference("a"))
            real.registry.asked.clear()
            await real.images.pull(real.reference("a"))
            assert real.registry.asked == ["/v2/", "/v2/x/manifests/a"]

        run(body())

    @pytest.mark.parametrize("multi_arch", [False, True])
    def test_load_of_an_oci_layout(self, real: RealWorld, multi_arch: bool) -> None:
        async def body() -> None:
            made = real.make("a", "one", multi_arch=multi_arch)
            got = await real.images.pull("q.io/loaded:1", f"oci:{made.path}:a")
            assert (got.image_id, got.digest) == (made.image_id, made.named)
            assert real.images.observe().names == {"q.io/loaded:1": got}
            wrong = "q.io/loaded@sha256:" + "a" * 64
            with pytest.raises(PullFailed):
                await real.images.pull(wrong, f"oci:{made.path}:a")
            assert real.images.present(got.image_id)

        run(body())

    def test_load_of_a_docker_archive(self, real: RealWorld, tmp_path: Path) -> None:
        async def body() -> None:
            made = real.make("a", "one")
            archive = make_docker_archive(tmp_path / "a.tar", made, "q.io/saved:1")
            for source in (f"docker-archive:{archive}", f"docker-archive:{archive}:q.io/saved:1"):
                got = await real.images.pull("q.io/loaded:1", source)
                assert (got.image_id, got.layers) == (made.image_id, made.diff_ids)
            with pytest.raises(PullFailed):
                await real.images.pull("q.io/loaded:2", "docker-archive:/nonexistent.tar")

        run(body())

    @pytest.mark.parametrize("packer", ["cf", "czf"])
    def test_load_of_an_oci_archive(self, real: RealWorld, tmp_path: Path, packer: str) -> None:
        """As skopeo and buildah write it, and compressed."""

        async def body() -> None:
            made = real.make("a", "one")
            subprocess.run(["tar", packer, tmp_path / "a.tar", "-C", made.path, "."], check=True)
            (found,) = loads(f"{tmp_path / 'a.tar'}:a", "q.io/loaded:1")
            got = await real.images.pull(found.name, found.source)
            assert (got.image_id, got.digest) == (made.image_id, made.named)

        run(body())

    @pytest.mark.parametrize("compressed", [False, True])
    def test_load_of_a_docker_archive_under_its_own_name(
        self, real: RealWorld, tmp_path: Path, compressed: bool
    ) -> None:
        async def body() -> None:
            made = real.make("a", "one")
            archive = make_docker_archive(tmp_path / "a.tar", made, "q.io/saved:1")
            if compressed:
                archive.write_bytes(gzip.compress(archive.read_bytes()))
            with plain(str(archive)) as path:
                (found,) = loads(path)
                got = await real.images.pull(found.name, found.source)
            assert (found.name, got.image_id) == ("q.io/saved:1", made.image_id)

        run(body())

    def test_credentials(self, tmp_path: Path) -> None:
        world = RealWorld(tmp_path, login=("me", "secret"))

        async def body() -> None:
            world.make("a", "one")
            with pytest.raises(PullFailed) as caught:
                await world.images.pull(world.reference("a"))
            assert "RegistryUnavailable" not in caught.value.text
            with pytest.raises(PullFailed):
                await world.images.pull(world.reference("a"), credentials=PullCredentials("h", "me", "wrong"))
            await world.images.pull(world.reference("a"), credentials=PullCredentials("h", "me", "secret"))
            assert world.runs() == [] and "secret" not in str(world.images.observe())

        try:
            run(body())
        finally:
            world.close()

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (Fault("status", 404), PullFailed),
            (Fault("status", 500), RegistryUnavailable),
            (Fault("corrupt"), PullFailed),
            (Fault("truncate"), RegistryUnavailable),
        ],
    )
    def test_a_bad_blob_fails_the_pull_and_leaves_nothing(
        self, real: RealWorld, fault: Fault, kind: type[Failure]
    ) -> None:
        async def body() -> None:
            made = real.make("a", "one")
            real.fault("a", 1, fault)
            with pytest.raises(kind):
                await real.images.pull(real.reference("a"))
            real.assert_nothing_left()
            assert real.images.observe().images == {}
            real.registry.faults.clear()
            assert (await real.images.pull(real.reference("a"))).image_id == made.image_id

        run(body())

    def test_a_registry_that_lies_about_a_digest(self, real: RealWorld) -> None:
        async def body() -> None:
            made = real.make("a", "one")
            other = real.make("b", "two")
            blobs = made.path / "blobs/sha256"
            (blobs / made.manifest[7:]).write_bytes((blobs / other.manifest[7:]).read_bytes())
            with pytest.raises(PullFailed):
                await real.images.pull(f"{real.registry.host}/x@{made.manifest}")
            assert real.images.observe().images == {}

        run(body())

    def test_nobody_listens(self, real: RealWorld) -> None:
        with pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable"):
            run(real.images.pull("127.0.0.1:1/x:1"))
        real.assert_nothing_left()

    @pytest.mark.parametrize("user", ["u" * 4097, {"uid": 0}])
    def test_a_hostile_configuration_is_refused(self, real: RealWorld, user: Any) -> None:
        async def body() -> None:
            real.make("a", "one", config={"User": user})
            with pytest.raises(PullFailed, match="User"):
                await real.images.pull(real.reference("a"))
            await real.images.clean()
            assert real.images.observe().images == {}

        run(body())

    def test_a_cancelled_pull_ends_at_once_and_leaves_nothing(self, real: RealWorld) -> None:
        async def body() -> None:
            real.make("a", "one")
            task = await real.stuck(real.reference("a"))
            assert real.processes()
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1
            real.assert_nothing_left()

        run(body())

    def test_a_pull_without_progress_is_ended(self, tmp_path: Path) -> None:
        world = RealWorld(tmp_path, stall_s=0.4)

        async def body() -> None:
            world.make("a", "one")
            world.fault("a", 1, Fault("hang"))
            with pytest.raises(TimedOut, match="no progress"):
                await world.images.pull(world.reference("a"))
            world.assert_nothing_left()

        try:
            run(body())
        finally:
            world.close()

    def test_a_slow_pull_has_progress_until_its_limit(self, tmp_path: Path) -> None:
        world = RealWorld(tmp_path, stall_s=0.5, limit_s=1.2)

        async def body() -> None:
            world.make("a", "one")
            world.fault("a", 1, Fault("slow", chunk=1000, pause=0.05))
            with pytest.raises(TimedOut, match="longer than"):
                await world.images.pull(world.reference("a"))
            world.assert_nothing_left()

        try:
            run(body())
        finally:
            world.close()

    @pytest.mark.parametrize("moment", range(6))
    def test_sigkill_of_skopeo_then_clean_and_retry(self, real: RealWorld, moment: int) -> None:
        """Moments: a blob hangs; then whenever the layer index was replaced, or the image index."""

        async def body() -> None:
            made = real.make("a", "one")
            layers = real.directory / "images/overlay-layers/layers.json"
            images = real.directory / "images/overlay-images/images.json"
            if moment == 0:
                task = await real.stuck(real.reference("a"))
            else:
                task = asyncio.ensure_future(real.images.pull(real.reference("a")))
                await until(lambda: task.done() or _entries(layers) >= moment or _entries(images) >= moment - 3)
            _kill_skopeos(real)
            failed = (await asyncio.gather(task, return_exceptions=True))[0]
            assert isinstance(failed, Failure | PulledImage)
            real.registry.faults.clear()
            if isinstance(failed, Failure):
                real.assert_nothing_left()
            await real.images.clean()
            seen = real.images.observe()
            assert seen.stray == () and set(seen.images.values()) <= {ImageState.COMPLETE}
            assert (await real.images.pull(real.reference("a"))).image_id == made.image_id

        run(body())

    def test_a_killed_daemons_pull_is_found_and_ended(self, real: RealWorld) -> None:
        async def first() -> None:
            real.make("a", "one")
            task = await real.stuck(real.reference("a"))
            killed.append(task)
            await asyncio.sleep(0)

        killed: list[Any] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(first())
        assert real.processes() and real.runs()

        async def second() -> None:
            after = real.daemon()
            assert any(stray.startswith("pull ") for stray in after.observe().stray)
            await after.clean()
            assert real.processes() == [] and after.observe().stray == ()
            real.assert_nothing_left()
            real.registry.faults.clear()
            assert (await after.pull(real.reference("a"))).image_id == real.built["a"].image_id

        run(second())
        _abandon(loop, killed)

    def test_a_skopeo_that_the_ledger_misses_is_found_by_its_directory(self, real: RealWorld) -> None:
        async def body() -> None:
            real.make("a", "one")
            ledger = Ledger(real.directory / "pulls" / ("a" * 32))
            ledger.make()
            real.fault("a", 1, Fault("hang"))
            await asyncio.create_subprocess_exec(
                *("skopeo", "--tmpdir", str(ledger.tmp), "copy", "--quiet", "--src-tls-verify=false"),
                *(f"docker://{real.reference('a')}", f"dir:{real.directory}/x"),
                start_new_session=True,
            )
            await until(real.registry.hanging.is_set)
            await real.images.clean()
            assert real.runs() == []
            assert [p for p in real.processes() if _state(p) not in "ZX"] == []

        run(body())

    def test_what_an_earlier_boot_did_not_sync_does_not_count(
        self, real: RealWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Power was lost in a pull: what it had committed may be empty files."""

        async def body() -> None:
            old = real.make("old", "zero")
            await real.images.pull(real.reference("old"))
            made = real.make("a", "one")
            with monkeypatch.context() as patch:
                patch.setattr(real_images, "sync_image", _power_lost)
                with pytest.raises(StorageFailed, match="power"):
                    await real.images.pull(real.reference("a"))
            after = real.daemon("another-boot")
            seen = after.observe()
            assert seen.images == {made.image_id: ImageState.INCOMPLETE, old.image_id: ImageState.COMPLETE}
            assert set(seen.names) == {real.reference("old")}
            await after.clean()
            assert after.observe().images == {old.image_id: ImageState.COMPLETE}
            assert (await after.pull(real.reference("a"))).image_id == made.image_id
            third = real.daemon("third-boot")
            assert set(third.observe().images.values()) == {ImageState.COMPLETE}

        run(body())

    def test_what_this_boot_did_not_sync_is_synced_by_the_next_look(
        self, real: RealWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def body() -> None:
            made = real.make("a", "one")
            with monkeypatch.context() as patch:
                patch.setattr(real_images, "sync_image", _power_lost)
                with pytest.raises(StorageFailed, match="power"):
                    await real.images.pull(real.reference("a"))
            assert real.daemon().observe().images == {made.image_id: ImageState.COMPLETE}
            assert real.daemon("another-boot").observe().images == {made.image_id: ImageState.COMPLETE}

        run(body())

    def test_a_layer_that_was_removed_is_synced_again(self, real: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        async def body() -> None:
            synced: list[int] = []

            def count(root: Path, image_dir: Path, layers: Any, stop: Any) -> dict[str, int]:
                synced.append(len(layers))
                return sync_image(root, image_dir, layers, stop)

            monkeypatch.setattr(real_images, "sync_image", count)
            real.make("a", "one")
            real.make("b", "two")
            image = await real.images.pull(real.reference("a"))
            await real.images.pull(real.reference("a"))
            await real.images.pull(real.reference("b"))
            await real.images.remove(image.image_id)
            await real.images.pull(real.reference("a"))
            assert synced == [3, 2, 2], "the layer that b shares was never removed"

        run(body())

    def test_at_most_three_at_once_and_none_disturbs_another(self, real: RealWorld) -> None:
        async def body() -> None:
            for n in range(5):
                real.make(f"t{n}", f"seed{n}")
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, len(real.runs()))
                    await asyncio.sleep(0.005)

            watcher = asyncio.ensure_future(watch())
            got = await asyncio.gather(*(real.images.pull(real.reference(f"t{n}")) for n in range(5)))
            watcher.cancel()
            assert [i.image_id for i in got] == [real.built[f"t{n}"].image_id for n in range(5)]
            assert most <= 3
            assert set(real.images.observe().images.values()) == {ImageState.COMPLETE}

        run(body())

    def test_layers_of_a_broken_pull_are_gone_after_clean(self, real: RealWorld) -> None:
        async def body() -> None:
            real.make("kept", "zero")
            kept = await real.images.pull(real.reference("kept"))
            base = {layer.name for layer in (real.directory / "images/overlay").iterdir()}
            real.make("a", "one")
            real.fault("a", 2, Fault("truncate"))
            with pytest.raises(RegistryUnavailable):
                await real.images.pull(real.reference("a"))
            assert any(stray.startswith("layer ") for stray in real.images.observe().stray)
            await real.images.clean()
            assert real.images.observe().stray == ()
            assert {layer.name for layer in (real.directory / "images/overlay").iterdir()} == base
            assert real.images.present(kept.image_id)

        run(body())

    def test_an_entry_that_lost_its_files_is_incomplete_and_can_be_removed(self, real: RealWorld) -> None:
        async def body() -> None:
            real.make("a", "one")
            image = await real.images.pull(real.reference("a"))
            images = real.directory / "images/overlay-images/images.json"
            entries = json.loads(images.read_text())
            for key in ("names", "digest", "big-data-names", "big-data-sizes", "big-data-digests", "metadata"):
                entries[0].pop(key, None)
            images.write_text(json.dumps(entries))
            assert real.images.observe().images == {image.image_id: ImageState.INCOMPLETE}
            assert not real.images.present(image.image_id)
            await real.images.clean()
            assert real.images.observe().images == {} and real.images.observe().stray == ()

        run(body())

    def test_an_unreadable_index_is_told_not_raised(self, real: RealWorld) -> None:
        folder = real.directory / "images/overlay-images"
        folder.mkdir(parents=True)
        (folder / "images.json").write_text("{")
        seen = real.images.observe()
        assert not seen.readable and "images.json" in seen.text

    def test_close_leaves_no_mount(self, real: RealWorld) -> None:
        async def body() -> None:
            real.make("a", "one")
            await real.images.pull(real.reference("a"))
            await real.images.close()
            assert mounts_below(real.directory) == ()

        run(body())


@pytest.mark.real
@REAL
class TestRootfs:
    def test_mount_and_unmount(self, real: RealWorld, tmp_path: Path) -> None:
        async def body() -> None:
            real.make("a", "one")
            image = await real.images.pull(real.reference("a"))
            roots = RootMounts(real.directory / "images")
            base = tmp_path / "c1"
            target = base / "rootfs"
            await roots.prepare(tmp_path)
            lowers = real.images.layers(image.image_id)
            for _ in range(2):  # the second replaces the first
                await roots.mount(lowers, base / "upper", base / "work", target)
            assert (target / "bin/busybox").is_file() and (target / "top").read_bytes() == b"oneone"
            (target / "new").write_bytes(b"n")
            assert (base / "upper/new").read_bytes() == b"n"
            assert not (lowers[0] / "new").exists()
            assert [str(p) for p in mounts_below(base)] == [str(target)]
            assert _propagation(target) == ""
            for _ in range(2):
                await roots.unmount(target)
            assert mounts_below(base) == () and list(target.iterdir()) == [] and roots.detached == 0
            await roots.unmount(tmp_path / "never")

        run(body())

    @pytest.mark.parametrize("old_api", [False, True])
    @pytest.mark.parametrize("count", [1, 5, 90, 500])
    @pytest.mark.parametrize("long", ["d" * 200 + "/" + "e" * 200, "a,b:c\\d e", "short"])
    def test_both_interfaces_with_many_layers_and_odd_paths(
        self, tmp_path: Path, old_api: bool, count: int, long: str
    ) -> None:
        base = tmp_path / long
        lowers = [base / f"{n:064x}" / "diff" for n in range(count)]
        for n, lower in enumerate(lowers):
            lower.mkdir(parents=True)
            (lower / f"f{n}").write_text("x")
            (lower / "same").write_text(str(n))
        target = base / "root"
        try:
            mount_overlay(lowers, base / "up", base / "work", target, old_api=old_api)
            assert len(list(target.iterdir())) == count + 1 and (target / "same").read_text() == "0"
            (target / "same").write_text("mine")
            assert (base / "up/same").read_text() == "mine" and (lowers[0] / "same").read_text() == "0"
        finally:
            assert unmount(target) is False
        assert mounts_below(tmp_path) == ()

    @pytest.mark.parametrize("old_api", [False, True])
    @pytest.mark.parametrize("name", ["dev", "proc", "sys"])
    def test_an_odd_root_is_refused_and_nothing_stays_mounted(self, tmp_path: Path, name: str, old_api: bool) -> None:
        lower = tmp_path / "lower"
        lower.mkdir()
        (lower / name).symlink_to("/etc")
        with pytest.raises(StorageFailed, match=f"/{name} in the image is not a directory"):
            mount_overlay([lower], tmp_path / "u", tmp_path / "w", tmp_path / "t", old_api=old_api)
        assert mounts_below(tmp_path) == ()

    def test_a_kernel_that_takes_any_parameter_is_asked_the_old_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before 6.5: each fsconfig succeeds, and only the creation says EINVAL. The guest has such a kernel."""
        asked: list[int] = []

        def before_6_5(number: int, *arguments: int | bytes | None) -> int:
            asked.append(number)
            if number == rootfs._FSOPEN:
                return os.open("/dev/null", os.O_RDONLY)
            if arguments[1] == rootfs._FSCONFIG_CMD_CREATE:
                raise OSError(errno.EINVAL, "Invalid argument")
            return 0

        monkeypatch.setattr(rootfs, "_call", before_6_5)
        (tmp_path / "lower").mkdir()
        try:
            mount_overlay([tmp_path / "lower"], tmp_path / "u", tmp_path / "w", tmp_path / "t")
            assert [str(p) for p in mounts_below(tmp_path)] == [str(tmp_path / "t")]
            assert asked == [rootfs._FSOPEN, rootfs._FSCONFIG], "nothing was tried that such a kernel would log"
        finally:
            unmount(tmp_path / "t")

    @pytest.mark.parametrize("name", ["plain", "sp ace", "back\\slash", "tab\tand ä b", "c\rr"])
    def test_a_directory_on_a_shared_mount_is_made_private_once(self, tmp_path: Path, name: str) -> None:
        """As systemd has every mount; a second bind would hide what was mounted below the first."""
        top = tmp_path / name
        top.mkdir()
        kernel.mount("tmpfs", str(top), "tmpfs", 0)
        try:
            kernel.mount("", str(top), "none", kernel.MS_SHARED)
            (top / "containers").mkdir()
            for _ in range(3):
                rootfs.make_private(top / "containers")
            assert [str(p) for p in mounts_below(top)] == [str(top / "containers"), str(top)]
        finally:
            for point in mounts_below(top):
                unmount(point)

    def test_no_layers(self, tmp_path: Path) -> None:
        try:
            mount_overlay([], tmp_path / "u", tmp_path / "w", tmp_path / "t")
            assert list((tmp_path / "t").iterdir()) == []
        finally:
            unmount(tmp_path / "t")

    def test_foreign_lower_directories_are_refused(self, tmp_path: Path) -> None:
        roots = RootMounts(tmp_path)
        inside = tmp_path / "overlay" / ("a" * 64)
        inside.mkdir(parents=True)
        (inside / "diff").symlink_to("/etc")
        for lower in (Path("/etc"), inside / "diff", tmp_path / "overlay/../diff", Path(f"/x/overlay/{'a' * 64}/diff")):
            with pytest.raises(InvalidRequest):
                run(roots.mount([lower], tmp_path / "u", tmp_path / "w", tmp_path / "t"))
        assert mounts_below(tmp_path) == ()

    def test_a_busy_root_is_detached_and_counted(self, tmp_path: Path) -> None:
        async def body() -> None:
            lower = tmp_path / "overlay" / ("a" * 64) / "diff"
            lower.mkdir(parents=True)
            (lower / "f").write_text("x")
            roots = RootMounts(tmp_path)
            await roots.mount([lower], tmp_path / "u", tmp_path / "w", tmp_path / "t")
            with open(tmp_path / "t/f"):
                await roots.unmount(tmp_path / "t")
            assert roots.detached == 1 and mounts_below(tmp_path) == ()

        try:
            run(body())
        finally:
            for point in mounts_below(tmp_path):
                unmount(point)


# --- helpers -----------------------------------------------------------------------------------------------------------


def _power_lost(*_: Any) -> dict[str, int]:
    raise StorageFailed("no power")


def _entries(index: Path) -> int:
    try:
        return len(json.loads(index.read_text()))
    except (OSError, ValueError):
        return 0


def _kill_skopeos(world: RealWorld) -> None:
    for pid in world.processes():
        try:
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _propagation(target: Path) -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(target):
            return " ".join(fields[6 : fields.index("-")])
    raise AssertionError(f"{target} is not mounted")


def _abandon(loop: asyncio.AbstractEventLoop, tasks: list[Any]) -> None:
    """Ends the loop of a daemon that was 'killed': its clean-up finds nothing left to do."""
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def test_the_helper_makes_the_same_image_twice(tmp_path: Path) -> None:
    if not Path("/bin/busybox").exists():
        pytest.skip("needs busybox-static")
    one = make_oci_layout(tmp_path / "1", files=busybox_files())
    two = make_oci_layout(tmp_path / "2", files=busybox_files())
    assert (one.image_id, one.manifest) == (two.image_id, two.manifest)

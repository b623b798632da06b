"""The port `Images` over skopeo and containers-storage.

A pull asks the registry once what the reference means (`inspect --raw`: the digest of exactly those bytes, the index's
for a multi-arch tag), copies, checks that what was copied is what was meant, finds the image whole, syncs it, answers.
Every run has a directory of its own; whatever ends the run, the directory goes and, when no other run is on, so does
what it leaves in the store. Only where the registry or the network failed, layers that were whole already stay for the
retry, until `clean`.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.images import authfile, platforms, strays
from adapters.images.book import Book
from adapters.images.config import BadConfig, ImageConfig, read_object
from adapters.images.failures import storage_failure
from adapters.images.process import Ledger, uncancelled
from adapters.images.reference import Reference, image_hex, is_digest, parse
from adapters.images.skopeo import SHORT_S, STRAY_NAME, Settings, Skopeo, source_of
from adapters.images.store import MANIFEST_MAX, Index, Store, StoredImage
from adapters.images.sync import Marks, count_inodes, sync_image
from adapters.images.threads import Threads
from domain.config import PullCredentials
from domain.errors import PullFailed, RegistryUnavailable, StorageFailed, TimedOut
from domain.image import PulledImage
from domain.observations import ImageObservation, ImageState
from domain.records import Usage

SYNC_S = 600.0
CLEAN_S = 120.0
MOVED_TRIES = 3
_log = logging.getLogger(__name__)


class SkopeoImages:
    """The store at `root` (on disk) and `run` (state of a boot); `pulls` holds one directory per run, beside `root`."""

    def __init__(self, root: Path, run: Path, pulls: Path, boot_id: str, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.store = Store(root)
        self._skopeo = Skopeo(root, run, pulls, settings)
        self._book = Book(pulls / "names")
        self._marks = Marks(pulls / "synced", boot_id)
        self._root, self._run, self._pulls = root, run, pulls
        self._places = asyncio.Semaphore(settings.at_once)
        self._threads = Threads(4)
        self._active: set[Path] = set()
        self._quiet = asyncio.Lock()
        self._clean_first = True
        self._entered: set[str] = set()
        self._inodes: dict[str, int] = {}

    # --- the port ----------------------------------------------------------------------------------------------------

    async def pull(
        self, reference: str, source: str = "", *, credentials: PullCredentials | None = None
    ) -> PulledImage:
        """Brings the image here, whole and synced. `source`: empty, `oci:PATH[:TAG]` or `docker-archive:PATH[:REF]`.

        Raises InvalidRequest, RegistryUnavailable, PullFailed, StorageFailed, DiskFull, TimedOut. Cancelled, it leaves
        nothing, within about a second. More than `at_once` wait their turn, first come first served.
        """
        wanted = parse(reference)
        origin = source_of(wanted, source)
        async with self._places:
            if self._clean_first:
                await self.clean()
            async with self._running() as ledger:
                self._book.forget(str(wanted))
                before = frozenset(self.store.index().images)
                try:
                    image, digest = await self._fetch(wanted, origin, ledger, credentials)
                    await self._sync(image)
                except TimedOut as error:
                    raise TimedOut(f"cannot pull image {wanted}: {error.text}") from error
                except asyncio.CancelledError:
                    await uncancelled(self._take_back(wanted, before, ledger))
                    raise
                self._note(wanted, image, digest)
        return _pulled(image, digest)

    async def remove(self, image_id: str) -> None:
        """The image with all its names and every layer that no other needs; absent already is fine.

        Raises InvalidRequest, StorageFailed, TimedOut. Not known here: whether a live root lies over its layers.
        """
        known = image_hex(image_id)
        if known not in self.store.index().images:
            return
        async with self._running() as ledger:
            self._book.forget_image(f"sha256:{known}")
            await self._delete(known, ledger)

    def present(self, image_id: str) -> bool:
        """Whether the store has it whole."""
        return isinstance(self.store.image(image_hex(image_id)), StoredImage)

    async def clean(self) -> None:
        """Ends and removes what broken pulls left; what lies in the store itself only while nothing else runs.

        Raises StorageFailed, TimedOut.
        """
        async with self._quiet:
            left = await self._threads.run("list broken pulls", CLEAN_S, strays.leftovers, self._pulls, self._active)
            for one in left:
                await self._threads.run("forget credentials", SHORT_S, authfile.remove, one.directory)
                await self._threads.run("end a broken pull", CLEAN_S, strays.end_processes, one)
            if not self._active:
                await self._clean_store()
                await self._threads.run("forget what is gone", SHORT_S, self._forget, self.store.index())
            for one in left:
                await self._threads.run("remove a broken pull", CLEAN_S, strays.remove_tree, one.directory)
            if self._clean_first:
                await self._threads.run("begin a boot", SHORT_S, self._marks.begin_boot)
            self._clean_first = False

    def observe(self) -> ImageObservation:
        """What the store has, what references meant. Blocking: what a daemon killed in this boot pulled is synced."""
        try:
            left = strays.leftovers(self._pulls, self._active)
            index = self.store.index()
            tainted = self._marks.tainted(index.layers)
            states: dict[str, ImageState] = {}
            for known in index.images:
                image = self.store.image(known, fresh=True)
                whole = isinstance(image, StoredImage) and tainted.isdisjoint(layer.id for layer in image.layers)
                if whole and isinstance(image, StoredImage) and not self._active:
                    self._sync_now(image, threading.Event())
                states[f"sha256:{known}"] = ImageState.COMPLETE if whole else ImageState.INCOMPLETE
            return ImageObservation(images=states, names=self._names(states), stray=self._strays(index, left))
        except StorageFailed as error:
            return ImageObservation(readable=False, text=error.text)

    async def usage(self) -> Usage:
        """Bytes as the index tells them; inodes counted once per layer, in its life. Raises StorageFailed, TimedOut."""
        index = self.store.index()
        missing = [layer.id for layer in index.layers.values() if layer.complete and layer.id not in self._inodes]
        for layer in missing:
            self._inodes[layer] = await self._threads.run("count inodes", SYNC_S, self._count, layer)
        for gone in self._inodes.keys() - index.layers.keys():
            del self._inodes[gone]
        data = sum(sum(entry.data.values()) for entry in index.images.values())
        return Usage(
            at_ns=time.time_ns(),
            bytes=data + sum(layer.size for layer in index.layers.values()),
            inodes=sum(self._inodes.values()) + sum(len(entry.data) + 1 for entry in index.images.values()),
            mountpoint=str(self._root),
        )

    def _count(self, layer: str) -> int:
        known = self._marks.inodes(layer)
        return count_inodes(self.store.diff(layer)) if known is None else known

    # --- for the runtime adapter -------------------------------------------------------------------------------------

    def image_config(self, image_id: str) -> ImageConfig:
        """Raises StorageFailed when the store does not have the image whole."""
        return self._whole(image_id).config

    def layers(self, image_id: str) -> tuple[Path, ...]:
        """Lower directories of an overlay, top first; empty for an image without layers. Raises StorageFailed."""
        return tuple(self.store.diff(layer.id) for layer in self._whole(image_id).layers)

    async def close(self) -> None:
        """Undoes the mounts that skopeo leaves in the store. Not while a run is on."""
        if not self._active:
            await self._threads.run("clear the image store", CLEAN_S, strays.clear_store, self.store.overlay)

    def _whole(self, image_id: str) -> StoredImage:
        image = self.store.image(image_hex(image_id))
        if isinstance(image, StoredImage):
            return image
        raise StorageFailed(f"cannot use image {image_id}: {image or 'the store does not have it'}")

    # --- one pull ----------------------------------------------------------------------------------------------------

    async def _fetch(
        self, wanted: Reference, origin: str, ledger: Ledger, credentials: PullCredentials | None
    ) -> tuple[StoredImage, str]:
        """Copies unless the store has exactly what the reference means under this name; image and digest meant."""
        try:
            for _ in range(MOVED_TRIES):
                digest, instances, platform = await self._meaning(wanted, origin, ledger, credentials)
                if (held := self._held(wanted, digest)) is not None:
                    return held, digest
                before = frozenset(self.store.index().images)
                copied = await self._skopeo.copy(wanted, origin, ledger, credentials, platform)
                image = await self._copied(wanted, copied, before, ledger)
                if not instances or copied in instances:
                    return image, digest or copied
                _log.info("%s moved while it was pulled", wanted)
        finally:
            authfile.remove(ledger.directory)
        raise PullFailed(f"cannot pull image {wanted}: it changed {MOVED_TRIES} times while it was pulled")

    async def _take_back(self, wanted: Reference, before: frozenset[str], ledger: Ledger) -> None:
        """A pull that is cancelled when its image is whole already: it goes, unless another pull brought it as well."""
        entry = self.store.named(str(wanted))
        if entry is not None and entry.id not in before and entry.names == (str(wanted),):
            await self._delete(entry.id, ledger)

    async def _meaning(
        self, wanted: Reference, origin: str, ledger: Ledger, credentials: PullCredentials | None
    ) -> tuple[str, frozenset[str], tuple[str, ...]]:
        """The digest that the reference names, the manifests that a copy may then bring (none: it brings that one), and
        what skopeo must be told to take this machine's.

        By digest it is asked too: that the registry still lets us have it, and which image of an index. An archive of
        docker's has no manifest to name.
        """
        if origin.startswith("docker-archive:"):
            return wanted.digest, frozenset(), ()
        raw = await self._skopeo.inspect(wanted, origin, ledger, credentials)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        if wanted.digest and wanted.digest != digest:
            raise PullFailed(f"cannot pull image {wanted}: the source has {digest} in its place")
        machine = os.uname().machine
        told = platforms.options(platforms.chosen(_document(raw, wanted), machine), machine)
        return digest, _instances(raw, digest, wanted), told

    async def _copied(self, wanted: Reference, copied: str, before: frozenset[str], ledger: Ledger) -> StoredImage:
        """What the store has under this name after a copy. If it is refused and was not there before, it goes again."""
        entry = self.store.named(str(wanted))
        if entry is None:
            raise PullFailed(f"cannot pull image {wanted}: the store does not have it after the copy")
        image = self.store.image(entry.id, fresh=True)
        if not isinstance(image, StoredImage):
            why = image or "it vanished after the copy"
        elif wanted.digest and wanted.digest not in image.manifests:
            why = f"the source has {copied} in its place"
        else:
            return image
        if entry.id not in before:
            await self._delete(entry.id, ledger)
        raise PullFailed(f"cannot pull image {wanted}: {why}")

    def _held(self, wanted: Reference, digest: str) -> StoredImage | None:
        """The whole image that the store already has under this very name and manifest digest."""
        entry = self.store.named(str(wanted))
        if entry is None or not digest or f"manifest-{digest}" not in entry.data:
            return None
        image = self.store.image(entry.id, fresh=True)
        return image if isinstance(image, StoredImage) else None

    async def _sync(self, image: StoredImage) -> None:
        """New layers and the index; layers that are known to be on disk are left out."""
        stop = threading.Event()
        work = asyncio.ensure_future(self._threads.run("sync an image", SYNC_S, self._sync_now, image, stop))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(Exception):
                await uncancelled(work)
            raise

    def _sync_now(self, image: StoredImage, stop: threading.Event) -> None:
        unsure = self._marks.unsure(layer.id for layer in image.layers)
        if not unsure and image.id in self._entered:
            return
        image_dir = self.store.data_path(image.id, "manifest").parent
        directories = [self.store.overlay / layer for layer in sorted(unsure)]
        self._inodes.update(sync_image(self._root, image_dir, directories, stop))
        self._marks.mark({layer: self._inodes.get(layer, 0) for layer in unsure})
        self._entered.add(image.id)

    # --- runs of skopeo ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[Ledger]:
        """A directory for one run; removed at the end, and with it what a broken run left.

        Whoever cancelled does not want it any more, and on a full disk every byte counts; after a failure of the
        registry or the network a retry is near, and may find the layers that are whole.
        """
        async with self._quiet:
            ledger = Ledger(self._pulls / uuid.uuid4().hex)
            self._active.add(ledger.directory)
        clear: Callable[[], Awaitable[None]] = self._clean_store
        try:
            await self._threads.run("begin a pull", SHORT_S, self._make, ledger)
            yield ledger
            clear = _nothing
        except (RegistryUnavailable, TimedOut):
            clear = self._clear
            raise
        finally:
            await uncancelled(self._end(ledger, clear))

    def _make(self, ledger: Ledger) -> None:
        try:
            for directory in (self._root, self._run, self._pulls):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            ledger.make()
            self._skopeo.prepare()
        except OSError as error:
            raise storage_failure("cannot make directories of the image store", error) from error

    async def _end(self, ledger: Ledger, clear: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._threads.run("end a pull", CLEAN_S, strays.remove_tree, ledger.directory)
        finally:
            self._active.discard(ledger.directory)
        if clear is not _nothing:
            async with self._quiet:
                if not self._active:
                    await clear()

    async def _delete(self, known: str, ledger: Ledger) -> None:
        index = self.store.index()
        if (entry := index.images.get(known)) is not None:
            others = [e for i, e in index.images.items() if i != known and e.names and e.names != (STRAY_NAME,)]
            shared = {layer.id for e in others for layer in index.chain(e.layer) or ()}
            chain = [layer.id for layer in index.chain(entry.layer) or () if layer.id not in shared]
            await self._threads.run("forget layers", SHORT_S, self._marks.unmark, chain)
            self._entered.discard(known)
        said = await self._skopeo.delete(known, ledger)
        await self._threads.run("forget layers", SHORT_S, self._marks.keep_only, self.store.index().layers)
        if known in self.store.index().images:
            raise StorageFailed(f"cannot remove image sha256:{known}: {said}")

    def _note(self, wanted: Reference, image: StoredImage, digest: str) -> None:
        try:
            self._book.note(str(wanted), f"sha256:{image.id}", digest)
        except OSError as error:
            raise storage_failure(f"cannot note what {wanted} means", error) from error

    def _names(self, states: Mapping[str, ImageState]) -> dict[str, PulledImage]:
        found: dict[str, PulledImage] = {}
        for reference, (image_id, digest) in self._book.entries().items():
            image = self.store.image(image_hex(image_id))
            if states.get(image_id) is ImageState.COMPLETE and isinstance(image, StoredImage):
                found[reference] = _pulled(image, digest)
        return found

    # --- strays ------------------------------------------------------------------------------------------------------

    def _strays(self, index: Index, left: Sequence[strays.Leftover]) -> tuple[str, ...]:
        found = [f"pull {one.directory.name}" for one in left]
        found += [f"index {text}" for text in index.odd]
        if not self._active:
            found += [f"layer {layer.id}" for layer in index.layers.values() if not layer.complete]
            found += [f"layer {layer.id}" for layer in index.orphans()]
            found += [f"image {known}" for known in self._nameless(index)]
            found += [f"directory {path}" for path in strays.odd_directories(self.store.overlay)]
            points = strays.store_mounts(self.store.overlay)
            found += [f"mount {point}" for point in points if point != self.store.overlay]
        return tuple(found)

    def _nameless(self, index: Index) -> tuple[str, ...]:
        """Entries of broken pulls: without a name and not whole. Whole ones without a name lost it to a newer image."""
        return tuple(
            known
            for known, entry in index.images.items()
            if (not entry.names and not isinstance(self.store.image(known, fresh=True), StoredImage))
            or entry.names == (STRAY_NAME,)
        )

    async def _clean_store(self) -> None:
        """Nameless entries, incomplete and orphaned layers, and what an earlier boot never synced."""
        index = self.store.index()
        lost = self._marks.tainted(index.layers)
        doomed = [
            known
            for known, entry in index.images.items()
            if lost.intersection(layer.id for layer in index.chain(entry.layer) or ())
        ]
        async with self._own_run() as ledger:
            for known in {*doomed, *self._nameless(index)}:
                await self._delete(known, ledger)
            for _ in range(len(self.store.index().layers)):
                orphans = self.store.index().orphans()
                if not orphans:
                    break
                chain = self.store.index().chain(orphans[0].id) or ()
                await self._delete(await self._skopeo.adopt(chain[::-1], ledger), ledger)
        await self._clear()

    def _forget(self, index: Index) -> None:
        """Marks and notes about what the store no longer has."""
        try:
            self._marks.keep_only(index.layers)
            self._book.keep_only({f"sha256:{known}" for known in index.images})
        except OSError as error:
            raise StorageFailed(f"cannot forget what the image store lost: {error.strerror}") from error

    async def _clear(self) -> None:
        """Incomplete layers (a deletion removes them), trial directories, mounts."""
        if any(not layer.complete for layer in self.store.index().layers.values()):
            async with self._own_run() as ledger:
                await self._delete(await self._skopeo.adopt((), ledger), ledger)
        await self._threads.run("clear the image store", CLEAN_S, strays.clear_store, self.store.overlay)

    @contextlib.asynccontextmanager
    async def _own_run(self) -> AsyncIterator[Ledger]:
        """A run of the clean-up itself, which holds `_quiet`: directory and ledger, nothing after it."""
        ledger = Ledger(self._pulls / uuid.uuid4().hex)
        self._active.add(ledger.directory)
        try:
            await self._threads.run("begin a clean-up", SHORT_S, self._make, ledger)
            yield ledger
        finally:
            self._active.discard(ledger.directory)
            await uncancelled(
                self._threads.run("end a clean-up", CLEAN_S, strays.remove_tree, ledger.directory),
            )


async def _nothing() -> None:
    """What a run that came to its end leaves to be cleared."""


def _pulled(image: StoredImage, digest: str) -> PulledImage:
    return PulledImage(
        image_id=f"sha256:{image.id}",
        digest=digest,
        layers=image.config.diff_ids,
        size=image.size,
        user=image.config.user,
        stop_signal=image.config.stop_signal,
    )


def _document(raw: bytes, wanted: Reference) -> Mapping[str, Any]:
    """A manifest or an index. Raises PullFailed."""
    try:
        document = read_object(raw, MANIFEST_MAX)
    except BadConfig as error:
        raise PullFailed(f"cannot pull image {wanted}: its manifest is refused: {error}") from error
    if document.get("schemaVersion") != 2:
        raise PullFailed(f"cannot pull image {wanted}: its manifest is not of schema version 2")
    return document


def _instances(raw: bytes, digest: str, wanted: Reference) -> frozenset[str]:
    """Digests of manifests that a manifest or index stands for: itself, and what an index lists."""
    listed = _document(raw, wanted).get("manifests")
    found = {item.get("digest") for item in listed if isinstance(item, dict)} if isinstance(listed, list) else set()
    return frozenset({digest, *(d for d in found if isinstance(d, str) and is_digest(d))})

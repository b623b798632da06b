"""`Images` in memory, deterministic, for tests: scripted failures, pulls that can be held, a daemon that can be killed.

A registry is what `offer` put there. A pull copies in steps (each one turn of the event loop), so that a cancellation
or `kill` can fall between them and leaves what it would with skopeo: the one nothing, the other a half entry or a layer
without an image.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path

from adapters.images.config import ImageConfig
from adapters.images.reference import image_hex, parse
from adapters.images.skopeo import source_of
from domain.config import PullCredentials
from domain.errors import Failure, PullFailed, StorageFailed
from domain.image import PulledImage
from domain.observations import ImageObservation, ImageState
from domain.records import Usage


@dataclass(frozen=True, slots=True)
class Offer:
    """What a reference (or a source) means: the image and its configuration."""

    image: PulledImage
    config: ImageConfig = ImageConfig()


class FakeImages:
    """`hold[reference]`: a pull waits in the middle for that event. `fail[reference]`: raised once there instead.

    `logins[reference]`: the user and password without which the registry gives it to nobody.
    """

    def __init__(self) -> None:
        self.hold: dict[str, asyncio.Event] = {}
        self.fail: dict[str, Failure] = {}
        self.logins: dict[str, tuple[str, str]] = {}
        self.calls: list[tuple[str, str]] = []
        self._offers: dict[str, Offer] = {}
        self._stored: dict[str, Offer] = {}
        self._half: set[str] = set()
        self._loose: set[str] = set()
        self._names: dict[str, PulledImage] = {}
        self._dead = False

    # --- the world's side --------------------------------------------------------------------------------------------

    def offer(self, reference: str, image: PulledImage, config: ImageConfig | None = None) -> None:
        """The registry has it under this reference and its digest; an `oci:` or `docker-archive:` source likewise."""
        given = Offer(image, config or ImageConfig())
        if reference.startswith(("oci:", "oci-archive:", "docker-archive:")):
            self._offers[reference] = given
            return
        wanted = parse(reference)
        self._offers[str(wanted)] = self._offers[f"{wanted.name}@{image.digest}"] = given

    def withdraw(self, reference: str) -> None:
        self._offers.pop(str(parse(reference)), None)

    def damage(self, image_id: str) -> None:
        """The store no longer has it whole."""
        self._half.add(image_id)

    def kill(self) -> "FakeImages":
        """The daemon dies now: no pull of this object goes further. Returns what the next daemon finds."""
        self._dead = True
        after = FakeImages()
        after.logins = dict(self.logins)
        after._offers, after._stored = self._offers, dict(self._stored)
        after._half, after._loose, after._names = set(self._half), set(self._loose), dict(self._names)
        return after

    # --- the port ----------------------------------------------------------------------------------------------------

    async def pull(
        self, reference: str, source: str = "", *, credentials: PullCredentials | None = None
    ) -> PulledImage:
        wanted = str(parse(reference))
        source_of(parse(reference), source)
        self.calls.append(("pull", wanted))
        self._names.pop(wanted, None)
        await self._step()
        login = credentials and (credentials.username, credentials.password)
        if not source and self.logins.get(wanted) not in (None, login):
            raise PullFailed(f"cannot pull image {wanted}: unauthorized: authentication required")
        offer = self._offers.get(source or wanted)
        if offer is None:
            raise PullFailed(f"cannot pull image {wanted}: manifest unknown")
        image_id, new = offer.image.image_id, offer.image.image_id not in self._stored
        begun = set(offer.image.layers[:1] if new else ()) - self._loose
        self._loose |= begun
        try:
            if wanted in self.hold:
                await self.hold[wanted].wait()
            await self._step()
            if wanted in self.fail:
                raise self.fail.pop(wanted)
            if not self.present(image_id):  # another pull may have brought it meanwhile
                await self._commit(offer)
        except asyncio.CancelledError:
            if not self._dead:
                self._loose -= begun
            raise
        self._names[wanted] = offer.image
        return offer.image

    async def remove(self, image_id: str) -> None:
        known = f"sha256:{image_hex(image_id)}"
        self.calls.append(("remove", known))
        await self._step()
        self._forget(known)

    def present(self, image_id: str) -> bool:
        known = f"sha256:{image_hex(image_id)}"
        return known in self._stored and known not in self._half

    async def clean(self) -> None:
        self.calls.append(("clean", ""))
        await self._step()
        for known in self._half & {k for k, offer in self._stored.items() if offer.image not in self._names.values()}:
            self._forget(known)
        self._loose.clear()

    def observe(self) -> ImageObservation:
        states = {k: ImageState.INCOMPLETE if k in self._half else ImageState.COMPLETE for k in sorted(self._stored)}
        needed = {layer for offer in self._stored.values() for layer in offer.image.layers}
        names = {r: i for r, i in self._names.items() if states.get(i.image_id) is ImageState.COMPLETE}
        return ImageObservation(
            images=states, names=names, stray=tuple(f"layer {layer}" for layer in sorted(self._loose - needed))
        )

    async def usage(self) -> Usage:
        size = sum(offer.image.size for offer in self._stored.values())
        return Usage(at_ns=1, bytes=size, inodes=len(self._stored), mountpoint="/fake/images")

    def image_config(self, image_id: str) -> ImageConfig:
        return self._whole(image_id).config

    def layers(self, image_id: str) -> tuple[Path, ...]:
        overlay, layers = Path("/fake/images/overlay"), self._whole(image_id).image.layers
        return tuple(overlay / layer.removeprefix("sha256:") / "diff" for layer in reversed(layers))

    async def close(self) -> None:
        return None

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _commit(self, offer: Offer) -> None:
        """As in the store: for a moment the entry is there and not whole. A cancelled pull takes it away again."""
        known = offer.image.image_id
        self._stored[known] = offer
        self._half.add(known)
        try:
            await self._step()
        except asyncio.CancelledError:
            if not self._dead and known in self._half:
                self._forget(known)
            raise
        self._half.discard(known)
        self._loose.difference_update(offer.image.layers)

    def _forget(self, image_id: str) -> None:
        self._stored.pop(image_id, None)
        self._half.discard(image_id)
        for reference in [r for r, image in self._names.items() if image.image_id == image_id]:
            del self._names[reference]

    def _whole(self, image_id: str) -> Offer:
        if not self.present(image_id):
            raise StorageFailed(f"cannot use image {image_id}: the store does not have it")
        return self._stored[f"sha256:{image_hex(image_id)}"]

    async def _step(self) -> None:
        await asyncio.sleep(0)
        if self._dead:
            await asyncio.Event().wait()


def fake_image(seed: str, *, layers: int = 1, size: int = 1000, user: str = "") -> PulledImage:
    """An image whose ids follow from the seed."""

    def digest(what: str) -> str:
        return "sha256:" + hashlib.sha256(f"{seed}/{what}".encode()).hexdigest()

    chain = tuple(digest(f"layer{n}") for n in range(layers))
    return PulledImage(image_id=digest("config"), digest=digest("manifest"), layers=chain, size=size, user=user)

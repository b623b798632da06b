"""The fake passes the contract in tests/conformance/test_images.py; here is what it adds: the same seed, the same ids."""

import asyncio

from adapters.images.fake import FakeImages, fake_image
from domain.observations import ImageState


def test_ids_follow_from_the_seed() -> None:
    assert fake_image("a", layers=2) == fake_image("a", layers=2) != fake_image("b", layers=2)


def test_damage_and_repair() -> None:
    async def body() -> None:
        images, image = FakeImages(), fake_image("a")
        images.offer("q.io/x", image)
        await images.pull("q.io/x")
        images.damage(image.image_id)
        assert images.observe().images == {image.image_id: ImageState.INCOMPLETE} and not images.observe().names
        await images.pull("q.io/x")
        assert images.present(image.image_id)

    asyncio.run(body())

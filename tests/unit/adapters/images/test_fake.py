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


async def _one_is_late() -> None:
    images = FakeImages()
    image = fake_image("same")
    for reference in ("q.io/a:1", "q.io/b:1"):
        images.offer(reference, image)
    images.hold["q.io/a:1"] = asyncio.Event()
    late = asyncio.ensure_future(images.pull("q.io/a:1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await images.pull("q.io/b:1") == image
    images.hold["q.io/a:1"].set()
    while not late.done():
        assert images.present(image.image_id)
        await asyncio.sleep(0)


def test_a_late_pull_does_not_touch_what_another_brought() -> None:
    asyncio.run(_one_is_late())

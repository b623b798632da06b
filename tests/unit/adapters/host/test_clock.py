import asyncio
import itertools
import re
import time

from adapters.host.clock import RandomIds, SystemClock


def test_boot_time_never_goes_back_and_the_boot_id_stays() -> None:
    clock = SystemClock()
    readings = [clock.now() for _ in range(100)]
    assert all(a.boot_ns <= b.boot_ns for a, b in itertools.pairwise(readings))
    assert {r.boot_id for r in readings} == {SystemClock().now().boot_id}
    assert abs(readings[0].wall_ns - time.time_ns()) < 60 * 10**9


def test_sleeping_ends_at_the_moment_not_before() -> None:
    clock = SystemClock()
    until = clock.now().boot_ns + 20_000_000

    async def sleep() -> int:
        await clock.sleep_until(until)
        await clock.sleep_until(0)
        return clock.now().boot_ns

    assert asyncio.run(sleep()) >= until


def test_ids_are_64_hex_digits_and_differ() -> None:
    ids = {RandomIds().new() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{64}", i) for i in ids)

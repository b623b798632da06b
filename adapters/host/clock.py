"""Wall clock, boot clock, boot id and fresh ids of the real machine."""

import asyncio
import secrets
import time
import uuid
from pathlib import Path

from domain.records import Now

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LONGEST_SLEEP_S = 3600.0
"""asyncio sleeps on CLOCK_MONOTONIC, which stands still while the machine is suspended: so never sleep long at once."""


class SystemClock:
    """Deadlines are CLOCK_BOOTTIME: it counts suspended time and never steps."""

    def __init__(self) -> None:
        self._boot_id = str(uuid.UUID(BOOT_ID.read_text().strip()))

    def now(self) -> Now:
        return Now(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), self._boot_id)

    async def sleep_until(self, boot_ns: int) -> None:
        while (left := boot_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) > 0:
            await asyncio.sleep(min(left / 1e9, LONGEST_SLEEP_S))


class RandomIds:
    """64 hex digits, as the kubelet's cAdvisor expects of container ids in cgroup names."""

    def new(self) -> str:
        return secrets.token_hex(32)

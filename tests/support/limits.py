"""How much slower than a quiet machine this one is: limits of tests are multiplied by it, nothing else is."""

import os
from typing import Any

import grpc

SLOWNESS = float(os.environ.get("DAYBOOK_TEST_SLOWNESS", "1"))
"""1 on a machine of one's own; a guest whose CPU is emulated needs about 10."""

MOMENT_S = 1.0
"""A call with less than this means to be too late: its limit is what is tested, and stays."""


class _Patient(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    def intercept_unary_unary(self, continuation: Any, call_details: Any, request: Any) -> Any:
        limit = call_details.timeout
        if limit is not None and limit >= MOMENT_S:
            call_details = call_details._replace(timeout=limit * SLOWNESS)
        return continuation(call_details, request)


def patient(channel: Any) -> Any:
    """The channel, with every call's limit multiplied."""
    return channel if SLOWNESS == 1 else grpc.intercept_channel(channel, _Patient())

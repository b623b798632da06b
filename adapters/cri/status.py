"""From errors to gRPC codes: one literal table, and the text that goes with a code.

The kubelet tells NOT_FOUND, DEADLINE_EXCEEDED and UNIMPLEMENTED apart, and of UNKNOWN it reads the first word.
"""

from collections.abc import Mapping

import grpc

from domain import errors
from domain.errors import DaybookError

# fmt: off
CODES: Mapping[type[DaybookError], grpc.StatusCode] = {
    errors.InvalidRequest:      grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound:            grpc.StatusCode.NOT_FOUND,
    errors.NameTaken:           grpc.StatusCode.ALREADY_EXISTS,
    errors.WrongState:          grpc.StatusCode.FAILED_PRECONDITION,
    errors.Quarantined:         grpc.StatusCode.FAILED_PRECONDITION,
    errors.InUse:               grpc.StatusCode.FAILED_PRECONDITION,
    errors.Busy:                grpc.StatusCode.ABORTED,
    errors.NotReady:            grpc.StatusCode.UNAVAILABLE,
    errors.LimitReached:        grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unsupported:         grpc.StatusCode.UNIMPLEMENTED,
    errors.TimedOut:            grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled:           grpc.StatusCode.ABORTED,
    errors.RegistryUnavailable: grpc.StatusCode.UNKNOWN,
    errors.PullFailed:          grpc.StatusCode.UNKNOWN,
    errors.RuntimeFailed:       grpc.StatusCode.INTERNAL,
    errors.ExecFailed:          grpc.StatusCode.UNKNOWN,
    errors.NetworkFailed:       grpc.StatusCode.INTERNAL,
    errors.StorageFailed:       grpc.StatusCode.INTERNAL,
    errors.DiskFull:            grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unforeseen:          grpc.StatusCode.INTERNAL,
}
# fmt: on

TEXT_MAX = 2048
"""Bytes of a text: it travels in an HTTP/2 header, three bytes for each that is not ASCII, and clients take 8 KiB."""


def status_of(error: BaseException, request: str) -> tuple[grpc.StatusCode, str]:
    """Code and text for a client. What is not one of our errors says nothing but the request's id."""
    for kind in type(error).__mro__:
        if kind in CODES:
            assert isinstance(error, DaybookError)
            return CODES[kind], bounded(error.text)
    return grpc.StatusCode.INTERNAL, f"internal error, see daybook's log for request {request}"


def bounded(text: str) -> str:
    """A text that can be sent, whatever it quotes: valid UTF-8 and not too long."""
    data = text.encode("utf-8", "replace")
    return text_of(data) if len(data) <= TEXT_MAX else text_of(data[: TEXT_MAX - 3]) + "…"


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "ignore")

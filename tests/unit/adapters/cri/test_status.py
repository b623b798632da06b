"""Errors and gRPC codes: the table is complete, and nothing foreign reaches a client."""

import grpc
import pytest

from adapters.cri.status import CODES, TEXT_MAX, bounded, status_of
from domain import errors

C = grpc.StatusCode
BASES = {errors.DaybookError, errors.Refusal, errors.Failure}
EXPECTED = {
    "InvalidRequest": C.INVALID_ARGUMENT,
    "NotFound": C.NOT_FOUND,
    "NameTaken": C.ALREADY_EXISTS,
    "WrongState": C.FAILED_PRECONDITION,
    "Quarantined": C.FAILED_PRECONDITION,
    "InUse": C.FAILED_PRECONDITION,
    "Busy": C.ABORTED,
    "NotReady": C.UNAVAILABLE,
    "LimitReached": C.RESOURCE_EXHAUSTED,
    "Unsupported": C.UNIMPLEMENTED,
    "TimedOut": C.DEADLINE_EXCEEDED,
    "Cancelled": C.ABORTED,
    "RegistryUnavailable": C.UNKNOWN,
    "PullFailed": C.UNKNOWN,
    "RuntimeFailed": C.INTERNAL,
    "ExecFailed": C.UNKNOWN,
    "NetworkFailed": C.INTERNAL,
    "StorageFailed": C.INTERNAL,
    "DiskFull": C.RESOURCE_EXHAUSTED,
    "Unforeseen": C.INTERNAL,
}


def test_every_error_has_a_row() -> None:
    found = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DaybookError)}
    assert set(CODES) == found - BASES


def test_the_table_is_the_agreed_one() -> None:
    assert {kind.__name__: code for kind, code in CODES.items()} == EXPECTED


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_text_of_ours_is_passed_on_from_its_first_word(kind: type[errors.DaybookError]) -> None:
    assert status_of(kind("RegistryUnavailable: no route"), "r1") == (CODES[kind], "RegistryUnavailable: no route")


def test_a_subclass_in_an_adapter_has_its_parents_code() -> None:
    class LogFull(errors.LimitReached):
        pass

    assert status_of(LogFull("full"), "r1")[0] is C.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("error", [ValueError("password"), errors.DaybookError("password"), KeyError("password")])
def test_anything_else_names_the_request_only(error: Exception) -> None:
    assert status_of(error, "r1") == (C.INTERNAL, "internal error, see daybook's log for request r1")


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, "\ud800 broken", "ok"])
def test_texts_can_be_sent(text: str) -> None:
    assert len(bounded(text).encode()) <= TEXT_MAX

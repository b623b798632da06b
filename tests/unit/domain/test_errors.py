"""errors: a closed set, in two kinds."""

from domain import errors


def leaves() -> set[type]:
    return {
        k
        for k in vars(errors).values()
        if isinstance(k, type) and issubclass(k, errors.DaybookError) and k not in BASES
    }


BASES = {errors.DaybookError, errors.Refusal, errors.Failure}


def test_every_error_is_a_refusal_or_a_failure() -> None:
    for kind in leaves():
        assert issubclass(kind, errors.Refusal) != issubclass(kind, errors.Failure)
        assert kind("why").text == str(kind("why")) == "why"


def test_every_failure_can_be_recorded_and_told_again() -> None:
    late = {errors.InvalidRequest, errors.Busy, errors.Unsupported}
    assert set(errors.FAILURES.values()) == late | {k for k in leaves() if issubclass(k, errors.Failure)}
    for name, kind in errors.FAILURES.items():
        told = errors.failure(name, "why")
        assert (type(told), told.text) == (kind, "why")


def test_an_unknown_failure_of_an_older_log() -> None:
    assert type(errors.failure("Forgotten", "why")) is errors.RuntimeFailed

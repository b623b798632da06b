"""making: what it makes is what the class itself makes."""

from dataclasses import dataclass, field

import pytest

from adapters.log.making import makable, maker
from domain.records import Cause, Now, Record

CAUSE = Cause("rpc", "x", "r", 1, "a", "s", 2)
NOW = Now(1, 2, "boot")


def test_made_is_equal() -> None:
    assert maker(Now)(1, 2, "boot") == NOW
    assert maker(Cause)("rpc", "x", "r", 1, "a", "s", 2) == CAUSE
    assert maker(Cause)("rpc") == Cause("rpc")
    fields = (1, NOW, "k", 1, "w", None, CAUSE, b"h", 5)
    assert maker(Record)(*fields) == Record(*fields)
    assert hash(maker(Cause)("rpc")) == hash(Cause("rpc"))


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(TypeError):
        maker(Now)(1, 2)


@dataclass(frozen=True, slots=True)
class Checking:
    number: int

    def __post_init__(self) -> None:
        assert self.number > 0


@dataclass(frozen=True, slots=True)
class Sharing:
    table: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WithoutSlots:
    number: int


@pytest.mark.parametrize("kind", [Checking, Sharing, WithoutSlots])
def test_a_class_that_does_more_is_not_bypassed(kind: type) -> None:
    assert not makable(kind)
    with pytest.raises(AssertionError):
        maker(kind)

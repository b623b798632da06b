"""codec: what goes in comes out, equal values are equal bytes, and nothing that does not fit passes."""

import contextlib
import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.log import codec
from adapters.log.codec import EventCodec, decode_value, encode_value
from adapters.log.errors import CodecError
from domain.config import ContainerSecrets
from domain.events import WIRE, ContainerExited, ContainerStarted, NodeStopped
from domain.records import Evidence


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Inner:
    number: int = 7
    text: str = ""


@dataclass(frozen=True, slots=True)
class Everything:
    number: int
    text: str
    raw: bytes
    flag: bool
    inner: Inner
    colour: Colour
    level: Level
    many: tuple[Inner, ...]
    pair: tuple[str, bytes]
    table: Mapping[str, int]
    inners: Mapping[str, Inner]
    chosen: frozenset[str]
    maybe: int | None
    perhaps: Inner | None = Inner(1)
    other: tuple[int, ...] = field(default_factory=tuple)
    nested: tuple[tuple[str, bytes], ...] = ()


FULL = Everything(
    -(2**63),
    "ü",
    b"\0\xff",
    True,
    Inner(0),
    Colour.BLUE,
    Level.HIGH,
    (Inner(), Inner(2, "x")),
    ("a", b"b"),
    {"b": 1, "a": 2},
    {"x": Inner(3)},
    frozenset("cab"),
    2**64 - 1,
    None,
    (1, 2),
    (("a", b""),),
)


def raw(value: Any) -> bytes:
    return typing.cast(bytes, msgpack.packb(value))


def test_every_form_comes_back() -> None:
    assert decode_value(Everything, encode_value(FULL)) == FULL


def test_equal_values_give_equal_bytes() -> None:
    other = dataclasses.replace(FULL, table={"a": 2, "b": 1}, chosen=frozenset("bca"), colour=Colour("blue"))
    assert encode_value(other) == encode_value(FULL)
    assert encode_value(Inner(7, Colour.RED)) == encode_value(Inner(7, "red"))  # equal, and so are their bytes


def test_defaults_are_left_out() -> None:
    assert msgpack.unpackb(encode_value(Inner())) == {}
    assert msgpack.unpackb(encode_value(Inner(0))) == {"number": 0}
    assert msgpack.unpackb(encode_value(ContainerExited(0, 5, Evidence()))) == {"code": 0, "at": 5, "evidence": {}}


def test_secrets_come_back() -> None:
    secrets = ContainerSecrets(("sh",), (), (("A", b"\xff"),), {"k": "v"})
    assert decode_value(ContainerSecrets, encode_value(secrets)) == secrets


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "1"),
        ("number", True),
        ("number", 1.0),
        ("number", 2**64),
        ("text", b"x"),
        ("text", None),
        ("text", "\udc80"),
        ("raw", "x"),
        ("raw", bytearray(b"x")),
        ("flag", 1),
        ("inner", None),
        ("inner", {"number": 1}),
        ("colour", "red"),
        ("level", 1),
        ("many", [Inner()]),
        ("many", (1,)),
        ("pair", ("a",)),
        ("table", {1: 1}),
        ("table", {"a": 1.5}),
        ("table", [("a", 1)]),
        ("chosen", {"a"}),
        ("maybe", 0.0),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(CodecError):
        encode_value(dataclasses.replace(FULL, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "1"),
        ("number", False),
        ("number", 1.0),
        ("text", b"x"),
        ("raw", "x"),
        ("flag", 0),
        ("inner", None),
        ("inner", []),
        ("inner", {"number": "x"}),
        ("inner", {"no such": 1}),
        ("colour", "green"),
        ("colour", 1),
        ("colour", ["red"]),
        ("level", 3),
        ("level", True),
        ("many", {}),
        ("many", [[]]),
        ("pair", ["a"]),
        ("pair", ["a", "b"]),
        ("table", {"a": "b"}),
        ("table", {b"a": 1}),
        ("table", [["a", 1]]),
        ("chosen", [[]]),
        ("chosen", {}),
        ("maybe", ""),
        ("inners", {"x": None}),
        ("other", None),
        ("unknown", 1),
        ("number", msgpack.Timestamp(1)),
        ("number", msgpack.ExtType(5, b"x")),
    ],
)
def test_bytes_that_do_not_fit_are_refused(name: str, value: Any) -> None:
    plain = msgpack.unpackb(encode_value(FULL))
    with pytest.raises(CodecError):
        decode_value(Everything, raw({**plain, name: value}))


def test_the_error_names_the_field() -> None:
    plain = msgpack.unpackb(encode_value(FULL))
    with pytest.raises(CodecError, match="inner: number: int expected, got str"):
        decode_value(Everything, raw({**plain, "inner": {"number": "x"}}))
    with pytest.raises(CodecError, match="Everything lacks text"):
        decode_value(Everything, raw({key: value for key, value in plain.items() if key != "text"}))
    with pytest.raises(CodecError, match=r"cannot decode event container\.started/1: ContainerStarted lacks at"):
        EventCodec().decode("container.started/1", raw({}))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x80\x80", raw(1), raw([1]), raw(None), raw({1: 2}), b"\x91" * 3000, b"\xdf\xff\xff\xff\xff"],
)
def test_bytes_that_are_no_map_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_value(Inner, data)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(data: bytes) -> None:
    for kind in (Everything, ContainerExited):
        with pytest.raises(CodecError):
            decode_value(kind, data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_damaged_bytes_decode_or_raise_a_codec_error(place: int, noise: bytes) -> None:
    data = bytearray(encode_value(FULL))
    data[place % len(data) : place % len(data) + len(noise)] = noise
    with contextlib.suppress(CodecError):
        decode_value(Everything, bytes(data))


def test_size_is_bounded_both_ways() -> None:
    with pytest.raises(CodecError, match="exceed"):
        encode_value(Inner(text="x" * codec.PAYLOAD_BYTES_MAX))
    with pytest.raises(CodecError, match="exceed"):
        decode_value(Inner, bytes(codec.PAYLOAD_BYTES_MAX + 1))


@dataclass(frozen=True)
class WithFloat:
    number: float


@dataclass(frozen=True)
class WithUnion:
    number: int | str


@pytest.mark.parametrize("value", [WithFloat(1.0), WithUnion(1)])
def test_a_type_without_a_form_is_a_mistake_in_the_program(value: Any) -> None:
    with pytest.raises(TypeError, match="no form"):
        encode_value(value)


def test_every_event_class_has_a_form() -> None:
    for name, kind in WIRE.items():
        with pytest.raises(CodecError, match=name):
            EventCodec().decode(name, raw({"no such field": 1}))
        assert codec._shape(kind)


def test_events_go_by_wire_name() -> None:
    wire, payload = EventCodec().encode(ContainerStarted(at=5, oom_kills=2))
    assert (wire, msgpack.unpackb(payload)) == ("container.started/1", {"at": 5, "oom_kills": 2})
    assert EventCodec().decode(wire, payload) == ContainerStarted(5, 2)


def test_an_unknown_wire_name_is_refused() -> None:
    with pytest.raises(CodecError, match="does not know it"):
        EventCodec().decode("container.teleported/1", raw({}))
    with pytest.raises(CodecError, match="no wire name"):
        EventCodec().encode(Inner())


@dataclass(frozen=True, slots=True)
class Moved:
    where: str
    seconds: int


def test_old_events_are_upcast_step_by_step() -> None:
    upcasters = {
        "thing.moved/1": ("thing.moved/2", lambda old: {"where": old["place"], "minutes": old["minutes"]}),
        "thing.moved/2": ("thing.moved/3", lambda old: {"where": old["where"], "seconds": 60 * old["minutes"]}),
    }
    events = EventCodec({"thing.moved/3": Moved}, upcasters)
    assert events.decode("thing.moved/1", raw({"place": "here", "minutes": 2})) == Moved("here", 120)
    assert events.decode("thing.moved/2", raw({"where": "here", "minutes": 2})) == Moved("here", 120)
    for bad in ({}, {"where": "x"}, {"place": 1, "minutes": 1}, {"place": "x", "minutes": None}, [1]):
        with pytest.raises(CodecError):
            events.decode("thing.moved/1", raw(bad))


def test_upcasters_in_a_circle_end() -> None:
    circle = {"a/1": ("a/2", lambda old: old), "a/2": ("a/1", lambda old: old)}
    with pytest.raises(CodecError):
        EventCodec({}, circle).decode("a/1", raw({}))


def test_shared_codec_default_is_the_domains_table() -> None:
    assert EventCodec().decode("node.stopped/1", b"\x80") == NodeStopped()

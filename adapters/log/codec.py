"""Events and other frozen dataclasses as bytes: a msgpack map of the fields that differ from their defaults.

Directed by the declared types alone: bytes never choose a class. Both directions are strict (an int field takes no
str, no bool and no float), unknown and missing fields are refused, and every failure is a CodecError.
Canonical: fields in declared order, mapping keys and sets sorted, so equal values give equal bytes.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import msgpack

from adapters.log.errors import CodecError
from adapters.log.making import makable, maker
from domain.events import UPCASTERS, WIRE

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
_SCALARS = (int, str, bytes, bool)
_MISFITS = (TypeError, ValueError, KeyError, AttributeError, IndexError)

T = TypeVar("T")
Step = Callable[[Any], Any]
Upcasters = Mapping[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]]


class Shape(NamedTuple):
    """One declared type: to and from what msgpack can hold."""

    encode: Step
    decode: Step


class EventCodec:
    """Events by wire name. `wire` and `upcasters` are `domain.events`' own except in tests."""

    def __init__(self, wire: Mapping[str, type] = WIRE, upcasters: Upcasters = UPCASTERS) -> None:
        self._wire = wire
        self._upcasters = upcasters
        self._names = {kind: name for name, kind in wire.items()}
        self._decoders: dict[str, Step] = {}

    def encode(self, event: Any) -> tuple[str, bytes]:
        """The wire name and payload of an event."""
        name = self._names.get(type(event))
        if name is None:
            raise CodecError(f"cannot encode event {type(event).__name__}: it has no wire name")
        return name, encode_value(event)

    def decode(self, wire: str, payload: bytes) -> Any:
        """The event, in its newest form where `wire` is an older one."""
        decode = self._decoders.get(wire)
        if decode is None:
            decode = self._decoders[wire] = self._decoder(wire)
        try:
            return decode(_unpack(payload))
        except CodecError as error:
            raise CodecError(f"cannot decode event {wire}: {error.text}") from None

    def _decoder(self, wire: str) -> Step:
        steps: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        name = wire
        while name in self._upcasters and len(steps) <= len(self._upcasters):
            name, step = self._upcasters[name]
            steps.append(step)
        if name not in self._wire:
            raise CodecError(f"cannot decode event {wire}: this version of daybook does not know it")
        decode = _shape(self._wire[name]).decode
        return _upcasting(steps, decode) if steps else decode


def encode_value(value: Any) -> bytes:
    """Any frozen dataclass instance as bytes."""
    return _pack(_shape(type(value)).encode(value))


def decode_value(kind: type[T], data: bytes) -> T:
    """The instance of `kind` that `encode_value` made these bytes from."""
    return cast(T, _shape(kind).decode(_unpack(data)))


def _upcasting(steps: list[Callable[[dict[str, Any]], dict[str, Any]]], decode: Step) -> Step:
    def upcast(data: Any) -> Any:
        if type(data) is not dict:
            raise _misfit("map", data)
        try:
            for step in steps:
                data = step(data)
        except _MISFITS as error:
            raise CodecError(f"the old payload does not fit its upcaster ({type(error).__name__})") from None
        return decode(data)

    return upcast


def _pack(plain: Any) -> bytes:
    try:
        data: bytes = msgpack.packb(plain)
    except (OverflowError, ValueError) as error:  # an integer beyond 64 bits, a lone surrogate
        raise CodecError(f"a value cannot be written: {error}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise CodecError(f"{len(data)} bytes exceed the limit of {PAYLOAD_BYTES_MAX}")
    return data


def _unpack(data: bytes) -> Any:
    if len(data) > PAYLOAD_BYTES_MAX:
        raise CodecError(f"{len(data)} bytes exceed the limit of {PAYLOAD_BYTES_MAX}")
    try:
        return msgpack.unpackb(data)
    except Exception as error:
        # msgpack raises ValueError and a dozen of its own; none of them may leave here as a traceback
        raise CodecError(f"the bytes are no msgpack value ({type(error).__name__})") from None


def _misfit(expected: str, value: Any) -> CodecError:
    return CodecError(f"{expected} expected, got {type(value).__name__}")


def _shape(kind: Any) -> Shape:
    """The shape of a declared type, made once. A type without one is a mistake in the program: TypeError."""
    return _make_shape(kind)


@cache
def _make_shape(kind: Any) -> Shape:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SCALARS:
        return _scalar(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _sequence(_shape(args[0]))
    if origin is tuple:
        return _fixed(tuple(map(_shape, args)))
    if origin is frozenset:
        return _set(_shape(args[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping) and args[0] is str:
        return _mapping(_shape(args[1]))
    if origin in (typing.Union, types.UnionType) and len(args) == 2 and args[1] is types.NoneType:
        return _optional(_shape(args[0]))
    raise TypeError(f"the log's codec has no form for {kind}")


def _scalar(kind: type) -> Shape:
    def decode(value: Any) -> Any:
        if type(value) is not kind:
            raise _misfit(kind.__name__, value)
        return value

    def encode(value: Any) -> Any:
        if type(value) is kind:
            return value
        # a StrEnum member equals its text and has to give the same bytes; a bool is not an int here
        if isinstance(value, kind) and isinstance(value, Enum):
            return kind(value.value)
        raise _misfit(kind.__name__, value)

    return Shape(encode, decode)


def _enum(kind: type[Enum]) -> Shape:
    members = {member.value: member for member in kind}
    plain = type(next(iter(members)))

    def encode(value: Any) -> Any:
        if type(value) is not kind:
            raise _misfit(kind.__name__, value)
        return value.value

    def decode(value: Any) -> Any:
        if type(value) is not plain or value not in members:
            raise CodecError(f"{str(value)[:40]!r} is no {kind.__name__}")
        return members[value]

    return Shape(encode, decode)


def _sequence(item: Shape) -> Shape:
    def encode(value: Any) -> Any:
        if not isinstance(value, tuple):
            raise _misfit("tuple", value)
        return [item.encode(each) for each in value]

    def decode(value: Any) -> Any:
        if type(value) is not list:
            raise _misfit("array", value)
        return tuple([item.decode(each) for each in value])

    return Shape(encode, decode)


def _fixed(items: tuple[Shape, ...]) -> Shape:
    def encode(value: Any) -> Any:
        if not isinstance(value, tuple) or len(value) != len(items):
            raise _misfit(f"tuple of {len(items)}", value)
        return [item.encode(each) for item, each in zip(items, value, strict=True)]

    def decode(value: Any) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise _misfit(f"array of {len(items)}", value)
        return tuple([item.decode(each) for item, each in zip(items, value, strict=True)])

    return Shape(encode, decode)


def _set(item: Shape) -> Shape:
    def encode(value: Any) -> Any:
        if not isinstance(value, frozenset):
            raise _misfit("frozenset", value)
        return sorted((item.encode(each) for each in value), key=_pack)

    def decode(value: Any) -> Any:
        if type(value) is not list:
            raise _misfit("array", value)
        return frozenset([item.decode(each) for each in value])

    return Shape(encode, decode)


def _mapping(item: Shape) -> Shape:
    text = _scalar(str)

    def encode(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _misfit("mapping", value)
        plain = {text.encode(name): item.encode(each) for name, each in value.items()}
        return {name: plain[name] for name in sorted(plain)}

    def decode(value: Any) -> Any:
        if type(value) is not dict:
            raise _misfit("map", value)
        return {text.decode(name): item.decode(each) for name, each in value.items()}

    return Shape(encode, decode)


def _optional(item: Shape) -> Shape:
    def encode(value: Any) -> Any:
        return None if value is None else item.encode(value)

    def decode(value: Any) -> Any:
        return None if value is None else item.decode(value)

    return Shape(encode, decode)


def _dataclass(kind: Any) -> Shape:
    hints = typing.get_type_hints(kind)
    fields = {field.name: _shape(hints[field.name]) for field in dataclasses.fields(kind)}
    decoders = {name: shape.decode for name, shape in fields.items()}
    encoders = [
        (field.name, fields[field.name].encode, not _required(field), _default(field, fields[field.name]))
        for field in dataclasses.fields(kind)
    ]

    make = maker(kind) if makable(kind) else kind

    def encode(value: Any) -> Any:
        if type(value) is not kind:
            raise _misfit(kind.__name__, value)
        plain = {}
        for name, step, has_default, default in encoders:
            # compared as plain values of one strict type: a field equal to its default is never written
            each = step(getattr(value, name))
            if not has_default or each != default:
                plain[name] = each
        return plain

    def decode(data: Any) -> Any:
        if type(data) is not dict:
            raise _misfit("map", data)
        try:
            return make(**{name: decoders[name](each) for name, each in data.items()})
        except (CodecError, *_MISFITS):
            raise _blame(kind, decoders, data) from None

    return Shape(encode, decode)


def _default(field: Any, shape: Shape) -> Any:
    """The field's default as a plain value."""
    if _required(field):
        return None
    return shape.encode(field.default if field.default is not dataclasses.MISSING else field.default_factory())


def _blame(kind: Any, decoders: dict[str, Step], data: dict[Any, Any]) -> CodecError:
    """Names the field at fault; only after a decode failed, so that the good case pays nothing for it."""
    for name, each in data.items():
        if name not in decoders:
            return CodecError(f"{kind.__name__} has no field {str(name)[:40]!r}")
        try:
            decoders[name](each)
        except CodecError as error:
            return CodecError(f"{name}: {error.text}")
    missing = [field.name for field in dataclasses.fields(kind) if _required(field) and field.name not in data]
    return CodecError(f"{kind.__name__} " + (f"lacks {', '.join(missing)}" if missing else "refuses its values"))


def _required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING

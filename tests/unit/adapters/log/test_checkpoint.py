"""checkpoint: canonical, sealed, typed."""

from dataclasses import dataclass
from hashlib import blake2b

import msgpack
import pytest

from adapters.log.checkpoint import checkpoint_of, digest, pack, unpack
from adapters.log.errors import CodecError
from domain.records import Head


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    count: int = 0


HEAD = Head(9, b"h" * 16)
THINGS = {"b": Thing("b"), "a": Thing("a", 1)}


def test_it_comes_back() -> None:
    made = checkpoint_of(3, HEAD, THINGS)
    assert unpack(pack(made)) == made


def test_order_does_not_matter_and_values_do() -> None:
    turned = dict(reversed(THINGS.items()))
    assert pack(checkpoint_of(3, HEAD, turned)) == pack(checkpoint_of(3, HEAD, THINGS))
    assert digest(turned) == digest(THINGS)
    assert digest({**THINGS, "a": Thing("a", 2)}) != digest(THINGS)


def test_every_flipped_byte_and_every_cut_is_found() -> None:
    data = pack(checkpoint_of(3, HEAD, THINGS))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        for bad in (bytes(damaged), data[:place]):
            with pytest.raises(CodecError):
                unpack(bad)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (2, 1, 1, b"", {}),
        (1, "1", 1, b"", {}),
        (1, 1, 1, b"", {"a": "x"}),
        (1, 1, 1, b"", []),
        (1, 1, True, b"", {}),
    ],
)
def test_other_forms_are_refused_even_with_a_right_hash(fields: tuple[object, ...]) -> None:
    body = msgpack.packb(fields)
    with pytest.raises(CodecError):
        unpack(body + blake2b(body, digest_size=16).digest())


def test_a_hash_of_nothing_is_refused() -> None:
    with pytest.raises(CodecError):
        unpack(b"\xc1" + blake2b(b"\xc1", digest_size=16).digest())

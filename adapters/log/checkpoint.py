"""The folded aggregates at one sequence, in a canonical encoding with its hash (pure).

Equal aggregates give equal bytes, so a checkpoint plus the log's tail can be compared with a full replay by `digest`.
A checkpoint names the chain hash at its sequence: it fits one log only, and only where that log goes on unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgpack

from adapters.log.codec import encode_value
from adapters.log.errors import CodecError
from domain.records import Head

FORMAT = 1
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`aggregates`: key -> the aggregate as bytes. `head`: the last record that is folded into them."""

    schema: int
    head: Head
    aggregates: Mapping[str, bytes]


def checkpoint_of(schema: int, head: Head, aggregates: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(schema, head, {key: encode_value(aggregates[key]) for key in sorted(aggregates)})


def digest(aggregates: Mapping[str, Any]) -> bytes:
    """Equal for equal aggregates, whatever they were folded from."""
    return blake2b(pack(checkpoint_of(0, Head(0, b""), aggregates)), digest_size=_HASH_BYTES).digest()


def pack(checkpoint: Checkpoint) -> bytes:
    head = checkpoint.head
    body: bytes = msgpack.packb((FORMAT, checkpoint.schema, head.seq, head.hash, checkpoint.aggregates))
    return body + blake2b(body, digest_size=_HASH_BYTES).digest()


def unpack(data: bytes) -> Checkpoint:
    """Raises CodecError where any byte is not as it was written."""
    body = data[:-_HASH_BYTES]
    if blake2b(body, digest_size=_HASH_BYTES).digest() != data[-_HASH_BYTES:]:
        raise CodecError("the checkpoint's hash does not match")
    try:
        fields = msgpack.unpackb(body)
    except Exception as error:
        # as in codec: no msgpack error may leave as a traceback
        raise CodecError(f"the checkpoint is no msgpack value ({type(error).__name__})") from None
    if type(fields) is not list or tuple(map(type, fields)) != (int, int, int, bytes, dict) or fields[0] != FORMAT:
        raise CodecError("the checkpoint has a form that this version of daybook does not read")
    _, schema, seq, link, aggregates = fields
    if any(type(key) is not str or type(value) is not bytes for key, value in aggregates.items()):
        raise CodecError("the checkpoint's aggregates have other types than they must")
    return Checkpoint(schema, Head(seq, link), aggregates)

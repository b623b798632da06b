"""The keyed hash that stands in the log for values that must not."""

from hashlib import blake2b

from adapters.cri.port import Digester

KEY_BYTES = 32
DIGEST_BYTES = 16


def keyed(key: bytes) -> Digester:
    """blake2b with a key that lies outside the log directory: 32 hex digits. Raises ValueError for a short key."""
    if len(key) < KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes, at least {KEY_BYTES} are needed")

    def digest(value: bytes) -> str:
        return blake2b(value, digest_size=DIGEST_BYTES, key=key[:64]).hexdigest()

    return digest

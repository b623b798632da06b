"""Which images the kubelet must not collect: those under a name that the configuration pins.

A pattern is a reference, normalised as every other, or the beginning of a normalised one and `*`. A pin binds nobody
but the kubelet's image collection: RemoveImage obeys its caller, who was shown the pin.
"""

from collections.abc import Iterable, Sequence

from adapters.cri.port import Normalise


class Pins:
    """Raises InvalidRequest where a pattern without a `*` at its end is no reference."""

    def __init__(self, patterns: Sequence[str] = (), normalise: Normalise = str) -> None:
        self._beginnings = tuple(p.removesuffix("*") for p in patterns if p.endswith("*"))
        self._names = frozenset(normalise(p) for p in patterns if not p.endswith("*"))

    def hold(self, names: Iterable[str]) -> bool:
        """Whether one of an image's tags or repository digests is pinned."""
        return any(name in self._names or name.startswith(self._beginnings) for name in names)


UNPINNED = Pins()

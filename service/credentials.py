"""Credentials of the pulls that somebody waits for: in memory only, and no longer than somebody waits."""

from collections.abc import Iterator
from contextlib import contextmanager

from domain.config import PullCredentials


class OpenPulls:
    """By reference and keyed hash: two clients may want the same image with different credentials at the same time."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], PullCredentials] = {}
        self._users: dict[tuple[str, str], int] = {}

    @contextmanager
    def lent(self, reference: str, credentials: PullCredentials) -> Iterator[None]:
        """For as long as a client waits; the last one takes them away."""
        key = (reference, credentials.access)
        self._held[key] = credentials
        self._users[key] = self._users.get(key, 0) + 1
        try:
            yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._held[key]

    def of(self, reference: str, access: str) -> PullCredentials | None:
        return self._held.get((reference, access))

    def __len__(self) -> int:
        return len(self._held)

"""What `decide` answers: events to append, or why there are none."""

from dataclasses import dataclass

from domain.errors import Refusal
from domain.events import Event
from domain.lifecycle import ALREADY, JOIN, WAIT, Already, Join, Wait


@dataclass(frozen=True, slots=True)
class Accept:
    """Events to append in one transaction, each with the key of its aggregate."""

    events: tuple[tuple[str, Event], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    error: Refusal


Decision = Accept | Refused | Already | Join | Wait

__all__ = ["ALREADY", "JOIN", "WAIT", "Accept", "Already", "Decision", "Join", "Refused", "Wait"]

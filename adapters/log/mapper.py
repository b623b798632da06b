"""Stored events of the eventsourcing library as events of ours: MAPPER_TOPIC=adapters.log.mapper:EventMapper.

A domain event does not know its aggregate; the library wants events that do. `Sourced` holds both. Topics are wire
names and upcasting is the codec's, so that no class path ever stands in a log.
"""

from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from adapters.log.codec import EventCodec
from adapters.log.errors import CodecError


@dataclass(frozen=True, slots=True)
class Sourced:
    """An event with its aggregate's key and its version there."""

    originator_id: str
    originator_version: int
    event: Any


class EventMapper(Mapper[str]):
    """The library's transcoder is not asked. A compressor or a cipher would make another log and is refused."""

    def __init__(self, transcoder: Any = None, compressor: Any = None, cipher: Any = None) -> None:
        if compressor is not None or cipher is not None:
            raise ValueError("the log is neither compressed nor enciphered")
        super().__init__(transcoder)
        self._codec = EventCodec()

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Raises CodecError where the event has no wire name or does not fit its type."""
        wire, payload = self._codec.encode(domain_event.event)
        return StoredEvent(domain_event.originator_id, domain_event.originator_version, wire, payload)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        try:
            event = self._codec.decode(stored_event.topic, stored_event.state)
        except CodecError as error:
            raise MapperDeserialisationError(error.text) from error
        return Sourced(str(stored_event.originator_id), stored_event.originator_version, event)

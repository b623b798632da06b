"""Between the domain's drafts and records and the log's entries: the same for every log."""

from collections.abc import Iterable, Sequence

from adapters.log.codec import EventCodec
from adapters.log.record import Entry, Placed, check_all
from domain.records import Cause, Draft, Now, Record


def entries_of(drafts: Iterable[Draft], codec: EventCodec) -> list[Entry]:
    """Raises CodecError, before anything was appended, where an event cannot be written."""
    return check_all(Entry(draft.key, draft.version, *codec.encode(draft.event), draft.cause) for draft in drafts)


def records_of(
    drafts: Iterable[Draft], entries: Iterable[Entry], placed: Iterable[Placed], cause: Cause, now: Now
) -> Sequence[Record]:
    """What a later read of the same records gives."""
    return [
        Record(at.seq, now, draft.key, draft.version, entry.wire, draft.event, draft.cause or cause, at.hash, at.size)
        for draft, entry, at in zip(drafts, entries, placed, strict=True)
    ]

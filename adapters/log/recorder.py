"""The eventsourcing library on our log: its recorders and its factory (PERSISTENCE_MODULE=adapters.log.recorder).

A StoredEvent is a record of ours: originator id = key, topic = wire name, state = payload; notification ids are
sequences. UUIDs as originator ids stand under `uuid/...` keys, and no text id may begin so. Snapshots and tracking
are tables of the same environment; tracking is written in the same transaction as the events that it belongs to.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
from eventsourcing import persistence as es
from eventsourcing.utils import resolve_topic

from adapters.log.errors import CodecError, Conflict, LogError
from adapters.log.lmdb_log import BALLAST_BYTES, LmdbLog
from adapters.log.record import Entry, Placed, Stored
from domain.records import Cause, Now, Unreadable

_UUID = "uuid/"
_CAUSE = Cause("admin", "eventsourcing")


class LmdbRecorder(es.Recorder):
    """What all of them hold: the log and the clock that their records carry."""

    def __init__(self, log: LmdbLog, clock: Callable[[], Now] | None = None) -> None:
        self.log = log
        self._clock = clock or read_clock

    def _write(
        self,
        events: Sequence[es.StoredEvent],
        tracking: es.Tracking | None = None,
        also: Callable[[Any], None] | None = None,
    ) -> Sequence[Placed]:
        if tracking is not None:
            name, number = tracking.application_name, tracking.notification_id
            also = partial(self.log.store.put_tracking, application=name, notification_id=number)
        if not events and also is None:
            return []
        with _translated():
            entries = [Entry(_key(e.originator_id), e.originator_version, e.topic, e.state) for e in events]
            return self.log.write(entries, _CAUSE, self._clock(), also=also)


class LmdbAggregateRecorder(LmdbRecorder, es.AggregateRecorder):
    """Events by aggregate."""

    def insert_events(self, stored_events: Sequence[es.StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        self._write(stored_events)
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[es.StoredEvent]:
        with _translated():
            places = _chosen(self.log.versions(_key(originator_id)), gt, lte, desc, limit)
            return [_stored_event(self._record(seq)) for _, seq in places]

    def _record(self, seq: int) -> Stored:
        return _sound(next(self.log.stored(seq - 1, seq)))


class LmdbSnapshotRecorder(LmdbRecorder, es.AggregateRecorder):
    """Snapshots: beside the log, because they can be made again from it."""

    def insert_events(self, stored_events: Sequence[es.StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        rows = [(_key(e.originator_id), e.originator_version, msgpack.packb((e.topic, e.state))) for e in stored_events]
        if rows:
            self._write([], also=partial(self.log.store.put_snapshots, snapshots=rows))
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[es.StoredEvent]:
        with _translated():
            rows = _chosen(self.log.store.snapshots(_key(originator_id)), gt, lte, desc, limit)
        return [es.StoredEvent(originator_id, version, *msgpack.unpackb(data)) for version, data in rows]


class LmdbApplicationRecorder(LmdbAggregateRecorder, es.ApplicationRecorder):
    """Events by aggregate and as one sequence."""

    def insert_events(self, stored_events: Sequence[es.StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        return [placed.seq for placed in self._write(stored_events)]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[es.Notification]:
        after = 0 if start is None else max(start - inclusive_of_start, 0)
        with _translated():
            records = map(_sound, self.log.stored(after, stop))
            return list(islice((_notification(r) for r in records if not topics or r.wire in topics), limit))

    def max_notification_id(self) -> int | None:
        return self.log.head().seq or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> es.Subscription[es.ApplicationRecorder]:
        return LmdbSubscription(self, gt, topics)


class LmdbSubscription(es.ListenNotifySubscription[es.ApplicationRecorder]):
    """Notifications as they become durable."""

    def __init__(self, recorder: LmdbApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._log = recorder.log
        self._log.listen(self._has_been_notified)
        self._has_been_notified.set()  # the pulling thread began before it was listening

    def stop(self) -> None:
        super().stop()
        self._log.unlisten(self._has_been_notified)


class LmdbTrackingRecorder(LmdbRecorder, es.TrackingRecorder):
    """How far a projection has come in another application's sequence."""

    def insert_tracking(self, tracking: es.Tracking) -> None:
        self._write([], tracking)

    def max_tracking_id(self, application_name: str) -> int | None:
        return self.log.store.tracked(application_name)


class LmdbProcessRecorder(LmdbTrackingRecorder, LmdbApplicationRecorder, es.ProcessRecorder):
    """Events and tracking, written together."""

    def insert_events(self, stored_events: Sequence[es.StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        return [placed.seq for placed in self._write(stored_events, kwargs.get("tracking"))]


class LmdbFactory(es.InfrastructureFactory[LmdbTrackingRecorder]):
    """All recorders of one application share one log, in the directory that LOG_DIR names."""

    LOG_DIR = "LOG_DIR"
    LOG_BALLAST_BYTES = "LOG_BALLAST_BYTES"

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        path = self.env.get(self.LOG_DIR)
        if not path:
            raise es.InfrastructureFactoryError("LOG_DIR does not name the log's directory")
        with _translated():
            ballast = int(self.env.get(self.LOG_BALLAST_BYTES) or BALLAST_BYTES)
            self.log = LmdbLog(path, ballast_bytes=ballast)

    def aggregate_recorder(self, purpose: str = "events") -> es.AggregateRecorder:
        return LmdbSnapshotRecorder(self.log) if purpose == "snapshots" else LmdbAggregateRecorder(self.log)

    def application_recorder(self) -> es.ApplicationRecorder:
        recorder: es.ApplicationRecorder = self._chosen(self.APPLICATION_RECORDER_TOPIC, LmdbApplicationRecorder)
        return recorder

    def tracking_recorder(
        self, tracking_recorder_class: type[LmdbTrackingRecorder] | None = None
    ) -> LmdbTrackingRecorder:
        if tracking_recorder_class is not None:
            return tracking_recorder_class(self.log)
        recorder: LmdbTrackingRecorder = self._chosen(self.TRACKING_RECORDER_TOPIC, LmdbTrackingRecorder)
        return recorder

    def process_recorder(self) -> es.ProcessRecorder:
        recorder: es.ProcessRecorder = self._chosen(self.PROCESS_RECORDER_TOPIC, LmdbProcessRecorder)
        return recorder

    def close(self) -> None:
        self.log.close()

    def _chosen(self, topic: str, default: type[Any]) -> Any:
        name = self.env.get(topic)
        return (resolve_topic(name) if name else default)(self.log)


def read_clock() -> Now:
    """The clocks of this machine, for records that no daemon appends."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Now(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), boot_id)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Conflict as error:
        raise es.IntegrityError(error.text) from error
    except CodecError as error:
        raise es.DataError(error.text) from error
    except LogError as error:
        raise es.OperationalError(error.text) from error


def _key(originator_id: UUID | str) -> str:
    if isinstance(originator_id, UUID):
        return f"{_UUID}{originator_id}"
    if originator_id.startswith(_UUID):
        raise es.ProgrammingError(f"an originator id cannot begin with {_UUID!r}: {originator_id}")
    return originator_id


def _originator(key: str) -> UUID | str:
    return UUID(key[len(_UUID) :]) if key.startswith(_UUID) else key


def _chosen(
    places: Sequence[tuple[int, Any]], gt: int | None, lte: int | None, desc: bool, limit: int | None
) -> Sequence[tuple[int, Any]]:
    chosen = [(v, at) for v, at in places if (gt is None or v > gt) and (lte is None or v <= lte)]
    return (chosen[::-1] if desc else chosen)[:limit]


def _sound(record: Stored | Unreadable) -> Stored:
    if isinstance(record, Unreadable):
        raise es.DataError(f"cannot read record {record.seq} of {record.key or 'an unknown aggregate'}: {record.why}")
    return record


def _stored_event(record: Stored) -> es.StoredEvent:
    return es.StoredEvent(_originator(record.key), record.version, record.wire, record.payload)


def _notification(record: Stored) -> es.Notification:
    return es.Notification(_originator(record.key), record.version, record.wire, record.payload, record.seq)

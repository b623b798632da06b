"""The test cases that the eventsourcing library ships, on the log that the daemon uses."""

import os
import shutil
import tempfile
from unittest import TestCase
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.persistence import ProgrammingError, StoredEvent, Tracking
from eventsourcing.projection import ApplicationSubscription, Projection, ProjectionRunner
from eventsourcing.tests import application as shipped_application
from eventsourcing.tests import persistence as shipped
from eventsourcing.utils import Environment

from adapters.log import recorder as ours
from adapters.log.codec import EventCodec
from adapters.log.lmdb_log import LmdbLog
from adapters.log.mapper import EventMapper, Sourced
from domain.events import ContainerStarted, ContainerStartRequested, NodeStopped
from domain.records import Cause, Draft, Now


class OnDisk(TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="daybook-test-")
        self.addCleanup(shutil.rmtree, self.directory)
        super().setUp()

    def open_log(self) -> LmdbLog:
        log = LmdbLog(self.directory + "/log", ballast_bytes=0)
        self.addCleanup(log.close)
        return log


class TextIds(TestCase):
    """The library's cases use UUIDs; Daybook's own ids are texts."""

    def new_originator_id(self) -> UUID | str:
        return f"container/{uuid4().hex}"


class TestAggregateRecorder(OnDisk, shipped.AggregateRecorderTestCase):
    def create_recorder(self) -> ours.LmdbAggregateRecorder:
        return ours.LmdbAggregateRecorder(self.open_log())


class TestAggregateRecorderTextIds(TextIds, TestAggregateRecorder):
    pass


class TestSnapshotRecorder(OnDisk, shipped.AggregateRecorderTestCase):
    def create_recorder(self) -> ours.LmdbSnapshotRecorder:
        return ours.LmdbSnapshotRecorder(self.open_log())


class TestApplicationRecorder(OnDisk, shipped.ApplicationRecorderTestCase[ours.LmdbApplicationRecorder]):
    def create_recorder(self) -> ours.LmdbApplicationRecorder:
        return ours.LmdbApplicationRecorder(self.open_log())

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()

    def test_refuses_a_text_id_that_would_come_back_as_uuid(self) -> None:
        with self.assertRaises(ProgrammingError):
            self.create_recorder().insert_events([StoredEvent(f"uuid/{uuid4()}", 1, "topic", b"")])


class TestApplicationRecorderTextIds(TextIds, TestApplicationRecorder):
    pass


class TestTrackingRecorder(OnDisk, shipped.TrackingRecorderTestCase):
    def create_recorder(self) -> ours.LmdbTrackingRecorder:
        return ours.LmdbTrackingRecorder(self.open_log())


class TestProcessRecorder(OnDisk, shipped.ProcessRecorderTestCase):
    def create_recorder(self) -> ours.LmdbProcessRecorder:
        return ours.LmdbProcessRecorder(self.open_log())


class TestProcessRecorderTextIds(TextIds, TestProcessRecorder):
    pass


class TestNonInterleaving(OnDisk, shipped.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ours.LmdbApplicationRecorder:
        return ours.LmdbApplicationRecorder(self.open_log())


class CustomTrackingRecorder(ours.LmdbTrackingRecorder):
    pass


class TestFactory(OnDisk, shipped.InfrastructureFactoryTestCase[ours.LmdbFactory]):
    def setUp(self) -> None:
        self.env = Environment("TestCase")
        self.env["PERSISTENCE_MODULE"] = "adapters.log.recorder"
        self.env["LOG_BALLAST_BYTES"] = "4096"
        self.env["LOG_DIR"] = tempfile.mkdtemp(prefix="daybook-test-")
        self.addCleanup(shutil.rmtree, self.env["LOG_DIR"])
        super().setUp()

    def expected_factory_class(self) -> type[ours.LmdbFactory]:
        return ours.LmdbFactory

    def expected_aggregate_recorder_class(self) -> type[ours.LmdbAggregateRecorder]:
        return ours.LmdbAggregateRecorder

    def expected_application_recorder_class(self) -> type[ours.LmdbApplicationRecorder]:
        return ours.LmdbApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[ours.LmdbTrackingRecorder]:
        return ours.LmdbTrackingRecorder

    def tracking_recorder_subclass(self) -> type[CustomTrackingRecorder]:
        return CustomTrackingRecorder

    def expected_process_recorder_class(self) -> type[ours.LmdbProcessRecorder]:
        return ours.LmdbProcessRecorder


class InEnvironment(OnDisk):
    def setUp(self) -> None:
        super().setUp()
        variables = {
            "PERSISTENCE_MODULE": "adapters.log.recorder",
            "LOG_DIR": self.directory,
            "LOG_BALLAST_BYTES": "4096",
        }
        os.environ.update(variables)
        self.addCleanup(lambda: [os.environ.pop(name, None) for name in variables])


class TestExampleApplication(InEnvironment, shipped_application.ExampleApplicationTestCase):
    expected_factory_topic = "adapters.log.recorder:LmdbFactory"


class Outcomes(ours.LmdbTrackingRecorder):
    seen: tuple[str, ...] = ()

    def add(self, name: str, tracking: Tracking) -> None:
        self.insert_tracking(tracking)
        self.seen += (name,)


class OutcomesProjection(Projection[Outcomes]):
    name = "outcomes"
    topics = ("container.started/1",)

    def process_event(self, domain_event: Sourced, tracking: Tracking) -> None:
        self.view.add(domain_event.originator_id, tracking)


class TestOurLogInTheLibrary(OnDisk):
    """What the daemon appended, as the library's application sees it: no code of the daemon involved."""

    def setUp(self) -> None:
        super().setUp()
        now = Now(1, 2, "6f5d1b1e-52f4-4f7c-8a4c-1de5a3a0c9d1")
        log = LmdbLog(self.directory, ballast_bytes=0)
        self.events = [ContainerStartRequested(), ContainerStarted(at=5)]
        drafts = [Draft("container/a", n, event) for n, event in enumerate(self.events, 1)]
        log.append_sync([*drafts, Draft("node", 1, NodeStopped())], Cause("rpc"), now)
        log.close()
        env = {"PERSISTENCE_MODULE": "adapters.log.recorder", "LOG_DIR": self.directory, "LOG_BALLAST_BYTES": "0"}
        self.application = Application[str](env={**env, "MAPPER_TOPIC": "adapters.log.mapper:EventMapper"})
        self.addCleanup(self.application.close)

    def test_events_of_an_aggregate(self) -> None:
        found = list(self.application.events.get("container/a"))
        self.assertEqual(found, [Sourced("container/a", n, event) for n, event in enumerate(self.events, 1)])

    def test_repository_with_a_projector_of_our_own(self) -> None:
        folded = self.application.repository.get(
            "container/a", projector_func=lambda initial, events: [e.event for e in events]
        )
        self.assertEqual(folded, self.events)

    def test_notification_log(self) -> None:
        section = self.application.notification_log["1,10"]
        wires = [(item.id, item.originator_id, item.topic) for item in section.items]
        self.assertEqual(wires[1:], [(2, "container/a", "container.started/1"), (3, "node", "node.stopped/1")])

    def test_subscription(self) -> None:
        with ApplicationSubscription(self.application, gt=1) as subscription:
            event, tracking = next(iter(subscription))
        self.assertEqual((event.event, tracking.notification_id), (ContainerStarted(at=5), 2))

    def test_what_the_library_stores_the_codec_reads(self) -> None:
        stored = EventMapper().to_stored_event(Sourced("node", 2, NodeStopped("x")))
        self.application.recorder.insert_events([stored])
        self.assertEqual(EventCodec().decode(stored.topic, stored.state), NodeStopped("x"))
        self.assertEqual(list(self.application.events.get("node", gt=1)), [Sourced("node", 2, NodeStopped("x"))])

    def test_projection(self) -> None:
        self.application.close()
        env = {**self.application.env, "OUTCOMES_LOG_DIR": self.directory + "/outcomes"}
        with ProjectionRunner(
            application_class=Application[str], projection_class=OutcomesProjection, view_class=Outcomes, env=env
        ) as runner:
            runner.projection.view.wait(runner.app.name, 2)
            self.assertEqual(runner.projection.view.seen, ("container/a",))
            runner.app.recorder.insert_events([StoredEvent("container/b", 1, "container.started/1", b"\x81\xa2at\x07")])
            runner.projection.view.wait(runner.app.name, 4)
            self.assertEqual(runner.projection.view.seen, ("container/a", "container/b"))

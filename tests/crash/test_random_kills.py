"""Several clients live pod lives while the daemon is killed at random moments. The same must hold as at each single
point, and nothing may be left. A minute; DAYBOOK_CRASH=long: ten. DAYBOOK_SEED repeats the kills of a run (not more:
the machine's own timing differs).
"""

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from proto import api_pb2 as pb
from proto.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub
from tests.crash.life import Client, Life
from tests.crash.stage import said
from tests.support.daemon import Ended, Machine, machine

LONG = os.environ.get("DAYBOOK_CRASH") == "long"
SECONDS = 600 if LONG else 60
CLIENTS = 3
PAUSE_S = (0.5, 3.0)
PATIENCE_S = 60.0

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]


class Patient(Client):
    """Somebody else starts the daemon again: it asks until it is answered."""

    def call(self, rpc: str, request: Any, admin: bool = False) -> Any:
        end = time.monotonic() + PATIENCE_S
        while True:
            channel = self.machine.channel(admin)
            try:
                stubs = RuntimeServiceStub(channel), ImageServiceStub(channel)
                stub = next(getattr(s, rpc) for s in stubs if hasattr(s, rpc))
                return stub(request, timeout=30)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise
                self.deaths += 1
            finally:
                channel.close()
            time.sleep(0.02)


@dataclass
class Storm:
    machine: Machine
    chance: random.Random
    over: threading.Event = field(default_factory=threading.Event)
    kills: int = 0
    lives: list[Life] = field(default_factory=list)
    wrong: list[BaseException] = field(default_factory=list)

    def kill_now_and_then(self) -> None:
        while not self.over.wait(self.chance.uniform(*PAUSE_S)):
            self.machine.kill9()
            self.kills += 1
            while True:
                daemon = self.machine.spawn()
                if self.chance.random() < 0.2 and not self.over.wait(self.chance.uniform(0, 0.5)):
                    daemon.kill9()
                    self.kills += 1
                    continue
                break
            if daemon.dead():
                raise Ended(daemon.wait(), daemon.said())

    def live(self, number: int) -> None:
        for turn in itertools.count():
            if self.over.is_set():
                return
            patient, stops = Patient(self.machine), turn % 3 > 0
            life = Life(self.machine, f"c{number}-{turn}", stops, patient, shared=turn % 2 == 1)
            ends = (life.abandon,) if turn % 3 == 2 else (life.end, life.remove)
            for step in (life.run, life.create, life.start, *ends):
                step()
            self.lives.append(life)

    def pull_and_remove(self) -> None:
        """Another image comes and goes."""
        patient, reference = Patient(self.machine), "registry.example/other:1"
        request = self.machine.load_request(reference, "other")
        image = pb.ImageSpec(image=reference)
        while not self.over.is_set():
            image_id = patient.call("PullImage", request, admin=True).image_ref
            found = patient.call("ImageStatus", pb.ImageStatusRequest(image=image)).image
            assert found.id == image_id, "a pulled image is not there"
            patient.call("RemoveImage", pb.RemoveImageRequest(image=image))
            assert not patient.call("ImageStatus", pb.ImageStatusRequest(image=image)).HasField("image")

    def run(self, what: Callable[..., None], *given: Any) -> threading.Thread:
        def watched() -> None:
            try:
                what(*given)
            except BaseException as error:
                self.wrong.append(error)
                self.over.set()

        thread = threading.Thread(target=watched, name=what.__name__, daemon=True)
        thread.start()
        return thread


@contextmanager
def seeded() -> Iterator[random.Random]:
    seed = int(os.environ.get("DAYBOOK_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
    print(f"DAYBOOK_SEED={seed}")
    yield random.Random(seed)


def test_kills_at_random(capsys: pytest.CaptureFixture[str]) -> None:
    config = {"daemon": {"reconcile_s": 1}}
    with seeded() as chance, machine(config=config) as m:
        m.layout("other", config={"Labels": {"another": "image"}})
        m.start()
        m.load()
        storm = Storm(m, chance)
        clients = [storm.run(storm.live, number) for number in range(CLIENTS)]
        clients.append(storm.run(storm.pull_and_remove))
        killer = storm.run(storm.kill_now_and_then)
        storm.over.wait(SECONDS)
        storm.over.set()
        killer.join(30)
        for client in clients:
            client.join(PATIENCE_S)
        if storm.wrong:
            storm.wrong[0].add_note(f"after {storm.kills} kills, {len(storm.lives)} lives; {said(m)}")
            raise storm.wrong[0]
        assert not any(client.is_alive() for client in clients), f"a client hangs; {said(m)}"
        with capsys.disabled():
            print(f" {storm.kills} kills, {len(storm.lives)} lives ", end="")
        patient = Patient(m)
        for listed in patient.call("ListImages", pb.ListImagesRequest()).images:
            patient.call("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=listed.id)))
        m.await_clean()
        records = m.records()
        for life in storm.lives:
            life.check_log(records)
        checked = m.replay("check")
        assert checked.returncode == 0, checked.stdout
        assert m.terminate() == 0
        assert m.left().mounts == ()
        assert len(storm.lives) >= SECONDS // 10 and storm.kills >= SECONDS // 10

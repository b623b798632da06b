"""Several clients live lives of pods with networks of their own while the daemon is killed at random moments. The same
must hold as at each single point; in the end what is there is what List shows, and after its removal nothing is left. A minute; DAYBOOK_CRASH=long: ten. DAYBOOK_SEED repeats the kills of a run (not more:
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

from domain.fold import fold
from proto import api_pb2 as pb
from proto.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub
from tests.crash.life import Client, Life
from tests.crash.pod_network import PORT, Debian
from tests.crash.stage import said
from tests.support.daemon import Ended, Machine, machine, until

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
    kept: list[Life] = field(default_factory=list)
    execs: int = 0
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
        """Life after life; when the storm is over one more, which is kept."""
        for turn in itertools.count():
            last = self.over.is_set()
            patient, stops = Patient(self.machine), turn % 3 > 0 or last
            life = Life(self.machine, f"c{number}-{turn}", stops, patient, shared=turn % 2 == 1)
            for step in (life.run, life.create, life.start):
                step()
            if stops:
                self.exec_in(life)
            if last:
                self.kept.append(life)
                return
            for step in (life.abandon,) if turn % 3 == 2 else (life.end, life.remove):
                step()
            self.lives.append(life)

    def exec_in(self, life: Life) -> None:
        """In a container that runs until it is stopped. A start whose answer was lost may not have been one."""
        if life.client.status(life.container_id).state != pb.CONTAINER_RUNNING:
            assert not life.started, "an acknowledged start never was"
            return
        asked = ["/bin/sh", "-c", f"echo {life.name}; exit 3"]
        told = life.client.call("ExecSync", pb.ExecSyncRequest(container_id=life.container_id, cmd=asked, timeout=20))
        assert (told.stdout, told.exit_code) == (f"{life.name}\n".encode(), 3), told
        self.execs += 1

    def check_all_that_is(self) -> None:
        """List, the log, the plugins' book and the pins tell of the same pods: those that were kept."""
        patient, m = Patient(self.machine), self.machine
        pods = {life.sandbox_id for life in self.kept}
        containers = {life.container_id for life in self.kept}
        assert {s.id for s in patient.call("ListPodSandbox", pb.ListPodSandboxRequest()).items} == pods
        assert {c.id for c in patient.call("ListContainers", pb.ListContainersRequest()).containers} == containers
        node = fold(m.records()).node
        assert (set(node.sandboxes), set(node.containers)) == (pods, containers), "a name is held by what is not listed"
        until(lambda: m.lab.held() == pods, 15, f"each address belongs to a pod: {m.lab.book()}, pods {pods}")
        until(lambda: {p.name for p in (m.run / "sandboxes").iterdir()} == pods, 15, "each pin belongs to a pod")
        for life in self.kept:
            life.check_address()

    def take_names_again(self) -> None:
        """Another request with the name of a pod that was removed would be refused if the name were held."""
        for old in self.lives[-CLIENTS:]:
            life = Life(self.machine, old.name, client=Patient(self.machine), host_port=PORT)
            life.run()
            life.abandon()

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
    with seeded() as chance, machine(config=config, network=Debian) as m:
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
        if not storm.wrong:
            storm.run(storm.check_all_that_is).join(PATIENCE_S)
        if storm.wrong:
            storm.wrong[0].add_note(f"after {storm.kills} kills, {len(storm.lives)} lives; {said(m)}")
            raise storm.wrong[0]
        assert not any(client.is_alive() for client in clients), f"a client hangs; {said(m)}"
        with capsys.disabled():
            print(f" {storm.kills} kills, {len(storm.lives)} lives, {storm.execs} execs ", end="")
        for life in storm.kept:
            life.abandon()
        records = m.records()
        for life in (*storm.lives, *storm.kept):
            life.check_log(records)
        storm.take_names_again()
        patient = Patient(m)
        for listed in patient.call("ListImages", pb.ListImagesRequest()).images:
            patient.call("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=listed.id)))
        m.await_clean()
        checked = m.replay("check")
        assert checked.returncode == 0, checked.stdout
        assert m.terminate() == 0
        assert m.left().mounts == ()
        assert len(storm.lives) >= SECONDS // 10 and storm.kills >= SECONDS // 10

"""A world with one pod in it, for the tests of whole daemons."""

from typing import Any

from adapters.images.fake import fake_image
from domain import commands as c
from domain.config import (
    ContainerConfig,
    ContainerSecrets,
    NamespaceMode,
    NamespaceOptions,
    SandboxConfig,
    SandboxSecrets,
)
from domain.container import Container
from domain.sandbox import Sandbox
from service.daemon import Daemon, Timing
from tests.support.service_world import Program, ServiceWorld

REF = "q.io/a:1"
IMAGE = fake_image("a", layers=2)
OTHER = fake_image("b", layers=2)
HELD_BACK = SandboxSecrets({"kept": "out of the log"})
QUIET = Timing(reconcile_s=10**9, tell_head_s=10**9)
"""No periodic looks: the test asks for them."""


class Pod:
    def __init__(self) -> None:
        self.world = ServiceWorld(QUIET)
        self.world.images.offer(REF, IMAGE)
        self.world.images.offer("q.io/b:1", OTHER)
        self.box = self.con = ""

    def run_request(self, pid: bool = False) -> c.RunSandbox:
        modes = NamespaceOptions(pid=NamespaceMode.POD if pid else NamespaceMode.CONTAINER)
        return c.RunSandbox(self.world.new_id(), SandboxConfig("p", "u", "ns", namespaces=modes), "h")

    def create_request(self, **program: Any) -> c.CreateContainer:
        known = self.world.new_id()
        self.world.machine.programs[known] = Program(**program)
        return c.CreateContainer(known, self.box, REF, ContainerConfig("k"), "h")

    def with_box(self, pid: bool = False) -> "Pod":
        if not self.world.up:
            self.world.start()
        self.world.ask(c.PullImage(REF))
        self.box = self.world.ask(self.run_request(pid), HELD_BACK)
        return self

    def with_con(self, **program: Any) -> "Pod":
        self.con = self.world.ask(self.create_request(**program), ContainerSecrets(args=("x",)))
        return self

    def started(self) -> "Pod":
        self.world.ask(c.StartContainer(self.con))
        return self

    def running(self, **program: Any) -> "Pod":
        return self.with_box().with_con(**program).started()

    @property
    def container(self) -> Container:
        return self.world.node.containers[self.con]

    @property
    def sandbox(self) -> Sandbox:
        return self.world.node.sandboxes[self.box]

    @property
    def daemon(self) -> Daemon:
        return self.world.daemon

    def reconcile(self) -> int:
        found: int = self.world.run(self.daemon._recovery.reconcile())
        return found

"""The ports are structural: what stands in for them here and what fills them on a machine have the same shape."""

import inspect
from typing import Any

import pytest

from adapters.host.clock import RandomIds, SystemClock
from adapters.host.secrets import SideFiles
from adapters.host.state import OwnerMark
from adapters.images.fake import FakeImages
from adapters.images.images import SkopeoImages
from adapters.log.lmdb_log import LmdbLog
from adapters.log.memory import MemoryLog
from adapters.oci.fake import FakeSandboxes, FakeTasks
from adapters.oci.sandboxes import Sandboxes
from adapters.oci.tasks import Tasks
from service import ports
from tests.support.service_world import Clock, LogPort, MarkPort, SecretsPort, Store

PAIRS: list[tuple[type, type]] = [
    *((ports.Clock, made) for made in (SystemClock, Clock)),
    (ports.Ids, RandomIds),
    *((ports.EventLog, made) for made in (LmdbLog, MemoryLog, LogPort)),
    *((ports.Tasks, made) for made in (Tasks, FakeTasks)),
    *((ports.Sandboxes, made) for made in (Sandboxes, FakeSandboxes)),
    *((ports.Images, made) for made in (SkopeoImages, FakeImages, Store)),
    *((ports.Secrets, made) for made in (SideFiles, SecretsPort)),
    *((ports.StateMark, made) for made in (OwnerMark, MarkPort)),
]


def methods(port: type) -> dict[str, Any]:
    return {name: member for name, member in vars(port).items() if inspect.isfunction(member) and name[0] != "_"}


@pytest.mark.parametrize(("port", "made"), PAIRS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_adapter_has_the_shape_of_its_port(port: type, made: type) -> None:
    for name, wanted in methods(port).items():
        if name == "__init__":
            continue
        found = getattr(made, name, None)
        assert found is not None, f"{made.__name__} has no {name}"
        if not callable(found):
            continue
        assert inspect.iscoroutinefunction(wanted) == inspect.iscoroutinefunction(found), name
        given = list(inspect.signature(wanted).parameters.values())
        inspect.signature(found).bind(
            *(p.name for p in given if p.kind is p.POSITIONAL_OR_KEYWORD),
            **{p.name: None for p in given if p.kind is p.KEYWORD_ONLY},
        )

"""The CRI's enums and ours."""

import pytest

from adapters.cri import enums
from domain.errors import InvalidRequest
from proto import api_pb2 as pb


@pytest.mark.parametrize("number", [n for n in pb.Signal.values() if n])
def test_every_signal_goes_there_and_back(number: int) -> None:
    name = enums.signal_name(number)
    assert name.startswith("SIG")
    assert enums.signal_value(name) == number


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        ("TERM", pb.SIGNAL_SIGTERM),
        ("sigterm", pb.SIGNAL_SIGTERM),
        ("15", pb.SIGNAL_SIGTERM),
        (" 9 ", pb.SIGNAL_SIGKILL),
        ("SIGRTMIN+3", pb.SIGNAL_SIGRTMINPLUS3),
        ("37", pb.SIGNAL_SIGRTMINPLUS3),
        ("62", pb.SIGNAL_SIGRTMAXMINUS2),
        ("RTMAX-2", pb.SIGNAL_SIGRTMAXMINUS2),
        ("34", pb.SIGNAL_SIGRTMIN),
        ("64", pb.SIGNAL_SIGRTMAX),
        ("RTMIN+99", pb.SIGNAL_RUNTIME_DEFAULT),
        ("32", pb.SIGNAL_RUNTIME_DEFAULT),
        ("99", pb.SIGNAL_RUNTIME_DEFAULT),
        ("nonsense", pb.SIGNAL_RUNTIME_DEFAULT),
        ("", pb.SIGNAL_RUNTIME_DEFAULT),
    ],
)
def test_spellings_that_images_use(spelling: str, value: int) -> None:
    assert enums.signal_value(spelling) == value


def test_names() -> None:
    assert enums.signal_name(pb.SIGNAL_RUNTIME_DEFAULT) == ""
    assert enums.signal_name(pb.SIGNAL_SIGRTMAXMINUS14) == "SIGRTMAX-14"
    with pytest.raises(InvalidRequest):
        enums.signal_name(99)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (enums.NAMESPACE, pb.NamespaceMode),
        (enums.PROPAGATION, pb.MountPropagation),
        (enums.PROFILE, pb.SecurityProfile.ProfileType),
        (enums.PROTOCOL, pb.Protocol),
        (enums.STRICT_GROUPS, pb.SupplementalGroupsPolicy),
    ],
)
def test_tables_are_complete(table: dict[int, object], kind: object) -> None:
    assert set(table) == set(kind.values())  # type: ignore[attr-defined]
    for number, ours in table.items():
        assert enums.known(table, "field", number) == ours
        assert enums.back(table, ours) == number
    with pytest.raises(InvalidRequest, match="field 77"):
        enums.known(table, "field", 77)

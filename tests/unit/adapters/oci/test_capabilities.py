import pytest

from adapters.oci.capabilities import BY_NUMBER, DEFAULT, effective, held, sets
from domain.config import Capabilities
from domain.errors import InvalidRequest

KNOWN = tuple(BY_NUMBER)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), set(DEFAULT)),
        (("NET_ADMIN",), (), {*DEFAULT, "CAP_NET_ADMIN"}),
        (("cap_net_admin",), (), {*DEFAULT, "CAP_NET_ADMIN"}),
        ((), ("kill", "CAP_MKNOD"), set(DEFAULT) - {"CAP_KILL", "CAP_MKNOD"}),
        ((), ("ALL",), set()),
        (("KILL",), ("ALL",), {"CAP_KILL"}),
        (("all",), (), set(KNOWN)),
        (("CAP_ALL",), (), set(KNOWN)),
        (("cap_kill",), ("cap_all",), {"CAP_KILL"}),
        (("ALL",), ("SYS_ADMIN",), set(KNOWN) - {"CAP_SYS_ADMIN"}),
    ],
)
def test_rules(add: tuple[str, ...], drop: tuple[str, ...], expected: set[str]) -> None:
    assert set(effective(Capabilities(add, drop), False, KNOWN)) == expected


def test_privileged_has_what_the_daemon_has() -> None:
    assert effective(Capabilities(drop=("ALL",)), True, KNOWN[:5]) == KNOWN[:5]


def test_never_more_than_the_daemon_has() -> None:
    assert set(effective(Capabilities(), False, ("CAP_KILL",))) == {"CAP_KILL"}
    with pytest.raises(InvalidRequest):
        effective(Capabilities(add=("SYS_ADMIN",)), False, ("CAP_KILL",))


def test_five_explicit_sets() -> None:
    made = sets(("CAP_KILL",))
    assert made["ambient"] == made["inheritable"] == []
    assert made["bounding"] == made["permitted"] == made["effective"] == ["CAP_KILL"]


def test_mask() -> None:
    assert held(0b100001) == ("CAP_CHOWN", "CAP_KILL")

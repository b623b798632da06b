"""The CRI's enums and ours. The CRI's are open: a number that we do not know is refused by name of its field."""

import re
import signal
from collections.abc import Mapping
from typing import TypeVar

from domain.config import NamespaceMode, ProfileType, Propagation
from domain.errors import InvalidRequest
from proto import api_pb2 as pb

T = TypeVar("T")

# fmt: off
NAMESPACE: Mapping[int, NamespaceMode] = {
    pb.POD:       NamespaceMode.POD,
    pb.CONTAINER: NamespaceMode.CONTAINER,
    pb.NODE:      NamespaceMode.NODE,
    pb.TARGET:    NamespaceMode.TARGET,
}
PROPAGATION: Mapping[int, Propagation] = {
    pb.PROPAGATION_PRIVATE:           Propagation.PRIVATE,
    pb.PROPAGATION_HOST_TO_CONTAINER: Propagation.HOST_TO_CONTAINER,
    pb.PROPAGATION_BIDIRECTIONAL:     Propagation.BIDIRECTIONAL,
}
PROFILE: Mapping[int, ProfileType] = {
    pb.SecurityProfile.RuntimeDefault: ProfileType.RUNTIME_DEFAULT,
    pb.SecurityProfile.Unconfined:     ProfileType.UNCONFINED,
    pb.SecurityProfile.Localhost:      ProfileType.LOCALHOST,
}
PROTOCOL: Mapping[int, str] = {pb.TCP: "tcp", pb.UDP: "udp", pb.SCTP: "sctp"}
STRICT_GROUPS: Mapping[int, bool] = {pb.Merge: False, pb.Strict: True}
# fmt: on

_REAL_TIME = re.compile(r"RT(MIN|MAX)([+-])(\d{1,2})")
_SIGN = {"PLUS": "+", "MINUS": "-"}
_WORD = {"+": "PLUS", "-": "MINUS"}


def known(table: Mapping[int, T], field: str, number: int) -> T:
    if number not in table:
        raise InvalidRequest(f"{field} {number} is not one that Daybook knows")
    return table[number]


def back(table: Mapping[int, T], value: T) -> int:
    return next(number for number, ours in table.items() if ours == value)


def signal_name(number: int) -> str:
    """Empty for "not chosen"; else as `kill -l` spells it: SIGTERM, SIGRTMIN+3."""
    if number == pb.SIGNAL_RUNTIME_DEFAULT:
        return ""
    if number not in pb.Signal.values():
        raise InvalidRequest(f"stop_signal {number} is not one that Daybook knows")
    name: str = pb.Signal.Name(number).removeprefix("SIGNAL_")
    for word, sign in _SIGN.items():
        name = name.replace(word, sign)
    return name


def signal_value(name: str) -> int:
    """For any spelling that an image may have used (TERM, SIGTERM, 15, SIGRTMIN+3); RUNTIME_DEFAULT for nonsense."""
    text = name.strip().upper()
    if text.isascii() and text.isdecimal():
        text = _name_of(int(text[:4]))
    text = text.removeprefix("SIG")
    if match := _REAL_TIME.fullmatch(text):
        text = f"RT{match[1]}{_WORD[match[2]]}{int(match[3])}"
    full = f"SIGNAL_SIG{text}"
    return int(pb.Signal.Value(full)) if full in pb.Signal.keys() else int(pb.SIGNAL_RUNTIME_DEFAULT)  # noqa: SIM118


def _name_of(number: int) -> str:
    lowest, highest = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    if lowest < number < highest:
        offset = number - lowest
        return f"RTMIN+{offset}" if offset <= 15 else f"RTMAX-{highest - number}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""

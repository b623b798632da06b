"""What no request may contain: rules about single values, each refused with a text that names the field.

Texts never repeat a value that may be secret (environment, arguments, annotations); others are shown cut and escaped.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence

from domain.errors import InvalidRequest
from domain.sysctls import settings

REQUEST_MAX = 2 * 1024 * 1024
"""Bytes of a configuration. Kubernetes objects end at 1.5 MB; a record of the log at 4 MiB."""

VALUES_MAX = 30_000
"""Environment variables, commands and arguments together: 5,000 services give a pod 35,000, more than execve takes."""

ITEMS_MAX = 4096
"""Mounts, devices, port mappings: each."""

NAME_MAX = 253
HOSTNAME_MAX = 64
VALUE_MAX = 128 * 1024 - 1
"""MAX_ARG_STRLEN of the kernel, less the NUL."""

ID_MAX = 2**31 - 1
"""A larger uid wraps to root somewhere on its way (CVE-2024-40635)."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_HOSTNAME = re.compile(r"[!-~]+")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
"""What names of variables look like, and may be told."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def require(holds: bool, text: str) -> None:
    if not holds:
        raise InvalidRequest(text)


def shown(text: str) -> str:
    """A client's text inside ours: cut and escaped."""
    return ascii(text if len(text) <= 80 else text[:80] + "…")


def name(field: str, value: str) -> str:
    """A name that ends up in CNI_ARGS, paths and log lines: no separators, no control characters."""
    require(bool(value), f"{field} is empty")
    require(len(value) <= NAME_MAX, f"{field} is longer than {NAME_MAX} characters")
    require(_NAME.fullmatch(value) is not None, f"{field} {shown(value)} may have letters, digits and . _ - only")
    return value


def plain(field: str, value: str, longest: int = 4096) -> str:
    """No control characters: the value goes into generated files or onto a single line."""
    require(len(value) <= longest, f"{field} is longer than {longest} characters")
    require(_CONTROL.search(value) is None, f"{field} contains a control character")
    return value


def hostname(value: str) -> str:
    """The kernel takes anything; a kubelet without a cluster domain sends names that end with a dot."""
    require(len(value) <= HOSTNAME_MAX, f"hostname is longer than {HOSTNAME_MAX} characters")
    require(not value or _HOSTNAME.fullmatch(value) is not None, f"hostname {shown(value)} is not a host name")
    return value


def path(field: str, value: str) -> str:
    """An absolute path that stays where it points, or nothing."""
    plain(field, value)
    require(not value or value.startswith("/"), f"{field} {shown(value)} is not absolute")
    require(".." not in value.split("/"), f"{field} {shown(value)} leads upwards")
    return value


def inside(field: str, value: str) -> str:
    """A path below some directory."""
    plain(field, value)
    require(".." not in value.split("/"), f"{field} {shown(value)} leads upwards")
    return value


def words(field: str, values: Sequence[str]) -> tuple[str, ...]:
    """Words of one line in a generated file (resolv.conf)."""
    require(len(values) <= 64, f"{field}: more than 64")
    for value in values:
        plain(field, value, 1024)
        require(bool(value) and not any(c.isspace() for c in value), f"{field} {shown(value)} is not a single word")
    return tuple(values)


def between(field: str, value: int, low: int, high: int) -> int:
    require(low <= value <= high, f"{field} {value} is not in {low}..{high}")
    return value


def at_least(field: str, value: int, low: int) -> int:
    require(value >= low, f"{field} {value} is negative" if value < 0 else f"{field} {value} is below {low}")
    return value


def identity(field: str, value: int) -> int:
    """A uid or gid."""
    return between(field, value, 0, ID_MAX)


def address(field: str, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value)) if value else ""
    except ValueError:
        raise InvalidRequest(f"{field} {shown(value)} is not an IP address") from None


def keys(field: str, of: Mapping[str, str]) -> dict[str, str]:
    """Labels and annotations: any values, but keys that can stand on a line. Sorted: the order has no meaning."""
    for key in of:
        require(bool(key), f"{field}: a key is empty")
        plain(f"{field}: a key", key, 512)
    return dict(sorted(of.items()))


def sysctls(of: Mapping[str, str], own_network: bool, own_ipc: bool) -> dict[str, str]:
    """As asked, where all of them may be set: `domain.sysctls` has the rules."""
    settings(of, own_network, own_ipc)
    return dict(sorted(of.items()))


def environment(envs: Iterable[tuple[str, bytes]]) -> None:
    """Values are never quoted, nor what may be one: who builds `NAME=value` has it in the name.

    The OCI spec is JSON and the kernel's strings end at NUL: neither can carry the rest.
    """
    for number, (key, value) in enumerate(envs, 1):
        variable = f"environment variable {number}"
        require(bool(key), f"{variable} has no name")
        plain(f"the name of {variable}", key, 1024)
        require("=" not in key, f"{variable}: its name contains '='")
        variable += f", {key}," if _WORD.fullmatch(key) else ""
        require(b"\0" not in value, f"{variable} contains a NUL byte")
        size = len(key.encode()) + 1 + len(value)
        require(size <= VALUE_MAX, f"{variable} is longer than {VALUE_MAX} bytes")
        require(_is_text(value), f"{variable} is not valid UTF-8")


def arguments(field: str, values: Sequence[str]) -> tuple[str, ...]:
    for index, value in enumerate(values):
        require("\0" not in value, f"{field}[{index}] contains a NUL byte")
        require(len(value.encode()) <= VALUE_MAX, f"{field}[{index}] is longer than {VALUE_MAX} bytes")
    return tuple(values)


def count(field: str, values: Sequence[object], most: int = ITEMS_MAX) -> None:
    require(len(values) <= most, f"{field}: {len(values)} are more than {most}")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True

"""An image's configuration: a document that a stranger wrote. Pure.

Every field is checked for type, size and range here, in one place; what leaves is plain tuples of strings. Labels and
everything else that the OCI image specification has are not read, so that they cannot reach a runtime's specification.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONFIG_MAX = 4 * 2**20
ITEMS_MAX = 10_000
STRING_MAX = 131_072
LAYERS_MAX = 500
USER_MAX = 4096

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9+-]{1,15}|[0-9]{1,2}")


class BadConfig(ValueError):
    """The configuration breaks a rule; the text says which."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container takes from its image.

    `user` is as written ("", "33", "www:www", ":33"): whom it means, and whether he can be, is decided where a
    container is made, which may ask for another.
    """

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()


def parse_config(data: bytes) -> ImageConfig:
    """Raises BadConfig."""
    document = read_object(data, CONFIG_MAX)
    inner = _object(document, "config")
    rootfs = _object(document, "rootfs")
    diff_ids = _strings(rootfs, "diff_ids")
    if len(diff_ids) > LAYERS_MAX:
        raise BadConfig(f"it has more than {LAYERS_MAX} layers")
    if not all(_DIGEST.fullmatch(d) for d in diff_ids):
        raise BadConfig("rootfs.diff_ids has something that is not a digest")
    user = _string(inner, "User")
    if len(user) > USER_MAX:
        raise BadConfig(f"User is longer than {USER_MAX} characters")
    return ImageConfig(
        env=tuple(item for item in _strings(inner, "Env") if is_variable(item)),
        entrypoint=_strings(inner, "Entrypoint"),
        cmd=_strings(inner, "Cmd"),
        working_dir=_string(inner, "WorkingDir"),
        user=user,
        stop_signal=_signal(_string(inner, "StopSignal")),
        volumes=_volumes(_object(inner, "Volumes")),
        diff_ids=diff_ids,
    )


def read_object(data: bytes, limit: int) -> Mapping[str, Any]:
    """A JSON object of bounded size. Raises BadConfig for everything else, whatever it is."""
    if len(data) > limit:
        raise BadConfig(f"it is larger than {limit} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadConfig(f"it is not JSON ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise BadConfig("it is not a JSON object")
    return document


def _field(document: Mapping[str, Any], key: str) -> Any:
    """A key's value in any case, the last one: so Go's encoding/json reads it, and with it builders and the peers."""
    folded = key.casefold()
    return next((value for name, value in reversed(tuple(document.items())) if name.casefold() == folded), None)


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = _field(document, key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadConfig(f"{key} is not an object")
    return value


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise BadConfig(f"{key} is not a string")
    if len(value) > STRING_MAX:
        raise BadConfig(f"{key} is longer than {STRING_MAX} characters")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise BadConfig(f"{key} has a character that cannot be passed on")
    return value


def _string(document: Mapping[str, Any], key: str) -> str:
    value = _field(document, key)
    return "" if value is None else _text(value, key)


def _strings(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = _field(document, key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadConfig(f"{key} is not a list")
    if len(value) > ITEMS_MAX:
        raise BadConfig(f"{key} has more than {ITEMS_MAX} items")
    return tuple(_text(item, key) for item in value)


def _volumes(volumes: Mapping[str, Any]) -> tuple[str, ...]:
    if len(volumes) > ITEMS_MAX:
        raise BadConfig(f"Volumes has more than {ITEMS_MAX} items")
    return tuple(sorted(_text(path, "Volumes") for path in volumes))


def is_variable(item: str) -> bool:
    """An item of Env without `=` sets nothing; builders write some, and an image runs without them all the same."""
    return not item.startswith("=") and "=" in item


def _signal(name: str) -> str:
    """In capitals, since images spell it any way; empty, for the default, where it is no signal's name."""
    folded = name.strip().upper()
    return folded if _SIGNAL.fullmatch(folded) else ""

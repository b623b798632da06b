"""Network configurations: from files to values, by libcni's rules. Blocking reads; nothing is run and nothing kept.

CNI specification 1.1.0, sections 1 and 4; libcni's conf.go for what the specification leaves open (order of files, a
single plugin's `.conf`, plugins in a directory named after the network).
"""

import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""What Daybook speaks, oldest first. Older results have no interfaces, so nobody could tell eth0's addresses."""
FIRST_CHECK = "0.4.0"
FIRST_STATUS = "1.1.0"
EXTENSIONS = (".conf", ".conflist", ".json")
FILE_MAX = 1 << 20
FILES_MAX = 256
PLUGINS_MAX = 32
DEPTH_MAX = 64
"""Brackets within brackets. What is read is written again, inside of something: that must not fail then."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,149}")
"""libcni's grammar, bounded: the name is part of a file name in the cache."""
PLAIN_FILE = re.compile(r"[^/\x00-\x1f\x7f]{1,200}")


class BadConfig(ValueError):
    """A configuration that cannot be used; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A list of plugins under one name. `version`: the one of VERSIONS in which the plugins are spoken to."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False

    def speaks(self, version: str) -> bool:
        """Whether this configuration's version is the given one or a later one."""
        return VERSIONS.index(self.version) >= VERSIONS.index(version)

    def as_json(self) -> bytes:
        """A `.conflist` that says all of it, also what came from the network's directory."""
        whole = {
            "cniVersion": self.version,
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "loadOnlyInlinedPlugins": True,
            "plugins": self.plugins,
        }
        return json.dumps(whole, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a look at the directory gave. `problem`: why no pod can be attached, else empty. `skipped`: bad files."""

    network: NetworkConfig | None = None
    problem: str = ""
    skipped: tuple[str, ...] = ()

    @property
    def asks_status(self) -> bool:
        """Whether the plugins can be asked if they are ready."""
        return self.network is not None and self.network.speaks(FIRST_STATUS)


# --- a directory -----------------------------------------------------------------------------------------------------


def load(conf_dir: str, bin_dirs: Sequence[str]) -> Loaded:
    """The first usable file wins; those before it are told in `skipped`. Never raises for what lies there.

    A missing plugin does not make its file a bad one: another network would get the pods that are meant for this one.
    """
    try:
        names = conf_files(conf_dir)
    except OSError as error:
        return Loaded(problem=f"no CNI configuration: {conf_dir}: {os.strerror(error.errno or 0)}")
    skipped: list[str] = []
    for name in names:
        try:
            network = from_file(os.path.join(conf_dir, name))
        except BadConfig as error:
            skipped.append(printable(f"{name}: {error}"))
            continue
        return Loaded(network, printable(missing(network, bin_dirs)), tuple(skipped))
    bad = f": {'; '.join(skipped)}" if skipped else ""
    return Loaded(problem=f"no usable CNI configuration in {conf_dir}{bad}"[:2000], skipped=tuple(skipped))


def printable(text: str) -> str:
    """For a log, a terminal or a message: names of files and strings of JSON need not be Unicode."""
    return "".join(char if char.isprintable() else "?" for char in text)


def conf_files(directory: str, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """Names of the configurations in a directory, in order. Raises OSError."""
    with os.scandir(directory) as entries:
        names = [e.name for e in entries if os.path.splitext(e.name)[1] in extensions and not e.is_dir()]
    return sorted(names)[:FILES_MAX]


def missing(network: NetworkConfig, bin_dirs: Sequence[str]) -> str:
    """A sentence on the plugins that are not there; empty where all are."""
    # The list's own plugins alone: what `ipam.type` means is its plugin's business (section 4). To some it is a word of
    # theirs and no program.
    absent = sorted({plugin["type"] for plugin in network.plugins if find(plugin["type"], bin_dirs) is None})
    if not absent:
        return ""
    noun = "plugin" if len(absent) == 1 else "plugins"
    return f"network {network.name}: CNI {noun} {', '.join(absent)} not found in {', '.join(bin_dirs)}"


def find(name: str, bin_dirs: Sequence[str]) -> str | None:
    """The first program of that name."""
    paths = (os.path.join(directory, name) for directory in bin_dirs)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


# --- a file ----------------------------------------------------------------------------------------------------------


def from_file(path: str) -> NetworkConfig:
    """Raises BadConfig."""
    if path.endswith(".conflist"):
        raw = read_object(path)
        beside = () if boolean(raw, "loadOnlyInlinedPlugins") else plugins_beside(path, raw.get("name"))
        return from_list(raw, beside)
    raw = read_object(path)
    if "plugins" in raw and "type" not in raw:
        raise BadConfig("it is a list of plugins: its name must end in .conflist")
    return from_list({"name": raw.get("name"), "cniVersion": raw.get("cniVersion"), "plugins": [raw]})


def read_object(path: str) -> dict[str, Any]:
    """A JSON object from a regular file of at most FILE_MAX bytes. Raises BadConfig."""
    try:
        # Non-blocking: a fifo of that name must not stop us.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BadConfig("it is no regular file")
            data = file.read(FILE_MAX + 1)
    except OSError as error:
        raise BadConfig(os.strerror(error.errno or 0)) from error
    return json_object(data)


def json_object(data: bytes, limit: int = FILE_MAX, depth: int = DEPTH_MAX) -> dict[str, Any]:
    """Raises BadConfig for anything but one JSON object of at most so many bytes, nested no deeper than `depth`."""
    if len(data) > limit:
        raise BadConfig(f"it has more than {limit} bytes")
    try:
        found = json.loads(data, parse_constant=_not_json, parse_float=_finite)
    except RecursionError:
        raise BadConfig("it is nested too deeply") from None
    except ValueError as error:
        raise BadConfig(f"it is not JSON: {error}"[:200]) from None
    if not isinstance(found, dict):
        raise BadConfig("it is not a JSON object")
    # Most have fewer brackets in all than may be nested.
    if data.count(b"{") + data.count(b"[") > depth and not _is_flat(found, depth):
        raise BadConfig("it is nested too deeply")
    return found


def _is_flat(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        inner = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]  # type: ignore[attr-defined]
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return True
    return False


def _not_json(name: str) -> None:
    raise ValueError(f"{name[:40]} is no number of JSON")


def _finite(text: str) -> float:
    """What we read is written again for the plugins: infinity could not be."""
    value = float(text)
    if math.isinf(value):
        _not_json(text)
    return value


def plugins_beside(path: str, name: object) -> tuple[dict[str, Any], ...]:
    """The plugins in the directory that is called as the network, beside its file (libcni since 1.3)."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return ()
    directory = Path(path).parent / name
    try:
        names = conf_files(str(directory), (".conf",))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise BadConfig(f"{directory}: {os.strerror(error.errno or 0)}") from error
    return tuple(read_object(str(directory / each)) for each in names)


def from_list(raw: Mapping[str, Any], beside: Sequence[Mapping[str, Any]] = ()) -> NetworkConfig:
    """Raises BadConfig."""
    name = raw.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadConfig(f"its name is {str(name)[:80]!r}; it must be letters, digits, _, . and -")
    inlined = raw.get("plugins", [])
    if not isinstance(inlined, list):
        raise BadConfig("plugins is not a list")
    plugins = [_checked(plugin) for plugin in [*inlined, *beside]]
    if not plugins or len(plugins) > PLUGINS_MAX:
        raise BadConfig(f"it has {len(plugins)} plugins; 1 to {PLUGINS_MAX} can be used")
    return NetworkConfig(name, _version(raw), tuple(plugins), boolean(raw, "disableCheck"), boolean(raw, "disableGC"))


def _checked(plugin: object) -> dict[str, Any]:
    kind = plugin.get("type") if isinstance(plugin, dict) else None
    if not isinstance(kind, str) or not kind:
        raise BadConfig("a plugin has no type")
    if not PLAIN_FILE.fullmatch(kind) or kind in (".", ".."):
        raise BadConfig(f"the plugin type {kind[:80]!r} is not a plain file name")
    assert isinstance(plugin, dict)
    if not isinstance(plugin.get("capabilities", {}), dict):
        raise BadConfig(f"capabilities of plugin {kind} is not an object")
    return plugin


def _version(raw: Mapping[str, Any]) -> str:
    """The highest version that both the configuration and Daybook speak; none given means 0.1.0, as in libcni."""
    several, single = raw.get("cniVersions"), raw.get("cniVersion")
    if several is not None and not isinstance(several, list):
        raise BadConfig("cniVersions is not a list")
    given = [*(several or []), *([single] if single or not several else [])]
    given = ["0.1.0" if one in (None, "") else one for one in given]
    if not all(isinstance(one, str) for one in given):
        raise BadConfig("a cniVersion is not a string")
    spoken = [one for one in VERSIONS if one in given]
    if not spoken:
        theirs = ", ".join(sorted(given))[:80]
        raise BadConfig(f"its cniVersion is {theirs}; {VERSIONS[0]} to {VERSIONS[-1]} can be used")
    return spoken[-1]


def boolean(raw: Mapping[str, Any], key: str) -> bool:
    """libcni takes "true" and "false" as well."""
    value = raw.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise BadConfig(f"{key} is {str(value)[:80]!r}; it must be true or false")
    return value

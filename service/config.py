"""The daemon's configuration: a TOML file, every key known by name and type, every default the one below.

`load` refuses what it does not know, naming the key; `commented` prints a file with every default and what it means.
"""

import dataclasses
import json
import os
import re
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.errors import InvalidRequest

DEFAULT_PATH = Path("/etc/daybook/config.toml")


def key(default: Any, meaning: str) -> Any:
    """A key with its default and the sentence that `daybook config default` prints above it."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the daemon keeps things."""

    data: str = key("/var/lib/daybook", "The log, images, root file systems. Kept across reboots; 0700.")
    run: str = key("/run/daybook", "Sockets, lock, the runtime's state, pinned namespaces.")


@dataclass(frozen=True, slots=True)
class Sockets:
    """Who may talk to the daemon. The socket's name is the 'who' in the log."""

    kubelet: str = key("daybook.sock", "For the kubelet: root only (0600). Relative to the run directory.")
    admin: str = key("admin.sock", "For people and crictl: root and the group below (0660).")
    admin_group: str = key("daybook", "Group of the admin socket; where it does not exist, root.")


@dataclass(frozen=True, slots=True)
class Runtime:
    """How containers are run."""

    path: str = key("runc", "The OCI runtime.")
    monitor: str = key("conmon", "The monitor that holds a container's stdio and outlives the daemon.")
    infra: str = key("catatonit", "The process that holds a pod's pid namespace where the pod shares one.")
    cgroup_driver: str = key("cgroupfs", "cgroupfs or systemd; the kubelet asks for it.")
    seccomp_profile: str = key("", "A seccomp profile for RuntimeDefault other than the built-in one.")


@dataclass(frozen=True, slots=True)
class Images:
    """Where images come from."""

    registries_conf: str = key(
        "", "Mirrors, blocked and insecure registries; empty: /etc/containers/registries.conf. See registries.conf(5)."
    )
    policy: str = key("", "A signature policy other than /etc/containers/policy.json.")
    auth_file: str = key(
        "",
        "Credentials for pulls that bring none, as in containers-auth.json(5); empty: such pulls have none.",
    )
    allow_registry_token: bool = key(
        False, "Take bearer tokens of requests, though skopeo's command line shows them to every process here."
    )
    pinned: list[str] = key([], "Images that the kubelet must not collect: references, or beginnings of them and a *.")
    sandbox_image: str = key(
        "registry.k8s.io/pause:3.10.1", "What kubeadm is told when it asks for the pause image; nothing here uses one."
    )
    insecure_registries: list[str] = key([], "Registries (host or host:port) without TLS; loopback ones never need it.")
    pulls_at_once: int = key(3, "Pulls at the same time; more wait.")
    progress_timeout_s: int = key(300, "A pull without any progress for this long is ended.")


@dataclass(frozen=True, slots=True)
class Network:
    """How pods get their network: CNI."""

    conf_dir: str = key("/etc/cni/net.d", "Watched; the first valid network in the order of the names is used.")
    bin_dirs: list[str] = key(["/opt/cni/bin", "/usr/lib/cni"], "Where plugins are looked for, in this order.")
    ip_preference: str = key("cni", "Which address is the pod's first: cni (the plugins' order), ipv4 or ipv6.")
    gc: bool = key(
        False,
        "At each start, have the plugins free what belongs to no pod of this daemon (CNI 1.1's GC). Only for a network "
        "that nobody else on this node uses: they would free the addresses of others too.",
    )
    plugin_timeout_s: int = key(60, "One run of one plugin; after that it is killed.")


@dataclass(frozen=True, slots=True)
class Log:
    """The event log."""

    map_gib: int = key(16, "Upper bound of the log's size in GiB; the file is sparse.")
    ballast_mib: int = key(16, "Room kept back so that stops and removals are still recorded on a full disk.")
    checkpoint_every: int = key(20000, "Records between two checkpoints of the folded state.")


@dataclass(frozen=True, slots=True)
class Daemon:
    """Bounds of the daemon itself."""

    stop_wait_s: int = key(10, "At SIGTERM: how long running effects are waited for. Containers keep running.")
    reconcile_s: int = key(30, "Between two looks at what really runs.")
    log_level: str = key("info", "debug, info, warning or error.")


@dataclass(frozen=True, slots=True)
class Config:
    paths: Paths = Paths()
    sockets: Sockets = Sockets()
    runtime: Runtime = Runtime()
    images: Images = Images()
    network: Network = Network()
    log: Log = Log()
    daemon: Daemon = Daemon()


KINDS = {int: "a number", str: "a string", bool: "true or false"}

LEAST = {"images.pulls_at_once": 1, "network.plugin_timeout_s": 1, "daemon.reconcile_s": 1, "log.map_gib": 1}
MOST = {"log.map_gib": 4096, "log.ballast_mib": 65536}

SOCKET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.sock")
"""A file of the run directory that nothing else there can be called."""

CHOICES = {
    "runtime.cgroup_driver": ("cgroupfs", "systemd"),
    "network.ip_preference": ("cni", "ipv4", "ipv6"),
    "daemon.log_level": ("debug", "info", "warning", "error"),
}


def load(path: Path, required: bool) -> Config:
    """The configuration in a file; the defaults where the file is missing and not required. Raises InvalidRequest."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        if required:
            raise InvalidRequest(f"cannot read configuration {path}: there is no such file") from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read configuration {path}: {error}") from error
    try:
        return placed(parse(text))
    except InvalidRequest as error:
        raise InvalidRequest(f"cannot use configuration {path}: {error.text}") from error


def placed(config: Config) -> Config:
    """With the directories' links resolved, once and here: the kernel tells mounts by resolved paths only.

    Raises InvalidRequest for a relative one: a daemon, a command and systemd are in different directories.
    """
    for entry in dataclasses.fields(Paths):
        if not (given := getattr(config.paths, entry.name)).startswith("/"):
            raise InvalidRequest(f"paths.{entry.name} must be an absolute path, not {given!r}")
    data, run = (os.path.realpath(path) for path in (config.paths.data, config.paths.run))
    return dataclasses.replace(config, paths=Paths(data, run))


def parse(text: str) -> Config:
    """Raises InvalidRequest naming the first unknown or ill-typed key."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"it is not TOML: {error}") from error
    known = {f.name for f in dataclasses.fields(Config)}
    for name, value in given.items():
        if name not in known:
            raise InvalidRequest(f"unknown key {name}; known are the tables {', '.join(sorted(known))}")
        if not isinstance(value, dict):
            raise InvalidRequest(f"{name} must be a table, written [{name}]")
    tables = typing.get_type_hints(Config)
    config = Config(**{name: _table(tables[name], name, given.get(name, {})) for name in known})
    _fit_together(config)
    return config


def _table(kind: type, name: str, given: dict[str, Any]) -> Any:
    types = typing.get_type_hints(kind)
    for entry, value in given.items():
        if entry not in types:
            raise InvalidRequest(f"unknown key {name}.{entry}; known are {', '.join(sorted(types))}")
        _check(f"{name}.{entry}", types[entry], value)
    return kind(**given)


def _check(name: str, wanted: Any, value: Any) -> None:
    if typing.get_origin(wanted) is list:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise InvalidRequest(f"{name} must be a list of strings, not {value!r}")
    elif type(value) is not wanted:
        raise InvalidRequest(f"{name} must be {KINDS[wanted]}, not {value!r}")
    for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
        if not text.isprintable():
            raise InvalidRequest(f"{name} must not have a control character, as {text!r} has")
    if wanted is int and value < LEAST.get(name, 0):
        raise InvalidRequest(f"{name} must be at least 1" if name in LEAST else f"{name} must not be negative")
    if wanted is int and name in MOST and value > MOST[name]:
        raise InvalidRequest(f"{name} must be at most {MOST[name]}")
    if name in CHOICES and value not in CHOICES[name]:
        raise InvalidRequest(f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}")


def _fit_together(config: Config) -> None:
    """What is right alone and wrong with the rest. Raises InvalidRequest naming the keys."""
    sockets, network, bound = config.sockets, config.network, config.log.map_gib * 1024
    for name in ("kubelet", "admin"):
        if not SOCKET_NAME.fullmatch(getattr(sockets, name)):
            raise InvalidRequest(f"sockets.{name} must be a file name that ends with .sock, without a directory")
    if sockets.kubelet == sockets.admin:
        raise InvalidRequest("sockets.kubelet and sockets.admin must differ: the socket tells who asked")
    for name, path in (("conf_dir", network.conf_dir), *(("bin_dirs", path) for path in network.bin_dirs)):
        if not path.startswith("/"):
            raise InvalidRequest(f"network.{name} must be an absolute path, not {path!r}")
    if config.log.ballast_mib > bound // 2:
        raise InvalidRequest(f"log.ballast_mib must be at most half of log.map_gib, {bound // 2}")
    if (run := config.paths.run) and f"{config.paths.data}/".startswith(f"{run.rstrip('/')}/"):
        raise InvalidRequest("paths.data must not lie in paths.run, which a reboot may empty")


def commented(config: Config) -> str:
    """A configuration file with these values, each key under the sentence that says what it means."""
    lines = ["# Daybook's configuration. Every key is optional; `daybook config default` prints the defaults."]
    for table in dataclasses.fields(Config):
        kind = typing.get_type_hints(Config)[table.name]
        lines += ["", f"# {kind.__doc__}", f"[{table.name}]"]
        for entry in dataclasses.fields(kind):
            value = getattr(getattr(config, table.name), entry.name)
            lines += [f"# {entry.metadata['meaning']}", f"{entry.name} = {json.dumps(value)}"]
    return "\n".join(lines) + "\n"

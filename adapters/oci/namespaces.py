"""A pod's own namespaces: made by a thread that is thrown away, set up inside it, pinned by bind mounts on files."""

import errno
import os
import socket
import threading
from collections.abc import Mapping, Sequence

from adapters.oci import kernel
from adapters.oci.layout import PIN, SandboxPaths
from domain.config import NamespaceMode, SandboxConfig
from domain.errors import InvalidRequest, NetworkFailed
from domain.sysctls import Setting, settings, split

FLAGS = {"ipc": kernel.CLONE_NEWIPC, "uts": kernel.CLONE_NEWUTS, "net": kernel.CLONE_NEWNET}

REFUSALS = (
    errno.EINVAL,
    errno.ERANGE,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
"""What the kernel says to a name or a value that it does not take."""


def kinds(config: SandboxConfig) -> tuple[str, ...]:
    """Which namespaces a pod has of its own, besides a pid namespace. UTS follows the network."""
    modes = config.namespaces
    network = ("net", "uts") if modes.network is NamespaceMode.POD else ()
    return (*network, *(("ipc",) if modes.ipc is NamespaceMode.POD else ()))


def sysctls(config: SandboxConfig) -> tuple[tuple[Setting, ...], tuple[Setting, ...]]:
    """What a pod's namespaces are made with, and what is set once its network was added. Raises InvalidRequest."""
    own = kinds(config)
    return split(settings(config.sysctls, "net" in own, "ipc" in own))


def make(pins: Mapping[str, str], given: Sequence[Setting] = (), hostname: str = "") -> None:
    """New namespaces of the kinds given, each held by a bind mount on a file. The caller's own are untouched.

    A network comes as the kernel makes it: loopback down, nothing else. `given` is written and the hostname is
    set inside. Raises InvalidRequest where the kernel refuses what the client asked for, NetworkFailed; what was
    pinned by then is `tear_down`'s.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            _in_this_thread(pins, given, hostname)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            failed.append(NetworkFailed(f"namespaces of the pod: {where}{os.strerror(error.errno or 0)}"))
        except BaseException as error:
            # Whatever it is: without it a pod would be ready whose namespaces were never made.
            failed.append(error)

    thread = threading.Thread(target=work, name="oci namespaces", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def set_later(netns: str, given: Sequence[Setting]) -> None:
    """What is about interfaces, in a pod's network that has them by now. The calling thread must be thrown away.

    Raises InvalidRequest (the kernel refuses what was asked for) and NetworkFailed, naming the parameter; OSError
    where the network is gone.
    """
    kernel.enter(netns, kernel.CLONE_NEWNET)
    for setting in given:
        _set(setting)


def _in_this_thread(pins: Mapping[str, str], given: Sequence[Setting], hostname: str) -> None:
    # Before anything is set: what follows would otherwise change the host.
    kernel.unshare(sum(FLAGS[kind] for kind in pins))
    for setting in given:
        _set(setting)
    if hostname and "uts" in pins:
        socket.sethostname(hostname)
    for kind, path in pins.items():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400))
        kernel.mount(f"/proc/self/task/{threading.get_native_id()}/ns/{kind}", path, "", kernel.MS_BIND)


def _set(setting: Setting) -> None:
    """/proc/sys shows each thread the namespaces that it is in."""
    try:
        fd = os.open("/".join(("/proc/sys", *setting.parts)), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, setting.value.encode())
        finally:
            os.close(fd)
    except FileNotFoundError:
        # A default is a kindness: a kernel without it has nothing to be kind about.
        if setting.asked:
            raise InvalidRequest(f"sysctl {setting.name}: {_missing(setting)}") from None
    except OSError as error:
        kind = InvalidRequest if setting.asked and error.errno in REFUSALS else NetworkFailed
        why = os.strerror(error.errno or 0)
        raise kind(f"sysctl {setting.name}: {setting.value[:80]!r} cannot be set: {why}") from None


def _missing(setting: Setting) -> str:
    if setting.interface and not os.path.isdir("/".join(("/proc/sys", *setting.parts[:4]))):
        return f"the pod has no interface {setting.interface} after its network was added"
    return "a pod's namespaces have none of this name"


def is_pinned(path: str) -> bool:
    """Whether a namespace is mounted there. Raises FileNotFoundError where there is no file, OSError."""
    return kernel.filesystem_magic(path) == kernel.NSFS_MAGIC


def network_pin(paths: SandboxPaths) -> str:
    """The file on which the pod's network is pinned now; empty where it is pinned nowhere. Raises OSError."""
    return next((path for path in network_places(paths) if _is(path)), "")


def network_places(paths: SandboxPaths) -> tuple[str, ...]:
    """Where it may be pinned: today's place; what the link names, of another log; the place before there was a link."""
    try:
        linked = os.readlink(paths.net_link)
    except OSError:
        return (paths.net, paths.net_link)
    directory, name = os.path.split(linked)
    named = PIN.fullmatch(name)
    ours = named and named[2] == os.path.basename(paths.run) and directory == os.path.dirname(paths.net)
    return (paths.net, linked) if ours and linked != paths.net else (paths.net,)


def _is(path: str) -> bool:
    try:
        return is_pinned(path)
    except FileNotFoundError:
        return False

"""Inside a pod's network namespace: is it one, and `lo` up. Blocking; `loopback_up` needs a thread of its own.

pyroute2 gives the messages; the socket is ours, made inside the namespace: pyroute2's own sockets bring an event loop
each, and its namespace helpers fork. It is imported when a daemon attaches its first pod (60 ms, 10 MiB), not before.
"""

import ctypes
import fcntl
import functools
import os
import socket
import threading
from collections.abc import Callable

from domain.errors import NetworkFailed

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
IFF_UP = 1
LOOPBACK_INDEX = 1
"""The kernel gives it to `lo` in every namespace."""
ANSWER_MAX = 4096
ANSWER_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)

_loading = threading.Lock()
"""pyroute2's modules import each other: two threads that begin with it at once both fail."""


def is_netns(path: str) -> bool:
    """Whether a network namespace is pinned there: not a plain file, not nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False
    finally:
        os.close(fd)


def loopback_up(path: str) -> None:
    """Sets `lo` up. The calling thread stays in that namespace: it must be thrown away. Raises NetworkFailed."""
    if not is_netns(path):
        raise NetworkFailed(f"{path} is no network namespace")
    try:
        request, refused = _messages()
        enter(path)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(ANSWER_S)
            netlink.sendto(request, (0, 0))
            if number := refused(netlink.recv(ANSWER_MAX)):
                raise OSError(number, os.strerror(number))
    except OSError as error:
        raise NetworkFailed(f"cannot set lo up in {path}: {error.strerror or error}") from error


def enter(path: str) -> None:
    """Puts the calling thread, and no other, into a network namespace. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def _messages() -> tuple[bytes, Callable[[bytes], int]]:
    """The request that sets `lo` up, and what reads the answer: an errno, 0 where it was done."""
    with _loading:
        return _load()


@functools.cache
def _load() -> tuple[bytes, Callable[[bytes], int]]:
    from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, nlmsgerr
    from pyroute2.netlink.rtnl import RTM_NEWLINK
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = ifinfmsg()
    message["index"], message["flags"], message["change"] = LOOPBACK_INDEX, IFF_UP, IFF_UP
    message["header"]["type"] = RTM_NEWLINK
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
    message.encode()

    def refused(answer: bytes) -> int:
        said = nlmsgerr(answer)
        said.decode()
        return -int(said["error"])

    return bytes(message.data), refused

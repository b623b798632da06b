"""Tells systemd that the daemon serves: sd_notify(3), for units of Type=notify."""

import os
import socket

SOCKET = "NOTIFY_SOCKET"


def ready() -> str:
    """Returns why it could not be told; empty where it was, and where nobody asked."""
    path = os.environ.get(SOCKET, "")
    if not path:
        return ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            # A leading "@" stands for the NUL of an abstract name.
            told.connect("\0" + path[1:] if path.startswith("@") else path)
            told.send(b"READY=1")
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0)}"
    return ""

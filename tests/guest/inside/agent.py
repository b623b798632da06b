"""Runs commands in the guest for the host: JSON lines over a virtio-serial port, one command at a time.

    -> {"id": 1, "cmd": "shell text", "limit_s": 60}
    <- {"id": 1, "out": "what it said"}     as often as it says something, both streams as they come
    <- {"id": 1, "status": 0}               124 where it was killed at its limit

Only the standard library, and none of Daybook: it runs in a guest in which nothing else may work.
"""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

PORT_NAME, PORT_LIMIT_S = "agent", 30
TIMED_OUT = 124
CHUNK = 32768
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


def port() -> int:
    """The port by its name in sysfs: udev may not run yet."""
    end = time.monotonic() + PORT_LIMIT_S
    while time.monotonic() < end:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT_NAME:
                return os.open(f"/dev/{name.parent.name}", os.O_RDWR)
        time.sleep(0.05)
    raise SystemExit(f"no virtio port is named {PORT_NAME}")


def send(fd: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]


def run(fd: int, request: dict[str, Any]) -> None:
    """The command in a session of its own; at its limit all of the session's first process group is killed."""
    child = subprocess.Popen(
        ["/bin/sh", "-c", request["cmd"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/root",
        env=ENVIRONMENT,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(child.pid, signal.SIGKILL)

    timer = threading.Timer(request["limit_s"], end)
    timer.start()
    assert child.stdout is not None
    while chunk := os.read(child.stdout.fileno(), CHUNK):
        send(fd, {"id": request["id"], "out": chunk.decode(errors="replace")})
    status = child.wait()
    timer.cancel()
    send(fd, {"id": request["id"], "status": TIMED_OUT if late.is_set() else status})


def main() -> None:
    fd = port()
    send(fd, {"id": 0, "status": 0})
    waiting = b""
    while True:
        # A read of 0 bytes: nobody has opened the host's end yet.
        waiting += os.read(fd, CHUNK) or time.sleep(0.05) or b""
        while b"\n" in waiting:
            line, waiting = waiting.split(b"\n", 1)
            run(fd, json.loads(line))


if __name__ == "__main__":
    main()

"""The installed daemon, as systemd's unit or as a child of this process, and how it is restarted and killed.

Both return from `restart` and `kill9` when a new process has begun; calls then wait until it answers.
"""

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Protocol

from tests.support.limits import SLOWNESS

CONFIG = Path("/etc/daybook/config.toml")
UNIT = "daybook.service"
SOCKETS = "/run/daybook/daybook.sock", "/run/daybook/admin.sock"
LOG = Path("/var/log/daybook.log")
CHANGE_S = 60.0 * SLOWNESS
DEFAULT_DRIVER = "cgroupfs"


class Daemon(Protocol):
    socket: str
    admin: str

    def configure(self, driver: str) -> None: ...
    def restart(self) -> None: ...
    def kill9(self) -> None: ...
    def said(self) -> str: ...
    def end(self) -> None: ...


def written(driver: str) -> bool:
    """The configuration for a driver; none for the default's. Whether it changed."""
    wanted = "" if driver == DEFAULT_DRIVER else f'[runtime]\ncgroup_driver = "{driver}"\n'
    if (CONFIG.read_text() if CONFIG.exists() else "") == wanted:
        return False
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(wanted)
    return True


class UnitDaemon:
    """The unit as README has it installed."""

    socket, admin = SOCKETS

    def configure(self, driver: str) -> None:
        if written(driver):
            self.restart()

    def restart(self) -> None:
        self._changes(["systemctl", "restart", UNIT])

    def kill9(self) -> None:
        """systemd starts it again by itself."""
        self._changes(["systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", UNIT])

    def _changes(self, argv: list[str]) -> None:
        before = self._main_pid()
        subprocess.run(argv, check=True, timeout=CHANGE_S)
        end = time.monotonic() + CHANGE_S
        while (now := self._main_pid()) in (before, 0):
            if time.monotonic() > end:
                raise TimeoutError(f"{' '.join(argv)}: the unit's process is still {now}")
            time.sleep(0.05)

    def _main_pid(self) -> int:
        argv = ["systemctl", "show", "--property=MainPID", "--value", UNIT]
        return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)

    def said(self) -> str:
        argv = ["journalctl", "--no-pager", "--lines=60", f"--unit={UNIT}"]
        return subprocess.run(argv, capture_output=True, text=True).stdout

    def end(self) -> None:
        """The unit stays as it is."""


class ChildDaemon:
    """Where no systemd runs: `daybook serve`, started again by hand."""

    socket, admin = SOCKETS

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def configure(self, driver: str) -> None:
        if written(driver) or self._child is None:
            self.restart()

    def restart(self) -> None:
        self._signal(signal.SIGTERM)
        self._start()

    def kill9(self) -> None:
        self._signal(signal.SIGKILL)
        self._start()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(number)
            self._child.wait(CHANGE_S)

    def _start(self) -> None:
        with LOG.open("ab") as log:
            argv = ["daybook", "serve"]
            self._child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def said(self) -> str:
        return LOG.read_text(errors="replace")[-6000:] if LOG.exists() else ""

    def end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._signal(signal.SIGTERM)

"""python -m tests.guest build | run COMMAND | shell | whole: see README.md beside this file."""

import argparse
import sys
import time

from tests.guest import qemu, readme, roots, whole
from tests.guest.image import image
from tests.guest.layers import say


def main() -> int:
    arguments = _arguments()
    if arguments.what == "whole":
        return whole.main()
    begun = time.monotonic()
    disk = image(arguments.debian, arguments.suite)
    say(f"{disk.disk} is ready after {time.monotonic() - begun:.1f} s")
    if arguments.what == "build":
        return 0
    begun = time.monotonic()
    with qemu.boot(disk, roots.checkout(), arguments.memory) as guest:
        say(f"booted in {time.monotonic() - begun:.1f} s")
        for line in readme.install().units:
            guest.check(line)
        say(f"Daybook is installed and started after {time.monotonic() - begun:.1f} s")
        status = _shell(guest) if arguments.what == "shell" else _run(guest, arguments.command, arguments.limit)
        guest.off()
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.guest", description="A Debian guest with Daybook")
    parser.add_argument("what", choices=("build", "run", "shell", "whole"))
    parser.add_argument("command", nargs="*", help="for run: a shell's text, run by root in the guest")
    parser.add_argument("--debian", type=int, choices=sorted(roots.RELEASES), default=12)
    parser.add_argument("--suite", action="store_true", help="with the test suite's environment in /opt/suite")
    parser.add_argument("--memory", type=int, default=qemu.MEMORY_MIB, help="MiB")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the command of run")
    return parser.parse_intermixed_args()


def _run(guest: qemu.Guest, command: list[str], limit_s: float) -> int:
    return guest.run(" ".join(command), limit_s, qemu.echo).status


def _shell(guest: qemu.Guest) -> int:
    """Line by line, each in a shell of its own, until the end of input."""
    say("a line is a command, run by root in /root; end of input powers the guest off")
    for line in sys.stdin:
        status = guest.run(line, 3600.0, qemu.echo).status
        if status:
            say(f"status {status}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command: runs the steps, cleans up whatever happened, and says how it went.

Status 0 where everything was as said, 1 where a step went wrong, 130 after Ctrl-C or SIGTERM.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.demo_steps import steps
from tools.demo_steps.ending import clean_up, remains
from tools.demo_steps.ground import BIN_DIRS
from tools.demo_steps.outside import told
from tools.demo_steps.saying import Wrong, colour, quote, say, sorry
from tools.demo_steps.stage import Stage

WRONG, INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    given = parser().parse_args(argv)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    on_signal(interrupted)
    begun = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="daybook-demo-"))
    stage = None
    try:
        stage = Stage(directory, given.cni_bin or BIN_DIRS)
        status = shown(stage)
    except Wrong as error:
        sorry(f"this machine cannot be looked at: {error}")
        status = WRONG
    except KeyboardInterrupt as signalled:
        say(f"\nInterrupted ({signalled}): cleaning up.")
        status = INTERRUPTED
    finally:
        on_signal(signal.SIG_IGN)
        left = ended(stage, directory)
    if left:
        say(f"\n{colour('31', 'The demo could not clean up')}. Left are:")
        quote("\n".join(left))
        return status or WRONG
    if status == 0:
        say(f"\n{colour('32', 'All as promised')}, in {time.monotonic() - begun:.1f} s. Nothing of it is left.")
    return status


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tools/demo", description="What Daybook is for, on this machine, in a minute.")
    made.add_argument(
        "--cni-bin", action="append", metavar="DIR", help=f"where CNI plugins lie ({', '.join(BIN_DIRS)})"
    )
    return made


def shown(stage: Stage) -> int:
    say(f"Daybook's demo. Everything happens below\n{stage.directory}")
    wrong = steps.perform(stage, steps.STEPS)
    if wrong:
        say(f"\n{colour('31', 'The demo went wrong')} at step: {wrong}. The daemon's last words:")
        quote(stage.last_words())
    return WRONG if wrong else 0


def ended(stage: Stage | None, directory: Path) -> list[str]:
    """Cleans up; what is left nevertheless."""
    if stage is None:
        shutil.rmtree(directory, ignore_errors=True)
        return []
    try:
        clean_up(stage)
        return told(remains(stage))
    except (Wrong, OSError, subprocess.SubprocessError) as error:
        return [f"perhaps something of {directory}: {error}"]


def interrupted(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def on_signal(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())

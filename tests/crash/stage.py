"""One machine for many tests: a test that fails spoils it, the next one gets a new one."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.daemon import Machine, machine


class Stage:
    """`clean()` runs one test's body; `made` counts machines."""

    def __init__(self, **more: Any) -> None:
        self._more = more
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None
        self.lives = 0

    @contextlib.contextmanager
    def clean(self) -> Iterator[Machine]:
        """A machine on which nothing is, and is again afterwards; its faulty daemon runs, no point is armed."""
        if self._machine is None:
            self._machine = self._stack.enter_context(machine(**self._more))
        used = self._machine
        self.lives += 1
        whole = False
        try:
            used.faulty = True
            used.fault_file.unlink(missing_ok=True)
            used.restart() if used.daemon is not None and not used.daemon.dead() else used.start()
            used.await_clean()
            yield used
            used.await_clean()
            whole = True
        except BaseException as error:
            error.add_note(f"the daemons said: {said(used)}")
            raise
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        self._stack.close()
        self._machine = None


def said(used: Machine, runs: int = 3) -> str:
    """The ends of the newest daemons' logs."""
    names = [f"daemon-{n}.log" for n in range(max(1, used.starts - runs + 1), used.starts + 1)]
    files = [used.base / name for name in names]
    return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-2500:]}" for f in files if f.exists())

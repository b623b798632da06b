"""One machine for many tests: a test that fails spoils it, the next one gets a new one."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.support.daemon import Machine, machine


class Stage:
    """`clean()` runs one test's body. `stand_ins`: programs that have one, `config`: made of their paths."""

    def __init__(
        self,
        stand_ins: Sequence[str] = (),
        config: Callable[[Mapping[str, str]], Mapping[str, Any]] = lambda _: {},
        **more: Any,
    ) -> None:
        self._stand_ins, self._config, self._more = stand_ins, config, more
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None

    @contextlib.contextmanager
    def clean(self, faulty: bool = True) -> Iterator[Machine]:
        """A machine on which nothing is, and is again afterwards; its daemon runs, a faulty one without a point armed.

        The daemon of the test before goes on where it is of the kind that is wanted: a start takes half of a life.
        """
        used = self._machine or self._make()
        whole = False
        try:
            used.faulty = faulty
            used.fault_file.unlink(missing_ok=True)
            self._have_running(used)
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

    def _make(self) -> Machine:
        made = self._machine = self._stack.enter_context(machine(**self._more))
        made.write_config(self._config(made.stand_in(*self._stand_ins)))
        return made

    def _have_running(self, used: Machine) -> None:
        daemon = used.daemon
        if daemon is None or daemon.dead():
            used.start()
        elif daemon.faulty != used.faulty:
            used.restart()

    def close(self) -> None:
        self._stack.close()
        self._machine = None


def said(used: Machine, runs: int = 3) -> str:
    """The ends of the newest daemons' logs."""
    names = [f"daemon-{n}.log" for n in range(max(1, used.starts - runs + 1), used.starts + 1)]
    files = [used.base / name for name in names]
    return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-2500:]}" for f in files if f.exists())

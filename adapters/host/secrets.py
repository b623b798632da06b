"""The private side files: what a client gave that must not stand in the log, one file (0600) per aggregate.

They are not synced: after a power cut no task of this boot is left, and what remains to be shown stands in the log.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgpack

from adapters.host.state import make_private, write_atomically
from domain.config import ContainerSecrets, SandboxSecrets
from domain.errors import StorageFailed

FILE_BYTES_MAX = 32 << 20


class SideFiles:
    def __init__(self, directory: Path) -> None:
        self._directory = make_private(directory)

    def write(self, name: str, secrets: ContainerSecrets | SandboxSecrets) -> None:
        write_atomically(self._directory / name, msgpack.packb(_packed(secrets)), sync=False)

    def read(self, name: str) -> ContainerSecrets | SandboxSecrets | None:
        """None where there is no file. Raises StorageFailed where it does not decode."""
        try:
            with (self._directory / name).open("rb") as file:
                return _unpacked(msgpack.unpackb(file.read(FILE_BYTES_MAX)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
            raise StorageFailed(f"cannot read the private side file of {name}: {error}") from error

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._directory / name).unlink()

    def names(self) -> Sequence[str]:
        """Every file, also one that a death left half-written: it holds the same values and must go as well."""
        return [entry.name for entry in self._directory.iterdir()]


def _packed(secrets: ContainerSecrets | SandboxSecrets) -> dict[str, object]:
    kept: dict[str, object] = {"annotations": dict(secrets.annotations)}
    if isinstance(secrets, ContainerSecrets):
        kept.update(command=secrets.command, args=secrets.args, envs=secrets.envs)
    return kept


def _unpacked(kept: dict[str, object]) -> ContainerSecrets | SandboxSecrets:
    if "envs" not in kept:
        return SandboxSecrets(annotations=dict(kept["annotations"]))  # type: ignore[call-overload]
    return ContainerSecrets(
        command=tuple(kept["command"]),  # type: ignore[arg-type]
        args=tuple(kept["args"]),  # type: ignore[arg-type]
        envs=tuple((name, value) for name, value in kept["envs"]),  # type: ignore[attr-defined]
        annotations=dict(kept["annotations"]),  # type: ignore[call-overload]
    )

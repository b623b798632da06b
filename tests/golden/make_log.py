"""Adds to tests/golden/log_v1/records.txt one bare and one full record of every event that is not in it yet.

`python -m tests.golden.make_log` from the repository's root. Lines that are there are never changed: they stand for
logs that lie on somebody's disk. A line: sequence, wire name, record (hex), and the event as Python prints it.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from adapters.log.codec import EventCodec
from adapters.log.drafts import entries_of
from adapters.log.record import genesis, lay, record_hash
from domain.events import WIRE
from domain.records import Cause, Draft, Head, Now

FILE = Path(__file__).parent / "log_v1" / "records.txt"
LOG_ID = "0123456789abcdef" * 2
NOW = Now(1_790_000_000_000_000_000, 86_400_000_000_000, "6f5d1b1e-52f4-4f7c-8a4c-1de5a3a0c9d1")
CAUSES = (Cause("due"), Cause("rpc", "StartContainer", "r-1", NOW.wall_ns - 1, "kubelet/1.35", "daybook.sock", 1))


def lines() -> list[list[str]]:
    """The golden log as it is: fields of every line."""
    text = FILE.read_text() if FILE.exists() else ""
    return [line.split(" ", 3) for line in text.splitlines() if line and not line.startswith("#")]


def sample(kind: Any, full: bool) -> Any:
    """A value of a declared type; `full`: nothing is left at its default."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return sample(args[0], full) if full else None
    if origin is tuple:
        return tuple(sample(arg, full) for arg in args if arg is not Ellipsis) if full or Ellipsis not in args else ()
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"k": sample(args[1], full)} if full else {}
    if dataclasses.is_dataclass(kind):
        return _instance(kind, full)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[-1]
    return {str: "text-ü", int: 2**40 + 7, bool: True, bytes: b"\x00\xff"}[kind]


def _instance(kind: Any, full: bool) -> Any:
    hints = typing.get_type_hints(kind)
    required = (dataclasses.MISSING, dataclasses.MISSING)
    wanted = [f for f in dataclasses.fields(kind) if full or (f.default, f.default_factory) == required]
    return kind(**{f.name: sample(hints[f.name], full) for f in wanted})


def missing() -> Iterator[list[str]]:
    """Lines for the events that the golden log lacks, chained to its end."""
    present = lines()
    names = {wire for _, wire, _, _ in present}
    head = Head(len(present), record_hash(bytes.fromhex(present[-1][2])) if present else genesis(LOG_ID))
    for kind in (kind for wire, kind in WIRE.items() if wire not in names):
        for full, cause in enumerate(CAUSES):
            draft = Draft(f"golden/{kind.__name__}", full + 1, sample(kind, bool(full)))
            [(data, placed)] = lay(head, entries_of([draft], EventCodec()), cause, NOW)
            head = Head(placed.seq, placed.hash)
            yield [str(placed.seq), EventCodec().encode(draft.event)[0], data.hex(), repr(draft.event)]


def main() -> None:
    added = [" ".join(line) for line in missing()]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with FILE.open("a") as file:
        file.writelines(line + "\n" for line in added)
    print(f"{FILE}: {len(added)} lines added")


if __name__ == "__main__":
    main()

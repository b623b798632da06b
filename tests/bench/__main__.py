"""`python -m tests.bench [--json FILE] [--quick] [--only PART]`: prints a table of measurements; judges nothing.

As root and on a quiet machine. Everything happens in a temporary directory, on whose disk the log is measured.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench import answers, containerd, log, peers, pods
from tests.bench.rows import Row, machine, table, write

PARTS: Mapping[str, Callable[[Path, bool], Iterator[Row]]] = {
    "log": log.rows,
    "answers": answers.rows,
    "pods": pods.rows,
    "peers": peers.rows,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures; passes no judgement.")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all raw samples there")
    made.add_argument("--quick", action="store_true", help="fewer samples, a replay of 100,000 events")
    made.add_argument("--only", action="append", choices=sorted(PARTS), help="this part; may be given several times")
    made.add_argument(
        "--directory", metavar="DIR", help="where the log and the containers lie; the temporary directory"
    )
    return made


def measured(parts: Sequence[str], directory: Path, quick: bool) -> Iterator[Row]:
    for part in parts:
        below = directory / part
        below.mkdir()
        for row in PARTS[part](below, quick):
            print(f"  ... {row.name}: {row.value}", file=sys.stderr, flush=True)
            yield row


def main() -> int:
    given, about = parser().parse_args(), machine()
    peer = f"peer: containerd {containerd.version()}" if containerd.installed() else "peer absent"
    print(peer, flush=True)
    directory = Path(tempfile.mkdtemp(prefix="daybook-bench-", dir=given.directory))
    try:
        rows = list(measured(given.only or list(PARTS), directory, given.quick))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    print("\n".join(table(rows)))
    if given.json:
        write(given.json, {"peer": peer, **about}, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

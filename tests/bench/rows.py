"""What a benchmark gives: rows of a table, each with its raw samples; and the machine on which they were taken."""

import json
import math
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """`value` is what the table shows, `samples` what it was made of, in `unit`."""

    group: str
    name: str
    value: str
    samples: tuple[float, ...] = ()
    unit: str = ""


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that at least so many percent do not exceed."""
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


def spread(group: str, name: str, samples: Sequence[float], unit: str = "ms", note: str = "") -> Row:
    """A row of p50 and p99 (the largest, where there are fewer than 100)."""
    last = f"p99 {percentile(samples, 99):.3g}" if len(samples) >= 100 else f"max {max(samples):.3g}"
    value = f"p50 {statistics.median(samples):.3g} {unit}, {last} {unit}, {len(samples)} samples"
    return Row(group, name, f"{value}{'; ' if note else ''}{note}", tuple(samples), unit)


def table(rows: Sequence[Row]) -> Iterator[str]:
    width = max(len(row.name) for row in rows)
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            yield f"\n{group}"
        yield f"  {row.name:<{width}}  {row.value}"


def machine() -> dict[str, str]:
    return {
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": _load(),
    }


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write(path: Path, about: dict[str, str], rows: Sequence[Row]) -> None:
    document = {"machine": {**about, "load after": _load()}, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n")

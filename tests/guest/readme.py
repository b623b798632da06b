"""README's own lines for an installation, so that what the guests run and what users type cannot drift apart."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTION = "## Install and run"
OUR_COMMAND = "daybook "
"""Lines that use what is installed: they tell of it and are not typed here."""


@dataclass(frozen=True, slots=True)
class Install:
    """`packages`: the lines that install Debian's packages. `steps`: those that install Daybook. `units`: those that
    need systemd as process 1, so a booted machine. Each in README's order.
    """

    packages: tuple[str, ...]
    steps: tuple[str, ...]
    units: tuple[str, ...]


class Drifted(ValueError):
    """README's section no longer says how Daybook is installed."""


def install(text: str | None = None) -> Install:
    """What the section tells its reader to type. Raises Drifted."""
    lines = _code(_section(text if text is not None else (ROOT / "README.md").read_text()))
    typed = [line for line in lines if not line.startswith(OUR_COMMAND)]
    packages, units = (tuple(_beginning(typed, word)) for word in ("apt-get install ", "systemctl "))
    for needed in ("runc", "pip install", "packaging/daybook.service", "systemctl enable"):
        if not any(needed in line for line in typed):
            raise Drifted(f"README's section {SECTION!r} has no line with {needed!r}: the guests install by its lines")
    return Install(packages, tuple(line for line in typed if line not in packages + units), units)


def _beginning(lines: list[str], word: str) -> list[str]:
    return [line for line in lines if line.startswith(word)]


def _section(text: str) -> str:
    _, found, rest = text.partition(f"\n{SECTION}\n")
    if not found:
        raise Drifted(f"README has no section {SECTION!r}: the guests install by its lines")
    return rest.partition("\n## ")[0]


def _code(section: str) -> list[str]:
    """Indented lines. What follows three spaces or more is a remark."""
    return [re.split(r" {3,}", line[4:].strip())[0] for line in section.splitlines() if re.match(r" {4}\S", line)]

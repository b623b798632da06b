"""What an OCI runtime says about a failure, as it may be told on: to a client, on record, in the daemon's own log.

A runtime repeats the program (in its place may stand a whole command line, with a password) and, where one is
malformed, a variable of the environment. It quotes them in its own way, cuts them, and repeats them without quotes. So
nothing is searched for: the text is read from its beginning as long as it is the runtime's own words, or names what the
spec says anyway. From the first word that may be somebody else's, all goes but an ending from a closed set.
"""

import errno
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from adapters.oci import files, process

LOG_MAX = 1024 * 1024
"""Of a runtime's log the last bytes are read. One message holds the program twice, each at most 128 KiB."""

DOES_NOT_SAY = "it gave no reason that may be repeated"

PREFIX = re.compile(r"(?:\w+ )?(?:create|exec|run|start) failed: ")
"""How runc begins: its own words, though `exec` is among them."""

NOT_RUNNING = r"in\ a\ (?:stopped|paused)\ container(?:\ \(use\ --ignore-paused\ to\ override\))?$"
FOREIGN = re.compile(
    rf"""(?P<program>\bexec:\ |\bexecutable\ (?:file|path)\ (?=`)|\benvironment\ variable\b[^"]*(?="))
      | (?P<exec>\b(?:fork/)?exec\ (?!{NOT_RUNNING}))
      | (?P<file>\b(?:stat|lstat|open|readlink|access)\ )
      | (?P<quote>["`]|(?<!\w)')""",
    re.VERBOSE,
)
"""Where something begins that need not be the runtime's own: Go's os/exec (its error quotes the program and repeats it
without quotes), crun's words for the same, a malformed variable; a program or a file in Go's PathError, not quoted;
anything that is quoted.
"""

QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"|`([^`]*)`|\'([^\']*)\'', re.DOTALL)
OPERAND = re.compile(r"[^\s\"'`:]+(?=:)")
LINE = re.compile(r'time=\S+ level=(?P<level>\w+) msg=(?P<msg>"(?:[^"\\]|\\.)*"|\S*)')
"""A line of runc's text log; what is in it is escaped, so that it is one line."""

OF_THE_KERNEL = ("/proc/", "/sys/fs/cgroup/", "/dev/")

ENDINGS = tuple(
    sorted(
        {
            "executable file not found in $PATH",
            "cannot run executable found relative to current directory",
            *(os.strerror(number).lower() for number in errno.errorcode),
        },
        key=len,
        reverse=True,
    )
)
"""How a message about a program ends: os/exec's own errors and the kernel's, as Go spells them."""


def told(text: str, harmless: Collection[str] = (), below: str = "") -> str:
    """The runtime's own words in a text; empty where it has none.

    `harmless`: what the spec says outside the command and its environment. `below`: a directory of ours; what lies in
    it may be named.
    """
    text = text.strip()
    at = found.end() if (found := PREFIX.match(text)) else 0
    while (found := FOREIGN.search(text, at)) is not None:
        end = _harmless_until(text, found, harmless, below)
        if end < 0:
            return process.printable(_cut(text, found))
        at = end
    return process.printable(text.replace("\n", " "))


def _harmless_until(text: str, found: re.Match[str], harmless: Collection[str], below: str) -> int:
    """Where the foreign part ends that may be repeated; -1 where it may not."""
    if found["program"] or found["exec"]:
        return -1
    where = found.start() if found["quote"] else found.end()
    part = (QUOTED if found["quote"] else OPERAND).match(text, where)
    if part is None:
        return -1
    value = next((group for group in part.groups() if group is not None), "") if found["quote"] else part[0]
    ours = (*OF_THE_KERNEL, f"{below}/") if below else OF_THE_KERNEL
    return part.end() if value in harmless or value.startswith(ours) else -1


def _cut(text: str, found: re.Match[str]) -> str:
    head = text[: found.start() if found["quote"] else found.end()].rstrip(": \n")
    lower = text.lower()
    ending = next((one for one in ENDINGS if lower.endswith(f": {one.lower()}")), "")
    return ": ".join(part for part in (head.replace("\n", " "), ending) if part)


def harmless_of(spec: Mapping[str, Any]) -> frozenset[str]:
    """All that a spec says but the command, its environment and the annotations."""
    found = spec.get("process")
    own = {k: v for k, v in found.items() if k not in ("args", "env")} if isinstance(found, Mapping) else {}
    rest = {k: v for k, v in spec.items() if k not in ("process", "annotations")}
    return frozenset((*_strings(own), *_strings(rest)))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


# --- where a runtime says it -----------------------------------------------------------------------------------------


def of_log(path: str, harmless: Collection[str] = (), below: str = "") -> str:
    """The last error in a runtime's own log (JSON lines); where its first stage died, that reason too.

    Empty where there is none, or none that can be read. A warning is none.
    """
    errors = [(str(entry["level"]), str(entry.get("msg", ""))) for entry in _entries(path)]
    if not errors:
        return ""
    deeper = [said for level, said in errors[:-1] if level == "fatal"]
    return _with(told(errors[-1][1], harmless, below), told(deeper[-1], harmless, below) if deeper else "")


def of_stderr(text: str, harmless: Collection[str] = (), below: str = "") -> str:
    """The same where it has no log of its own: the error in plain words, and lines with a level before it.

    The plain words are taken whole: the last line of them may be the end of a program's name.
    """
    lines = text.splitlines()
    levels = [found for line in lines if (found := LINE.match(line))]
    plain = [line for line in lines if not LINE.match(line)]
    fatal = [unquoted(found["msg"]) for found in levels if found["level"] == "fatal"]
    said = "\n".join(plain).strip() or (unquoted(levels[-1]["msg"]) if levels else "")
    deeper = told(fatal[-1], harmless, below) if fatal and fatal[-1] != said else ""
    return _with(told(said, harmless, below), deeper) if said else ""


def unquoted(text: str) -> str:
    """A value of runc's text log: bare, or quoted Go's way."""
    if not text.startswith('"'):
        return text
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text[1:-1], flags=re.DOTALL)


def _with(said: str, deeper: str) -> str:
    return f"{said or DOES_NOT_SAY} ({deeper})" if deeper else said or DOES_NOT_SAY


def _entries(path: str) -> Iterator[Mapping[str, Any]]:
    for line in (files.read_end(path, LOG_MAX) or b"").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal", "panic"):
            yield entry

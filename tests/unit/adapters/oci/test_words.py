"""words: of what a runtime says only its own words are told, whatever stands in the program's place."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.oci import words

START = "runc create failed: unable to start container process: "
INIT = START + "error during container init: "
HARMLESS = frozenset({"/nope/host", "/d/q", "/work dir"})
BUNDLE = "/state/containers/c"


def go_quoted(text: str) -> str:
    """strconv.Quote."""
    named = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(named.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text) + '"'


def _escaped(point: int) -> str:
    return f"\\x{point:02x}" if point < 0x80 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


PROGRAM = {
    "not in PATH": lambda v: f"{START}exec: {go_quoted(v)}: executable file not found in $PATH",
    "no such file": lambda v: f"{START}exec: {go_quoted(v)}: stat {v}: no such file or directory",
    "too long": lambda v: f"exec failed: {START}exec: {go_quoted(v)}: stat {v}: file name too long",
    "not quoted": lambda v: f"exec failed: exec {v}: exec format error",
    "forked": lambda v: f"{START}fork/exec {v}: text file busy",
    "crun": lambda v: f"executable file `{v}` not found in $PATH: No such file or directory",
    "crun's newer": lambda v: f"crun: executable path `{v}`: Permission denied",
    "a variable": lambda v: f"{INIT}invalid environment variable: {go_quoted(v)}",
    "a variable's NUL": lambda v: f"{INIT}environment variable value can't contain null(\\x00): {go_quoted(v)}",
    "a variable, newer": lambda v: f"{INIT}invalid environment variable {go_quoted(v)}: name contains nul byte (\\x00)",
}
NAME = {
    "a link": lambda v: f"{START}readlink {v}: too many levels of symbolic links",
    "crun's open": lambda v: f"open `{v}`: Permission denied",
    "single quotes": lambda v: f"cannot start '{v}': Permission denied",
    "quoted": lambda v: f"cannot start {go_quoted(v)}: permission denied",
}
"""Messages as runc 1.1 and crun spell them, over what must not be in them, and over a name that may be known."""

SAYS = PROGRAM | NAME
ANYTHING = st.text(min_size=1, max_size=700)


@pytest.mark.parametrize("kind", SAYS)
@settings(max_examples=30)
@given(one=ANYTHING, other=ANYTHING)
@example(one="a: permission denied", other='mysql -p"x')
@example(one='/no/such "q`\n\t\\\u200b -pSECRET', other="failed: /x/y")
@example(one="/nope/host", other="/d/q")
@example(one="/proc/self/x y", other="`a`'b'")
@example(one="in a stopped container", other="in a stopped container/x")
@example(one="s" * 5000, other="exec: open /dev/null: ")
def test_what_is_told_does_not_depend_on_the_command(kind: str, one: str, other: str) -> None:
    """The same text for any two values: so nothing of either is in it."""
    known = kind in NAME and any(value.startswith(words.OF_THE_KERNEL) or value in HARMLESS for value in (one, other))
    first, second = (words.told(SAYS[kind](value), HARMLESS, BUNDLE) for value in (one, other))
    assert first and (first == second or known)


@pytest.mark.parametrize("kind", SAYS)
@settings(max_examples=30)
@given(secret=ANYTHING, cut=st.integers(0, 3000))
def test_nor_where_the_text_was_cut(kind: str, secret: str, cut: int) -> None:
    """conmon passes 8 KiB on: where that cuts, nothing comes in besides an ending from the closed set."""
    whole = SAYS[kind]("X")
    head = words.told(whole)
    head = next((head.removesuffix(f": {one}") for one in words.ENDINGS if head.endswith(f": {one}")), head)
    said = words.told(SAYS[kind](secret)[: whole.index("X") + cut])
    known = kind in NAME and secret.startswith(words.OF_THE_KERNEL)
    assert known or head.startswith(said) or said.removeprefix(head).removeprefix(": ") in ("", *words.ENDINGS)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("not in PATH", START + "exec: executable file not found in $PATH"),
        ("no such file", START + "exec: no such file or directory"),
        ("too long", "exec failed: " + START + "exec: file name too long"),
        ("not quoted", "exec failed: exec: exec format error"),
        ("a link", START + "readlink: too many levels of symbolic links"),
        ("a variable", INIT + "invalid environment variable"),
        ("a variable's NUL", INIT + "environment variable value can't contain null(\\x00)"),
        ("crun", "executable file: no such file or directory"),
        ("forked", START + "fork/exec: text file busy"),
        ("a variable, newer", INIT + "invalid environment variable"),
        ("crun's open", "open: permission denied"),
    ],
)
def test_what_is_left_says_why(kind: str, text: str) -> None:
    assert words.told(SAYS[kind]("mysql -pSECRET")) == text


@pytest.mark.parametrize(
    "text",
    [
        INIT + 'error mounting "/nope/host" to rootfs at "/d/q": stat /nope/host: no such file or directory',
        INIT
        + 'error mounting "/d/q" to rootfs at "/d/q": mount /x:/d/q (via /proc/self/fd/6), flags: 0x1: not a directory',
        START + 'chdir to cwd ("/work dir") set in config.json failed: no such file or directory',
        f'{INIT}make mountpoint "{BUNDLE}/rootfs/d": not a directory',
        INIT + "unable to apply apparmor profile: write /proc/self/attr/exec: invalid argument",
        START + "open /sys/fs/cgroup/memory/x/cgroup.procs: no such file or directory",
        "runc run failed: wrong rlimit value: RLIMIT_X",
        "exec failed: cannot exec in a stopped container",
        "cannot exec in a paused container (use --ignore-paused to override)",
    ],
)
def test_what_the_spec_says_anyway_is_told(text: str) -> None:
    assert words.told(text, HARMLESS, BUNDLE) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("\n \n", ""),
        ('"all of it"', ""),
        ('error mounting "/secret path" to rootfs at "/d/q": permission denied', "error mounting: permission denied"),
        (f'open "{BUNDLE}x": permission denied', "open: permission denied"),
        ('error mounting "/nope/host', "error mounting"),
        ("can't do it", "can't do it"),
        ("\x1b[31mred\nand a line", "?[31mred and a line"),
        ("w" * 600, "w" * 500),
    ],
)
def test_other_texts(text: str, told: str) -> None:
    assert words.told(text, HARMLESS, BUNDLE) == told


def test_what_a_spec_says_besides_the_command() -> None:
    spec = {
        "process": {"args": ["a-secret"], "env": ["B=secret"], "cwd": "/w", "user": {"uid": 3}},
        "annotations": {"secret": "s"},
        "mounts": [{"destination": "/d", "options": ["ro"]}],
        "linux": {"sysctl": {"kernel.x": "1"}},
    }
    found = words.harmless_of(spec)
    assert {"/w", "/d", "ro", "kernel.x"} <= found
    assert not [word for word in found if "secret" in word]
    assert words.harmless_of({"process": 3}) == frozenset()


# --- its log and its stderr ------------------------------------------------------------------------------------------


def lines(*entries: object) -> str:
    return "\n".join(map(json.dumps, entries)) + "\n"


def test_the_last_error_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert words.of_log(str(log)) == ""
    log.write_text(
        lines(
            {"level": "error", "msg": "first"},
            {"level": "error", "msg": "last\x1b[2J"},
            {"level": "warning", "msg": "only a warning"},
            "not an object",
        )
        + "not json"
    )
    assert words.of_log(str(log)) == "last?[2J"
    log.write_text(lines({"level": "fatal", "msg": "deep"}, {"level": "error", "msg": "shallow"}))
    assert words.of_log(str(log)) == "shallow (deep)"
    log.write_text(lines({"level": "error", "msg": '"a secret"'}))
    assert words.of_log(str(log)) == words.DOES_NOT_SAY


def test_a_log_without_end_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "w") as file:
        for _ in range(3):
            file.write(lines({"level": "error", "msg": "m" * words.LOG_MAX}))
        file.write("[" * 100_000 + "\n" + lines({"level": "error", "msg": "the end"}))
    assert words.of_log(str(log)) == "the end"
    os.truncate(log, 64 * 2**30)
    assert words.of_log(str(log)) == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("\n\n", ""),
        ("last\n\n", "last"),
        ('time="t" level=error msg="no \\"x\\" here" func=main', "no"),
        ('time="t" level=fatal msg="deep"\ntime="t" level=error msg="shallow"', "shallow (deep)"),
        ('time="t" level=fatal msg=deep\nshallow', "shallow (deep)"),
        ('time="t" level=warning msg="skipping device"\nreal', "real"),
        (SAYS["no such file"]("/a\n-pSECRET"), START + "exec: no such file or directory"),
    ],
)
def test_stderr(text: str, told: str) -> None:
    assert words.of_stderr(text) == told

"""The files that every pull reads, read as a pull does: for `daybook check`, and for a word at the daemon's start.

A damaged one keeps nothing from running, but every pull from working.
"""

import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

from adapters import children
from adapters.images.reference import parse
from adapters.images.skopeo import Settings
from domain.errors import InvalidRequest

POLICY = Path("/etc/containers/policy.json")
REGISTRIES = Path("/etc/containers/registries.conf")
FILE_MAX = 4 << 20
ASK_S = 15.0
NOBODY = "docker://127.0.0.1:1/nobody"
"""A registry that is not there: skopeo reads its files before it finds that out."""


def check_insecure(registries: tuple[str, ...]) -> None:
    """Raises InvalidRequest for what is not HOST or HOST:PORT: it would never be the registry of any image."""
    for entry in registries:
        try:
            named = parse(f"{entry}/name").registry == entry
        except InvalidRequest:
            named = False
        if not named:
            raise InvalidRequest(
                f"images.insecure_registries: {entry[:200]!r} is not a registry; write HOST or HOST:PORT, no scheme"
            )


def problem(settings: Settings) -> str:
    """The first thing that is wrong with policy, registries or credentials; empty where nothing is."""
    return next(_problems(settings), "")


def _problems(settings: Settings) -> Iterator[str]:
    yield from _policy(settings.policy or POLICY)
    for path in (settings.registries_conf or REGISTRIES, *_drop_ins()):
        yield from _registries(path, needed=path == settings.registries_conf)
    if settings.authfile:
        _, said = _json(settings.authfile)
        yield from [said] if said else []
    yield from _asked(settings)


def _policy(path: Path) -> Iterator[str]:
    found, said = _json(path)
    if said:
        yield said
    elif not found.get("default"):
        yield f"{path}: it has no `default` rule; see containers-policy.json(5)"


def _json(path: Path) -> tuple[dict[str, object], str]:
    try:
        found = json.loads(_read(path))
    except OSError as error:
        return {}, f"{path}: {error.strerror}"
    except ValueError as error:
        return {}, f"{path}: it is not JSON: {error}"
    return (found, "") if isinstance(found, dict) else ({}, f"{path}: it is not a JSON object")


def _registries(path: Path, needed: bool) -> Iterator[str]:
    try:
        tomllib.loads(_read(path))
    except FileNotFoundError as error:
        if needed:
            yield f"{path}: {error.strerror}"
    except OSError as error:
        yield f"{path}: {error.strerror}"
    except ValueError as error:
        yield f"{path}: it is not TOML: {error}"


def _drop_ins() -> list[Path]:
    return sorted(Path(f"{REGISTRIES}.d").glob("*.conf"))


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(FILE_MAX).decode()


def _asked(settings: Settings) -> Iterator[str]:
    """What skopeo itself says against its files: it knows what a table of them may hold."""
    options = ["--policy", str(settings.policy)] if settings.policy else []
    options += ["--registries-conf", str(settings.registries_conf)] if settings.registries_conf else []
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    try:
        child = children.start(
            [settings.skopeo, *options, "inspect", "--raw", NOBODY], env=environment, stderr=subprocess.PIPE
        )
    except OSError:
        return  # a missing skopeo is told elsewhere
    try:
        said = child.communicate(timeout=ASK_S)[1].decode(errors="replace")
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return
    if "loading registries" in said or "registries.conf" in said:
        yield "".join(c if c.isprintable() else " " for c in said.strip()[-400:])

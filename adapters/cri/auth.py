"""The credentials of a pull request: which of them count, and for whom. Nothing of them is ever quoted.

As kubelets know it from other runtimes: `server_address`, where it is set, must name the image's registry, else they
are not used; user and password come before the identity token, that before `auth` (base64 of user:password). A registry
token comes last: skopeo takes it on its command line only, where every process of the machine can read it, so that it
is refused unless the configuration permits it.
"""

import base64
import binascii
import json
from typing import Any

from adapters.cri import checks
from adapters.cri.port import Digester
from domain.config import PullCredentials

SECRET_MAX = 32 * 1024
"""Bytes of each part: tokens of cloud registries have some thousands."""

ALLOW = "images.allow_registry_token"

_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def read(auth: Any, reference: str, digest: Digester, allow_token: bool) -> PullCredentials | None:
    """What an AuthConfig brings for a normalised reference; None where it brings nothing. Raises InvalidRequest."""
    for field in ("username", "password", "auth", "identity_token", "registry_token"):
        value = getattr(auth, field)
        checks.require(len(value.encode()) <= SECRET_MAX, f"auth.{field} is longer than {SECRET_MAX} bytes")
        padded = field in ("password", "auth")
        checks.require("\0" not in (value.rstrip("\0") if padded else value), f"auth.{field} contains a NUL")
    if auth.server_address and _host(auth.server_address) != _host(reference):
        return None
    chosen = _chosen(auth, allow_token)
    if not chosen:
        return None
    return PullCredentials(access=digest(b"pull\0" + json.dumps(chosen, sort_keys=True).encode()), **chosen)


def _chosen(auth: Any, allow_token: bool) -> dict[str, str]:
    if auth.username:
        return _pair(auth.username, auth.password)
    if auth.identity_token:
        return {"identity_token": auth.identity_token}
    if auth.auth:
        return _decoded(auth.auth)
    if auth.registry_token:
        text = f"auth.registry_token would be visible in the process list; {ALLOW} = true permits it"
        checks.require(allow_token, text)
        return {"registry_token": auth.registry_token}
    checks.require(not auth.password, "auth.password comes without auth.username")
    return {}


def _decoded(text: str) -> dict[str, str]:
    wrong = "auth.auth is not base64 of user:password"
    try:
        username, colon, password = base64.b64decode(text.rstrip("\0"), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        username, colon, password = "", "", ""
    checks.require(bool(username and colon), wrong)
    return _pair(username, password)


def _pair(username: str, password: str) -> dict[str, str]:
    """Passwords may be padded with NULs, to a length that a fixed field once had."""
    checks.require(":" not in username, "auth.username contains a colon")
    return {"username": username, "password": password.rstrip("\0")}


def _host(text: str) -> str:
    """Host and port of a URL, with or without its scheme, or of a reference."""
    host = text.rpartition("://")[2].partition("/")[0].lower()
    return "docker.io" if host in _DOCKER_HUB else host

"""Credentials as skopeo reads them: an authfile (0600) in the run's own directory, which goes with the run.

What the machine's own authfile has stays in force for other registries (a mirror may ask for credentials too): its
entries are copied, and those of the request stand under the repository's full name, which is asked for first.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any

from adapters.images.config import BadConfig, read_object
from adapters.images.failures import storage_failure
from adapters.images.reference import Reference
from domain.config import PullCredentials
from domain.errors import StorageFailed

NAME = "auth.json"
AUTHFILE_MAX = 2**20


def needed(credentials: PullCredentials | None) -> bool:
    """Whether a file is needed for them: a bearer token has no place in one."""
    return credentials is not None and bool(credentials.username or credentials.identity_token)


def write(directory: Path, wanted: Reference, credentials: PullCredentials, host: Path | None) -> Path:
    """The authfile of one run. `host`: the machine's own. Raises StorageFailed."""
    document = _read(host) if host else {}
    auths = document.get("auths")
    document["auths"] = {**(auths if isinstance(auths, dict) else {}), wanted.name: _entry(credentials)}
    path = directory / NAME
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(document, file)
    except OSError as error:
        raise storage_failure("cannot write credentials for a pull", error) from error
    return path


def remove(directory: Path) -> None:
    """Raises StorageFailed."""
    try:
        (directory / NAME).unlink(missing_ok=True)
    except OSError as error:
        raise storage_failure("cannot remove credentials of a pull", error) from error


def _entry(credentials: PullCredentials) -> dict[str, str]:
    if credentials.username:
        pair = f"{credentials.username}:{credentials.password}"
        return {"auth": base64.b64encode(pair.encode()).decode()}
    return {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": credentials.identity_token}


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return dict(read_object(file.read(AUTHFILE_MAX + 1), AUTHFILE_MAX))
    except OSError as error:
        raise StorageFailed(f"cannot read images.auth_file {path}: {error.strerror}") from error
    except BadConfig as error:
        raise StorageFailed(f"cannot use images.auth_file {path}: {error}") from None

"""What skopeo says when it fails, as errors of the domain. Pure: one table, first match wins."""

import errno
import re

from adapters.images.process import Finished
from domain.errors import DiskFull, Failure, PullFailed, RegistryUnavailable, StorageFailed

TEXT_MAX = 600

_TABLE: tuple[tuple[str, type[Failure], str], ...] = (
    (r"no space left on device|disk quota exceeded", DiskFull, ""),
    (r"read-only file system", StorageFailed, ""),
    (r"Source image rejected|signature .*(?:required|rejected|invalid)", PullFailed, "SignatureValidationFailed"),
    (r"Digest did not match|does not match (?:config's )?digest|diffID|unsupported digest", PullFailed, ""),
    (r"manifest unknown|name unknown|not found|blob unknown|404", PullFailed, ""),
    (r"unauthorized|authentication required|denied|invalid username/password|forbidden|401|403", PullFailed, ""),
    (r"toomanyrequests|too many requests|429", PullFailed, ""),
    (r"x509|certificate|HTTP response to HTTPS client", PullFailed, ""),
    (r"no image found in .*(?:manifest list|image index)|no matching manifest|choosing (?:an )?image", PullFailed, ""),
    (
        r"connection refused|connection reset|no such host|server misbehaving|i/o timeout|TLS handshake timeout"
        r"|network is unreachable|no route to host|Client\.Timeout|context deadline exceeded|broken pipe"
        r"|temporary failure in name resolution|status(?: code)?(?: from registry)?:? 5\d\d|\b50[0234]\b|\bEOF\b",
        RegistryUnavailable,
        "RegistryUnavailable",
    ),
)


def of_pull(reference: str, done: Finished, *, registry: bool) -> Failure:
    """`registry` False: the image comes from a file, and nothing there is a registry's fault."""
    cause = said(done)
    kind: type[Failure] = PullFailed
    prefix = ""
    for pattern, error, word in _TABLE:
        if re.search(pattern, _without_names(cause, reference), re.IGNORECASE):
            kind, prefix = error, word
            break
    if kind is RegistryUnavailable and not registry:
        kind, prefix = PullFailed, ""
    return kind(f"{prefix + ': ' if prefix else ''}cannot pull image {reference}: {cause}")


def said(done: Finished) -> str:
    """skopeo's last fatal line, without its frame, control characters and what a signed address carries."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    if not lines:
        return f"skopeo was ended by signal {-done.code}" if done.code < 0 else f"skopeo exited with {done.code}"
    fatal = [line for line in lines if "level=fatal" in line]
    line = (fatal or lines)[-1]
    found = re.search(r'msg="((?:[^"\\]|\\.)*)"', line)
    text = re.sub(r'\\(["\\])', r"\1", found[1]) if found else line
    text = re.sub(r"\?[^\s\"']+", "?…", text)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "…"


def storage_failure(what: str, error: OSError) -> StorageFailed:
    """An error of a file operation of our own, in the form `what: cause`."""
    kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageFailed
    return kind(f"{what}: {error.strerror or error}")


def _without_names(cause: str, reference: str) -> str:
    """A repository called `denied` or a digest with 404 in it must not decide."""
    name = re.split(r"@|:(?=[^/]*$)", reference)[0]
    return re.sub(
        r"sha256:[0-9a-f]{64}|/\S+/storage[0-9]+\S*|:\d+\b", "", cause.replace(reference, "").replace(name, "")
    )

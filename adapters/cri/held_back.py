"""What of a request must not enter the log, and the hash that tells a retry from another request."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters.cri.port import Digester
from domain.records import Digest

ANNOTATION_MAX = 1024
"""Bytes; a longer annotation is held back: it is a document, and documents carry secrets."""

APPLIED = "last-applied-configuration"
"""kubectl's copy of the whole manifest, environment and all."""

TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
_RANDOM = frozenset("0123456789abcdef")


def annotations(of: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those that may be known, and those that are held back."""
    hidden = {k: v for k, v in of.items() if k.endswith(APPLIED) or len(v.encode()) > ANNOTATION_MAX}
    return {k: v for k, v in of.items() if k not in hidden}, hidden


def digests(values: Iterable[tuple[str, bytes]], digest: Digester) -> tuple[Digest, ...]:
    return tuple(Digest(name, len(value), digest(value)) for name, value in values)


def texts(values: Sequence[str], digest: Digester) -> tuple[Digest, ...]:
    return digests((("", value.encode()) for value in values), digest)


def hash_of_sandbox(request: Any, digest: Digester) -> str:
    """Of a RunPodSandboxRequest. The order of maps has no meaning."""
    return digest(request.SerializeToString(deterministic=True))


def hash_of_container(config: Any, digest: Digester) -> str:
    """Of a ContainerConfig, equal for two tries of one kubelet.

    It gathers service variables in random order, and makes up a new file behind the termination log for each try: of
    these only the variables' order by name and the directory count. Of equal names the last still wins.
    """
    canonical = type(config)()
    canonical.CopyFrom(config)
    del canonical.envs[:]
    canonical.envs.extend(sorted(config.envs, key=lambda env: env.key))
    wanted = config.annotations.get(TERMINATION_PATH)
    for mount in canonical.mounts:
        if wanted and mount.container_path == wanted:
            mount.host_path = _without_random(mount.host_path)
    return digest(canonical.SerializeToString(deterministic=True))


def _without_random(path: str) -> str:
    head, slash, last = path.rpartition("/")
    return head + slash if len(last) == 8 and _RANDOM.issuperset(last) else path

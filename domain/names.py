"""Names: what makes a sandbox's and a container's name unique, and what a reference says of its repository."""

from domain.config import SandboxConfig

SandboxName = tuple[str, str, str, int]
ContainerName = tuple[str, str, int]


def sandbox_name(config: SandboxConfig) -> SandboxName:
    """What makes a sandbox's name unique: namespace, name, uid and attempt."""
    return config.namespace, config.name, config.uid, config.attempt


def repository(reference: str) -> str:
    """The reference without tag and digest."""
    name = reference.split("@", 1)[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.split(":", 1)[0]


def repo_digest(reference: str, digest: str) -> str:
    return f"{repository(reference)}@{digest}" if digest else reference

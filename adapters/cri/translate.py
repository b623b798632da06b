"""Requests -> commands and secrets. What is wrong with a request alone is refused here, before anything is decided."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from adapters.cri import auth, checks, container_config, held_back, lookup, sandbox_config
from adapters.cri.port import Check, Digester, Normalise
from adapters.cri.sandbox_config import SandboxRules
from domain import commands as c
from domain.config import ContainerSecrets, PullCredentials, SandboxSecrets
from domain.errors import InvalidRequest, Unsupported
from domain.node import Node

ADMIN = "admin"
"""The socket through which a person, and not a kubelet, asks."""

LOAD = "daybook.load"
"""Annotation of an ImageSpec: a file to take the image from instead of a registry; `daybook load` sends it."""

GRACE_MAX_S = 2**31 - 1
"""68 years; a longer grace is cut, so that its end can be written in nanoseconds."""

_LOAD_KINDS = ("oci:", "oci-archive:", "docker-archive:")


@dataclass(frozen=True, slots=True)
class Translator:
    """`digest`: the keyed hash; `normalise`: an image reference in full; `new_id`: fresh ids; `check`: see `port`."""

    digest: Digester
    normalise: Normalise
    new_id: Callable[[], str]
    rules: SandboxRules
    check: Check | None = None
    allow_registry_token: bool = False

    def run_sandbox(self, request: Any) -> tuple[c.RunSandbox, SandboxSecrets | None]:
        checks.require(request.HasField("config"), "config is missing")
        _check_size(request)
        config, secrets = sandbox_config.read(request.config, request.runtime_handler, self.rules, self.digest)
        request_hash = held_back.hash_of_sandbox(request, self.digest)
        return c.RunSandbox(self.new_id(), config, request_hash), secrets

    def create_container(self, request: Any, node: Node) -> tuple[c.CreateContainer, ContainerSecrets]:
        """`sandbox_config` of the request is not read: the one on record counts."""
        checks.require(request.HasField("config"), "config is missing")
        _check_size(request.config)
        found = lookup.sandbox_id(node, request.pod_sandbox_id)
        sandbox_id = lookup.known("sandbox", request.pod_sandbox_id, found, "create a container in")
        config, secrets = container_config.read(request.config, self.digest)
        if target := config.namespaces.target_id:
            # On record in full: what a prefix means may change.
            whole = lookup.container_id(node, target) or target
            config = replace(config, namespaces=replace(config.namespaces, target_id=whole))
        if self.check is not None and sandbox_id in node.sandboxes:
            self.check(config, node.sandboxes[sandbox_id].config)
        request_hash = held_back.hash_of_container(request.config, self.digest)
        image = self.image(config.image, node)
        return c.CreateContainer(self.new_id(), sandbox_id, image, config, request_hash), secrets

    def stop_container(self, container_id: str, timeout: int) -> c.StopContainer:
        checks.at_least("timeout", timeout, 0)
        return c.StopContainer(container_id, min(timeout, GRACE_MAX_S))

    def pull_image(self, request: Any, socket: str) -> tuple[c.PullImage, PullCredentials | None]:
        """The credentials are None where the request brings none for this registry, or needs none: for a file."""
        checks.require(bool(request.image.image), "image.image is empty")
        handler = request.image.runtime_handler
        if handler and handler not in self.rules.handlers:
            raise Unsupported(f"runtime handler {checks.shown(handler)} is not configured")
        reference, source = self.normalise(request.image.image), _source(request.image.annotations, socket)
        credentials = None
        if not source:
            credentials = auth.read(request.auth, reference, self.digest, self.allow_registry_token)
        return c.PullImage(reference, source, credentials.access if credentials else ""), credentials

    def image(self, text: str, node: Node) -> str:
        """What a command calls an image: the reference that the text means, else the text in full."""
        found = lookup.image(node, text, self.normalise)
        if found is None or found.held is None:
            return lookup.full_id(text) or self.normalise(text)
        return found.held.image_id if _is_id(text, found.held.image_id) else found.reference


def _is_id(text: str, image_id: str) -> bool:
    return image_id.removeprefix("sha256:").startswith(text.removeprefix("sha256:"))


def _check_size(message: Any) -> None:
    size = message.ByteSize()
    checks.require(size <= checks.REQUEST_MAX, f"the configuration has {size} bytes, at most {checks.REQUEST_MAX} go")


def _source(annotations: Any, socket: str) -> str:
    source: str = annotations.get(LOAD, "")
    if not source:
        return ""
    if socket != ADMIN:
        raise InvalidRequest(f"annotation {LOAD} is permitted on the admin socket only")
    kind = next((k for k in _LOAD_KINDS if source.startswith(k)), None)
    if kind is None or not source.removeprefix(kind).startswith("/"):
        raise InvalidRequest(f"annotation {LOAD} must be oci:, oci-archive: or docker-archive:/PATH[:REF]")
    return checks.plain(f"annotation {LOAD}", source)

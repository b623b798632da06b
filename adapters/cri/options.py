"""What the CRI front end is told by the composition root."""

from collections.abc import Callable
from dataclasses import dataclass

from adapters.cri.pinned import UNPINNED, Pins
from adapters.cri.port import Check, Digester, Normalise
from adapters.cri.sandbox_config import SandboxRules
from adapters.cri.translate import Translator

CRI_VERSION = "0.1.0"
"""The kubelet runtime API's version, for all kubelets there are."""

RUNTIME_NAME = "daybook"


@dataclass(frozen=True, slots=True)
class Options:
    """`version`: Daybook's own. `handlers`: runtime handlers by name, besides the default. `systemd`: who has cgroups.

    `digest`: keyed hash, 32 hex digits; `normalise`: an image reference in full; `new_id`: a fresh id; `check`:
    refuses a container that its sandbox could never hold. `recursive_read_only`: the runtime and the kernel have it.
    `selinux`: the host has it.
    `pins`: images that the kubelet must not collect. `allow_registry_token`: see `auth`.
    `sandbox_image`: what kubeadm is told.
    """

    version: str
    digest: Digester
    normalise: Normalise
    new_id: Callable[[], str]
    check: Check | None = None
    handlers: tuple[str, ...] = ()
    recursive_read_only: bool = False
    selinux: bool = False
    systemd: bool = False
    pins: Pins = UNPINNED
    allow_registry_token: bool = False
    sandbox_image: str = ""

    @property
    def translator(self) -> Translator:
        rules = SandboxRules(self.handlers, self.selinux)
        return Translator(self.digest, self.normalise, self.new_id, rules, self.check, self.allow_registry_token)

"""skopeo's command lines: what is asked of it, with which files and which environment. One instance per store.

Rule 1: a secret goes into an authfile (0600) in the run's own directory, never into an argument; the one exception, a
bearer token, is refused before it comes here unless the configuration permits it. Rule 2: nothing of the machine's own
configuration is read but registries.conf, policy.json, certificates and the authfile that the configuration names.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.images import authfile, failures
from adapters.images.platforms import native
from adapters.images.process import Finished, Ledger, run
from adapters.images.reference import Reference, is_digest, is_loopback
from adapters.images.store import Layer
from domain.config import PullCredentials
from domain.errors import InvalidRequest, PullFailed, StorageFailed

SHORT_S = 60.0
INSPECT_S = 120.0
"""skopeo itself tries again for up to a minute where a registry says "too many requests"."""

STRAY_NAME = "daybook.invalid/stray:layers"
PASSED_ON = ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Settings:
    """`stall_s`: no byte moved for so long ends a pull; `limit_s`: all of a pull (0: no limit). Paths may be None.

    `authfile`: the machine's own credentials, for whoever brings none.
    """

    skopeo: str = "skopeo"
    at_once: int = 3
    stall_s: float = 300.0
    limit_s: float = 0.0
    insecure: tuple[str, ...] = ()
    authfile: Path | None = None
    registries_conf: Path | None = None
    policy: Path | None = None


class Skopeo:
    """The store at `root` (on disk) and `run` (state of a boot); `shared` is a directory for what all runs read."""

    def __init__(self, root: Path, run: Path, shared: Path, settings: Settings) -> None:
        self._transport = f"containers-storage:[overlay@{root}+{run}]"
        self._storage_conf = shared / "storage.conf"
        self._settings = settings

    def prepare(self) -> None:
        """Raises OSError."""
        self._storage_conf.write_text('[storage]\ndriver = "overlay"\n')

    async def inspect(
        self, wanted: Reference, origin: str, ledger: Ledger, credentials: PullCredentials | None = None
    ) -> bytes:
        """The manifest or index that the reference names, byte for byte. Raises as a pull does."""
        access = self._access(ledger, wanted, credentials, ("--tls-verify=false", "--registry-token"))
        stall_s = min(SHORT_S, self._settings.stall_s or SHORT_S)
        done = await self._run(["inspect", "--raw", *access, origin], ledger, limit_s=INSPECT_S, stall_s=stall_s)
        if done.code != 0:
            raise failures.of_pull(str(wanted), done, registry=origin.startswith("docker://"))
        return done.out

    async def copy(
        self,
        wanted: Reference,
        origin: str,
        ledger: Ledger,
        credentials: PullCredentials | None = None,
        platform: tuple[str, ...] = (),
    ) -> str:
        """Returns the digest of the manifest that was copied: of an index, the one of this platform's image.

        `platform`: see `platforms.options`.
        """
        told = ledger.directory / "digest"
        access = self._access(ledger, wanted, credentials, ("--src-tls-verify=false", "--src-registry-token"))
        words = [*platform, "copy", "--quiet", "--digestfile", str(told), *access, origin, f"{self._transport}{wanted}"]
        done = await self._run(words, ledger, limit_s=self._settings.limit_s, stall_s=self._settings.stall_s)
        if done.code != 0:
            raise failures.of_pull(str(wanted), done, registry=origin.startswith("docker://"))
        try:
            digest = told.read_text()[:100].strip()
        except OSError as error:
            raise failures.storage_failure(f"cannot pull image {wanted}: no digest was written", error) from error
        if not is_digest(digest):
            raise PullFailed(f"cannot pull image {wanted}: skopeo told the digest {digest!r}")
        return digest

    async def delete(self, image_hex: str, ledger: Ledger) -> str:
        """By id, with all names. Returns what skopeo said against it, empty when it went well."""
        done = await self._run(["delete", f"{self._transport}@{image_hex}"], ledger, limit_s=SHORT_S)
        return "" if done.code == 0 else failures.said(done)

    async def adopt(self, chain: Sequence[Layer], ledger: Ledger) -> str:
        """Makes an image (its id in hex) over layers that no image has, base first: the only way to have them deleted.

        No blob is copied: the store has them all, and skopeo asks it first. Deleting it opens the store for writing,
        which removes incomplete layers too; for that alone the chain may be empty. Raises StorageFailed.
        """
        layout = ledger.directory / f"stray-{uuid.uuid4().hex}"
        known = _stray_layout(layout, chain)
        words = ["copy", "--quiet", f"oci:{layout}", f"{self._transport}{STRAY_NAME}"]
        done = await self._run(words, ledger, limit_s=SHORT_S)
        if done.code != 0:
            raise StorageFailed(f"cannot remove stray layers: {failures.said(done)}")
        return known

    async def _run(self, words: Sequence[str], ledger: Ledger, *, limit_s: float, stall_s: float = 0) -> Finished:
        settings = self._settings
        argv = [settings.skopeo, "--tmpdir", str(ledger.tmp)]
        argv += ["--policy", str(settings.policy)] if settings.policy else []
        argv += ["--registries-conf", str(settings.registries_conf)] if settings.registries_conf else []
        environment = self._environment(ledger)
        return await run([*argv, *words], env=environment, ledger=ledger, limit_s=limit_s, stall_s=stall_s)

    def _environment(self, ledger: Ledger) -> Mapping[str, str]:
        """Of the daemon's own only proxies and certificates; no authfile of root's home, nobody's storage.conf."""
        passed = {key: os.environ[key] for name in PASSED_ON for key in (name, name.lower()) if key in os.environ}
        private = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "TMPDIR"), str(ledger.tmp))
        storage = {"CONTAINERS_STORAGE_CONF": str(self._storage_conf), "LC_ALL": "C.UTF-8"}
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **passed, **private, **storage}

    def _access(
        self, ledger: Ledger, wanted: Reference, credentials: PullCredentials | None, options: tuple[str, str]
    ) -> tuple[str, ...]:
        """Which authfile, and whether the registry may do without a certificate. `options`: what skopeo calls both.

        Raises StorageFailed.
        """
        plain, token = options
        words: list[str] = []
        file = self._settings.authfile
        if credentials is not None and authfile.needed(credentials):
            file = authfile.write(ledger.directory, wanted, credentials, self._settings.authfile)
        elif credentials is not None and credentials.registry_token:
            words += [token, credentials.registry_token]
        words += ["--authfile", str(file)] if file else []
        words += [plain] if is_loopback(wanted.registry) or wanted.registry in self._settings.insecure else []
        return tuple(words)


def source_of(wanted: Reference, source: str) -> str:
    """skopeo's name of where an image comes from. Raises InvalidRequest."""
    if not source:
        return f"docker://{wanted}"
    kind, _, path = source.partition(":")
    if (
        kind not in ("oci", "oci-archive", "docker-archive")
        or not path.startswith("/")
        or "\0" in path
        or len(path) > 4096
    ):
        raise InvalidRequest(
            f"cannot load image from {source[:80]!r}: it is not oci:, oci-archive: or docker-archive:/PATH"
        )
    return source


def _stray_layout(layout: Path, chain: Sequence[Layer]) -> str:
    """An OCI layout that names the layers of a chain (base first) without having them; the image's id in hex."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(document: Mapping[str, object], kind: str) -> dict[str, object]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}.v1+json",
            "digest": f"sha256:{digest}",
            "size": len(data),
        }

    rootfs = {"type": "layers", "diff_ids": [layer.diff for layer in chain]}
    config = put({"architecture": native(os.uname().machine), "os": "linux", "rootfs": rootfs}, "config")
    kind = "application/vnd.oci.image.layer.v1.tar"
    layers = [
        {"mediaType": kind + "+gzip" * layer.gzipped, "digest": layer.blob or layer.diff, "size": layer.blob_size}
        for layer in chain
    ]
    manifest = put({"schemaVersion": 2, "config": config, "layers": layers}, "manifest")
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return str(config["digest"]).removeprefix("sha256:")

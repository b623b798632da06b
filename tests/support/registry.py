"""A read-only registry on the loopback address that serves an OCI layout, and misbehaves on request.

Enough of the distribution API for skopeo: /v2/, manifests by tag and digest, blobs. Every repository name serves the
same layout. Faults are set while it runs: `registry.faults["blobs/sha256:..."] = Fault(...)`; the key is a manifest
(`manifests/latest`) or a blob. `asked` lists the paths that were requested; `hanging` is set when a hang or slow begins.
"""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind`: status (with `status`), hang, slow (`chunk` bytes, then `pause` seconds), corrupt, truncate."""

    kind: str
    status: int = 500
    chunk: int = 1024
    pause: float = 0.05
    code: str = ""


class LoopbackRegistry:
    """A context manager. `host` is `127.0.0.1:PORT`. `login`: the user and password it asks for (basic auth)."""

    def __init__(self, layout: Path, *, login: tuple[str, str] | None = None) -> None:
        self.layout = layout
        self.login = login
        self.faults: dict[str, Fault] = {}
        self.asked: list[str] = []
        self.hanging = threading.Event()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def content(self, kind: str, name: str) -> tuple[bytes, str] | None:
        """Bytes and media type of a manifest (by tag or digest) or a blob."""
        media = "application/octet-stream"
        if kind == "manifests" and not name.startswith("sha256:"):
            index = json.loads((self.layout / "index.json").read_text())
            found = [d for d in index["manifests"] if d.get("annotations", {}).get(NAME) == name]
            if not found:
                return None
            name, media = found[0]["digest"], found[0]["mediaType"]
        path = self.layout / "blobs" / "sha256" / name.removeprefix("sha256:")
        if not path.is_file():
            return None
        data = path.read_bytes()
        if kind == "manifests":
            media = json.loads(data).get("mediaType", media)
        return data, media


def _handler(registry: LoopbackRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            registry.asked.append(self.path)
            if not self._logged_in():
                self._error(401, "UNAUTHORIZED", challenge=True)
                return
            if self.path.rstrip("/") == "/v2":
                self._send(b"{}", "application/json", body=body)
                return
            parts = self.path.split("/")
            kind, name = parts[-2], parts[-1]
            found = registry.content(kind, name)
            fault = registry.faults.get(f"{kind}/{name}")
            if fault is not None and fault.kind == "status":
                self._error(fault.status, fault.code or "UNKNOWN")
            elif found is None:
                self._error(404, "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN")
            else:
                self._send(*found, body=body, fault=fault)

        def _logged_in(self) -> bool:
            if registry.login is None:
                return True
            from base64 import b64encode

            wanted = b64encode(":".join(registry.login).encode()).decode()
            return self.headers.get("Authorization") == f"Basic {wanted}"

        def _error(self, status: int, code: str, *, challenge: bool = False) -> None:
            data = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
            self.send_response(status)
            if challenge:
                self.send_header("WWW-Authenticate", 'Basic realm="loopback"')
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _send(self, data: bytes, media: str, *, body: bool, fault: Fault | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not body:
                return
            try:
                self._write(data, fault)
            except OSError:
                self.close_connection = True

        def _write(self, data: bytes, fault: Fault | None) -> None:
            if fault is None:
                self.wfile.write(data)
            elif fault.kind == "corrupt":
                self.wfile.write(bytes([data[0]]) + b"\0" * (len(data) - 1))
            elif fault.kind == "truncate":
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif fault.kind == "hang":
                self.wfile.write(data[: len(data) // 2])
                registry.hanging.set()
                registry.closing.wait()
                self.close_connection = True
            else:
                registry.hanging.set()
                for start in range(0, len(data), fault.chunk):
                    self.wfile.write(data[start : start + fault.chunk])
                    if registry.closing.wait(fault.pause):
                        self.close_connection = True
                        return

    return Handler

"""A read-only registry on the loopback address that serves an OCI layout, and misbehaves on request.

Enough of the distribution API for skopeo: /v2/, manifests by tag and digest, blobs. Every repository name serves the
same layout. Faults are set while it runs: `registry.faults["blobs/sha256:..."] = Fault(...)`; the key is a manifest
(`manifests/latest`) or a blob. `asked` lists the paths that were requested; `hanging` is set when a hang or slow begins,
`held` counts the answers that hang or are slow now, `most_held` the most there ever were.

With `bearer` it sends its clients to its own token server (/token): GET with a password or without one, POST with a
refresh token. What the token server gives out is `TOKEN`.
"""

import json
import socket
import threading
import urllib.parse
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

TOKEN = "bearer-token-of-the-tests"
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
    """A context manager. `host` is `127.0.0.1:PORT`. `login`: the user and password it asks for.

    `refresh`: an identity token that its token server takes as well.
    """

    def __init__(
        self, layout: Path, *, login: tuple[str, str] | None = None, bearer: bool = False, refresh: str = ""
    ) -> None:
        self.layout = layout
        self.login, self.bearer, self.refresh = login, bearer, refresh
        self.held = self.most_held = 0
        self._lock = threading.Lock()
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

    @contextmanager
    def holding(self) -> Iterator[None]:
        with self._lock:
            self.held += 1
            self.most_held = max(self.held, self.most_held)
        self.hanging.set()
        try:
            yield
        finally:
            with self._lock:
                self.held -= 1

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

        def do_POST(self) -> None:
            form = urllib.parse.parse_qs(self._body().decode())
            registry.asked.append(self.path)
            if form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [registry.refresh]:
                self._send(json.dumps({"access_token": TOKEN}).encode(), "application/json", body=True)
            else:
                self._error(401, "UNAUTHORIZED")

        def _body(self) -> bytes:
            """Go's client sends a body of unknown length in chunks."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, *, body: bool) -> None:
            registry.asked.append(self.path)
            if self.path.startswith("/token"):
                self._give_token()
                return
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
            if registry.login is None and not registry.bearer:
                return True
            said = self.headers.get("Authorization")
            return said == f"Bearer {TOKEN}" if registry.bearer else said == self._basic()

        @staticmethod
        def _basic() -> str | None:
            return f"Basic {b64encode(':'.join(registry.login).encode()).decode()}" if registry.login else None

        def _give_token(self) -> None:
            if self.headers.get("Authorization") == self._basic():
                self._send(json.dumps({"token": TOKEN}).encode(), "application/json", body=True)
            else:
                self._error(401, "UNAUTHORIZED")

        def _error(self, status: int, code: str, *, challenge: bool = False) -> None:
            data = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
            self.send_response(status)
            if challenge and registry.bearer:
                scope = 'service="loopback",scope="repository:x:pull"'
                self.send_header("WWW-Authenticate", f'Bearer realm="http://{registry.host}/token",{scope}')
            elif challenge:
                self.send_header("WWW-Authenticate", 'Basic realm="loopback"')
            if status == 429:
                self.send_header("Retry-After", "0")
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
                with registry.holding():
                    self._until_left()
                self.close_connection = True
            else:
                with registry.holding():
                    self._write_slowly(data, fault)

        def _until_left(self) -> None:
            """Until the client has hung up, the fault is lifted or the registry closes."""
            self.connection.settimeout(0.02)
            while registry.faults and not registry.closing.is_set():
                try:
                    if not self.connection.recv(1, socket.MSG_PEEK):
                        return
                    registry.closing.wait(0.02)
                except TimeoutError:
                    continue

        def _write_slowly(self, data: bytes, fault: Fault) -> None:
            for start in range(0, len(data), fault.chunk):
                self.wfile.write(data[start : start + fault.chunk])
                if registry.closing.wait(fault.pause):
                    self.close_connection = True
                    return

    return Handler

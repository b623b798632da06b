"""Two unix sockets, one gRPC server each, so that a handler knows through which of them it was called.

A second server on a path would silently take it over: whoever calls `start` holds the daemon's lock. Every RPC of the
definition gets a handler; one without a method in `runtime` or `image` answers UNIMPLEMENTED and names itself.
"""

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from adapters.cri.calls import MESSAGE_MAX, unbuilt, wrapped
from adapters.cri.image import ImageService
from adapters.cri.lists import Lists
from adapters.cri.options import Options
from adapters.cri.port import Api
from adapters.cri.runtime import RuntimeService
from domain.errors import StorageFailed
from proto import api_pb2 as pb

PATH_MAX = 107
"""Bytes of a unix socket's address."""

CALLS_MAX = 1024
"""Calls at once through one socket; one more is answered RESOURCE_EXHAUSTED."""

CHANNEL = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class SocketSpec:
    """`name` is the "who" in every cause: kubelet or admin. `gid` -1: the daemon's own group."""

    path: str
    name: str
    mode: int = 0o600
    gid: int = -1


class Server:
    """Made by `serve`. `start` opens the sockets, `stop` refuses new calls and gives those under way some seconds."""

    def __init__(self, services: Sequence[tuple[str, object]], sockets: Sequence[SocketSpec], version: str) -> None:
        self._services = services
        self._sockets = sockets
        self._version = version
        self._running: list[grpc.aio.Server] = []

    async def start(self) -> None:
        """Raises StorageFailed where a socket cannot be had; then none is open."""
        try:
            for spec in self._sockets:
                server = grpc.aio.server(options=CHANNEL, maximum_concurrent_rpcs=CALLS_MAX)
                server.add_generic_rpc_handlers(self._handlers(spec.name))
                self._running.append(server)
                _bind(server, spec)
            for server in self._running:
                await server.start()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace: float | None = None) -> None:
        running, self._running = self._running, []
        await asyncio.gather(*(server.stop(grace) for server in running))

    def _handlers(self, socket: str) -> tuple[grpc.GenericRpcHandler, ...]:
        return tuple(
            grpc.method_handlers_generic_handler(
                pb.DESCRIPTOR.services_by_name[name].full_name,
                {rpc.name: self._handler(rpc, service, socket) for rpc in pb.DESCRIPTOR.services_by_name[name].methods},
            )
            for name, service in self._services
        )

    def _handler(self, rpc: Any, service: object, socket: str) -> grpc.RpcMethodHandler:
        """No serializers: `calls` reads and writes the bytes."""
        method = getattr(service, rpc.name, None) or unbuilt(rpc.name, self._version)
        handle = wrapped(rpc, method, socket)
        if rpc.server_streaming:
            return grpc.unary_stream_rpc_method_handler(handle)
        return grpc.unary_unary_rpc_method_handler(handle)


def serve(api: Api, sockets: Sequence[SocketSpec], options: Options) -> Server:
    """The front end of a daemon, not yet started. From here on its lists follow `api.on_change`."""
    lists = Lists(api, options.normalise, options.pins)
    services = (
        ("RuntimeService", RuntimeService(api, options, lists)),
        ("ImageService", ImageService(api, options, lists)),
    )
    return Server(services, sockets, options.version)


def _bind(server: grpc.aio.Server, spec: SocketSpec) -> None:
    """Nobody but us gets in between bind and chmod: under this umask the socket is born 0600."""
    _clear(spec.path)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{spec.path}")
    except RuntimeError as error:
        raise StorageFailed(f"cannot listen on {spec.path}: {error}") from None
    finally:
        os.umask(before)
    if spec.gid >= 0:
        os.chown(spec.path, -1, spec.gid)
    os.chmod(spec.path, spec.mode)


def _clear(path: str) -> None:
    """Takes a socket away that a daemon before us left, and nothing else."""
    if not path.startswith("/") or len(os.fsencode(path)) > PATH_MAX:
        raise StorageFailed(f"cannot listen on {path}: not an absolute path of at most {PATH_MAX} bytes")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StorageFailed(f"cannot listen on {path}: something that is not a socket is there")
    os.unlink(path)

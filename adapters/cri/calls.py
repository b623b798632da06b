"""The one wrapper around every handler: reads the request, says who asked, maps errors, writes one log line.

Messages are read and written here, not by gRPC: what cannot be read gets a clean answer, and lists travel as bytes.
Never in a log line: any part of a request. An error's text may be: by the rule of `checks` it quotes nothing secret.
"""

import asyncio
import logging
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from grpc import StatusCode

from adapters.cri.status import status_of, text_of
from domain import errors
from domain.records import Cause
from proto import api_pb2 as pb

MESSAGE_MAX = 16 * 1024 * 1024
"""Bytes of a message, both ways: what the kubelet's client takes."""

AGENT_MAX = 128

QUIET = re.compile(
    r"(Version|Status|RuntimeConfig|ListContainers|ListPodSandbox|ListImages|ImageFsInfo|ExecSync|\w+Status)"
)
"""Questions and probes: an answer to them is worth a line at DEBUG only."""

Method = Callable[[Any, Cause], Awaitable[Any]]
"""An RPC: request and cause -> reply, a message or its bytes. Raises `domain.errors`."""

Handler = Callable[[bytes, Any], Awaitable[bytes]]

log = logging.getLogger("daybook.cri")


def wrapped(rpc: Any, method: Method, socket: str) -> Handler:
    """What gRPC calls for an RPC (its descriptor) that came through a socket."""
    message = getattr(pb, rpc.input_type.name)
    what = f"{rpc.containing_service.name}/{rpc.name}"
    quiet = logging.DEBUG if QUIET.fullmatch(rpc.name) else logging.INFO

    async def handle(data: bytes, context: Any) -> bytes:
        cause = _cause(what, socket, context)
        began = time.monotonic()
        try:
            reply = _bytes(await method(_read(message, data), cause))
        except asyncio.CancelledError:
            _note(logging.INFO, cause, "CANCELLED", began, "the client went away or its deadline passed")
            raise
        except Exception as error:
            code, text = status_of(error, cause.request)
            _note(_level(error), cause, code.name, began, _told(error, text))
            await context.abort(code, text)
            raise
        _note(quiet, cause, StatusCode.OK.name, began)
        return reply

    return handle


def unbuilt(name: str, version: str) -> Method:
    """What answers an RPC that has no method."""

    async def refuse(request: Any, cause: Cause) -> Any:
        raise errors.Unsupported(f"RPC {name} is not built yet in Daybook {version}")

    return refuse


def _read(message: Any, data: bytes) -> Any:
    try:
        return message.FromString(data)
    except DecodeError:
        name = message.DESCRIPTOR.name
        raise errors.InvalidRequest(
            f"the request is not a {name}: broken bytes, or a string that is not UTF-8"
        ) from None


def _bytes(reply: Any) -> bytes:
    data = reply if isinstance(reply, bytes) else reply.SerializeToString()
    if len(data) > MESSAGE_MAX:
        raise errors.LimitReached(f"the reply has {len(data)} bytes, at most {MESSAGE_MAX} go: ask with a filter")
    return bytes(data)


def _cause(what: str, socket: str, context: Any) -> Cause:
    said = next((value for key, value in context.invocation_metadata() or () if key == "user-agent"), "")
    agent = said if isinstance(said, str) else text_of(said)
    return Cause(
        kind="rpc",
        what=what,
        request=secrets.token_hex(6),
        arrived_ns=time.time_ns(),
        agent="".join(c if c.isprintable() else "?" for c in agent[:AGENT_MAX]),
        socket=socket,
    )


def _level(error: Exception) -> int:
    if isinstance(error, errors.Refusal):
        return logging.INFO
    return logging.WARNING if isinstance(error, errors.DaybookError) else logging.ERROR


def _told(error: Exception, text: str) -> str:
    """An unforeseen error is told by its class and place only: its own text may quote a value."""
    if isinstance(error, errors.DaybookError):
        return text
    places = " < ".join(
        f"{f.filename}:{f.lineno} {f.name}" for f in reversed(traceback.extract_tb(error.__traceback__))
    )
    return f"unforeseen {type(error).__name__} at {places}"


def _note(level: int, cause: Cause, code: str, began: float, text: str = "") -> None:
    if not log.isEnabledFor(level):
        return
    line = f"{cause.what} request={cause.request} socket={cause.socket} code={code}"
    line += f" ms={(time.monotonic() - began) * 1000:.1f} agent={cause.agent!a}"
    log.log(level, "%s", f"{line} error={text!a}" if text else line)

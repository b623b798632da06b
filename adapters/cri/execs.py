"""ExecSync: what may be asked, and an answer that fits into one message."""

from typing import Any

from adapters.cri import checks
from adapters.cri.calls import MESSAGE_MAX
from adapters.cri.port import ExecResult
from proto import api_pb2 as pb

ROOM = MESSAGE_MAX - 64
"""Bytes for both streams together: less the message's own fields."""


def asked(request: Any) -> tuple[tuple[str, ...], float]:
    """Command and limit in seconds (0: none). Raises InvalidRequest; no text repeats an argument."""
    checks.require(bool(request.cmd) and bool(request.cmd[0]), "cmd is empty")
    checks.count("cmd", request.cmd, checks.VALUES_MAX)
    checks.require(request.timeout >= 0, f"timeout is {request.timeout} s, it must not be negative")
    return checks.arguments("cmd", request.cmd), float(request.timeout)


def reply(done: ExecResult) -> Any:
    """Where both streams are too long for one message, each keeps at least its half, from its beginning."""
    out, err = done.stdout, done.stderr
    if len(out) + len(err) > ROOM:
        out = out[: max(ROOM // 2, ROOM - len(err))]
        err = err[: ROOM - len(out)]
    return pb.ExecSyncResponse(stdout=out, stderr=err, exit_code=done.code)

"""execs: what of two long streams goes into one message."""

from dataclasses import dataclass

import pytest

from adapters.cri import execs
from adapters.cri.calls import MESSAGE_MAX


@dataclass
class Result:
    stdout: bytes
    stderr: bytes
    code: int = 0


@pytest.mark.parametrize(
    ("out", "err", "kept"),
    [
        (5, 7, (5, 7)),
        (execs.ROOM, 0, (execs.ROOM, 0)),
        (execs.ROOM, 10, (execs.ROOM - 10, 10)),
        (10, 2 * execs.ROOM, (10, execs.ROOM - 10)),
        (2 * execs.ROOM, 2 * execs.ROOM, (execs.ROOM // 2, execs.ROOM // 2)),
    ],
)
def test_each_stream_keeps_its_beginning(out: int, err: int, kept: tuple[int, int]) -> None:
    reply = execs.reply(Result(b"o" * out, b"e" * err, 255))
    assert (len(reply.stdout), len(reply.stderr)) == kept
    assert len(reply.SerializeToString()) <= MESSAGE_MAX

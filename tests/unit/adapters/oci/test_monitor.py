import pytest

from adapters.oci.monitor import exit_of, parsed


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"pid": 12}\n', (12, "")),
        (b'{"pid": -1, "message": "no"}\n', (-1, "no")),
        (b'{"pid": -1, "message": "a\x01b\\n"}', (-1, "a\x01b\n")),
        (b'{"pid": -1, "message": "say \\"x\\" and cut', (-1, 'say "x" and cut')),
        (b'{"pid": -1, "message": "bad \xff"}', (-1, "bad \ufffd")),
        (b'{"pid": -1, "message": "unescaped "quote" here"}', (-1, 'unescaped "quote" here')),
        (b"", (-1, "")),
        (b"garbage", (-1, "garbage")),
        (b'{"pid": "12"}', (-1, '{"pid": "12"}')),
    ],
)
def test_answers(answer: bytes, expected: tuple[int, str]) -> None:
    assert parsed(answer) == expected


@pytest.mark.parametrize(
    ("data", "code", "quote"),
    [
        (b"0", 0, ""),
        (b"137\n", 137, ""),
        (b"256", None, "256"),
        (b"-1", None, "-1"),
        (b"", None, ""),
        (b"\xff\x00'", None, "\\xff\\x00'"),
        (b"9" * 5000, None, "9" * 200),
    ],
)
def test_exit_files(data: bytes, code: int | None, quote: str) -> None:
    found = exit_of(data, 5)
    assert (found.code, found.quote, found.at_ns) == (code, quote, 5)

"""A 32-bit program for x86 that makes one system call and ends with what it answered: no compiler is needed for it."""

import struct

BASE, HEADERS = 0x08048000, 52 + 32


def one_call(number: int, first: int = 0, second: int = 0, third: int = 0, words: tuple[int, ...] = ()) -> bytes:
    """Its exit status is the call's result, modulo 256. `words`, where given, lie where the second argument points."""
    code_length = 4 * 5 + 2 + 2 + 5 + 2
    if words:
        second = BASE + HEADERS + code_length
    code = b"".join(
        opcode + struct.pack("<I", value)
        for opcode, value in ((b"\xb8", number), (b"\xbb", first), (b"\xb9", second), (b"\xba", third))
    )
    code += b"\xcd\x80" + b"\x89\xc3" + b"\xb8" + struct.pack("<I", 1) + b"\xcd\x80"  # int 80; ebx = eax; exit
    body = code + struct.pack(f"<{len(words)}I", *words)
    size = HEADERS + len(body)
    ident = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE + HEADERS, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, BASE, BASE, size, size, 7, 0x1000)
    return header + segment + body

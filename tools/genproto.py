"""Makes the Python code of proto/api.proto, and the golden list of what it puts on the wire.

    python -m tools.genproto          proto/api_pb2.py, proto/api_pb2_grpc.py, proto/api_pb2.pyi
    python -m tools.genproto --wire   tests/golden/cri_wire.txt, from the generated code

The second is a step of its own on purpose: the first may be run freely, since a number or type that
changed by accident still differs from the golden, which only an intended change should touch.
"""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "proto/api.proto"
GENERATED = ("proto/api_pb2.py", "proto/api_pb2_grpc.py", "proto/api_pb2.pyi")
GOLDEN = "tests/golden/cri_wire.txt"


def generate(out_dir: Path) -> None:
    """Write the GENERATED files below out_dir, which must exist; with out_dir=ROOT over the checked-in ones.

    The result depends on proto/api.proto and on the version of grpcio-tools, on nothing else.
    Raises CalledProcessError, with the compiler's complaint in `stderr`.
    """
    outputs = [f"--{kind}_out={out_dir.resolve()}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, SOURCE]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


def wire_contract(file: Any) -> str:
    """All that peers can tell apart in a FileDescriptor, one fact per line, whatever the source's order.

    Names, numbers, types, labels, and the two options that mean something to us; no comments.
    """
    lines = [f"package {file.package}"]
    for _, service in sorted(file.services_by_name.items()):
        lines += sorted(_rpc_line(method) for method in service.methods)
    for _, message in sorted(file.message_types_by_name.items()):
        lines += _message_lines(message)
    for _, enum in sorted(file.enum_types_by_name.items()):
        lines += _enum_lines(enum)
    return "".join(f"{line}\n" for line in lines)


def _rpc_line(method: Any) -> str:
    request = ("stream " if method.client_streaming else "") + method.input_type.name
    response = ("stream " if method.server_streaming else "") + method.output_type.name
    return f"rpc {method.containing_service.name}.{method.name} ({request}) -> ({response})"


def _message_lines(message: Any) -> Iterator[str]:
    name = _name(message)
    yield f"message {name}"
    for field in sorted(message.fields, key=lambda field: field.number):
        yield f"{name}.{field.name} = {field.number} {_field_type(field)}"
    for enum in message.enum_types:
        yield from _enum_lines(enum)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from _message_lines(nested)


def _enum_lines(enum: Any) -> Iterator[str]:
    yield f"enum {_name(enum)}"
    for value in sorted(enum.values, key=lambda value: value.number):
        yield f"{_name(enum)}.{value.name} = {value.number}"


def _field_type(field: Any) -> str:
    """Such as `map<string,string>`, `Mount repeated`, `string redacted`."""
    marks = []
    if _is_map(field):
        key, value = field.message_type.fields
        marks.append(f"map<{_element_type(key)},{_element_type(value)}>")
    else:
        marks.append(_element_type(field))
        marks += ["repeated"] if field.is_repeated else []
        marks += [f"oneof:{field.containing_oneof.name}"] if field.containing_oneof else []
    options = field.GetOptions()
    marks += ["deprecated"] if options.deprecated else []
    marks += ["redacted"] if options.debug_redact else []
    return " ".join(marks)


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _element_type(field: Any) -> str:
    composite = field.message_type or field.enum_type
    if composite is not None:
        return _name(composite)
    scalars = {getattr(field, const): const[5:].lower() for const in dir(field) if const.startswith("TYPE_")}
    return scalars[field.type]


def _name(descriptor: Any) -> str:
    """The full name without the package."""
    return str(descriptor.full_name).removeprefix(f"{descriptor.file.package}.")


def write_wire_golden() -> None:
    """Replace the golden by what the checked-in generated code says."""
    generated = importlib.import_module("proto.api_pb2")
    (ROOT / GOLDEN).write_text(wire_contract(generated.DESCRIPTOR), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Do one of the two steps; 1 with the compiler's words on stderr when api.proto is not valid."""
    parser = argparse.ArgumentParser(prog="python -m tools.genproto", description="Regenerate the CRI code.")
    parser.add_argument("--wire", action="store_true", help=f"write {GOLDEN} instead")
    if parser.parse_args(argv).wire:
        write_wire_golden()
        return 0
    try:
        generate(ROOT)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(error.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

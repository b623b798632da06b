"""The CRI definition: the generated code is of this source, and the wire contract has not moved."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from proto import api_pb2, api_pb2_grpc
from tools import genproto

RPCS = {"RuntimeService": 37, "ImageService": 6}


def test_checked_in_code_is_what_the_generator_writes(tmp_path: Path) -> None:
    installed = importlib.metadata.version("grpcio-tools")
    if installed != api_pb2_grpc.GRPC_GENERATED_VERSION:
        pytest.skip(f"made with grpcio-tools {api_pb2_grpc.GRPC_GENERATED_VERSION}, here is {installed}")
    genproto.generate(tmp_path)
    for name in genproto.GENERATED:
        assert (tmp_path / name).read_bytes() == (genproto.ROOT / name).read_bytes(), name
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == set(genproto.GENERATED)


def test_checked_in_code_has_the_descriptor_of_the_source(tmp_path: Path) -> None:
    """Holds with every version of the generator, so a new one cannot hide an edit without regeneration."""
    out = tmp_path / "api.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={out}"]
    subprocess.run([*command, genproto.SOURCE], cwd=genproto.ROOT, check=True)
    (compiled,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    checked_in = descriptor_pb2.FileDescriptorProto.FromString(api_pb2.DESCRIPTOR.serialized_pb)
    for file in (compiled, checked_in):  # json_name is derived, and only the compiler writes it out
        for message in file.message_type:
            for field in [*message.field, *(f for nested in message.nested_type for f in nested.field)]:
                field.ClearField("json_name")
    assert checked_in == compiled


def test_wire_contract_is_the_golden() -> None:
    golden = (genproto.ROOT / genproto.GOLDEN).read_text(encoding="utf-8")
    assert genproto.wire_contract(api_pb2.DESCRIPTOR).splitlines() == golden.splitlines()


def _field(file: descriptor_pb2.FileDescriptorProto, message: str, field: str) -> Any:
    (fields,) = (found.field for found in file.message_type if found.name == message)
    return next(found for found in fields if found.name == field)


def _rpc(file: descriptor_pb2.FileDescriptorProto, name: str) -> Any:
    return next(rpc for service in file.service for rpc in service.method if rpc.name == name)


def _signal(file: descriptor_pb2.FileDescriptorProto, name: str) -> Any:
    return next(value for enum in file.enum_type for value in enum.value if value.name == name)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: setattr(_field(file, "ContainerConfig", "stop_signal"), "number", 33),
        lambda file: setattr(_field(file, "ContainerConfig", "log_path"), "name", "logPath"),
        lambda file: setattr(_field(file, "KeyValue", "value"), "type", Field.TYPE_STRING),
        lambda file: setattr(_field(file, "Mount", "image"), "type_name", ".runtime.v1.Image"),
        lambda file: setattr(_field(file, "Mount", "mount_options"), "label", Field.LABEL_OPTIONAL),
        lambda file: setattr(_field(file, "AuthConfig", "auth").options, "debug_redact", False),
        lambda file: setattr(_rpc(file, "StreamImages"), "server_streaming", False),
        lambda file: setattr(_rpc(file, "StopContainer"), "input_type", ".runtime.v1.StartContainerRequest"),
        lambda file: setattr(_signal(file, "SIGNAL_SIGTERM"), "name", "SIGTERM"),
        lambda file: setattr(_signal(file, "SIGNAL_SIGRTMAX"), "number", 66),
    ],
)
def test_wire_contract_sees(change: Callable[[descriptor_pb2.FileDescriptorProto], None]) -> None:
    """The golden is worth something only if every kind of change shows in it."""
    file = descriptor_pb2.FileDescriptorProto.FromString(api_pb2.DESCRIPTOR.serialized_pb)
    change(file)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    before = set(genproto.wire_contract(api_pb2.DESCRIPTOR).splitlines())
    after = set(genproto.wire_contract(pool.FindFileByName(file.name)).splitlines())
    assert len(before ^ after) == 2


def test_environment_values_are_bytes() -> None:
    received = api_pb2.KeyValue.FromString(b"\x0a\x01k\x12\x03\xff\xfe=")
    assert received == api_pb2.KeyValue(key="k", value=b"\xff\xfe=")
    assert received.value == b"\xff\xfe="
    assert api_pb2.KeyValue(key="k", value="é".encode()).SerializeToString() == b"\x0a\x01k\x12\x02\xc3\xa9"


def test_every_rpc_has_a_servicer_method() -> None:
    services = api_pb2.DESCRIPTOR.services_by_name
    assert {name: len(service.methods) for name, service in services.items()} == RPCS
    for name, service in services.items():
        servicer = getattr(api_pb2_grpc, f"{name}Servicer")
        assert all(callable(getattr(servicer, method.name)) for method in service.methods)

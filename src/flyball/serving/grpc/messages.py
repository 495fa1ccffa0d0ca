"""The messages of the Open Inference Protocol's GRPCInferenceService, made from a table at import.

The surprise: there is no generated module. Classes are built by protobuf's own factory, in a pool of our own: they work
under every release of protobuf that the extra allows, and do not clash with another library in the process that brings
the same messages. `inference.proto` says the same for other languages; a test compares the two.
"""

from __future__ import annotations

import re
from typing import Any, Final

from flyball.errors import MissingExtra

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError as error:
    raise MissingExtra.of("gRPC", "grpc") from error

__all__ = ["PACKAGE", "TABLE", "message"]

PACKAGE: Final = "inference"
TABLE: Final = """
ServerLiveRequest:
ServerLiveResponse: bool live = 1
ServerReadyRequest:
ServerReadyResponse: bool ready = 1
ModelReadyRequest: string name = 1; string version = 2
ModelReadyResponse: bool ready = 1
ServerMetadataRequest:
ServerMetadataResponse: string name = 1; string version = 2; repeated string extensions = 3
ModelMetadataRequest: string name = 1; string version = 2
ModelMetadataResponse.TensorMetadata: string name = 1; string datatype = 2; repeated int64 shape = 3
ModelMetadataResponse: string name = 1; repeated string versions = 2; string platform = 3; \
repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5
InferParameter: oneof bool bool_param = 1; oneof int64 int64_param = 2; oneof string string_param = 3; \
oneof double double_param = 4; oneof uint64 uint64_param = 5
InferTensorContents: repeated bool bool_contents = 1; repeated int32 int_contents = 2; \
repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; \
repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8
ModelInferRequest.InferInputTensor: string name = 1; string datatype = 2; repeated int64 shape = 3; \
map InferParameter parameters = 4; InferTensorContents contents = 5
ModelInferRequest.InferRequestedOutputTensor: string name = 1; map InferParameter parameters = 2
ModelInferRequest: string model_name = 1; string model_version = 2; string id = 3; map InferParameter parameters = 4; \
repeated InferInputTensor inputs = 5; repeated InferRequestedOutputTensor outputs = 6; \
repeated bytes raw_input_contents = 7
ModelInferResponse.InferOutputTensor: string name = 1; string datatype = 2; repeated int64 shape = 3; \
map InferParameter parameters = 4; InferTensorContents contents = 5
ModelInferResponse: string model_name = 1; string model_version = 2; string id = 3; \
map InferParameter parameters = 4; repeated InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6
"""
_FIELD = re.compile(r"(?:(repeated|map|oneof) )?(\w+) (\w+) = (\d+)")
_Field: Any = descriptor_pb2.FieldDescriptorProto
_KINDS = ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
_SCALARS = {name: getattr(_Field, f"TYPE_{name.upper()}") for name in _KINDS}


def message(name: str) -> Any:
    """Return the class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    lines = [line.partition(":") for line in TABLE.strip().splitlines()]
    for name, _, fields in sorted(lines, key=lambda line: line[0].count(".")):  # outer messages first
        outer, _, inner = name.partition(".")
        entry = made[outer].nested_type.add(name=inner) if inner else file.message_type.add(name=name)
        made[name] = entry
        for field in filter(None, fields.split(";")):
            _add(entry, name, field.strip(), {n for n, _, _ in lines})
    return file


def _add(entry: Any, owner: str, text: str, known: set[str]) -> None:
    found = _FIELD.fullmatch(text)
    assert found is not None, text
    rule, kind, name, number = found.groups()
    field = entry.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if rule == "map":
        _map(entry, field, owner, kind)
        return
    if rule == "repeated":
        field.label = _Field.LABEL_REPEATED
    if rule == "oneof":
        if not entry.oneof_decl:
            entry.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{owner}.{kind}" if f"{owner}.{kind}" in known else f".{PACKAGE}.{kind}"


def _map(entry: Any, field: Any, owner: str, kind: str) -> None:
    """A map is a repeated message of key and value, marked so."""
    pair = entry.nested_type.add(name="ParametersEntry")
    pair.options.map_entry = True
    pair.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    pair.field.add(
        name="value", number=2, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_MESSAGE, type_name=f".{PACKAGE}.{kind}"
    )
    field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{owner}.ParametersEntry"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())

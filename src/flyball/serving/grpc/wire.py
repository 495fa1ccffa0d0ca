"""Bytes of protobuf where its objects cost more than the model: heads of requests that come again, and answers.

The surprise: most requests are not decoded. A caller's messages differ in one raw tensor, which stands last, so what a
message says is known by the bytes before it, and the tensor is the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flyball.serving.protocol import Call, Signature, Wanted

__all__ = ["Head", "Heads", "head_of", "integer", "nested", "packed", "text", "varint"]

_RAW = b"\x3a"  # ModelInferRequest.raw_input_contents
_LONGEST = 1_024  # bytes of a head that is remembered
_MOST = 256  # heads; callers with more different messages are decoded


@dataclass(slots=True)
class Head:
    """What a message says beside its one raw tensor.

    `signature` and `wanted` are those of the last call made of it: checks that depend on nothing else are not repeated
    for the next.
    """

    model: str
    version: str
    path: str
    name: str
    datatype: str
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    unpack: Any  # of one row of doubles, None for any other tensor
    signature: Signature | None = None
    wanted: Wanted | None = None

    def call(self, data: bytes, inputs: Signature) -> Call | None:
        """Return the one row that `data` holds; None when it has to be checked in full."""
        if self.signature is not inputs:
            return None
        values = self.unpack(data)
        total = sum(values)
        if total - total != 0.0:
            return None
        columns = {name: [value] for name, value in zip(inputs.columns, values, strict=True)}
        return Call(columns, 1, flat=list(values), wanted=self.wanted)

    def accepted(self, call: Call, inputs: Signature) -> None:
        """Remember that `inputs` took a row under this head."""
        if self.unpack is not None and inputs.plain and len(inputs.columns) == len(inputs) == self.shape[1]:
            self.signature, self.wanted = inputs, call.wanted


class Heads:
    """Heads seen before, at most 256; of one length only that which came last."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._starts: dict[int, int] = {}  # of a message of that length, where its tensor began
        self._known: dict[bytes, Head] = {}

    def find(self, body: bytes) -> tuple[Head, bytes] | None:
        """Return a message's head and the bytes of its tensor, None for a head that is not known."""
        start = self._starts.get(len(body))
        if start is None:
            return None
        head = self._known.get(body[:start])
        return None if head is None else (head, body[start:])

    def learn(self, kind: Any, body: bytes, request: Any, path: str) -> None:
        """Remember the head of a decoded message of class `kind`, if it is one raw tensor and names no single request.

        What stands before the tensor must be a message by itself. Then the tensor's field begins where it ends, and
        whatever bytes come in the tensor's place are read the same way.
        """
        raw = request.raw_input_contents
        if len(raw) != 1 or len(request.inputs) != 1 or request.id or request.parameters:
            return
        start = len(body) - len(raw[0])
        field = _RAW + varint(len(raw[0]))
        before = body[: start - len(field)]
        if start > _LONGEST or body[:start] != before + field or not _is_all_but_tensor(kind, before, request):
            return
        if len(self._known) >= _MOST:
            self._known.clear()
            self._starts.clear()
        self._starts[len(body)] = start
        self._known[body[:start]] = head_of(request, path, len(raw[0]))


def head_of(request: Any, path: str, size: int) -> Head:
    """Return the head of a ModelInferRequest with one tensor of `size` bytes."""
    tensor = request.inputs[0]
    shape = tuple(tensor.shape)
    row = tensor.datatype == "FP64" and len(shape) == 2 and shape[0] == 1 and size == 8 * shape[1]
    return Head(
        request.model_name, request.model_version, path, tensor.name, tensor.datatype, shape,
        tuple(output.name for output in request.outputs), struct.Struct(f"<{shape[1]}d").unpack if row else None,
    )  # fmt: skip


def _is_all_but_tensor(kind: Any, before: bytes, request: Any) -> bool:
    try:
        made = kind.FromString(before)
    except Exception:  # protobuf's DecodeError, whose home differs between its implementations
        return False
    if made.raw_input_contents:
        return False
    made.raw_input_contents.append(request.raw_input_contents[0])
    return bool(made == request)


# -- what answers are made of -----------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """Return a number >= 0, or a negative one of 64 bits, as protobuf writes it."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def nested(field: int, data: bytes) -> bytes:
    """Return a field below 16 that holds bytes or a message."""
    return _TAGS[field] + varint(len(data)) + data


def text(key: str, value: str) -> bytes:
    """Return the entry of a map `parameters` (field 4) with a text."""
    return nested(4, nested(1, key.encode()) + nested(2, nested(3, value.encode())))


def integer(key: str, value: int) -> bytes:
    """Return the entry of a map `parameters` (field 4) with a whole number."""
    return nested(4, nested(1, key.encode()) + nested(2, b"\x10" + varint(value)))


@lru_cache(maxsize=512)
def packed(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Return the fields of a tensor but its values."""
    sizes: Iterable[bytes] = map(varint, shape)
    return nested(1, name.encode()) + nested(2, datatype.encode()) + nested(3, b"".join(sizes))


_SMALL: Sequence[bytes] = [bytes((value,)) for value in range(0x80)]
_TAGS: Sequence[bytes] = [bytes((field << 3 | 2,)) for field in range(16)]

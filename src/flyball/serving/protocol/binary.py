"""The binary tensor extension: tensors as little-endian bytes behind the JSON of a request or an answer.

The surprise: a shape's product is compared with the bytes at hand in whole numbers before numpy sees either, so that a
shape of a billion rows costs a sentence and no memory.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyball.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["HEADER", "Raw", "header_length", "numbers_of", "pack", "values_of"]

HEADER = b"inference-header-content-length"
_TYPES = {
    "BOOL": "u1", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_LENGTH = struct.Struct("<I")
_FEW = {"FP64": "d", "INT64": "q"}  # of a few values, numpy would cost more than the packing


@dataclass(slots=True)
class Raw:
    """A tensor whose values are still bytes."""

    name: str
    shape: list[int]
    datatype: str
    data: memoryview


def header_length(headers: Iterable[tuple[bytes, bytes]], size: int) -> int | None:
    """Return how many of a body's `size` bytes are JSON, None when no header says so.

    Raises:
        BadRequest: the header is no number from 0 to `size`.
    """
    for name, value in headers:
        if name == HEADER:
            if not value.isdigit() or len(value) > 12 or int(value) > size:
                raise BadRequest(
                    f"Inference-Header-Content-Length is {value.decode('latin-1')!r:.40}, but the body has {size} bytes"
                )
            return int(value)
    return None


def values_of(tensor: Raw, *, as_bytes: bool = False) -> list[Any]:
    """Return a tensor's values row by row as Python values; BYTES are texts unless wanted `as_bytes`.

    Raises:
        BadRequest: size and shape do not agree, or a text is no UTF-8.
    """
    if tensor.datatype == "BYTES":
        return _texts(tensor, as_bytes)
    found = _array(tensor)
    if tensor.datatype != "BOOL":
        return list(found.tolist())
    if found.size and found.max() > 1:
        raise BadRequest(f"input {tensor.name!r:.200} is BOOL, but a byte of it is neither 0 nor 1")
    return [value == 1 for value in found.tolist()]


def numbers_of(tensor: Raw) -> np.ndarray:
    """Return a tensor's numbers row by row as float64; FP64 is a view of the body."""
    import numpy as np

    return _array(tensor).astype(np.float64, copy=False)


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """Return values as the bytes of a tensor."""
    import numpy as np

    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
    code = _FEW.get(datatype)
    if code is not None and len(values) <= 64:
        try:
            return struct.pack(f"<{len(values)}{code}", *values)
        except struct.error:  # a value of another type, which numpy may know
            pass
    return np.asarray(values).astype(_TYPES[datatype]).tobytes()


def _array(tensor: Raw) -> np.ndarray:
    import numpy as np

    kind = _TYPES.get(tensor.datatype)
    if kind is None:
        raise BadRequest(f"input {tensor.name!r:.200} has datatype {tensor.datatype!r:.40}; known: {', '.join(_TYPES)}")
    wanted = _count(tensor) * int(kind[-1])
    if wanted != len(tensor.data):
        raise BadRequest(
            f"input {tensor.name!r:.200} has shape {tensor.shape!s:.80} of {tensor.datatype}, but "
            f"{len(tensor.data)} bytes; they must agree"
        )
    return np.frombuffer(tensor.data, kind)


def _count(tensor: Raw) -> int:
    if any(size < 0 for size in tensor.shape):
        raise BadRequest(f"input {tensor.name!r:.200} has shape {tensor.shape!s:.80}; sizes may not be negative")
    return math.prod(tensor.shape)


def _texts(tensor: Raw, as_bytes: bool) -> list[Any]:
    data, place, out = tensor.data, 0, []
    while place < len(data):
        start = place + 4
        end = start + _LENGTH.unpack_from(data, place)[0] if start <= len(data) else len(data) + 1
        if end > len(data):
            raise BadRequest(
                f"input {tensor.name!r:.200} ends inside a text; each is its length in 4 bytes, then itself"
            )
        out.append(bytes(data[start:end]))
        place = end
    if len(out) != _count(tensor):
        raise BadRequest(f"input {tensor.name!r:.200} has shape {tensor.shape!s:.80} but {len(out)} texts")
    if as_bytes:
        return out
    try:
        return [text.decode() for text in out]
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {tensor.name!r:.200} holds a text that is no UTF-8: {error.reason}") from error

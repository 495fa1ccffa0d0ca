"""Cells of the globe: geohash texts, and Uber's H3 hexagons (extra `h3`).

A latitude outside [-90, 90], a longitude outside [-180, 180], NaN or null gives null. The surprise: a geohash is only
bits, so it is computed for whole columns here, without a library.
"""

from __future__ import annotations

import numpy as np

from flyball.errors import MissingExtra
from flyball.features.kernel.partials import Floats, Ints
from flyball.features.spec import TransformSpec
from flyball.features.transforms.column import Bools, Column, numbers, params

__all__ = ["geohash", "h3_cell"]

_ALPHABET = np.array(list("0123456789bcdefghjkmnpqrstuvwxyz"))


def geohash(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return geohash texts of `precision` characters (1 to 12) for latitude and longitude (Niemeyer 2008)."""
    length = int(params(transform)["precision"])  # type: ignore[arg-type]
    lat, lon, valid = _degrees(arguments, "geohash")
    bits = 5 * length
    even, odd = (bits + 1) // 2, bits // 2  # longitude has the first bit
    x, y = _steps(lon, 180.0, even), _steps(lat, 90.0, odd)
    code = np.zeros(len(lat), dtype=np.int64)
    for i in range(bits):
        taken = x >> (even - 1 - i // 2) if i % 2 == 0 else y >> (odd - 1 - i // 2)
        code = code << 1 | taken & 1
    places = np.arange(bits - 5, -1, -5)
    letters = np.ascontiguousarray(_ALPHABET[(code[:, None] >> places) & 31])
    return Column(letters.view(f"<U{length}").reshape(-1).astype(object), valid)


def h3_cell(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return H3 cells at `resolution` (0 to 15): texts such as "892a1072d6bffff", or the same number as int64.

    Raises:
        MissingExtra: h3 is not installed.
    """
    try:
        import h3
    except ImportError as error:
        raise MissingExtra.of("h3_cell", "h3") from error
    resolution = int(params(transform)["resolution"])  # type: ignore[arg-type]
    lat, lon, valid = _degrees(arguments, "h3_cell")
    cells = [h3.latlng_to_cell(a, b, resolution) for a, b in zip(lat.tolist(), lon.tolist(), strict=True)]
    if transform.type == "int64":
        return Column(np.array([int(c, 16) for c in cells], dtype=np.int64), valid)
    return Column(np.array(cells, dtype=object), valid)


def _degrees(arguments: list[Column], function: str) -> tuple[Floats, Floats, Bools]:
    lat, lon = (numbers(c, function) for c in arguments)
    valid = arguments[0].valid & arguments[1].valid & (np.abs(lat) <= 90) & (np.abs(lon) <= 180)
    return np.where(valid, lat, 0.0), np.where(valid, lon, 0.0), valid


def _steps(degrees: Floats, limit: float, bits: int) -> Ints:
    """Return which of 2**bits equal steps from -limit to limit a value lies in; the last one is closed."""
    step = np.floor((degrees + limit) / (2 * limit) * 2.0**bits).astype(np.int64)
    held: Ints = np.minimum(step, 2**bits - 1)
    return held

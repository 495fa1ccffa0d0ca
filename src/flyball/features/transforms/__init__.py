"""Functions of whole columns: declared once, run as the same code in batch, at ingest, at read and beside the model.

    evaluate(transform, arguments, valid)   numpy in, numpy out, nulls apart from values
    apply(transform, arguments)             the same with null as NaN or None
    columns.derive(transform, table)        the same over Arrow

Arrays: int64, float64, bool; timestamps as int64 µs UTC, dates as datetime64[D], texts and bytes as object, vectors as
float32 of shape (n, k). A null argument gives null unless a function says otherwise. The surprise: rows do not know
each other. A function's answer for a row may not depend on its neighbours, or batch and online would differ.
"""

from __future__ import annotations

from flyball.features.transforms.column import Column
from flyball.features.transforms.registry import FUNCTIONS, apply, check, evaluate, single

__all__ = ["FUNCTIONS", "Column", "apply", "check", "evaluate", "single"]

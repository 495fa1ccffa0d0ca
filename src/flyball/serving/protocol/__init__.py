"""Bytes of a request become validated columns, and answers become bytes: V2 inference, its binary tensors, and rows.

Everything a caller can get wrong is found here, before a row may join a batch, and is told in one sentence. The
surprise: columns stay Python lists. For the usual single row that is several times cheaper than numpy arrays, and the
feature reader builds the one matrix anyway.
"""

from flyball.serving.protocol.answers import Labelled, encode_infer, encode_rows, encode_wanted, label, metadata
from flyball.serving.protocol.binary import header_length
from flyball.serving.protocol.infer import call_of, parse_infer
from flyball.serving.protocol.lines import BadLines, Row, parse_lines
from flyball.serving.protocol.outcomes import parse_outcomes
from flyball.serving.protocol.rows import decode_json, rows_call
from flyball.serving.protocol.types import Call, Columns, Signature, Wanted

__all__ = ["BadLines", "Call", "Columns", "Labelled", "Row", "Signature", "Wanted", "call_of", "decode_json",
           "encode_infer", "encode_rows", "encode_wanted", "header_length", "label", "metadata", "parse_infer",
           "parse_lines", "parse_outcomes", "rows_call"]  # fmt: skip

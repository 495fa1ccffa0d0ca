"""Rows in a body, however they are sent: JSON lines, a JSON array, an object that holds one, or one row.

The surprise: each row keeps the number of its line, so that of a million rows the wrong ones can be named.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flyball.errors import BadRequest, shown
from flyball.serving.protocol.types import MALFORMED

__all__ = ["BadLines", "Row", "parse_lines"]

Row = dict[str, Any]
_decode = msgspec.json.Decoder().decode


class BadLines(BadRequest):
    """Say which lines are no rows; `lines` are (line from 1, what, what is needed)."""

    def __init__(self, lines: list[tuple[int, str, str]]) -> None:
        line, what, needed = lines[0]
        super().__init__(f"{len(lines)} lines of the body are no rows; line {line}: {what}, send {needed}")
        self.lines = lines


def parse_lines(body: bytes, *, key: str = "rows") -> list[tuple[int, Row]]:
    """Return (line, row) of JSON lines, of a JSON array, of {key: [...]} or of one object; lines count from 1.

    Raises:
        BadRequest: the body is empty or no list of objects.
        BadLines: some lines are no JSON objects.
    """
    text = body.strip()
    if not text:
        raise BadRequest("the body is empty; send a JSON list or one JSON object per line")
    if text[:1] == b"[":
        return _array(text)
    lines = [(k, line) for k, line in enumerate(body.splitlines(), 1) if line.strip()]
    if len(lines) == 1 or not _is_object(lines[0][1]):  # one object, perhaps over several lines
        try:
            whole = _decode(text)
        except MALFORMED:
            whole = None
        if isinstance(whole, dict):
            return _checked(enumerate(whole[key], 1) if isinstance(whole.get(key), list) else [(1, whole)])
    return _lines(lines)


def _array(text: bytes) -> list[tuple[int, Row]]:
    try:
        found = _decode(text)
    except MALFORMED as error:
        raise BadRequest(f"the body is neither JSON nor JSON lines: {error}") from error
    return _checked(enumerate(found, 1))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(_decode(line), dict)
    except MALFORMED:
        return False


def _lines(lines: list[tuple[int, bytes]]) -> list[tuple[int, Row]]:
    found: list[tuple[int, Any]] = []
    bad: list[tuple[int, str, str]] = []
    for number, line in lines:
        try:
            found.append((number, _decode(line)))
        except MALFORMED as error:
            bad.append((number, f"no JSON: {error}", "one JSON object per line"))
    if bad:
        raise BadLines(bad)
    return _checked(found)


def _checked(found: Any) -> list[tuple[int, Row]]:
    rows, bad = [], []
    for number, row in found:
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            bad.append((number, f"{shown(row, 60)} is no object", "one JSON object of columns"))
    if bad:
        raise BadLines(bad)
    return rows

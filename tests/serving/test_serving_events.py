"""POST /v1/sources/NAME/events: what is taken, what is refused and how it is said."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from flyball.errors import BadRequest, Busy, Unavailable
from flyball.serving.http.events import take_events
from flyball.serving.protocol import parse_lines

LIMIT = 10_000


async def _call(
    body: bytes, push: Any, headers: list[tuple[bytes, bytes]], chunk: int
) -> tuple[int, Any, dict[str, str]]:
    pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    response = await take_events("trips", {"headers": headers}, receive, push, LIMIT)
    found = {n.decode(): v.decode() for n, v in response.headers or []}
    return response.status, json.loads(response.body), found


def call(body: bytes, push: Any = None, *, zipped: bool = False, chunk: int = 100) -> tuple[int, Any, dict[str, str]]:
    import asyncio

    async def taken(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"accepted": len(rows), "rejected": 0, "duplicates": 0, "sequence": 1, "published": 5, "pending": False}

    headers = [(b"content-type", b"application/x-ndjson"), *([(b"content-encoding", b"gzip")] if zipped else [])]
    return asyncio.run(_call(body, push or taken, headers, chunk))


ROWS = [{"a": 1}, {"a": "é\n"}, {"b": None}]
LINES = b"\n".join(json.dumps(row).encode() for row in ROWS)
ZIPPED = gzip.compress(LINES, mtime=0)


@pytest.mark.parametrize(
    "body",
    [LINES, LINES + b"\n\n", LINES.replace(b"\n", b"\r\n"), json.dumps(ROWS).encode(), json.dumps(ROWS, indent=2).encode(),
     json.dumps({"rows": ROWS}).encode()],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_rows_come_as_lines_or_as_a_list_zipped_or_not(body: bytes, zipped: bool) -> None:
    got: list[Any] = []

    async def push(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        got.append((source, rows))
        return {"accepted": len(rows), "rejected": 0, "duplicates": 0, "sequence": 7}

    status, answer, _ = call(gzip.compress(body) if zipped else body, push, zipped=zipped)
    assert (status, answer) == (200, {"accepted": 3, "rejected": 0, "duplicates": 0, "sequence": 7})
    assert got == [("trips", ROWS)]


def test_one_object_over_several_lines_is_one_row() -> None:
    assert parse_lines(b'{\n "a": 1,\n "b": [1,\n 2]\n}') == [(1, {"a": 1, "b": [1, 2]})]


def test_bad_lines_are_named_and_nothing_is_taken() -> None:
    async def push(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        raise AssertionError("nothing may be taken")

    status, answer, _ = call(b'{"a": 1}\n\n{"a": \n{"a": 2}\nnull\n', push)
    assert status == 400
    assert [e["line"] for e in answer["errors"]] == [3]
    status, answer, _ = call(b'{"a": 1}\n\nnull\n{"a": 2}\n[1]\n', push)
    assert (status, [e["line"] for e in answer["errors"]]) == (400, [3, 5])
    assert all(e["what"] and e["needed"] for e in answer["errors"])


def test_rows_that_do_not_fit_are_named_by_their_lines() -> None:
    async def push(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"errors": [[1, "a = 'x' is no int64"]], "error": "no"}

    status, answer, _ = call(b'{"a": 1}\n\n{"a": "x"}\n', push)
    assert (status, answer["errors"][0]["line"], answer["bad"]) == (400, 3, 1)
    assert "so none was" in answer["error"]


def test_a_body_that_is_too_large_is_given_up_before_it_is_held() -> None:
    with pytest.raises(BadRequest, match="at most 10000"):
        call(b'{"a": 1}\n' * 2000)
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    with pytest.raises(BadRequest) as caught:
        call(gzip.compress(b" " * 5_000_000), zipped=True, chunk=100_000)
    assert caught.value.status == 413
    with pytest.raises(BadRequest, match="more than 10000 bytes|at most 10000"):
        call(bomb, zipped=True, chunk=100_000)


@pytest.mark.parametrize(
    ("body", "says"),
    [(ZIPPED[:-6], "cut short"), (b"plain", "no gzip"), (ZIPPED + b"x", "after its gzip")],
    ids=["cut short", "plain", "longer"],
)
def test_what_is_no_gzip_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        call(body, zipped=True)


@pytest.mark.parametrize(("error", "status"), [(Busy("full"), 429), (Unavailable("gone"), 503)])
def test_back_pressure_says_when_to_come_back(error: Exception, status: int) -> None:
    async def push(source: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        raise error

    found, answer, headers = call(LINES, push)
    assert (found, headers["retry-after"]) == (status, "1")
    assert str(error) in answer["error"]


@pytest.mark.parametrize("body", [b"", b"  \n ", b"[1, 2", b"\xff\xfe"])
def test_what_is_no_body_is_refused(body: bytes) -> None:
    try:
        status, _, _ = call(body)
    except BadRequest as error:
        status = error.status
    assert status == 400

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import BadRequest
from flyball.features.keys import entity_key, entity_keys, request_keys
from flyball.features.spec import ColumnSpec, EntitySpec
from flyball.features.types import to_arrow

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1), "string": st.text(max_size=6), "bytes": st.binary(max_size=6),
    "bool": st.booleans(), "date": st.dates(), "timestamp": st.datetimes(timezones=st.just(UTC)),
}  # fmt: skip


def entity(*kinds: str) -> EntitySpec:
    return EntitySpec("e", tuple(ColumnSpec(f"k{i}", kind) for i, kind in enumerate(kinds)))


@given(data=st.data())
def test_different_composite_keys_never_share_bytes(data: Any) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["string", "bytes", "int64", "bool"]), min_size=1, max_size=3))
    row = st.tuples(*(VALUES[k] for k in kinds))
    a, b = data.draw(row), data.draw(row)
    assert (entity_key(entity(*kinds), a) == entity_key(entity(*kinds), b)) == (a == b)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")), (("", "a"), ("a", "")), (("a\0", "b"), ("a", "\0b")), (("s\0\0\0\1x", ""), ("", "s\0\0\0\1x")),
        (("a|b", "c"), ("a", "b|c")), (("x" * 300, "y" * 300), ("x" * 301, "y" * 299)),
        (("é", ""), ("e\u0301", "")), (("x" * 600 + "1", ""), ("x" * 600 + "2", "")),
    ],
)  # fmt: skip
def test_adversarial_texts_do_not_collide(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert entity_key(entity("string", "string"), one) != entity_key(entity("string", "string"), other)


def test_the_types_of_a_key_differ() -> None:
    keys = {
        entity_key(entity(kind), (value,))
        for kind, value in [("int64", 1), ("string", "1"), ("bool", True), ("bytes", b"1"), ("date", date(1970, 1, 2)),
                            ("timestamp", datetime(1970, 1, 2, tzinfo=UTC))]
    }  # fmt: skip
    assert len(keys) == 6


def test_long_keys_stay_short_and_distinct() -> None:
    keys = {entity_key(entity("string"), ("x" * 1000 + str(i),)) for i in range(100)}
    assert len(keys) == 100
    assert all(k is not None and len(k) <= 480 for k in keys)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("int64", "1", "declared as an integer"), ("int64", True, "declared as an integer"), ("int64", 1.0, "declared as an"),
        ("int64", 2**63, "64 bits"), ("string", 1, "declared as a string"), ("string", b"1", "declared as a string"),
        ("string", "\ud800", "no Unicode text"), ("bool", 1, "declared as a bool"), ("bytes", "1", "declared as bytes"),
        ("date", datetime(2020, 1, 1), "declared as a date"), ("date", 3, "declared as a date"),
        ("timestamp", "noon", "declared as a time"), ("timestamp", 1.5, "declared as a time"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n", [1, 20])
def test_a_key_of_another_type_says_what_to_send(kind: str, value: Any, says: str, n: int) -> None:
    good = {"int64": 1, "string": "a", "bool": True, "bytes": b"a", "date": date(2020, 1, 1), "timestamp": 0}[kind]
    with pytest.raises(BadRequest, match=says) as error:
        request_keys(entity(kind), b"", {"k0": [good] * (n - 1) + [value]}, n)
    assert "key k0 is" in str(error.value)


@pytest.mark.parametrize(("kind", "array"), [("int64", np.ones(2)), ("string", np.arange(2)), ("bool", np.arange(2)),
                                             ("date", np.ones(2)), ("bytes", np.array(["a", "b"]))])  # fmt: skip
def test_an_array_of_another_type_is_refused_as_a_whole(kind: str, array: np.ndarray) -> None:
    with pytest.raises(BadRequest, match=f"came as {array.dtype}"):
        request_keys(entity(kind), b"", {"k0": array}, 2)


def test_a_null_part_is_no_key() -> None:
    assert request_keys(entity("int64", "string"), b"p", {"k0": [1, None, 2], "k1": [None, "a", "b"]}, 3)[:2] == [
        None,
        None,
    ]
    assert request_keys(entity("int64"), b"p", {"k0": [None, *range(20)]}, 21)[0] is None


def test_a_missing_key_column_is_told() -> None:
    with pytest.raises(BadRequest, match="misses 'k1'"):
        request_keys(entity("int64", "string"), b"", {"k0": [1]}, 1)
    with pytest.raises(BadRequest, match="2 values and the request 1"):
        request_keys(entity("int64"), b"", {"k0": [1, 2]}, 1)


@given(data=st.data())
@pytest.mark.parametrize("kind", list(VALUES))
def test_requests_and_tables_make_the_same_keys(kind: str, data: Any) -> None:
    values = data.draw(st.lists(VALUES[kind], min_size=1, max_size=30))
    wanted = [entity_key(entity(kind), (v,)) for v in values]
    assert request_keys(entity(kind), b"", {"k0": values}, len(values)) == wanted
    assert entity_keys(entity(kind), pa.table({"k0": pa.array(values, to_arrow(kind))})) == wanted
    if kind == "int64":
        assert request_keys(entity(kind), b"", {"k0": np.array(values, np.int64)}, len(values)) == wanted

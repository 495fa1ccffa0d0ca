"""Records as Arrow: every field of every kind comes back as it was, whatever it holds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.records.columnar import KINDS, Placed, kind_of, records_of, schema_of, tables_of
from flyball.records.types import Erased, Event, Outcome, Prediction, Shadow, decode, encode

texts = st.text(max_size=12)
numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=64)
answers = st.none() | floats | st.lists(floats, min_size=1, max_size=3)
micros = st.integers(0, 4_000_000_000_000_000)
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | floats
    | texts
    | st.binary(max_size=5)
    | st.just(datetime(2026, 1, 2, tzinfo=UTC))
)
inputs = st.dictionaries(texts, scalars | st.lists(scalars, max_size=2), max_size=3)
predictions = st.builds(
    Prediction, texts, texts, texts, texts, numbers, texts, micros, inputs, st.lists(floats, max_size=4),
    st.binary(max_size=4), answers, error=st.none() | texts, fallback=st.booleans(),
    stages=st.tuples(*[st.integers(0, 10**9)] * 4), total=st.integers(0, 10**12), control=st.booleans(), why=texts,
    read=texts,
)  # fmt: skip
shadows = st.builds(Shadow, texts, texts, texts, numbers, texts, micros, answers, st.none() | texts, numbers)
outcomes = st.builds(Outcome, texts, floats, micros, micros, texts, st.integers(0, 2**31 - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(predictions | shadows | outcomes, max_size=12))
def test_records_come_back_as_they_were(records):
    records = decode(encode(records))  # what a log can hold
    placed = [Placed("w0/1.seg", 7 * k, k, record) for k, record in enumerate(records)]
    back = [each for kind, table in tables_of(placed).items() for each in records_of(kind, table)]
    assert [encode([p.record]) for p in sorted(back, key=lambda p: p.place)] == [encode([r]) for r in records]
    assert [(p.segment, p.frame) for p in sorted(back, key=lambda p: p.place)] == [(p.segment, p.frame) for p in placed]


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_of_a_record_has_its_column(kind):
    missing = set(KINDS[kind].__struct_fields__) - set(schema_of(kind).names)
    assert missing == set()


def test_a_column_of_a_newer_flyball_is_left_alone():
    table = tables_of([Placed("s", 0, 0, Outcome("a", 1.0, 2, 3))])["outcomes"]
    newer = table.append_column("mood", table.column("source"))
    assert next(records_of("outcomes", newer)).record == Outcome("a", 1.0, 2, 3)


def test_what_only_the_log_needs_has_no_table():
    assert (kind_of(Erased()), kind_of(Event("s", 0, 0, []))) == (None, None)


def test_inputs_are_readable_where_json_can_say_them():
    rows = [{"a": 1, "b": "x"}, {"a": b"\x00"}]
    placed = [
        Placed("s", 0, k, Prediction("i", "m", "v", "champion", 1, "u", 0, row, [], b"", 1.0))
        for k, row in enumerate(rows)
    ]
    table = tables_of(placed)["predictions"]
    assert table.column("inputs").to_pylist() == ['{"a":1,"b":"x"}', '{"a":"AA=="}']
    assert [e is None for e in table.column("inputs_exact").to_pylist()] == [True, False]

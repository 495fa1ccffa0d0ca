"""Statistics merge in any order and any split, and keep their digits at an offset of 1e9."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import InputError, UnknownName
from flyball.experiments import Moments, Stats

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=40)


def _of(rows: list[tuple[float, float]], offset: float = 0.0) -> Stats:
    return Stats.of({"y": [a + offset for a, _ in rows], "x": [b for _, b in rows]})


def _exact(rows: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return mean of y, centred square of y and centred product, in exact arithmetic."""
    ys, xs = [Fraction(a) for a, _ in rows], [Fraction(b) for _, b in rows]
    n = len(rows)
    my, mx = sum(ys) / n, sum(xs) / n
    square = sum((y - my) ** 2 for y in ys)
    cross = sum((y - my) * (x - mx) for y, x in zip(ys, xs, strict=True))
    return float(my), float(square), float(cross)


def _close(one: Stats, other: Stats, scale: float) -> bool:
    flat = [*zip(one.means, other.means, strict=True)]
    flat += [(a, b) for r, s in zip(one.products, other.products, strict=True) for a, b in zip(r, s, strict=True)]
    return one.n == other.n and all(math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12 * scale) for a, b in flat)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.data())
def test_any_split_and_any_order_give_the_whole(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    merged = Stats(0, ("y", "x"), (0.0, 0.0), ((0.0, 0.0), (0.0, 0.0)))
    for part in data.draw(st.permutations(parts)):
        merged = merged.merge(_of(list(part)))
    scale = len(rows) * 1e6
    assert _close(merged, _of(rows), scale)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_statistics_are_those_of_exact_arithmetic(rows: list[tuple[float, float]]) -> None:
    stats = _of(rows)
    mean, square, cross = _exact(rows)
    assert math.isclose(stats.mean("y"), mean, rel_tol=1e-12, abs_tol=1e-10)
    assert math.isclose(stats.products[0][0], square, rel_tol=1e-12, abs_tol=1e-6)
    assert math.isclose(stats.products[0][1], cross, rel_tol=1e-9, abs_tol=1e-6)


def test_an_offset_of_a_billion_costs_no_digits_that_the_values_have() -> None:
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=20_000), 6) + 1e9  # what a double holds there: steps of 1.2e-7
    stats = Stats.of({"y": values})
    parts = [Stats.of({"y": part}) for part in np.array_split(values, 37)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    centred = [Fraction(v) - Fraction(10**9) for v in values.tolist()]
    mean = sum(centred) / len(centred)
    exact = float(sum((v - mean) ** 2 for v in centred))
    assert math.isclose(stats.products[0][0], exact, rel_tol=1e-12)
    assert math.isclose(merged.products[0][0], exact, rel_tol=1e-9)
    assert abs(stats.mean("y") - 1e9 - float(mean)) <= 2.4e-7  # two steps of a double at 1e9


def test_moments_of_one_column_merge_as_statistics_do() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(7, 2, 301), rng.normal(9, 1, 17)
    both = Stats.of({"y": np.r_[a, b]})["y"]
    merged = Moments.of(a.tolist()).merge(Moments.of(b.tolist()))
    assert math.isclose(merged.mean, both.mean, rel_tol=1e-12)
    assert math.isclose(merged.m2, both.m2, rel_tol=1e-12)
    assert both.variance == pytest.approx(float(np.var(np.r_[a, b], ddof=1)), rel=1e-12)


def test_statistics_survive_json_bit_for_bit() -> None:
    stats = _of([(0.1, 2.0), (0.7, -1.0), (1 / 3, 5.0)])
    assert Stats.from_dict(json.loads(json.dumps(stats.to_dict()))) == stats


def test_a_missing_value_is_named_and_dropped_only_when_asked() -> None:
    columns = {"y": [1.0, float("nan"), 3.0], "x": [1.0, 1.0, float("inf")]}
    with pytest.raises(InputError, match=r"'y' has nan for unit 1, and 2 units lack"):
        Stats.of(columns)
    assert Stats.of(columns, missing="drop").n == 1


def test_columns_that_differ_do_not_merge() -> None:
    with pytest.raises(InputError, match="select the same ones"):
        Stats.of({"y": [1.0]}).merge(Stats.of({"x": [1.0]}))
    with pytest.raises(UnknownName):
        Stats.of({"y": [1.0]}).mean("z")


def test_no_unit_and_one_unit_have_no_variance() -> None:
    assert (Stats.of({"y": []}).n, Stats.of({"y": []}).variance("y")) == (0, 0.0)
    assert Stats.of({"y": [5.0]}).variance("y") == 0.0

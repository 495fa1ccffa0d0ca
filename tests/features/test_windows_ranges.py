"""Windows by look-up: whichever way history answers, it is the oracle's; online cells leave no rounding behind."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_windows_kinds import ALL, HOP, T0, check_batch, check_online, stored, view

import flyball as fb
from flyball.errors import IntegrityError
from flyball.features.cells import WindowLayout, answer, answer_columns, answer_one
from flyball.features.kernel import distinct, ranked, windows
from flyball.features.packing import SPAN
from flyball.testing.oracle import Row


def _some_rows(rng: random.Random, n: int) -> list[Row]:
    rows = []
    for i in range(n):
        event = T0 + rng.randrange(300) * HOP + rng.randrange(3)
        values = {"x": rng.choice([None, math.nan, math.inf, rng.gauss(0, 1e3), 2.5]), "t": rng.choice([None, "u", "v"]),
                  "n": rng.choice([None, rng.randrange(-(2**63), 2**63), 4]),
                  "v": rng.choice([None, [1.0, rng.random(), -2.0]])}  # fmt: skip
        known = event + rng.choice([0, 0, rng.randrange(200) * HOP])
        rows.append(Row((rng.choice([1, 1, 2]),), event, event - rng.choice([0, 5]), known, i + 1, values))
    return rows


@pytest.mark.parametrize("chains", [0, 1, 3])
@pytest.mark.parametrize("pairs", [-1, 10**9])
def test_history_by_ranges_and_by_pairs_is_what_the_oracle_says(
    chains: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_chains", lambda rows, most=0, made=windows._chains: made(rows, chains))
    monkeypatch.setattr(windows, "_MANY_PAIRS", pairs)
    monkeypatch.setattr(windows, "_PAIRS", 50)
    rng = random.Random(chains)
    for n in (0, 1, 7, 60):
        requests = [(rng.choice([1, 2, 3]), T0 + rng.randrange(-5, 520) * HOP + rng.randrange(3)) for _ in range(25)]
        check_batch(ALL, _some_rows(rng, n), requests)


def test_quantiles_of_several_ranges_are_those_of_their_values() -> None:
    rng = np.random.default_rng(1)
    for m in (1, 2, 37, 500):
        values = rng.choice([rng.normal(size=m), np.round(rng.normal(size=m)), np.full(m, -np.inf)])
        cuts = np.sort(rng.integers(0, m + 1, (4, 40)), axis=0)
        found = ranked.quantile(values, [cuts[0], cuts[2]], [cuts[1], cuts[3]], 0.7)
        for i, (a, b, c, d) in enumerate(cuts.T.tolist()):
            mine = np.sort(np.concatenate([values[a:b], values[c:d]]))
            want = mine[max(1, math.ceil(0.7 * len(mine))) - 1] if len(mine) else np.nan
            np.testing.assert_array_equal(found[i], want)


def test_distinct_values_of_segments_are_counted_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    sizes = [1, 2, 254, 255, 256, 300, 3_000, 20_000, 400]
    parts = [rng.integers(0, 2**64, n, np.uint64) for n in sizes]
    parts += [rng.choice(part, 2_000) for part in parts]
    crowded = (np.arange(400, dtype=np.uint64) << np.uint64(30)) | np.uint64(5 << 53)  # all in one register
    parts += [crowded, np.repeat(crowded[:20], 50)]
    starts = np.cumsum([0, *map(len, parts[:-1])])
    want = [distinct.estimate(distinct.of_hashes(part)) for part in parts]
    assert distinct.estimates(np.concatenate(parts), starts).tolist() == want


def test_a_great_value_that_has_left_the_window_leaves_no_rounding() -> None:
    spec = view(
        fb.sum("sum", of="x", window="48s"), fb.std("std", of="x", window="48s"), fb.max("max", of="x", window="48s")
    )
    values = [1e17, -3e16, 0.1, 0.2, 0.3]
    rows = [Row((1,), T0 + i * 60 * HOP, T0, T0 + i * 60 * HOP, i + 1, {"x": x}) for i, x in enumerate(values[:2])]
    rows += [Row((1,), T0 + 200 * HOP + i, T0, T0 + 200 * HOP + i, 3 + i, {"x": x}) for i, x in enumerate(values[2:])]
    rows = [replace(r, created=r.event) for r in rows]
    for cuts in ([], [1, 2, 3, 4], [3]):
        (value,) = stored(spec, rows, 2**62, cuts).values()
        numbers, _ = answer_one(WindowLayout(spec), value, T0 + 201 * HOP)
        assert numbers[0] == pytest.approx(0.6, rel=1e-15)
        assert numbers[1] == pytest.approx(0.1, rel=1e-12)
        assert numbers[2] == 0.3


@pytest.mark.parametrize("seed", range(5))
def test_events_of_any_age_added_in_many_steps_are_in_every_window_that_holds_them(seed: int) -> None:
    rng = random.Random(seed)
    rows = []
    for i in range(90):
        known = T0 + 240 * HOP + i * rng.choice([0, HOP])
        event = known - rng.choice([0, 1, HOP, rng.randrange(230) * HOP])
        x = rng.choice([None, math.nan, rng.gauss(1e6, 1), math.inf if rng.random() < 0.02 else 3.0])
        n = rng.choice([None, 4, rng.randrange(-(2**63), 2**63)])
        values = {"x": x, "n": n, "t": "u", "v": [0.5, 1.0, rng.random()]}
        rows.append(Row((rng.choice([1, 2, 3]),), event, event, known, i + 1, values))
    rows = [replace(r, sequence=i + 1) for i, r in enumerate(sorted(rows, key=lambda r: r.known))]
    held = stored(ALL, rows, 2**62, [rng.randrange(90) for _ in range(12)])
    newest = rows[-1].known
    for at in (newest, newest + SPAN, newest + 40 * HOP, newest + 230 * HOP):
        check_online(ALL, rows, held, at)


@pytest.mark.parametrize("stat", [fb.mean, fb.last])  # of plain kinds and not
def test_reading_refuses_values_of_an_older_layout(stat: Any) -> None:
    spec = view(stat("m", of="x", window="48s"))
    (value,) = stored(spec, [Row((1,), T0, T0, T0, 1, {"x": 1.0})], 2**62, []).values()
    layout, older = WindowLayout(spec), b"\x02" + value[1:]
    assert layout.plain is (stat is fb.mean)
    with pytest.raises(IntegrityError, match="materialize --full"):
        answer_one(layout, older, T0)
    with pytest.raises(IntegrityError, match="materialize --full"):
        answer(layout, [value, older], T0)
    with pytest.raises(IntegrityError, match="materialize --full"):
        answer_columns(layout, [older], T0)

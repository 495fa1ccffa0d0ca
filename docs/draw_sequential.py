"""Draw the pictures of explanation/why-sequential.md from real runs: `python docs/draw_sequential.py`.

The surprise: nothing is sketched. Each line is a seeded simulation judged by the tests that judge releases, so a change
of a test changes a picture, and a test of the docs notices.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flyball.drawing.charts import CHART_CSS, Mark, Series, line_chart
from flyball.experiments.sequential.confidence import mean_bounds
from flyball.experiments.sequential.odds import OddsProcess, odds
from flyball.experiments.stats import Moments

_FOLDER = Path(__file__).parent / "explanation" / "pictures"
_LIGHT = "--ink:#1b1f24;--ink-soft:#5a6470;--rule:#dfe3e8;--one:#0b63b0;--two:#b3541e;--three:#5f6b2d;--alarm:#8a5a00;"
_DARK = "--ink:#e8eaed;--ink-soft:#a3acb7;--rule:#333a42;--one:#6db3f2;--two:#f0a070;--three:#b7c776;--alarm:#e5b454;"
_RATE, _SHARE, _ALPHA = 0.001, 0.1, 0.01
_LOOKS = 80  # of the second picture, 20 requests of the candidate each
_Z = 1.6449  # one-sided 5 %
_RUNS, _BINS, _BIN = 100, 2000, 500  # a million requests of the candidate


def pictures() -> dict[str, str]:
    """Return file name -> SVG."""
    return {
        "healthy-releases.svg": _standalone(_healthy()),
        "e-values.svg": _standalone(_e_values()),
        "bounds.svg": _standalone(_bounds()),
    }


def _standalone(svg: str) -> str:
    """Return a chart as a file of its own: with a namespace, and colours for light and dark."""
    style = f":root{{{_LIGHT}--good:#1a6b3c;--bad:#a8232f}}@media(prefers-color-scheme:dark){{:root{{{_DARK}"
    style += f"--good:#6fcf97;--bad:#f28b94}}}}{CHART_CSS}"
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def _healthy() -> str:
    """Share of equal candidates that each rule has rolled back by so many requests."""
    rng = np.random.default_rng(2026)
    usual, repeated, bets = [], [], []
    control = round(_BIN * (1 - _SHARE) / _SHARE)
    for _ in range(_RUNS):
        at = np.cumsum(rng.geometric(_RATE, int(_BINS * _BIN * _RATE * 2)))
        close = np.flatnonzero(np.diff(at) < 100)
        usual.append(int(at[close[0] + 1]) if close.size else 10**9)
        mine, theirs = rng.binomial(_BIN, _RATE, _BINS), rng.binomial(control, _RATE, _BINS)
        repeated.append(_first_z(mine, theirs, control))
        bets.append(_first_breach(mine, theirs, control))
    marks = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]

    def by(times: Sequence[int]) -> tuple[float, ...]:
        return tuple(100.0 * sum(t <= mark for t in times) / _RUNS for mark in marks)

    return line_chart(
        "Healthy releases rolled back, by requests of the candidate",
        [f"{mark:,}" for mark in marks],
        [Series("above 1 % of the last 100", by(usual)), Series("z test at every look", by(repeated)),
         Series("flyball", by(bets))],
        unit="% of 100 releases",
    )  # fmt: skip


def _first_z(mine: np.ndarray, theirs: np.ndarray, control: int) -> int:
    n, m = _BIN * np.arange(1, _BINS + 1), control * np.arange(1, _BINS + 1)
    a, b = np.cumsum(mine), np.cumsum(theirs)
    pooled = (a + b) / (n + m)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = np.divide(a / n - b / m, spread, out=np.zeros(_BINS), where=spread > 0)
    crossed = np.flatnonzero(z > _Z)
    return int(n[crossed[0]]) if crossed.size else 10**9


def _first_breach(mine: np.ndarray, theirs: np.ndarray, control: int) -> int:
    process = OddsProcess()
    for k, (a, b) in enumerate(zip(mine.tolist(), theirs.tolist(), strict=True), start=1):
        among = odds((k * _BIN, k * control), known=_SHARE / (1 - _SHARE))
        process = process.fail(candidate=a, control=b, odds=among)
        if process.breached(_ALPHA):
            return k * _BIN
    return 10**9


def _e_values() -> str:
    """The evidence against a healthy and against a failing candidate, request by request."""
    rng = np.random.default_rng(5)
    lines, found = {}, 0
    for name, rate in (("as healthy as the champion", _RATE), ("fails 1 % instead of 0.1 %", 0.01)):
        process, values = OddsProcess(), []
        for k in range(1, _LOOKS + 1):
            mine, theirs = rng.binomial(20, rate), rng.binomial(180, _RATE)
            among = odds((20 * k, 180 * k), known=_SHARE / (1 - _SHARE))
            process = process.fail(candidate=int(mine), control=int(theirs), odds=among)
            values.append(min(process.log_e / np.log(10), 4.0))
            if rate > _RATE and not found and process.breached(_ALPHA):
                found = k
        lines[name] = tuple(values)
    series = [Series(name, values) for name, values in lines.items()]
    return line_chart(
        "Evidence against a candidate at a share of 10 %",
        [str(20 * k) for k in range(1, _LOOKS + 1)],
        [*series, Series("limit: 1 / 1 %", (2.0,) * _LOOKS)],
        unit="log10 of the e-value",
        marks=[Mark(found - 1, f"rolled back after {20 * found} requests", "bad")] if found else [],
    )


def _bounds() -> str:
    """The lower bound of the harm of an equal candidate, by a usual interval and by one that holds at every look."""
    rng = np.random.default_rng(21)
    differences = rng.normal(0.0, 1.0, 4000)
    looks = [*range(50, 4001, 50)]
    usual, always, moments = [], [], Moments()
    for k, value in enumerate(differences.tolist(), start=1):
        moments = moments.add(value)
        if k in looks:
            usual.append(moments.mean - _Z * np.sqrt(moments.variance / k))
            always.append(mean_bounds(moments, lower=0.05, upper=0.05).lower)
    wrong = sum(bound > 0 for bound in usual)
    return line_chart(
        f"An equal candidate: the usual bound says harm at {wrong} of {len(looks)} looks",
        [str(look) for look in looks],
        [Series("usual, 95 %", tuple(usual)), Series("holds at every look, 95 %", tuple(always)),
         Series("no harm", (0.0,) * len(looks))],
        unit="lower bound of the harm, in sd",
    )  # fmt: skip


def main() -> None:
    """Write the pictures."""
    _FOLDER.mkdir(exist_ok=True)
    for name, svg in pictures().items():
        (_FOLDER / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()

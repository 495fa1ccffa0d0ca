from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import date, timedelta

import pytest

from flyball.drawing.charts import Mark, Series, bar_chart, line_chart
from flyball.ui.timeline import render_timeline


def _report() -> dict:
    days = [date(2020, 3, 11) + timedelta(days=k) for k in range(41)]
    return {
        "trips_served": 123456,
        "failed_requests": 0,
        "latency_ms": {"p50": 1.234, "p99": 8.9},
        "rollouts": [
            {"version": "v2", "cause": "manual", "verdict": "rolled_back", "reason": "mae is <worse>",
             "decided_after_s": 5400, "candidate_requests": 812, "decided_at": "2020-03-11T15:30:00-04:00"},
            {"version": "v4", "cause": "drift", "verdict": "promoted", "reason": "all hold", "decided_after_s": 200000,
             "candidate_requests": 9120, "decided_at": "2020-03-20T01:00:00-04:00"},
            {"version": "v5", "cause": "drift", "verdict": "paused", "reason": "", "decided_after_s": None,
             "candidate_requests": None},
        ],
        "drift_first_alarm": "2020-03-18T04:00:00+00:00",
        "drift": [{"start": "2020-03-17T04:00:00+00:00", "level": "page", "text": "trips_1h moved", "version": "v1"}],
        "retrained_versions": ["v4", "v5"],
        "error_by_day": [
            {"day": d.isoformat(), "trips": 1000 + k, "with_loop": 3.0, "without_loop": 3.0 + k / 20}
            for k, d in enumerate(days)
        ],
        "story": ["drift fired", "  run r1 <started>"],
        "wall_s": 211.4, "own_overhead_s": 7.2, "peak_pss_mb": 1311.0,
    }  # fmt: skip


def _parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_the_page_is_one_file_that_runs_and_fetches_nothing() -> None:
    page = render_timeline(_report())
    assert "<script" not in page
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?:", page)
    assert "default-src 'none'" in page
    assert len(page) < 120_000


def test_the_page_shows_releases_with_verdicts_drift_and_errors_in_words() -> None:
    page = render_timeline(_report())
    for text in [
        "1 release promoted, 1 release rolled back", "v2 rolled back", "first drift alarm", "123,456",
        "without the loop", "mae is &lt;worse&gt;", "1.5 h", "The loop trained v4, v5 by itself.",
        "trips_1h moved", "run r1 &lt;started&gt;",
        "211 s", "1,311 MB", "11 Mar",
    ]:  # fmt: skip
        assert text in page, text


@pytest.mark.parametrize("missing", [*_report()])
def test_any_part_may_be_missing(missing: str) -> None:
    report = _report()
    report[missing] = None
    assert "</html>" in render_timeline(report)
    del report[missing]
    assert "None" not in render_timeline(report)


def test_an_empty_report_says_so() -> None:
    page = render_timeline({})
    assert "no data yet" in page
    assert "No release was started." in page


def test_every_svg_of_the_page_is_well_formed() -> None:
    charts = re.findall(r"<svg.*?</svg>", render_timeline(_report()), re.S)
    assert len(charts) == 4
    for chart in charts:
        assert _parse(chart).get("role") == "img"


def test_points_lie_inside_the_canvas_in_order_and_a_gap_breaks_the_line() -> None:
    svg = _parse(line_chart("t", ["a", "b", "c", "d"], [Series("x", (1.0, 5.0, None, 2.0))], unit="min"))
    height = float(svg.get("viewBox").split()[3])
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert len(dots) == 3
    assert dots == sorted(dots)
    assert all(0 < y < height for _, y in dots)
    assert dots[1][1] < dots[2][1] < dots[0][1]
    path = next(p.get("d") for p in svg.iter("path"))
    assert path.count("M") == 2


@pytest.mark.parametrize("width", [360, 760])
def test_words_of_marks_do_not_overlap(width: int) -> None:
    marks = [Mark(k / 2, f"version {k} rolled back") for k in range(20)]
    svg = _parse(line_chart("t", list("abcdefghij"), [Series("x", (1.0,) * 10)], unit="u", marks=marks, width=width))
    spans = []
    for text in svg.iter("text"):
        if text.get("class", "").startswith("word"):
            x, size = float(text.get("x")), 5.9 * len(text.text)
            spans.append((text.get("y"), (x, x + size) if text.get("text-anchor") == "start" else (x - size, x)))
    assert len(spans) == 20
    for i, (y, a) in enumerate(spans):
        assert a[0] >= -size
        assert all(y != other or a[1] <= b[0] or b[1] <= a[0] for other, b in spans[i + 1 :])


def test_axis_ticks_are_round_and_hold_the_values() -> None:
    svg = _parse(bar_chart("t", ["a", "b"], [0.0, 7.3], unit="u"))
    ticks = [float(t.text) for t in svg.iter("text") if t.get("text-anchor") == "end"]
    assert ticks == [0, 2, 4, 6, 8]
    assert bar_chart("t", ["a"], [0.0], unit="u").count("<rect") == 1
    assert "no data yet" in bar_chart("t", [], [], unit="u")


def test_constant_and_negative_values_have_an_axis() -> None:
    for values in [(3.0, 3.0), (0.0, 0.0), (-2.0, 1.0), (-2.0, -2.0), (101.0, 102.0)]:
        svg = _parse(line_chart("t", ["a", "b"], [Series("x", values)], unit="u"))
        assert all(30 < float(c.get("cy")) < 400 for c in svg.iter("circle")), values

"""Has the world moved? Judge one window's profile against what the model was trained on (pure).

The surprise: significance alone never alarms, as with enough rows every day is significantly different. A change must
be significant, large, larger than the reference's own days differ from each other, and last, before anyone is called.
That a single day makes `day_of_week` constant is no drift: every day of the reference does that too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from flyball.monitoring.compare import DriftReport, compare, profile
from flyball.monitoring.types import DriftWindow, FeatureDrift, MonitorSpec
from flyball.profiles.contrast import NULLS, Contrast, contrast
from flyball.profiles.profile import BinMismatch, Profile
from flyball.profiles.significance import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyball.profiles.reference import Reference, ReferenceWindow

__all__ = ["MIN_ROWS", "DriftReport", "compare", "judge_window", "profile"]

MIN_ROWS = 200  # a window with fewer rows is not judged
_CALIBRATED = 6  # reference windows needed to call its variation known
_WHOLE = 0.75  # a window of which the version saw less may warn but not page
_KNOWN = 3  # reference days of a weekday class needed for that class to page
_LOOK_BACK = 2  # persistence: this window and at least one of so many judged before it

Level = Literal["none", "warn", "page"]


@dataclass(frozen=True, slots=True, eq=False)
class _Season:
    """The part of a reference that a window is compared with, and how much its windows differ among themselves."""

    name: str
    base: Profile
    usual: dict[str, float]
    windows: int

    @property
    def calibrated(self) -> bool:
        return self.windows >= _CALIBRATED

    @property
    def factor(self) -> float:
        """Head room over the largest of m: the next one of the same kind exceeds it once in m + 1 times."""
        return 1.0 + 2.0 / self.windows if self.windows else math.inf


def judge_window(
    reference: Reference,
    profile: Profile,
    spec: MonitorSpec,
    history: Sequence[DriftWindow],
    *,
    model: str,
    version: str,
    start: datetime,
    end: datetime,
    covered: float = 1.0,
) -> DriftWindow:
    """Judge one closed window by four gates: false discovery rate, size, excess over the usual, persistence.

    Args:
        reference: What the version was trained on.
        profile: The window's profile on the reference's edges.
        spec: Limits of the monitor.
        history: Earlier windows of the same model, oldest first; other versions and later windows are ignored.
        model: Whose window it is.
        version: Whose reference it is.
        start: Where the window begins.
        end: Where it ends (not within it).
        covered: Share of the window in which the version was the champion; below 0.75 it may only warn, since a part
            of a day differs from whole days by nature.

    Returns:
        The window with every feature's own finding; its `level` is "page" only when a feature pages now and did so in
        one of the two judged windows before. Windows with fewer than 200 rows are not judged: no features, level none.

    Raises:
        BinMismatch: the profile was made on other edges.
    """
    if not profile.same_edges(reference.total):
        raise BinMismatch(
            f"the window {start:%Y-%m-%d %H:%M} of {model} has other edges than version {version}; "
            "profile it with that version's reference"
        )
    if profile.n < MIN_ROWS:
        text = f"not judged: {profile.n} rows, at least {MIN_ROWS} are needed"
        return DriftWindow(model, version, start, end, profile.n, "none", (), text)
    season = _season(reference, _class_of(reference, start))
    known = _known_days(reference, start)
    cap: Level = "page" if covered >= _WHOLE and season.windows >= 2 and known else "warn"
    features = _judge(season, contrast(season.base, profile), spec, cap)
    own = [w for w in history if w.model == model and w.version == version and w.end <= start and w.features]
    earlier = [w for w in own if _known_days(reference, w.start)]  # a weekend that could not page ends no streak
    lasting = _lasting(features, earlier[-_LOOK_BACK:])
    moved = any(f.level != "none" for f in features)
    level: Level = "page" if lasting else "warn" if moved else "none"
    text = _text(features, lasting, season, covered)
    if not known and level == "warn":
        text += f"; the reference knows too few {_weekday_class(start, reference.timezone)}s, so it may only warn"
    return DriftWindow(model, version, start, end, profile.n, level, features, text)


def _judge(season: _Season, tested: list[Contrast], spec: MonitorSpec, cap: Level) -> tuple[FeatureDrift, ...]:
    found = []
    for test, q in zip(tested, benjamini_hochberg([t.p for t in tested]), strict=True):
        usual = season.usual.get(test.name, 0.0)
        exceeds = q < spec.q and test.distance > usual * season.factor
        level: Level = "none"
        if exceeds and test.distance >= spec.warn:
            level = "page" if test.distance >= spec.page and cap == "page" else "warn"
        found.append(FeatureDrift(test.name, test.distance, usual, q, level, season.calibrated))
    return tuple(found)


def _lasting(features: Sequence[FeatureDrift], earlier: Sequence[DriftWindow]) -> list[FeatureDrift]:
    before = {f.feature for w in earlier for f in w.features if f.level == "page"}
    return [f for f in features if f.level == "page" and f.feature in before]


def _class_of(reference: Reference, start: datetime) -> str:
    """Return "workday" or "weekend" when two weeks of reference let classes be told apart, else ""."""
    whole = _whole(reference)
    if reference.window != timedelta(days=1) or len(whole) < 14:
        return ""
    name = _weekday_class(start, reference.timezone)
    return name if sum(_weekday_class(w.start, reference.timezone) == name for w in whole) >= 4 else ""


def _known_days(reference: Reference, start: datetime) -> bool:
    """Whether daily windows of this weekday class were seen often enough to know how they differ among themselves.

    One weekend says little about weekends; without this an unlucky one would page every week, Saturday and Sunday
    being two of three windows. Drift that lasts pages on the workdays after.
    """
    if reference.window != timedelta(days=1):
        return True
    whole = _whole(reference)
    same = sum(_weekday_class(w.start, reference.timezone) == _weekday_class(start, reference.timezone) for w in whole)
    return same >= _KNOWN


@lru_cache(maxsize=32)
def _season(reference: Reference, name: str) -> _Season:
    """Return the reference's part for a weekday class ("" is all), with leave-one-out distances of its windows."""
    windows = [w for w in _whole(reference) if not name or _weekday_class(w.start, reference.timezone) == name]
    base = reference.total
    if name:
        base = Profile.empty(reference.edges)
        for window in windows:
            base = base.merge(window.profile)
    usual: dict[str, float] = {}
    others = [w for w in windows if base.n > w.profile.n]
    for window in others:
        for test in contrast(base.without(window.profile), window.profile):
            if not math.isnan(test.distance):
                usual[test.name] = max(usual.get(test.name, 0.0), test.distance)
    return _Season(name, base, usual, len(others))


def _whole(reference: Reference) -> list[ReferenceWindow]:
    return [w for w in reference.windows if w.whole and w.profile.n >= MIN_ROWS // 4]


def _weekday_class(start: datetime, timezone: str) -> str:
    return "weekend" if start.astimezone(ZoneInfo(timezone)).weekday() >= 5 else "workday"


def _text(features: Sequence[FeatureDrift], lasting: Sequence[FeatureDrift], season: _Season, covered: float) -> str:
    moved = sorted((f for f in features if f.level != "none"), key=lambda f: -f.distance)
    parts = [_sentence(f) for f in moved[:3]]
    if len(moved) > 3:
        parts.append(f"{len(moved) - 3} more features moved")
    if not moved:
        parts.append(f"no feature of {len([f for f in features if not f.feature.endswith(NULLS)])} moved")
    if lasting:
        parts.append(f"lasting, 2 of 3 windows: {', '.join(f.feature for f in lasting[:3])}")
    if season.name:
        parts.append(f"compared with {season.name}s of the reference")
    if covered < _WHOLE:
        parts.append(f"the version served {covered:.0%} of the window, so it may only warn")
    if not season.calibrated:
        parts.append(f"uncalibrated: {season.windows} whole reference windows, {_CALIBRATED} are needed")
    return "; ".join(parts)


def _sentence(f: FeatureDrift) -> str:
    return f"{f.feature} moved by {f.distance:.2f} (usual at most {f.usual:.2f}, q {f.q:.1g})"

"""What callers may hand to the store's verbs: rows as frames, one name as a text; and what is kept of bad pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest

import flyball as fb
from flyball.errors import InputError

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)


def half(stars: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return stars / 2


@pytest.fixture
def project(tmp_path: Path) -> Iterator[fb.Project]:
    notes = fb.PushSource(
        "notes",
        schema={"shop": int, "stars": float},
        event_time="at",
        derive={"half": fb.python(half, of=["stars"])},
        checks=[fb.check.range("stars", low=0, high=5, policy="quarantine")],
    )
    shop = fb.Entity("shop", keys={"shop": int})
    ratings = fb.FeatureView(
        "ratings",
        entity=shop,
        source=notes,
        features=[fb.count("n_7d", window="7d"), fb.mean("half_7d", of="half", window="7d")],
    )
    with fb.Project.temporary([ratings], root=tmp_path, now=NOW) as made:
        made.apply()
        yield made


def row(stars: float) -> Mapping[str, Any]:
    return {"shop": 1, "stars": stars, "at": "2024-03-01T11:00:00Z"}


@pytest.mark.parametrize("frame", [pd.DataFrame, pa.Table.from_pylist], ids=["pandas", "arrow"])
def test_frames_are_pushed_and_looked_up_as_lists_of_rows_are(project: fb.Project, frame: Callable[[Any], Any]) -> None:
    pushed = project.features.push("notes", frame([row(4.0), row(2.0)]))
    assert (pushed.accepted, pushed.rejected) == (2, 0)
    assert project.features.online(frame([{"shop": 1}]), ["ratings"]).to_dicts() == [{"n_7d": 2, "half_7d": 1.5}]


def test_one_name_may_be_a_text(project: fb.Project) -> None:
    assert project.features.online([{"shop": 1}], "ratings:n_7d").to_dicts() == [{"n_7d": 0}]
    assert project.features.history([{"shop": 1, "at": NOW}], "ratings:n_7d", at="at").names == ("n_7d",)


@pytest.mark.parametrize("given", [{"shop": 1}, "shop", 7, [1, 2]])
def test_what_is_no_rows_is_refused_with_what_is_needed(project: fb.Project, given: Any) -> None:
    with pytest.raises(InputError, match="dictionar"):
        project.features.online(given, ["ratings"])
    with pytest.raises(InputError, match="dictionar"):
        project.features.push("notes", given)


def test_pushed_rows_that_a_check_keeps_out_are_in_quarantine_once(project: fb.Project) -> None:
    pushed = project.features.push("notes", [row(4.0), row(44.0), row(-1.0)])
    assert (pushed.accepted, pushed.rejected) == (1, 2)
    for full in (False, True):
        found = project.features.quarantined("notes")
        assert found is not None
        assert found.column("stars").to_pylist() == [-1.0, 44.0]
        assert found.column("__reason").to_pylist() == ["range(stars)"] * 2
        project.features.materialize("ratings", full=full)
    assert project.features.online([{"shop": 1}], ["ratings:n_7d"]).to_dicts() == [{"n_7d": 1}]

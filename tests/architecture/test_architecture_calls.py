"""The calls that users, docs and checks rely on (design section 9): each exists under its name and with its arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import flyball as fb
from flyball.datasets.types import TrainingSet
from flyball.features.lookup import Vectors
from flyball.features.table import Table
from flyball.project import Project
from flyball.project.data import DataHandle
from flyball.project.features import FeatureHandle
from flyball.project.loop import LoopHandle
from flyball.project.models import ModelHandle, ModelHandles
from flyball.project.monitor import MonitorHandle
from flyball.project.releases import RolloutHandle

CALLS = [
    (Project, "open", ("path",)),
    (Project, "temporary", ("objects",)),
    (Project, "apply", ("dry_run",)),
    (Project, "train", ("model", "params")),
    (Project, "rollout", ("model", "version")),
    (Project, "monitor", ("model",)),
    (FeatureHandle, "history", ("requests", "names", "at", "join")),
    (FeatureHandle, "online", ("rows", "names")),
    (FeatureHandle, "aonline", ("rows", "names")),
    (FeatureHandle, "materialize", ("view", "until")),
    (FeatureHandle, "push", ("source", "rows")),
    (DataHandle, "snapshot", ("model",)),
    (ModelHandles, "__getitem__", ("name",)),
    (ModelHandle, "promote", ("version",)),
    (ModelHandle, "retire", ("version",)),
    (ModelHandle, "score", ("data",)),
    *((RolloutHandle, name, ()) for name in ("start", "watch", "explain", "pause", "resume", "promote", "abort")),
    (MonitorHandle, "drift", ()),
    (MonitorHandle, "performance", ()),
    (MonitorHandle, "report", ("path",)),
    (LoopHandle, "once", ()),
    (LoopHandle, "why", ("model",)),
    (LoopHandle, "freeze", ("model",)),
    (Table, "to_arrow", ()),
    (Table, "to_pandas", ()),
    (Table, "status", ()),
    (Vectors, "to_dicts", ()),
    (Vectors, "status", ()),
    (TrainingSet, "to_pandas", ()),
    (fb.drift, "profile", ("table",)),
    (fb.drift, "compare", ("reference", "current", "alpha", "budget")),
    (fb.rollout, "decide", ("spec", "status", "evidence", "now")),
    (fb.testing, "client", ("target",)),
    (fb.testing, "scenario", ("steps", "bake")),
]
PROPERTIES = [
    (Vectors, "matrix"), (ModelHandle, "versions"), (ModelHandle, "champion"), (TrainingSet, "X"), (TrainingSet, "y"),
    (Project, "features"), (Project, "data"), (Project, "models"), (Project, "loop"),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "wanted"), CALLS, ids=lambda v: getattr(v, "__name__", None))
def test_the_call_takes_what_the_design_says(owner: Any, name: str, wanted: tuple[str, ...]) -> None:
    taken = inspect.signature(getattr(owner, name)).parameters
    assert [argument for argument in wanted if argument not in taken] == []


@pytest.mark.parametrize(("owner", "name"), PROPERTIES)
def test_the_part_is_read_without_a_call(owner: type, name: str) -> None:
    found = inspect.getattr_static(owner, name)
    assert not inspect.isfunction(found)


def test_decide_stays_the_function_whatever_was_imported() -> None:
    import flyball.rollout.explain
    import flyball.rollout.judging.decide
    import flyball.rollout.replay

    assert inspect.isfunction(fb.rollout.decide)
    assert set(fb.rollout.__all__) <= set(dir(flyball.rollout))


@pytest.mark.parametrize("laws", ["OnlineStoreLaws", "OfflineEngineLaws"])
def test_the_laws_of_stores_and_engines_are_shipped(laws: str) -> None:
    assert any(name.startswith("test_") for name in vars(getattr(fb.testing, laws)))

"""Experiments that stand in a file of their own: JSON or TOML as people write it, the stored form, or Python.

The surprise: a Python file is run, as the project's own definitions are; JSON and TOML are only read.
"""

from __future__ import annotations

import json
import runpy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyball.errors import DefinitionError, InputError, UnknownName, first_line
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.plans import Plan, PlanKind
from flyball.experiments.design.types import Experiment

__all__ = ["experiment_of", "read_experiment"]


def read_experiment(path: str | Path, name: str | None = None) -> Experiment:
    """Return the experiment of a file.

    Args:
        path: A .json, .toml or .py file.
        name: Which, where a Python file has several.

    Raises:
        InputError: the file cannot be read.
        DefinitionError: it holds no experiment.
        UnknownName: a Python file has none of that name.
    """
    place = Path(path)
    try:
        if place.suffix == ".py":
            return _of_module(place, name)
        text = place.read_text()
        return experiment_of(tomllib.loads(text) if place.suffix == ".toml" else json.loads(text))
    except (OSError, ValueError) as error:
        if isinstance(error, DefinitionError | InputError):
            raise
        raise InputError(f"{place.name} cannot be read as an experiment: {first_line(error)}") from error


def experiment_of(given: Mapping[str, Any]) -> Experiment:
    """Return the experiment of plain data: as `Experiment.to_dict` wrote it, or as its arguments are written.

    Raises:
        DefinitionError: an argument is unknown, missing, or makes no sense.

    Example:
        >>> experiment_of({"name": "checkout", "arms": {"old": "50%", "new": "50%"}, "plan": {"kind": "sequential"},
        ...                "metrics": [{"name": "paid", "kind": "proportion", "window": "7d"}]}).treatments
        ('new',)
    """
    if {"correction", "control", "strata", "planned_units"} <= given.keys() and isinstance(given.get("arms"), list):
        return Experiment.from_dict(given)
    try:
        rest = dict(given)
        metrics = [Metric(**metric) for metric in rest.pop("metrics")]
        if "plan" in rest:
            rest["plan"] = Plan(**{**rest["plan"], "kind": PlanKind(rest["plan"].get("kind", "sequential"))})
        return Experiment(rest.pop("name"), metrics=metrics, **rest)
    except (KeyError, TypeError) as error:
        raise DefinitionError(f"this is no experiment ({error}); it takes the arguments of fb.Experiment") from error


def _of_module(path: Path, name: str | None) -> Experiment:
    found = {thing.name: thing for thing in runpy.run_path(str(path)).values() if isinstance(thing, Experiment)}
    if name is not None:
        if name not in found:
            raise UnknownName.of(f"experiment of {path.name}", name, found)
        return found[name]
    if len(found) != 1:
        said = f"the experiments {', '.join(sorted(found))}; name one" if found else "no fb.Experiment at its top level"
        raise DefinitionError(f"{path.name} has {said}")
    return next(iter(found.values()))

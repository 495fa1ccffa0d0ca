"""What flyball is asked: whole bodies of V2 inference, and how one server is asked to predict a row."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

from kit.project import ENTITIES, KEY, Project

HEADERS = {"authorization": f"Bearer {KEY}"}


def path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def tensor(row: Sequence[Any]) -> str:
    """Return the short form: one input of shape [1, n]."""
    return json.dumps({"inputs": [{"name": "input", "shape": [1, len(row)], "datatype": "FP64", "data": list(row)}]})


def fields(names: Iterable[str], row: Sequence[Any]) -> str:
    """Return one input per field, shape [1] each."""
    return json.dumps({"inputs": [_scalar(n, "FP64", v) for n, v in zip(names, row, strict=False)]})


def enriched(count: int = 500, *, seed: int = 3) -> list[str]:
    """Return bodies for entities at random: one key and ten numbers; 20 features come from the store."""
    return [
        json.dumps({"inputs": [_scalar("thing", "INT64", thing),
                               *(_scalar(f"g{i}", "FP64", number) for i, number in enumerate(numbers))]})
        for thing, numbers in keys_and_numbers(count, seed=seed)
    ]  # fmt: skip


def keys_and_numbers(count: int = 500, *, seed: int = 3) -> list[tuple[int, list[float]]]:
    """Return what those bodies say: an entity's key and ten numbers each."""
    rng = random.Random(seed)
    return [(rng.randrange(ENTITIES), [round(rng.random(), 6) for _ in range(10)]) for _ in range(count)]


def _scalar(name: str, kind: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1], "datatype": kind, "data": [value]}


def form(project: Project, model: str, row: Sequence[float]) -> str:
    """Return "tensor [1,30]" if this gateway takes it for the model, else "one input per field"."""
    from peers import ask

    got = ask(project.port, path(model), tensor(row).encode(), HEADERS)
    return "tensor [1,30]" if got.status == 200 else "one input per field"


def body(how: str, row: Sequence[Any]) -> str:
    """Return a row's body in one of the two forms."""
    return tensor(row) if how.startswith("tensor") else fields((f"x{i}" for i in range(30)), row)


def value(answer: bytes) -> float:
    """Return the first row's prediction; of a classifier the probability of class 1."""
    outputs = {output["name"]: output["data"] for output in json.loads(answer)["outputs"]}
    return float(outputs["probabilities"][1] if "probabilities" in outputs else outputs["prediction"][0])

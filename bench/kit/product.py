"""The product as the benches serve it: each model with a candidate at 10 %, one worker process, how it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from load import Spec
from peers import ask, free_port

from kit import asks, models
from kit.project import Project, enriched_service, plain_service, split

BAD = ("width", "null", "text")


@dataclass
class Product:
    """A served project and how it is asked."""

    project: Project
    kinds: tuple[str, ...]
    form: str = ""

    def spec(self, kind: str, bad: tuple[str, ...] = ()) -> Spec:
        if kind == "enriched":
            return Spec(self.project.port, asks.path(kind), asks.enriched(), asks.HEADERS)
        bodies = [asks.body(self.form, row) for row in rows()]
        return Spec(self.project.port, asks.path(kind), bodies, asks.HEADERS, bad)


def rows(count: int = 64) -> list[list[float]]:
    return [[round(v, 6) for v in row] for row in models.data()[0][:count].tolist()]


def bad_row(how: str) -> list[Any]:
    """Return a row with one fault: a number too few, a null, or a text among the numbers."""
    row: list[Any] = list(rows(1)[0])
    if how == "width":
        return row[:-1]
    row[3] = None if how == "null" else "x"
    return row


def routes(project: Project, files: dict[str, Path], *, enriched: bool = True) -> dict[str, Any]:
    """Write every model's champion and candidate as artifacts; return their routes."""
    fitted, X, found = models.fit(), models.data()[0], {}
    given: dict[str, Any] = dict(fitted)
    if "onnx" in files:
        given["onnx"] = files["onnx"].read_bytes()
    for kind, estimator in given.items():
        champion = project.artifact(kind, "v1", estimator, plain_service(kind), X[:256])
        candidate = project.artifact(kind, "v2", estimator, plain_service(kind), X[:256], trusted=False)
        found[kind] = split(kind, champion, candidate)
    native = project.artifact("lr-native", "v1", fitted["lr"], plain_service("lr-native"), X[:256], lower=False)
    found["lr-native"] = split("lr-native", native, None)
    if enriched:
        project.fill()
        champion = project.artifact("enriched", "v1", fitted["lr"], enriched_service("enriched"), X[:256])
        found["enriched"] = split("enriched", champion, None)
    return found


@contextlib.contextmanager
def product(folder: Path, files: dict[str, Path], *, log: str = "durable", grpc: bool = False) -> Iterator[Product]:
    """Serve by one worker process."""
    project = Project(folder, log=log, grpc_port=free_port() if grpc else 0)
    table = routes(project, files)
    try:
        with project.alone(table):
            ours = Product(project, tuple(table), asks.form(project, "lr", rows(1)[0]))
            prove(ours)
            yield ours
    finally:
        project.close()


def prove(ours: Product) -> None:
    """Refuse to time a server whose answers are not the model's."""
    k, truth = probe()
    for kind in (kind for kind in ours.kinds if kind != "enriched"):
        spec = ours.spec(kind)
        answer = ask(spec.port, spec.path, spec.bodies[k].encode(), spec.headers)
        right = truth["lr" if kind.startswith("lr") else kind]
        if answer.status != 200 or not near(asks.value(answer.body), right):
            raise SystemExit(f"{kind} answers {answer.status} {answer.body[:300]!r}; the model says {right:.6g}")


def probe() -> tuple[int, dict[str, float]]:
    """Return which of the rows asked has a probability near a half, and what each kind has to answer to it."""
    found = models.answers(np.array(rows()))
    k = int(abs(found["lr"] - 0.5).argmin())
    return k, {kind: float(values[k]) for kind, values in found.items()}


def near(value: float, right: float) -> bool:
    """Return whether a value is the model's, but for float32 inside."""
    return abs(value - right) <= 1e-4 * max(1.0, abs(right))

"""Pure modules take `now` and `rng` as arguments; their syntax trees are walked for every other clock or dice."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "flyball"
PURE = (
    "features/kernel", "profiles", "experiments", "rollout/definitions", "rollout/judging", "rollout/evidence/accounts",
    "serving/routing/router.py",
)  # fmt: skip
CLOCKS = {"now", "today", "utcnow", "sleep", "open", "perf_counter", "monotonic", "monotonic_ns", "time_ns"}
DICE = {"random", "secrets", "uuid"}
UNSEEDED = {"rand", "randn", "randint", "random_sample", "seed", "shuffle", "permutation", "choice"}


def pure_files() -> list[Path]:
    found: list[Path] = []
    for name in PURE:
        path = SOURCE / name
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []
    return found


def impurities(source: str) -> list[str]:
    """Return "line N: what" of each thing a pure module may not do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what = _import(node) or _call(node)
        if what:
            found.append(f"line {node.lineno}: {what}")
    return found


def _import(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        bad = [a.name for a in node.names if a.name.split(".")[0] in DICE | {"time"}]
    elif isinstance(node, ast.ImportFrom):
        bad = [node.module or ""] if (node.module or "").split(".")[0] in DICE | {"time"} else []
    else:
        bad = []
    return f"imports {bad[0]}" if bad else ""


def _call(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    path = _dotted(node.func)
    last = path.rpartition(".")[2]
    if last in CLOCKS or path in {"time.time", "read_text", "write_text"}:
        return f"calls {path}()"
    if last == "default_rng" and (not node.args and not node.keywords):
        return f"calls {path}() without a seed"
    if ".random." in f".{path}" and last in UNSEEDED:
        return f"calls {path}() of the global generator"
    return ""


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_pure_modules_are_pure() -> None:
    found = {str(p.relative_to(SOURCE)): impurities(p.read_text()) for p in pure_files()}
    assert {path: what for path, what in found.items() if what} == {}


def test_there_are_pure_modules_to_look_at() -> None:
    rooms = {p.relative_to(SOURCE).parts[0] for p in pure_files()}
    assert rooms == {"features", "profiles", "experiments", "rollout", "serving"}


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("from datetime import datetime\nx = datetime.now()", "line 2: calls datetime.now()"),
        ("import datetime\nx = datetime.date.today()", "line 2: calls datetime.date.today()"),
        ("import time", "line 1: imports time"),
        ("from time import time as t", "line 1: imports time"),
        ("def f(clock):\n    clock.sleep(1)", "line 2: calls clock.sleep()"),
        ("with open('x') as f:\n    pass", "line 1: calls open()"),
        ("p.open()", "line 1: calls p.open()"),
        ("import random", "line 1: imports random"),
        ("import numpy as np\nr = np.random.default_rng()", "line 2: calls np.random.default_rng() without a seed"),
        ("import numpy as np\nr = np.random.rand(3)", "line 2: calls np.random.rand() of the global generator"),
    ],
)
def test_a_planted_violation_is_caught(planted: str, expected: str) -> None:
    assert impurities(planted) == [expected]


def test_seeded_randomness_and_given_times_are_fine() -> None:
    fine = "def f(now, rng):\n    return now, rng.random(), rng.choice([1]), np.random.default_rng(7)"
    assert impurities(fine) == []

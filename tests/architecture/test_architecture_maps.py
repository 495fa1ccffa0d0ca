"""The map of a room that has many modules names each of them."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import flyball.features
import flyball.rollout


@pytest.mark.parametrize("room", [flyball.features, flyball.rollout], ids=lambda room: room.__name__)
def test_the_map_names_every_module_and_no_other(room: ModuleType) -> None:
    folder = Path(str(room.__file__)).parent
    there = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    entries = re.sub(r"\([^()]*\)", "", room.__doc__ or "")
    lines = [line[18:] for line in entries.splitlines() if line.startswith("    ")]
    named = set(re.findall(r"[a-z_]+", " ".join(lines))) - {"and"}
    assert named == there - {"__init__"}

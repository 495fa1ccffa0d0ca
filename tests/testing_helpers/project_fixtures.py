"""Fixtures over project_kit: one trained project a session, copied for whoever changes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import project_kit as kit
import pytest

from flyball.project import Project

__all__ = ["small", "temp", "trained", "trained_template"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project folder, nothing applied."""
    return kit.write_project(tmp_path / "small")


@pytest.fixture(scope="session")
def trained_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with v1 champion and v2 candidate; read only, copy it to change it."""
    return kit.write_trained(tmp_path_factory.mktemp("template") / "small")


@pytest.fixture
def trained(trained_template: Path, tmp_path: Path) -> Path:
    """A copy of the trained project."""
    return kit.copy_of(trained_template, tmp_path / "trained")


@pytest.fixture
def temp(tmp_path: Path) -> Iterator[Project]:
    """A temporary project, nothing trained."""
    with kit.temporary(tmp_path / "temp") as project:
        yield project

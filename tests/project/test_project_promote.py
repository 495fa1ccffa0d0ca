"""Promotions by hand that meet one another, a rollout, or a crash."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flyball.control.versions import Versions
from flyball.errors import Refused
from flyball.project import Project


def champions(project: Project) -> tuple[list[str], str]:
    """Return who is called champion, and who gets the traffic."""
    named = [v.version for v in project.models["eta"].versions if v.lifecycle == "champion"]
    return named, project.database.routing.current().models["eta"].champion.version


def test_two_promotions_at_once_end_with_one_champion_that_gets_the_traffic(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_lifecycle, first = Versions.set_lifecycle, threading.Event()

    def slowly(self: Versions, model: str, version: str, *given: object, **named: object) -> object:
        if version == "v2":
            first.set()
            other.join(0.3)  # time enough for the other one to overtake, if nothing holds it back
        return set_lifecycle(self, model, version, *given, **named)

    def promote(version: str) -> None:
        with Project.open(trained) as project:
            project.models["eta"].promote(version)

    with Project.open(trained) as project:
        project.models["eta"].promote("v2")
        project.models["eta"].promote("v1")
    monkeypatch.setattr(Versions, "set_lifecycle", slowly)
    one = threading.Thread(target=promote, args=("v2",))
    other = threading.Thread(target=lambda: (first.wait(10), promote("v1")))
    one.start()
    other.start()
    one.join(20)
    other.join(20)
    with Project.open(trained) as project:
        named, routed = champions(project)
        assert named == [routed]


def test_a_promotion_that_died_between_table_and_lifecycle_can_be_repeated_or_taken_back(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with Project.open(trained) as project:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Versions, "set_lifecycle", died)
            project.models["eta"].promote("v2")
        assert champions(project) == (["v1"], "v2")
        project.models["eta"].promote("v1")
        assert champions(project) == (["v1"], "v1")


def test_a_candidate_is_not_retired_while_its_rollout_runs(trained: Path) -> None:
    with Project.open(trained) as project:
        project.rollout("eta", "v2").start()
        with pytest.raises(Refused, match="use: flyball rollout abort v2"):
            project.models["eta"].retire("v2")

"""`flyball exp`: the life of an experiment on a real project, and the statistics on files, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import project_kit as kit
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from flyball.cli.app import run
from flyball.project import Project

DESIGN = """
name = "minutes"
hypothesis = "v2 is no slower"
model = "eta"
arms = {champion = "50%", v2 = "50%"}

[[metrics]]
name = "minutes"
of = "outcome"
direction = "down"
window = "7d"
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        found = run([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert found == code, err
        return json.loads(out) if "--json" in arguments and code < 2 else out + err

    return call


def test_an_experiment_lives_on_the_command_line(trained: Path, tmp_path: Path, cli: Any) -> None:
    design = tmp_path / "minutes.toml"
    design.write_text(DESIGN)
    here = ("-p", trained)
    assert cli("exp", "start", "--file", design, "--dry-run", "--json", *here)["served"]["v2"] == "v2"
    assert cli("exp", "list", "--json", *here) == []
    assert cli("exp", "start", "--file", design, "--json", *here)["state"] == "running"
    with Project.open(trained) as project:
        ask = kit.caller(project)
        ask.ask(60)
        ask.http.close()
    shown = cli("exp", "show", "minutes", "--json", *here)
    assert shown["units"] == 60 and shown["coverage"]["minutes"] == 0.0
    assert "sample ratio: passing" in cli("exp", "show", "minutes", *here)
    assert "running" in cli("exp", "list", *here)
    assert cli("exp", "srm", "minutes", "--json", *here)["verdict"] == "passing"
    design.write_text(DESIGN.replace("no slower", "faster"))
    assert "may not change once units see it" in cli("exp", "start", "--file", design, *here, code=1)
    assert cli("exp", "stop", "minutes", "--reason", "enough", "--json", *here)["state"] == "stopped"
    assert cli("exp", "archive", "minutes", "--json", *here)["archived"] is True
    assert cli("exp", "list", "--json", *here) == []
    assert len(cli("exp", "list", "--archived", "--json", *here)) == 1


def _visits(folder: Path, lift: float) -> Path:
    rng = np.random.default_rng(4)
    new = rng.random(20_000) < 0.5
    paid = rng.random(20_000) < np.where(new, 0.10 + lift, 0.10)
    table = pa.table({"arm": np.where(new, "new", "old"), "paid": paid, "spend": rng.gamma(2, 3, 20_000)})
    pq.write_table(table, folder / "visits.parquet")
    pc.write_csv(table, folder / "visits.csv")
    return folder / "visits.parquet"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_is_judged_without_a_project(tmp_path: Path, cli: Any, suffix: str) -> None:
    table = _visits(tmp_path, 0.02).with_suffix(suffix)
    how = ("--metric", "paid:proportion", "--control", "old")
    found = cli("exp", "analyze", "--table", table, *how, "--json")
    assert found["outcome"] == "ship" and found["winner"] == "new"
    assert "new raises paid" in cli("exp", "analyze", "--table", table, *how)


def test_harm_makes_the_command_fail(tmp_path: Path, cli: Any) -> None:
    table = _visits(tmp_path, -0.02)
    found = cli("exp", "analyze", "--table", table, "--metric", "paid:proportion", "--control", "old", "--json", code=1)
    assert found["outcome"] == "keep the control"


def test_a_sample_ratio_mismatch_makes_the_command_fail(tmp_path: Path, cli: Any) -> None:
    assert cli("exp", "srm", "old=5000", "new=5000", "--json")["verdict"] == "passing"
    found = cli("exp", "srm", "old=5000", "new=4500", "--json", code=1)
    assert found["verdict"] == "failed" and found["numbers"]["p"] == pytest.approx(2.9e-7, rel=0.05)  # chi-square 26.3
    assert "name the same arms" in cli("exp", "srm", "old=5000", "new=2500", "--share", "old=1", code=2)
    table = _visits(tmp_path, 0.0)
    assert cli("exp", "srm", "--table", table, "--json")["verdict"] == "passing"


def test_power_says_units_and_days(cli: Any) -> None:
    found = cli("exp", "power", "--kind", "mean", "--sd", 10, "--effect", 5, "--per-day", 20, "--json")
    assert found["plan"]["n"] == [64, 64]  # Cohen (1988): d = 0.5, 80 %
    assert found["duration"]["days"] == 7
    assert "--base" in cli("exp", "power", "--relative", 0.1, code=2)


def test_interleaving_and_policies_are_judged_from_files(tmp_path: Path, cli: Any) -> None:
    pq.write_table(pa.table({"credit": [1.0, 1, 1, -1, 1, 0, 1, 1, 1, 1]}), tmp_path / "votes.parquet")
    assert cli("exp", "interleave", tmp_path / "votes.parquet", "--json")["effect"] == pytest.approx(7 / 9)
    rng = np.random.default_rng(2)
    action = rng.integers(0, 2, 20_000)
    log = {"action": action, "reward": rng.random(20_000) < np.where(action == 1, 0.3, 0.1)}
    whole = pa.table({**log, "propensity": np.full(20_000, 0.5)})
    pq.write_table(whole.set_column(1, "reward", whole["reward"].cast(pa.float64())), tmp_path / "log.parquet")
    found = cli("exp", "ope", tmp_path / "log.parquet", "--policy", "0,1", "--json")
    assert all(value["lower"] < 0.3 < value["upper"] for value in found) and len(found) == 3
    pq.write_table(whole.drop_columns("propensity"), tmp_path / "blind.parquet")
    assert "propensities" in cli("exp", "ope", tmp_path / "blind.parquet", "--policy", "0,1", code=1)

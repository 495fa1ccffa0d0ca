"""What `flyball model list` shows of one model, and of several."""

from __future__ import annotations

from flyball.cli.model import _print_versions


def version(model, name, metrics):
    return {
        "model": model, "version": name, "lifecycle": "champion", "gate": "passing", "metrics": metrics,
        "cause": "manual", "created": "2026-03-01T00:00:00Z",
    }  # fmt: skip


def test_versions_of_several_models_are_told_apart(capsys):
    _print_versions([version("eta", "v1", {"mae": 2.0}), version("churn", "v1", {"auc": 0.9, "brier": 0.1})])
    head, eta, churn = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "version"] and "mae or auc" in head
    assert eta.split()[:1] == ["eta"] and " 2 " in eta
    assert churn.split()[:1] == ["churn"] and " 0.9 " in churn


def test_a_classifier_is_listed_with_its_auc(capsys):
    _print_versions([version("churn", "v1", {"auc": 0.9})])
    assert capsys.readouterr().out.split()[:4] == ["version", "lifecycle", "gate", "auc"]


def test_a_model_without_versions_lists_none(capsys):
    _print_versions([])
    assert "nothing yet" in capsys.readouterr().out

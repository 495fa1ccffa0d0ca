"""A model whose entity is personal: the log holds a hash of it, and skew, explanation, audit and erasure know."""

from __future__ import annotations

import project_kit as kit
import pytest

from flyball.project import Project
from flyball.records.redact import scan
from flyball.records.types import Prediction
from flyball.testing.in_process import client


@pytest.fixture
def served(trained):
    """A project that answered for zones 1 and 2, zone hashed and distance encrypted in its log."""
    (trained / "cipher.txt").write_text("a key of encryption")
    toml = trained / "flyball.toml"
    text = toml.read_text()
    line = 'encryption_key = "file:cipher.txt"\n'
    toml.write_text(
        text.replace("[server]\n", "[server]\n" + line) if "[server]" in text else f"{text}\n[server]\n{line}"
    )
    personal = 'serving=fb.Serving(personal={"zone": "hash", "distance": "encrypt"}),\n    label=fb.Label("minutes"'
    kit.edit(trained, ('label=fb.Label("minutes"', personal))
    with Project.open(trained) as project:
        project.apply()
        with client(project) as http:
            rows = [{"zone": zone, "distance": 2.5} for zone in (1, 2, 2)]
            ids = [http.infer("eta", [row])["prediction_id"] for row in rows]
        yield project, ids


def logged(project):
    return [r for _, _, _, records in scan(project.layout.log) for r in records if isinstance(r, Prediction)]


def test_explaining_shows_a_hash_reveals_what_is_encrypted_and_is_audited(served):
    project, ids = served
    keys = project.personal_keys()
    shown = project.explain(ids[0])["inputs"]
    assert shown["zone"] == keys.hashed(1)
    assert shown["distance"].startswith("e:")
    assert project.explain(ids[0], reveal=True)["inputs"] == {"zone": keys.hashed(1), "distance": 2.5}
    assert [e.action for e in project.audit.list(subject=ids[0])] == ["log read: explained", "log read: revealed"]


def test_skew_says_what_it_cannot_ask_history_for(served):
    project, _ = served
    (version,) = project.features.skew().versions
    assert version.skipped == (
        "distance, zone is kept protected in the log (personal), so history cannot be asked for it"
    )


def test_an_erasure_finds_a_subject_by_its_hash(served):
    project, _ = served
    assert len(logged(project)) == 3
    project.features.erase({"zone": 2})
    (left,) = logged(project)
    assert left.inputs["zone"] == project.personal_keys().hashed(1)

"""Python transforms through the whole loop: they run from the applied code, beside the model, until the next apply."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import project_kit as kit
import pytest

from flyball.errors import IntegrityError
from flyball.project import Project

HELPERS = "BY = 100.0\n\n\ndef add(x):\n    return x + BY\n"
DERIVE = 'derive={"minutes": "(dropoff_at - pickup_at) / 1m"'
MEAN = '    fb.mean("minutes_24h", of="minutes", window="24h", default=0.0),\n'
COMPUTED = """\
    fb.mean("plus_24h", of="plus", window="24h"),
    fb.computed("more_24h", fb.python(add, of=["minutes_24h"])),
"""
FIELD = 'features=[traffic, fb.Field("distance", float)'
REQUEST = """, fb.python(add, of=["distance"], name="far"),
              fb.ratio("distance", "traffic:minutes_24h", zero=0.0, name="share"), fb.cyclic("pickup_at", "day")"""
EDITS = (
    ("import flyball as fb\n", "import flyball as fb\nfrom helpers import add\n"),
    (DERIVE, DERIVE + ', "plus": fb.python(add, of=["minutes"])'),
    (MEAN, MEAN + COMPUTED),
    (FIELD, FIELD + REQUEST),
)
ASK = """
import json, sys
from flyball.project import Project
from flyball.testing.in_process import client
with Project.open(sys.argv[1]) as project, client(project) as gateway:
    answer = gateway.infer("eta", [{"zone": 1, "distance": 2.0}])
    online = project.features.online([{"zone": 1}], ["traffic"]).to_dicts()[0]
    explained = project.explain(answer["prediction_id"] if "prediction_id" in answer else answer["predictions"][0]["id"])
print(json.dumps({"answer": answer, "online": online, "explained": explained}, default=str))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = kit.write_project(tmp_path_factory.mktemp("python"))
    (folder / "helpers.py").write_text(HELPERS)
    kit.edit(folder, *EDITS)
    with Project.open(folder) as project:
        project.apply()
        project.models["eta"].promote(kit.train_here(project))
    return folder


def _ask(folder: Path) -> dict[str, Any]:
    """Serve one request in a new process, which knows the project's code only from its snapshots."""
    done = subprocess.run([sys.executable, "-c", ASK, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_editing_the_module_changes_a_live_version_only_after_apply(folder: Path) -> None:
    before = _ask(folder)
    assert before["online"]["more_24h"] == pytest.approx(before["online"]["minutes_24h"] + 100)
    assert before["online"]["plus_24h"] == pytest.approx(before["online"]["minutes_24h"] + 100)
    with Project.open(folder) as project:
        old = {view.name: view.digest for view in project.applied.view_specs}
    (folder / "helpers.py").write_text(HELPERS.replace("100.0", "500.0"))
    after = _ask(folder)
    assert (after["online"], after["answer"]["predictions"]) == (before["online"], before["answer"]["predictions"])
    with Project.open(folder) as project:
        changes = project.apply(dry_run=True)
        assert any(c.kind == "view" and c.name == "traffic" for c in changes.changes), changes
        project.apply(**({"force": True} if "force" in Project.apply.__kwdefaults__ else {}))
        assert {view.name: view.digest for view in project.applied.view_specs} != old
    third = _ask(folder)
    assert third["online"]["more_24h"] == pytest.approx(third["online"]["minutes_24h"] + 500)
    assert (
        third["answer"]["predictions"] == before["answer"]["predictions"]
    )  # the version keeps the code it was trained with


def test_a_changed_snapshot_is_refused(folder: Path) -> None:
    from flyball.adapters.local.snapshots import _read
    from flyball.features import callables
    from flyball.features.spec import CodeRef

    with Project.open(folder) as project:
        entries = _read(project.layout.state / "code.json")
        assert entries
        for entry in entries.values():
            path = project.layout.code / entry.code / "helpers.py"
            text = path.read_text()
            path.write_text(text + "\n")
            try:
                done = subprocess.run(
                    [sys.executable, "-c", ASK, str(folder)], capture_output=True, text=True, check=False
                )
                assert done.returncode != 0 and "was changed after it was written" in done.stderr
            finally:
                path.write_text(text)
            break
        with pytest.raises(IntegrityError, match="not declared"):
            callables.known(CodeRef("helpers:add", "0" * 32))

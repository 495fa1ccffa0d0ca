"""Code snapshots: by digest, side by side, with sibling imports."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from flyball.errors import ConfigError, DefinitionError, IntegrityError
from flyball.layout import Layout
from flyball.registry.code import code_digest, load_definitions, snapshot_code


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "helpers.py").write_text("FACTOR = 2\nclass Thing:\n    pass\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("from .deep import DEPTH\n")
    (tmp_path / "pkg" / "deep.py").write_text("import helpers\nDEPTH = helpers.FACTOR * 10\n")
    (tmp_path / "definitions.py").write_text(
        "import json\nimport helpers\nimport pkg.deep\nfrom helpers import Thing\nfrom pkg import DEPTH\n"
        "def late():\n    import helpers as again\n    return again.FACTOR, pkg.deep.DEPTH\n"
    )
    for skipped in (".venv", ".flyball", ".hidden", "env"):
        (tmp_path / skipped).mkdir()
        (tmp_path / skipped / "noise.py").write_text("boom")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    return tmp_path


def layout_of(root: Path) -> Layout:
    return Layout(root, root / ".flyball")


def test_snapshot_holds_the_projects_python_and_nothing_else(root: Path) -> None:
    layout = layout_of(root)
    digest = snapshot_code(root, layout)
    kept = sorted(p.relative_to(layout.code / digest).as_posix() for p in (layout.code / digest).rglob("*.py"))
    assert kept == ["definitions.py", "helpers.py", "pkg/__init__.py", "pkg/deep.py"]
    assert snapshot_code(root, layout) == digest == code_digest(root, layout)


def test_siblings_import_each_other_also_late(root: Path) -> None:
    digest = snapshot_code(root, layout_of(root))
    module = load_definitions(layout_of(root).code / digest, "definitions.py")
    assert module.late() == (2, 20)
    assert module.DEPTH == 20
    assert "helpers" not in sys.modules
    assert not list((layout_of(root).code / digest).rglob("__pycache__"))


def test_two_versions_run_side_by_side(root: Path) -> None:
    layout = layout_of(root)
    old = load_definitions(layout.code / snapshot_code(root, layout), "definitions.py")
    (root / "helpers.py").write_text("FACTOR = 3\nclass Thing:\n    pass\n")
    new = load_definitions(layout.code / snapshot_code(root, layout), "definitions.py")
    assert (old.late(), new.late()) == ((2, 20), (3, 30))
    assert old.Thing is not new.Thing
    assert type(pickle.loads(pickle.dumps(old.Thing()))) is old.Thing


def test_an_edited_project_is_read_again(root: Path) -> None:
    assert load_definitions(root, "definitions.py").DEPTH == 20
    (root / "helpers.py").write_text("FACTOR = 4\nclass Thing:\n    pass\n")
    assert load_definitions(root, "definitions.py").DEPTH == 40


def test_a_changed_snapshot_is_refused(root: Path) -> None:
    layout = layout_of(root)
    (root / "extra.py").write_text("x = 1\n")
    folder = layout.code / snapshot_code(root, layout)
    (folder / "extra.py").write_text("x = 2\n")
    with pytest.raises(IntegrityError, match="was changed"):
        load_definitions(folder, "definitions.py")
    with pytest.raises(IntegrityError, match="was changed"):
        snapshot_code(root, layout)


def test_errors_of_the_users_module_are_one_sentence(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no other\.py"):
        load_definitions(root, "other.py")
    (root / "definitions.py").write_text("def broken(:\n")
    with pytest.raises(DefinitionError, match=r"definitions\.py line 1 is not valid Python"):
        load_definitions(root, "definitions.py")
    (root / "definitions.py").write_text("import helpers\n")
    (root / "helpers.py").write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(DefinitionError, match=r"helpers\.py line 2 raised ZeroDivisionError"):
        load_definitions(root, "definitions.py")

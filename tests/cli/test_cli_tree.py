"""The command line's tree, without a project."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from flyball.cli.app import TREE, LazyGroup, run


def verbs(tree: dict, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    found = []
    for name, entry in tree.items():
        if isinstance(entry[1], dict):
            found += verbs(entry[1], (*prefix, name))
        else:
            found.append(((*prefix, name), entry[1]))
    return found


ALL = verbs(TREE)


@pytest.mark.parametrize("path", [p for p, _ in ALL], ids=" ".join)
def test_every_verb_has_help_and_prints_json(path, capsys):
    assert run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: flyball" in text
    assert "--json" in text or path == ("up",)


def test_help_names_every_verb(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in TREE)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from flyball.cli.app import run; run(['--help']);"
        "heavy = {'numpy', 'pyarrow', 'pandas', 'sqlalchemy', 'duckdb', 'sklearn', 'mlflow', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_verb_names_the_nearest(capsys):
    assert run(["rollot"]) == 2
    assert "did you mean rollout?" in capsys.readouterr().err


def test_an_unknown_verb_of_a_group_names_the_nearest(capsys):
    assert run(["model", "promot"]) == 2
    assert "did you mean promote?" in capsys.readouterr().err


def test_a_missing_project_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    assert run(["status", "-p", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flyball: ")
    assert "flyball.toml" in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(tmp_path, capsys):
    run(["--debug", "status", "-p", str(tmp_path)])
    assert "Traceback" in capsys.readouterr().err


def test_init_writes_a_project_and_refuses_to_write_over_one(tmp_path, capsys):
    folder = tmp_path / "mine"
    assert run(["init", str(folder), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["files"]
    assert [p.rpartition("/")[2] for p in written] == ["flyball.toml", "definitions.py", "history.parquet"]
    assert run(["init", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_groups_are_click_groups():
    group = LazyGroup("flyball", TREE, "text")
    context = click.Context(group)
    assert isinstance(group.get_command(context, "model"), LazyGroup)
    assert group.get_command(context, "nothing") is None

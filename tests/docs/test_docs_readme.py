"""The README does what it says."""

from __future__ import annotations

import pytest
from docs_kit import ROOT, blocks, run_python, run_session

README = ROOT / "README.md"


def under(heading, *languages):
    return [b for b in blocks(README, *languages) if b.heading == heading]


def test_the_quickstart_runs_as_printed(tmp_path):
    said = run_session(under("Quickstart", "shell", "python"), tmp_path, seconds=140)
    assert "v1 [1" in said  # the answer, in the tens of minutes
    assert "there was no candidate" in said  # explain: why this arm
    assert "PRESENT" in said  # explain: each feature's status
    assert "up, http://127.0.0.1" in said  # status


def test_the_notebook_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = run_python(under("In a notebook", "python"), README)
    assert namespace["run"].state == "succeeded"
    printed = capsys.readouterr().out
    assert "minutes_24h" in printed
    assert float(printed.rpartition("[")[2].rstrip("]\n")) == pytest.approx(16, abs=1)


@pytest.mark.parametrize(
    ("heading", "said"), [("Releases", "guardrail errors is breached"), ("Experiments", "ship new")]
)
def test_the_block_runs_and_says_what_the_text_promises(heading, said, capsys):
    run_python(under(heading, "python"), README)
    assert said in capsys.readouterr().out


def test_the_two_commands_are_recipes():
    text = (ROOT / "Makefile").read_text()
    for line in under("Two commands", "console")[0].text.splitlines():
        assert f"\n{line.removeprefix('$ make ')}: " in text


ROOTS = [f"/{name}/" for name in ("work", "root", "home")]


@pytest.mark.parametrize("word", ["http://localhost", *ROOTS, "index-url", "py" + "pi."])
def test_no_page_names_a_machine_or_a_registry(word):
    pages = [README, *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    assert [str(p.relative_to(ROOT)) for p in pages if word in p.read_text(encoding="utf-8")] == []

"""Who may import whom, and what `import flyball` may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "pyarrow", "mlflow", "pandas", "sklearn", "scipy", "duckdb", "sqlalchemy")


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[done.stdout.find("Contracts") :] + done.stderr


def test_each_domain_has_a_contract() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    guarded = {module for contract in contracts for module in contract.get("source_modules", ())}
    domains = contracts[0]["layers"][3].split(" : ")
    assert guarded == {f"flyball.{domain}" for domain in domains}


def test_importing_flyball_loads_nothing_heavy() -> None:
    loaded = run(f"import sys, flyball; print(*[m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == ""


@pytest.mark.parametrize("module", ["flyball.config", "flyball.errors", "flyball.control", "flyball.settings"])
def test_what_every_command_needs_is_light_too(module: str) -> None:
    loaded = run(f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == ""


def test_every_public_name_resolves() -> None:
    import flyball

    missing = []
    for name in flyball.__all__:
        try:
            getattr(flyball, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert missing == []


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import flyball

    assert not hasattr(flyball, "no_such_name")

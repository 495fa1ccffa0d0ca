"""What every test runs under: one thread per library, seeded properties, no user's settings."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported: two cores are shared by all test processes
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import pytest  # noqa: E402 the threads must be set first
from hypothesis import HealthCheck, settings  # noqa: E402

_quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("local", deadline=None, suppress_health_check=_quiet)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, suppress_health_check=_quiet)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("FLYBALL_")]:
        monkeypatch.delenv(name)

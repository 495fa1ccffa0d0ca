"""A feature service by name, in a project: applied, asked for online and in history, read by a model."""

from __future__ import annotations

import asyncio

import project_kit as kit
import pyarrow as pa
import pytest

import flyball as fb
from flyball.errors import UnknownName

SERVICE = '\nbusy = fb.FeatureService("busy", features=["traffic:minutes_24h", traffic["trips_1h"]], owner="ana")\n'


@pytest.fixture
def project(tmp_path):
    text = kit.DEFINITIONS.replace("\n\ndef train(", SERVICE + "\n\ndef train(").replace(
        "features=[traffic", "features=[busy"
    )
    assert "features=[busy" in text
    made = kit.temporary(tmp_path, text=text)
    yield made
    made.close()


def test_a_service_is_asked_for_by_name_online_and_in_history(project):
    project.apply()
    rows = [{"zone": 1}, {"zone": 99}]
    online = project.features.online(rows, ["busy"], at=kit.NOW)
    assert online.names == ("minutes_24h", "trips_1h")
    requests = pa.table({"zone": [1, 99], "at": pa.array([kit.NOW] * 2, pa.timestamp("us", tz="UTC"))})
    past = project.features.history(requests, ["busy"], at="at")
    assert past.names == online.names
    assert past.to_arrow()["trips_1h"].to_pylist() == [row["trips_1h"] for row in online.to_dicts()]
    waited = asyncio.run(project.features.aonline(rows, ["busy"], at=kit.NOW))
    assert waited.to_dicts() == online.to_dicts()
    with pytest.raises(UnknownName, match="feature view or service named 'buisy'; did you mean busy"):
        project.features.online(rows, ["buisy"])


def test_a_model_reads_its_service_in_the_service_s_order(project):
    model = project.working.model("eta")
    assert model.service.names[:2] == ("minutes_24h", "trips_1h")
    assert [v.name for v in model.views] == ["traffic"]
    assert isinstance(project.working.service("busy"), fb.FeatureService)

"""FastAPI with Feast's online store behind it: what a team writes by hand to predict from stored features.

Run by the environment's own Python as `feast_online.py MODEL PORT FOLDER sqlite|redis REDIS_PORT WORKERS`. The store
holds the same number of features per entity (20, as rows: Feast has no windows at read); a request carries the key and
ten numbers, as ours does.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

TITLE = "FastAPI + Feast 0.67"
REQUIRES = ("feast[redis]==0.67.*", "fastapi", "uvicorn[standard]", "scikit-learn==1.9.1", "joblib")
PATH = "/predict"
ENTITIES = 1_000
FEATURES = [f"rows:f{i}" for i in range(20)]


def body(thing, numbers):
    return json.dumps({"thing": thing, "numbers": numbers})


def open_store(folder, kind, port, *, fill):
    import numpy as np
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    online = {"type": "sqlite", "path": f"{folder}/online.db"}
    if kind == "redis":
        online = {"type": "redis", "connection_string": f"localhost:{port}"}
    store = FeatureStore(config=RepoConfig(project="bench", provider="local", registry=f"{folder}/registry.db",
                                           online_store=online, offline_store={"type": "file"},
                                           entity_key_serialization_version=3))  # fmt: skip
    if not fill:
        return store
    rng = np.random.default_rng(1)
    values = {f"f{i}": rng.random(ENTITIES) for i in range(20)}
    frame = pd.DataFrame({"thing": np.arange(ENTITIES), "at": [datetime.now(UTC)] * ENTITIES, **values})
    frame.to_parquet(f"{folder}/rows.parquet")
    thing = Entity(name="thing", join_keys=["thing"], value_type=ValueType.INT64)
    fields = [Field(name="thing", dtype=Int64), *(Field(name=name, dtype=Float64) for name in values)]
    source = FileSource(path=f"{folder}/rows.parquet", timestamp_field="at")
    view = FeatureView(name="rows", entities=[thing], ttl=timedelta(days=2), source=source, schema=fields)
    store.apply([thing, view])
    store.write_to_online_store("rows", df=frame)
    return store


def application():
    """Make the app of one worker; what it needs is in the environment, as uvicorn's workers are new processes."""
    import joblib
    import numpy as np
    from fastapi import FastAPI, Request

    model, _, folder, kind, port, _ = json.loads(os.environ["BENCH_FEAST"])
    app, predict = FastAPI(), joblib.load(model).predict_proba
    store = open_store(folder, kind, port, fill=False)

    @app.post(PATH)
    async def infer(request: Request):
        asked = await request.json()
        found = store.get_online_features(features=FEATURES, entity_rows=[{"thing": asked["thing"]}]).to_dict()
        row = [found[name.removeprefix("rows:")][0] for name in FEATURES] + asked["numbers"]
        return {"probability": float(predict(np.asarray([row], dtype=np.float64))[0, 1])}

    return app


if __name__ == "__main__":
    import uvicorn

    given = sys.argv[1:]
    open_store(given[2], given[3], given[4], fill=True)
    os.environ["BENCH_FEAST"] = json.dumps(given)
    uvicorn.run("feast_online:application", factory=True, port=int(given[1]), access_log=False, log_level="error",
                workers=int(given[5]), app_dir=str(Path(__file__).parent))  # fmt: skip

"""The peer of pit_join.py: Feast's point-in-time join over the same files; run by Feast's own Python.

Called as `python feast_join.py FOLDER dask|duckdb`; FOLDER holds s0.parquet, s1.parquet, ... and requests.parquet.
Prints one JSON object: seconds, peak GiB, and how many answers differ from the newest row by (event, created).
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import timedelta
from pathlib import Path
from time import perf_counter


def main(folder: Path, engine: str) -> None:
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    names = sorted(p.stem for p in folder.glob("s*.parquet"))
    config = RepoConfig(
        project="peer",
        provider="local",
        registry=str(folder / f"{engine}.registry"),
        entity_key_serialization_version=3,
        offline_store={"type": engine},
        online_store={"type": "sqlite", "path": str(folder / f"{engine}.online")},
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=f"v{k}", entities=[user], ttl=timedelta(days=7), schema=[Field(name="value", dtype=Float64)],
            source=FileSource(
                path=str(folder / f"{n}.parquet"), timestamp_field="at", created_timestamp_column="learned"
            ),
        )
        for k, n in enumerate(names)
    ]  # fmt: skip
    store.apply([user, *views])
    requests = pd.read_parquet(folder / "requests.parquet").rename(columns={"T": "event_timestamp"})
    requests["row"] = range(len(requests))
    started = perf_counter()
    found = store.get_historical_features(
        entity_df=requests, features=[f"{v.name}:value" for v in views], full_feature_names=True
    ).to_df()
    seconds = perf_counter() - started
    want = pd.read_parquet(folder / "corrected.parquet").set_index("row")
    mine = found.drop_duplicates("row").set_index("row").reindex(want.index)
    differ = sum(
        int(
            (
                ~(
                    (mine[f"v{k}__value"] == want[f"value{k}"])
                    | (mine[f"v{k}__value"].isna() & want[f"value{k}"].isna())
                )
            ).sum()
        )
        for k in range(len(names))
    )
    figures = {
        "seconds": seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "rows": len(found), "differ": differ, "answers": len(requests) * len(names),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

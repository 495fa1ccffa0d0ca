"""What a worker holds: with a lowered model none of the libraries that the model was made with, nor a database."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from flyball.features.spec import FeatureService, InputSpec, ServiceColumn
from flyball.registry.artifacts import write_artifact
from flyball.registry.formats import FILE_NAMES, serialize
from flyball.registry.lowering import find_lowering
from flyball.registry.predictor import Predictor
from flyball.registry.types import Manifest

FORBIDDEN = ("sklearn", "skops", "pandas", "scipy", "torch", "mlflow", "duckdb", "sqlalchemy", "joblib")
NAMES = ("distance", "speed")
SERVICE = FeatureService(
    "eta", "at", tuple(ServiceColumn(name, "field") for name in NAMES), tuple(InputSpec(n, "float64") for n in NAMES)
)
WORKER = """
import asyncio, json, os, signal, socket, sys, threading, urllib.error, urllib.request
from pathlib import Path
from flyball.config import load
from flyball.node import worker

config, listener, report = load(Path(sys.argv[1])), socket.create_server(("127.0.0.1", 0)), {}
listener.setblocking(False)

def ask():
    body = {"inputs": [{"name": n, "shape": [1], "datatype": "FP64", "data": [1.0]} for n in ("distance", "speed")]}
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/v2/models/eta/infer"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            report.update(json.load(answer))
    except urllib.error.HTTPError as error:
        report["refused"] = error.read().decode()
    finally:
        report["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
        Path(sys.argv[2]).write_text(json.dumps(report))
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask, daemon=True).start()
asyncio.run(worker.run(config, slot=0, sock=listener))
"""


def test_a_worker_that_serves_a_lowered_model_has_loaded_none_of_its_library(tmp_path: Path) -> None:
    from flyball.adapters.stores import open_store
    from flyball.config import load
    from flyball.disk import write_atomically
    from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
    from flyball.serving.http.access import Access
    from flyball.serving.shared.slots import SharedMap

    (tmp_path / "flyball.toml").write_text("[project]\nname = 'lowered'\n")
    config = load(tmp_path / "flyball.toml")
    layout = config.layout
    path = layout.artifacts / "eta" / "v1"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = RoutingTable(1, 1, 0, {"eta": ModelRoute("eta", "salt", VersionRef("v1", str(path), artifact(path), True))})
    layout.routing.mkdir(parents=True, exist_ok=True)
    layout.access.write_bytes(msgspec.json.encode(Access()))  # no keys: whoever is on this machine may ask
    write_atomically(layout.table(1), table.to_json())
    open_store(config.settings, layout, readonly=False, secret=config.secret).close()
    SharedMap.create(layout.map, slots=1).table_version = 1

    report = tmp_path / "report.json"
    command = [sys.executable, "-c", WORKER, str(tmp_path / "flyball.toml"), str(report)]
    done = subprocess.run(
        command, check=False, timeout=60, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert report.exists(), done.stderr[-2000:]
    found = json.loads(report.read_text())
    assert found.get("model_version") == "v1", found.get("refused", done.stderr[-2000:])
    assert sorted(set(FORBIDDEN) & set(found["modules"])) == []


def artifact(path: Path) -> str:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(300, len(NAMES)))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    kind, data = serialize(model)[:2]
    predictor = Predictor(model, NAMES)
    found = find_lowering(predictor, rows)
    assert found.chosen is not None, found.tried
    sample = io.BytesIO()
    np.save(sample, rows[:64])
    made = datetime(2026, 1, 1, tzinfo=UTC)
    manifest = Manifest("eta", "v1", "r", kind, {}, SERVICE, "d", "", made, classes=predictor.classes)
    files = {FILE_NAMES[kind]: data, "sample.npy": sample.getvalue(), found.chosen.file: found.data}
    return write_artifact(path, replace(manifest, lowered=found.chosen), files)[1]

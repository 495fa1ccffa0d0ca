"""BentoML: one service, one worker; with its adaptive batching (32 rows, 5 ms) and without."""

import json
from pathlib import Path

TITLE = "BentoML 1.4.39"
REQUIRES = ("bentoml==1.4.39", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("batching 32 / 5 ms", "no batching")
PATH = "/predict"

SERVICE = """
import typing

import bentoml
import numpy as np
from bench_model import load


@bentoml.service(workers=1, traffic={{"timeout": 30}}, metrics={{"enabled": False}}, logging={{"access": {{"enabled": False}}}})
class Bench:
    def __init__(self):
        self.predict_rows = load({kind!r}, {model!r})

    @bentoml.api({how})
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.predict_rows(np.asarray(rows, dtype=np.float64))
"""


def body(rows, kind):
    return json.dumps({"rows": rows}).encode()


def value(answer, kind):
    return json.loads(answer)[0]


def command(python, kind, model, port, folder, setting):
    how = "batchable=True, max_batch_size=32, max_latency_ms=5" if setting.startswith("batching") else ""
    (Path(folder) / "service.py").write_text(SERVICE.format(kind=kind, model=model, how=how))
    path = f"PYTHONPATH={Path(__file__).parent}"
    bento = str(Path(python).parent / "bentoml")
    return ["/usr/bin/env", path, f"BENTOML_HOME={folder}/home", bento, "serve", "service:Bench", "--host",
            "127.0.0.1", "--port", str(port), "--working-dir", folder]  # fmt: skip

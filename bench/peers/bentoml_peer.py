"""BentoML: one service, one worker; with its adaptive batching (up to 32 rows) and without.

`max_latency_ms` stays at its default: it is no window but an objective, and at 5 ms the server refuses most requests.
"""

import json
from pathlib import Path

TITLE = "BentoML 1.4.39"
REQUIRES = ("bentoml==1.4.39", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("batching 32, adaptive", "no batching")
PATH = "/predict"

SERVICE = """
import typing

import bentoml
import numpy as np
from bench_model import load


quiet = {{"access": {{"enabled": False}}}}


@bentoml.service(workers=1, traffic={{"timeout": 30}}, metrics={{"enabled": False}}, logging=quiet)
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
    how = "batchable=True, max_batch_size=32" if setting.startswith("batching") else ""
    (Path(folder) / "service.py").write_text(SERVICE.format(kind=kind, model=model, how=how))
    path = f"PYTHONPATH={Path(__file__).parent}"
    bento = str(Path(python).parent / "bentoml")
    return ["/usr/bin/env", path, f"BENTOML_HOME={folder}/home", bento, "serve", "service:Bench", "--host",
            "127.0.0.1", "--port", str(port), "--working-dir", folder]  # fmt: skip

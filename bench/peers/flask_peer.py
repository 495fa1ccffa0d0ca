"""Flask under gunicorn: one worker of four threads (its plain sync worker closes every connection after one answer)."""

import json
from pathlib import Path

TITLE = "Flask, gunicorn"
REQUIRES = ("flask", "gunicorn", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("plain",)
PATH = "/v2/models/bench/infer"


def body(rows, kind):
    flat = [v for row in rows for v in row]
    tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat}
    return json.dumps({"inputs": [tensor]}).encode()


def value(answer, kind):
    return json.loads(answer)["outputs"][0]["data"][0]


def command(python, kind, model, port, folder, setting):
    return [python, "-m", "gunicorn", "--workers", "1", "--worker-class", "gthread", "--threads", "4", "--keep-alive",
            "60", "--bind", f"127.0.0.1:{port}", "--log-level", "error", "--chdir", str(Path(__file__).parent),
            f"flask_peer:application({kind!r}, {model!r})"]  # fmt: skip


def application(kind, model):
    import numpy as np
    from bench_model import load
    from flask import Flask, request

    app, predict = Flask("bench"), load(kind, model)

    @app.post(PATH)
    def infer():
        tensor = request.get_json()["inputs"][0]
        rows = np.asarray(tensor["data"], dtype=np.float64).reshape(tensor["shape"])
        found = predict(rows)
        output = {"name": "output", "shape": [len(rows)], "datatype": "FP64", "data": found.tolist()}
        return {"model_name": "bench", "outputs": [output]}

    return app

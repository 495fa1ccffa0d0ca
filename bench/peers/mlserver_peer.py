"""MLServer with its scikit-learn runtime; ONNX through a small custom one. `parallel_workers: 0`: one process."""

import json
import socket
from pathlib import Path

TITLE = "MLServer 1.7.1"
REQUIRES = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("no batching", "batching 32 / 5 ms")
PATH = "/v2/models/bench/infer"

ONNX = """
from bench_model import load
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Onnx(MLModel):
    async def load(self):
        self.predict_rows = load("onnx", self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        found = self.predict_rows(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", found)])
"""


def body(rows, kind):
    flat = [v for row in rows for v in row]
    tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat}
    asked = {"outputs": [{"name": "predict_proba"}]} if kind == "lr" else {}  # unasked, the class is answered
    return json.dumps({"inputs": [tensor], **asked}).encode()


def value(answer, kind):
    return json.loads(answer)["outputs"][0]["data"][1 if kind == "lr" else 0]  # both classes' probabilities


def command(python, kind, model, port, folder, setting):
    place = Path(folder)
    grpc, metrics = _ports(2)
    (place / "settings.json").write_text(json.dumps(
        {"debug": False, "host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "metrics_port": metrics,
         "parallel_workers": 0, "use_structured_logging": False}))  # fmt: skip
    implementation = "bench_onnx.Onnx" if kind == "onnx" else "mlserver_sklearn.SKLearnModel"
    what = {"name": "bench", "implementation": implementation, "parameters": {"uri": model}}
    if setting != "no batching":
        what |= {"max_batch_size": 32, "max_batch_time": 0.005}
    (place / "model-settings.json").write_text(json.dumps(what))
    (place / "bench_onnx.py").write_text(ONNX)
    (place / "grpc-port").write_text(str(grpc))
    path = f"PYTHONPATH={Path(__file__).parent}:{folder}"
    return ["/usr/bin/env", path, str(Path(python).parent / "mlserver"), "start", folder]


def _ports(n):
    held = [socket.socket() for _ in range(n)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found

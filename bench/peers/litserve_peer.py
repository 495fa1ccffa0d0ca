"""LitServe: one API process and one process more for the model, as it is made; batches of 32 within 5 ms, or none."""

import json
from pathlib import Path

TITLE = "LitServe 0.2.19"
REQUIRES = ("litserve==0.2.19", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("batching 32 / 5 ms", "no batching")
PATH = "/predict"

SERVER = """
import litserve
import numpy as np
from bench_model import load


class Bench(litserve.LitAPI):
    def setup(self, device):
        self.predict_rows = load({kind!r}, {model!r})

    def decode_request(self, request):
        return np.asarray(request["input"], dtype=np.float64)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, rows):
        return self.predict_rows(rows.reshape(-1, rows.shape[-1]))

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {{"output": float(np.ravel(output)[0])}}


if __name__ == "__main__":
    server = litserve.LitServer(Bench({how}), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port={port}, num_api_servers=1, log_level="error", access_log=False,
               generate_client_file=False)
"""


def body(rows, kind):
    return json.dumps({"input": rows[0]}).encode()


def value(answer, kind):
    return json.loads(answer)["output"]


def command(python, kind, model, port, folder, setting):
    how = "max_batch_size=32, batch_timeout=0.005" if setting.startswith("batching") else ""
    server = Path(folder) / "server.py"
    server.write_text(SERVER.format(kind=kind, model=model, port=port, how=how))
    return ["/usr/bin/env", f"PYTHONPATH={Path(__file__).parent}", python, str(server)]

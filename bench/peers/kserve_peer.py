"""KServe's Python server, as a custom predictor runs in its container: one worker, REST only."""

import json
import sys

TITLE = "KServe SDK 0.21"
REQUIRES = ("kserve==0.21.*", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("plain",)
PATH = "/v2/models/bench/infer"


def body(rows, kind):
    flat = [v for row in rows for v in row]
    tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat}
    return json.dumps({"inputs": [tensor]}).encode()


def value(answer, kind):
    return json.loads(answer)["outputs"][0]["data"][0]


def command(python, kind, model, port, folder, setting):
    return [python, __file__, kind, model, str(port)]


def serve(kind, model, port):
    import kserve
    import numpy as np
    from bench_model import load
    from kserve.protocol.infer_type import InferOutput, InferResponse

    class Bench(kserve.Model):
        def __init__(self):
            super().__init__("bench")
            self.predict_rows, self.ready = load(kind, model), True

        async def predict(self, payload, headers=None, response_headers=None):
            found = np.asarray(self.predict_rows(payload.inputs[0].as_numpy()), dtype=np.float64)
            output = InferOutput("output", [len(found)], "FP64", data=found.tolist())
            return InferResponse(response_id=payload.id or "", model_name="bench", infer_outputs=[output])

    server = kserve.ModelServer(http_port=port, enable_grpc=False, workers=1, enable_docs_url=False,
                                enable_latency_logging=False, access_log_format=None)  # fmt: skip
    server.start([Bench()])


if __name__ == "__main__":
    sys.argv, given = sys.argv[:1], sys.argv[1:]  # the SDK reads the command line too
    serve(given[0], given[1], int(given[2]))

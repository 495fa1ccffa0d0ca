"""Triton's server with a Python function behind it (pytriton), dynamic batching with a window of 5 ms, or no window."""

import json
import socket
import sys
import sysconfig

TITLE = "pytriton 0.7"
REQUIRES = ("nvidia-pytriton==0.7.*", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("batching 32 / 5 ms", "batching 32 / no window")
PATH = "/v2/models/bench/infer"


def body(rows, kind):
    flat = [v for row in rows for v in row]
    tensor = {"name": "input", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": flat}
    return json.dumps({"inputs": [tensor]}).encode()


def value(answer, kind):
    return json.loads(answer)["outputs"][0]["data"][0]


def command(python, kind, model, port, folder, setting):
    library = f"LD_LIBRARY_PATH={sysconfig.get_config_var('LIBDIR')}"
    return ["/usr/bin/env", library, f"PYTRITON_HOME={folder}/home", python, __file__, kind, model, str(port),
            folder, setting]  # fmt: skip


def serve(kind, model, port, folder, setting):
    import numpy as np
    from bench_model import load
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    predict = load(kind, model)

    @batch
    def infer(input):
        return [np.asarray(predict(input), dtype=np.float64).reshape(-1, 1)]

    grpc, metrics = _ports(2)
    config = TritonConfig(http_port=port, grpc_port=grpc, metrics_port=metrics, http_address="127.0.0.1",
                          grpc_address="127.0.0.1", log_verbose=0)  # fmt: skip
    window = 5000 if "5 ms" in setting else 0
    how = ModelConfig(max_batch_size=32, batching=True, batcher=DynamicBatcher(max_queue_delay_microseconds=window))
    with Triton(config=config, workspace=f"{folder}/workspace") as triton:
        triton.bind(
            model_name="bench", infer_func=infer, config=how, strict=False,
            inputs=[Tensor(name="input", dtype=np.float64, shape=(30,))],
            outputs=[Tensor(name="output", dtype=np.float64, shape=(1,))],
        )  # fmt: skip
        triton.serve()


def _ports(n):
    held = [socket.socket() for _ in range(n)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])

"""Ray Serve: one replica behind its HTTP proxy (a process of its own), with @serve.batch (32, 5 ms) and without."""

import json
import sys
import time

TITLE = "Ray Serve"
REQUIRES = ("ray[serve]", "scikit-learn==1.9.1", "joblib", "onnxruntime==1.31.1")
SETTINGS = ("batching 32 / 5 ms", "no batching")
PATH = "/predict"


def body(rows, kind):
    return json.dumps({"input": rows[0]}).encode()


def value(answer, kind):
    return json.loads(answer)["output"]


def command(python, kind, model, port, folder, setting):
    return [python, __file__, kind, model, str(port), folder, setting]


def serve(kind, model, port, folder, setting):
    import sys as _sys
    from pathlib import Path

    import numpy as np
    import ray
    from ray import serve as ray_serve

    place = str(Path(__file__).parent)

    class Bench:
        def __init__(self):
            _sys.path.insert(0, place)
            from bench_model import load

            self.predict_rows = load(kind, model)

        @ray_serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
        async def together(self, rows):
            return self.predict_rows(np.stack(rows)).tolist()

        async def __call__(self, request):
            row = np.asarray((await request.json())["input"], dtype=np.float64)
            if setting.startswith("batching"):
                return {"output": await self.together(row)}
            return {"output": float(self.predict_rows(row.reshape(1, -1))[0])}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000,
             configure_logging=False)  # fmt: skip
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    quiet = {"enable_access_log": False, "log_level": "ERROR"}
    deployment = ray_serve.deployment(Bench, num_replicas=1, max_ongoing_requests=256, logging_config=quiet)
    ray_serve.run(deployment.bind(), name="bench", route_prefix="/predict")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])

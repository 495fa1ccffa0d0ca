"""What several benches share: the models of a run, and a real project that serves them.

Importing it limits thread pools, of this process and of all that it starts, to one thread.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

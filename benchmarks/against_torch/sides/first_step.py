"""From nothing to the first LoRA step, once: figures as a line of JSON.

cd benchmarks && python -m sides.first_step ours|theirs WORK
"""

import importlib
import json
import sys
import time

from benchmarks.against_torch.sides.inputs import read_work
from benchmarks.common import memory_peak


def main(side: str, work: str) -> None:
    """Imports, loads, compiles and steps."""
    module = importlib.import_module(f"{__package__}.{side}")
    start = time.perf_counter()
    figures = module.first_step(read_work(work))
    load = time.perf_counter() - start
    print(json.dumps({**figures, "load": load, "peak": memory_peak.highest()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

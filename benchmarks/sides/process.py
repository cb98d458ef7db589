"""One side of a comparison in a process of its own: a line in, one turn, a line of JSON out.

cd benchmarks && python -m sides.process ours|theirs CASE WORK RESULT.npy
"""

import importlib
import json
import sys
import time

import numpy as np

from sides import memory
from sides.inputs import read_work

LONG = 120  # seconds, of which a slow start is a small part


def main(side: str, case: str, work: str, result: str) -> None:
    """Warms up, saves what came out, then takes a turn a line until standard input ends."""
    module = importlib.import_module(f"sides.{side}")
    run = getattr(module, case)(read_work(work))
    start = time.perf_counter()
    np.save(result, run())
    first = time.perf_counter() - start
    print(json.dumps({"first": first}), flush=True)
    peak = memory.Peak()
    peak.start()
    for _ in sys.stdin:
        if first < LONG:
            run()  # after seconds of waiting a first run is slower
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        turns = module.device_peak() or peak.value
        answer = {"seconds": seconds, "turns": turns, "whole": memory.highest()}
        print(json.dumps({**answer, "device": module.device_name()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One side of a comparison in a process of its own: a line in, one turn, a line of JSON out.

cd benchmarks && python -m sides.process ours|theirs CASE FOLDER SIZE DTYPE RESULT.npy
"""

import importlib
import json
import pathlib
import sys
import time

import numpy as np

from sides import memory

LONG = 120  # seconds, of which a slow start is a small part


def main(side: str, case: str, folder: str, size: str, dtype: str, result: str) -> None:
    """Warms up, saves what came out, then takes a turn a line until standard input ends."""
    make = getattr(importlib.import_module(f"sides.{side}"), case)
    run = make(pathlib.Path(folder), int(size), dtype)
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
        answer = {"seconds": seconds, "turns": peak.value, "whole": memory.highest()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One side of a comparison in a process of its own: a line in, one run, a line of JSON out.

cd benchmarks && python -m sides.process ours|theirs CASE FOLDER BATCH DTYPE RESULT.npy
"""

import importlib
import json
import pathlib
import sys
import threading
import time

import numpy as np

EVERY = 0.02  # seconds between two looks at the memory


class Memory(threading.Thread):
    """Watches the process's anonymous memory: pages of mapped files are anybody's."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0  # GiB

    def run(self) -> None:
        """Keeps the largest value."""
        while True:
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            kib = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, kib / 2**20)
            time.sleep(EVERY)


def main(side: str, case: str, folder: str, batch: str, dtype: str, result: str) -> None:
    """Warms up, saves what came out, then runs once a line until standard input ends."""
    memory = Memory()
    memory.start()
    start = time.perf_counter()
    make = getattr(importlib.import_module(f"sides.{side}"), case)
    run = make(pathlib.Path(folder), int(batch), dtype)
    loaded = time.perf_counter()
    np.save(result, run())
    first = time.perf_counter()
    print(json.dumps({"load": loaded - start, "first": first - loaded}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak": memory.peak}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One side of a comparison in a process of its own: a line in, one turn, a line of JSON out.

cd benchmarks && python -m sides.process ours|theirs CASE WORK RESULT.npy
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from sides import memory
from sides.inputs import read_work

LONG = 120  # seconds, of which a slow start is a small part


def main(side: str, case: str, argument: str, result: str) -> None:
    """Warms up, saves what came out, then takes a turn a line until standard input ends.

    A long first run is the first turn's: its memory always, since a heap grows by gigabytes or not
    while a process waits for minutes, and its time where nothing was compiled.
    """
    module, work = importlib.import_module(f"sides.{side}"), read_work(argument)
    run, peak, compiles = getattr(module, case)(work), memory.Peak(), module.compiles(work)
    peak.start()
    first = seconds_of(lambda: np.save(result, run()))
    print(json.dumps({"first": first}), flush=True)
    long_peak = peak.value if first >= LONG else None
    if compiles:
        peak.value = 0.0
    turns = [first] if first >= LONG and not compiles else []
    for _ in sys.stdin:
        if first < LONG:
            run()  # after seconds of waiting a first run is slower
        seconds = turns.pop() if turns else seconds_of(run)
        held = module.device_peak() or long_peak or peak.value
        whole = long_peak or memory.highest()
        answer = {"seconds": seconds, "turns": held, "whole": whole}
        print(json.dumps({**answer, "device": module.device_name()}), flush=True)


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])

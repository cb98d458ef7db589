"""One side of a comparison in a process of its own: a line in, one turn, a line of JSON out.

cd benchmarks && python -m sides.process ours|theirs CASE WORK RESULT.npy
"""

import importlib
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from flax_sd.commands.bench import memory_peak
from flax_sd.commands.bench.work import read_work

LONG = 120  # seconds, of which a slow start is a small part


def main(side: str, case: str, argument: str, result: str) -> None:
    """Warms up, saves what came out, then takes a turn a line until standard input ends.

    The memory of a long first run stands for the turns', since one more run can find the heap laid
    out worse by gigabytes; so does its time where nothing was compiled.
    """
    module, work = importlib.import_module(f"{__package__}.{side}"), read_work(argument)
    run, peak, compiles = getattr(module, case)(work), memory_peak.Peak(), module.compiles(work)
    peak.start()
    first = seconds_of(lambda: np.save(result, run()))
    print(json.dumps({"first": first}), flush=True)
    first_peaks = peak.value, memory_peak.highest()
    if compiles:
        peak.value = 0.0
    turns = [first] if first >= LONG and not compiles else []
    for _ in sys.stdin:
        if first < LONG:
            run()  # after seconds of waiting a first run is slower
        seconds = turns.pop() if turns else seconds_of(run)
        held, whole = first_peaks if first >= LONG else (peak.value, memory_peak.highest())
        answer = {"seconds": seconds, "turns": module.device_peak() or held, "whole": whole}
        print(json.dumps({**answer, "device": module.device_name()}), flush=True)


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])

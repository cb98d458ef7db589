"""One side's work in a process of its own: its first run, then as many as fit into a time.

python -m flax_sd.commands.bench.process ours|theirs CASE WORK STARTED

STARTED is `time.monotonic()` at the start of the process; the figures are a line of JSON.
"""

import importlib
import json
import statistics
import sys
import time

from flax_sd.commands.bench import memory_peak
from flax_sd.commands.bench.work import Run, read_work

FEWEST = 2  # runs after the first


def main(side: str, case: str, argument: str, started: str) -> None:
    """Imports, loads, runs once and again, and prints the figures."""
    module, work = importlib.import_module(f"{__package__}.{side}"), read_work(argument)
    run: Run = getattr(module, case)(work)
    run()
    first = {"first": time.monotonic() - float(started), "cpu": time.process_time()}
    later = {"again": again(run, work.seconds) if work.seconds else None}
    used = {"peak": module.device_peak() or memory_peak.highest(), "device": module.device_name()}
    print(json.dumps({**first, **later, **used}), flush=True)


def again(run: Run, seconds: float) -> float:
    """Returns the median time of further runs, the first of which may still compile something."""
    run()
    end, taken = time.perf_counter() + seconds, []
    while len(taken) < FEWEST or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    main(*sys.argv[1:])

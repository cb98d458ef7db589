"""Breaks the package in 24 places, one after another, and says whether the tests notice.

    python scripts/mutation_test.py                        # all of them: half an hour or more
    python scripts/mutation_test.py --only SNR samplers    # those whose name or file holds a word
    python scripts/mutation_test.py --list

Each break is a slip that a programmer may make, and is held against the test files that have to do
with it, not against the whole suite. It shows that a change of the tests catches no less than they
did before. The file's own text is put back after each, so leave flax_sd/ alone while this runs.
JAX_COMPILATION_CACHE_DIR, where it is set, saves compiling the same programs for every break.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mutations import MUTATIONS, Mutation

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIMIT = 900  # seconds for the tests of one mutation
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider")


class Outcome(NamedTuple):
    """What became of a mutation: "caught", "MISSED" or "error", and by which test or why."""

    verdict: str
    detail: str = ""


def chosen(words: Sequence[str] | None) -> list[Mutation]:
    """Returns the mutations whose name or file holds one of the words; all without words."""
    if not words:
        return list(MUTATIONS)
    lower = [word.lower() for word in words]
    return [m for m in MUTATIONS if any(word in f"{m.name} {m.file}".lower() for word in lower)]


def problems(mutations: Sequence[Mutation]) -> list[str]:
    """Says of which mutations the snippet is not there once, and which files are not git's."""
    found = []
    for mutation in mutations:
        path = ROOT / mutation.file
        count = path.read_bytes().count(mutation.old.encode()) if path.is_file() else 0
        if count != 1:
            found.append(f"{mutation.name}: its snippet is {count} times in {mutation.file}")
    files = dict.fromkeys(mutation.file for mutation in mutations)
    return found + [f"{file} {why}" for file in files if (why := why_not(file))]


def why_not(file: str) -> str:
    """Says why a file may not be broken; nothing if it is as it was committed."""
    command = ["git", "status", "--porcelain", "--", file]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    clean = asked.returncode == 0 and not asked.stdout
    return "" if clean else "differs from the last commit: commit it or put it back first"


@contextlib.contextmanager
def broken(mutation: Mutation) -> Iterator[None]:
    """Breaks the file for a while; its own bytes come back whatever happens."""
    path = ROOT / mutation.file
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(mutation.old.encode(), mutation.new.encode()))
        yield
    finally:
        path.write_bytes(before)


def run_tests(tests: Sequence[str]) -> Outcome:
    """Runs the test files up to the first failure and judges what they said."""
    # Without it tests have caches of their own: no run finds what a broken one encoded.
    environ = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    process = subprocess.Popen(
        [*PYTEST, "--color=no", *tests],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Outcome("error", f"the tests took longer than {LIMIT} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the commands that tests start too
        process.wait()
    return judged(process.returncode, text)


def judged(code: int, text: str) -> Outcome:
    """Says what pytest's exit status and summary mean."""
    if code == 0:
        return Outcome("MISSED")
    lines = [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    first = lines[0].partition(" ")[2].partition(" - ")[0] if lines else ""
    # With -x a file that cannot be collected ends in 1 as well, but under its name alone.
    if code == 1 and "::" in first:
        return Outcome("caught", first)
    return Outcome("error", f"pytest ended with status {code}{first and f' at {first}'}")


def attempt(mutation: Mutation) -> Outcome:
    """Breaks the package and runs the tests that are there."""
    tests = [test for test in mutation.tests if (ROOT / test).is_file()]
    if not tests:
        return Outcome("error", "none of its test files is there")
    if why := why_not(mutation.file):  # somebody may have changed it since the start
        sys.exit(f"{mutation.file} {why}")
    with broken(mutation):
        outcome = run_tests(tests)
    absent = ", ".join(test for test in mutation.tests if test not in tests)
    if outcome.verdict == "MISSED" and absent:
        return outcome._replace(detail=f"without {absent}, not there")
    return outcome


def run(mutations: Sequence[Mutation]) -> int:
    """Tries the mutations, with a line for each; returns the exit status."""
    if found := problems(mutations):
        sys.exit("\n".join(found))
    caught = 0
    for number, mutation in enumerate(mutations, 1):
        began = time.monotonic()
        outcome = attempt(mutation)
        seconds = time.monotonic() - began
        detail = f"  ({outcome.detail})" if outcome.detail else ""
        head = f"{number:2}/{len(mutations)}  {outcome.verdict:<6}  {seconds:6.1f} s"
        print(f"{head}  {mutation.name}{detail}", flush=True)
        caught += outcome.verdict == "caught"
    print(f"{caught} of {len(mutations)} caught")
    return 0 if caught == len(mutations) else 1


def main() -> None:
    """Tries or lists the mutations that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="in a name or a file, any case")
    parser.add_argument("--list", action="store_true", help="print them and run nothing")
    options = parser.parse_args()
    mutations = chosen(options.only)
    if not mutations:
        parser.error(f"no mutation holds {' or '.join(options.only)}")
    if options.list:
        for mutation in mutations:
            print(f"{mutation.name}\n    {mutation.file}: {' '.join(mutation.tests)}")
        return
    # As for Ctrl-C, what was begun is put back before the end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(run(mutations))


if __name__ == "__main__":
    main()

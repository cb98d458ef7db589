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

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIMIT = 900  # seconds for the tests of one mutation
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider")


class Mutation(NamedTuple):
    """One break of the package; paths are from the root of the checkout."""

    name: str  # what is broken
    file: str
    old: str  # is there exactly once
    new: str
    tests: tuple[str, ...]  # that have to do with it, the likeliest to notice first


class Outcome(NamedTuple):
    """What became of a mutation: "caught", "MISSED" or "error", and by which test or why."""

    verdict: str
    detail: str = ""


MUTATIONS = (
    Mutation(
        "the min-SNR weight of v-prediction is not divided by SNR + 1",
        "flax_sd/training/losses/weights.py",
        'return weight / (snr + 1) if schedule.prediction_type == "v_prediction" else weight',
        "return weight",
        ("tests/training/losses/test_weights.py", "tests/training/losses/test_losses.py"),
    ),
    Mutation(
        "DREAM's guess of the network has a gradient",
        "flax_sd/training/losses/dream.py",
        "jax.lax.stop_gradient(network(noisy, t))",
        "network(noisy, t)",
        ("tests/training/losses/test_dream.py", "tests/training/losses/test_losses.py"),
    ),
    Mutation(
        "options of loss, timesteps and noise do not reach the training of mode ddpm",
        "flax_sd/training/setup/task.py",
        "dropout=True, cfg=options)",
        "dropout=True)",
        ("tests/training/setup/test_task_options.py", "tests/training/test_ddpm.py"),
    ),
    Mutation(
        "held-out losses are weighed as the training's",
        "flax_sd/training/setup/task.py",
        "make_loss(),",
        "make_loss(cfg=options),",
        ("tests/training/setup/test_task.py", "tests/training/setup/test_task_options.py"),
    ),
    Mutation(
        "the correction of Adam's second mean lacks its square root",
        "flax_sd/training/optim/transforms.py",
        "jnp.sqrt(_one_minus_power(beta2, count))",
        "_one_minus_power(beta2, count)",
        (
            "tests/training/optim/test_build.py",
            "tests/training/optim/test_rates.py",
            "tests/training/test_step.py",
        ),
    ),
    Mutation(
        "the text encoder's own weight decay does not reach its update",
        "flax_sd/training/optim/build.py",
        "rates.decay(cfg, path)",
        "cfg.weight_decay",
        ("tests/training/optim/test_build.py", "tests/training/optim/test_rates.py"),
    ),
    Mutation(
        "rates by pattern do not reach prodigy and dadapt",
        "flax_sd/training/optim/build.py",
        "u * (rates.peak_rate(cfg, path) / cfg.learning_rate)",
        "u",
        ("tests/training/optim/test_methods.py", "tests/training/test_optimizers.py"),
    ),
    Mutation(
        "the learning rate's schedule ends at train.steps where epochs end the run sooner",
        "flax_sd/training/run.py",
        "make_optimizer(config.optim, total)",
        "make_optimizer(config.optim, config.train.steps)",
        (
            "tests/training/test_run.py",
            "tests/training/inputs/test_length.py",
            "tests/training/optim/test_rates.py",
        ),
    ),
    Mutation(
        "DDIM's direction leaves no room for the noise that eta adds",
        "flax_sd/samplers/methods/ddim.py",
        "left = 1 - a_prev - std**2",
        "left = 1 - a_prev",
        ("tests/samplers/methods/test_ddim.py", "tests/samplers/test_loop.py"),
    ),
    Mutation(
        "Euler's first noise with leading timesteps lacks the variance of x_0",
        "flax_sd/samplers/sigmas.py",
        "sigmas.max() ** 2 + 1",
        "sigmas.max() ** 2",
        ("tests/samplers/methods/test_euler.py", "tests/samplers/methods/test_euler_ancestral.py"),
    ),
    Mutation(
        "samples of a run are drawn without model.clip_skip",
        "flax_sd/training/outputs/preview_samplers.py",
        "                clip_skip=self._config.model.clip_skip,\n",
        "",
        ("tests/training/test_run.py", "tests/training/setup/test_task.py"),
    ),
    Mutation(
        "alpha / rank is not multiplied into the up matrices of a PEFT file",
        "flax_sd/lora/formats/peft.py",
        "with_alpha(adapter, adapter.rank, dtype)",
        "with_alpha(adapter, adapter.alpha, dtype)",
        ("tests/lora/formats/test_peft.py", "tests/lora/formats/test_diffusers.py"),
    ),
    Mutation(
        "dropout leaves the same out of every layer's LoRA",
        "flax_sd/lora/dropout.py",
        "zlib.crc32(path.encode())",
        'zlib.crc32(b"lora")',
        ("tests/lora/test_dropout.py", "tests/training/setup/test_task.py"),
    ),
    Mutation(
        "lora.rslora does not reach the LoRA that a run injects",
        "flax_sd/training/setup/lora.py",
        "            rank_stabilised=settings.rslora,\n",
        "",
        ("tests/training/setup/test_lora_sizes.py", "tests/lora/test_inject.py"),
    ),
    Mutation(
        "lora.max_norm does not reach the step of a run",
        "flax_sd/training/run.py",
        "            constrain=self.task.constrain,\n",
        "",
        (
            "tests/training/test_run.py",
            "tests/lora/test_max_norm.py",
            "tests/training/test_step.py",
        ),
    ),
    Mutation(
        "the rows of a batch that copies fill up weigh too little",
        "flax_sd/data/order.py",
        "size / real, 0)",
        "1.0, 0)",
        (
            "tests/data/test_order.py",
            "tests/data/test_batches.py",
            "tests/training/test_buckets.py",
        ),
    ),
    Mutation(
        "a mask's pixels are averaged across places and not within them",
        "flax_sd/data/masks.py",
        "mask.reshape(b, y, height // y, x, width // x).mean((2, 4))",
        "mask.reshape(b, height // y, y, width // x, x).mean((1, 3))",
        (
            "tests/data/test_masks.py",
            "tests/training/losses/test_masks.py",
            "tests/training/inputs/test_batches.py",
        ),
    ),
    Mutation(
        "a resumed run sees the images of the first steps again",
        "flax_sd/training/inputs/batches.py",
        "seed=seed, start_step=start_step, rows=rows",
        "seed=seed, rows=rows",
        ("tests/run_folder/test_saved_config.py", "tests/data/test_batches.py"),
    ),
    Mutation(
        "the gradients of a batch's parts are added up and not averaged",
        "flax_sd/training/step.py",
        "value, grads = jax.tree.map(lambda x: x / parts, total)",
        "value, grads = total[0] / parts, total[1]",
        ("tests/training/test_step.py", "tests/training/losses/test_weights_of_rows.py"),
    ),
    Mutation(
        "the best checkpoint is deleted as it gets old",
        "flax_sd/training/checkpoints.py",
        "i >= first or each.step == self.best",
        "i >= first",
        ("tests/training/test_checkpoints.py", "tests/training/validation/test_validation.py"),
    ),
    Mutation(
        "a state that is saved before steps that failed counts these as done",
        "flax_sd/training/loop.py",
        "state._replace(step=state.step - failed)",
        "state",
        ("tests/training/monitoring/test_nonfinite.py", "tests/training/test_checkpoints.py"),
    ),
    Mutation(
        "a run's results are its last weights where a running mean is kept",
        "flax_sd/training/run.py",
        "self.results.write(state.learned, self.task)\n        if best is not None:",
        "self.results.write(state.params, self.task)\n        if best is not None:",
        (
            "tests/training/test_modes.py",
            "tests/training/test_step.py",
            "tests/training/test_ddpm.py",
        ),
    ),
    Mutation(
        "encoded captions are found in the cache whatever model.clip_skip is",
        "flax_sd/training/inputs/encoded.py",
        "self._made_by = clip_skip, code_version(), text_encoder",
        "self._made_by = code_version(), text_encoder",
        ("tests/training/inputs/test_batches.py", "tests/training/inputs/test_encoding_cache.py"),
    ),
    Mutation(
        "captions that train.caption_dropout empties reach the step all the same",
        "flax_sd/training/inputs/batches.py",
        "inputs.batch(each._replace(captions=captions))",
        "inputs.batch(each)",
        ("tests/training/inputs/test_batches.py", "tests/training/setup/test_task.py"),
    ),
)


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

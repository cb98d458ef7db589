"""Mutated configs and headers are read or refused with a sentence; the script tries far more."""

import importlib.util
import pathlib
import random
import sys

from flax_sd.weights.hub import BUNDLED

ROOT = pathlib.Path(__file__).parents[2]


def _load():
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "scripts/fuzz_configs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


script = _load()


def test_only_user_errors_come_out():
    outcome = script.run(300, 1, [BUNDLED / "base"], trace_every=0)
    assert not outcome.faults, outcome.faults[0]
    kinds = {what for _, what in outcome.counts}
    assert kinds == {"read", "refused"} and outcome.counts.total() == 300


def test_a_case_is_a_function_of_its_seed():
    value = {"a": 1, "b": [1, 2], "c": {"d": None}}
    first, again = (script.mutated(random.Random("3 7"), value) for _ in "12")
    assert repr(first) == repr(again) and value == {"a": 1, "b": [1, 2], "c": {"d": None}}

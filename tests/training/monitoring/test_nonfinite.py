"""Steps that are not finite: which are gone past, what is said of them, and what ends the run."""

import hashlib
import json

import numpy as np
import pydantic
import pytest

from flax_sd.config import TrainConfig
from flax_sd.data import Images
from flax_sd.training.monitoring.nonfinite import Guard
from tests.training_runs import contents, metrics

SKIP = ["--train.on_nonfinite", "skip"]
BAD = "3.png"


def guard(limit=None):
    skip = {} if limit is None else {"on_nonfinite": "skip", "max_skipped": limit}
    return Guard(TrainConfig(**skip), lambda step: [f"{step}a.png", f"{step}b.png"])


def test_a_good_step_is_not_counted():
    one = guard()
    assert one.see(1, 0.5, False) == () and (one.total, one.in_row, one.problem) == (0, 0, None)


def test_the_first_stops_unless_told_otherwise():
    one = guard()
    one.see(4, np.inf, True)
    text = str(one.problem)
    assert text.startswith("step 4: the loss, its gradient or the update is not finite (loss inf)")
    assert "4a.png, 4b.png" in text and "optim.learning_rate" in text
    assert "train.on_nonfinite skip" in text


def test_so_many_in_a_row_stop_and_a_good_one_between_starts_anew():
    one = guard(3)
    for step, failed in enumerate([True, True, False, True, True], 1):
        assert one.see(step, np.nan, failed) == ((f"{step}a.png", f"{step}b.png") if failed else ())
    assert one.problem is None and (one.total, one.in_row) == (4, 2)
    one.see(6, np.nan, True)
    assert "step 6: " in str(one.problem) and "the last of 3 in a row" in str(one.problem)


def test_the_checkpoint_is_good_where_there_was_a_good_step():
    first, later = guard(), guard()
    first.see(1, np.nan, True)
    later.see(1, 0.5, False)
    later.see(2, np.nan, True)
    assert "no step before it was good" in str(first.problem)
    assert "the last checkpoint is good" in str(later.problem)


def test_overflows_are_counted_and_taken_up(tmp_path):
    one = guard()
    assert one.see(1, 0.5, False, True) == () and one.overflows == 1 and one.problem is None
    rows = [{"step": 1, "loss": 1.0, "overflows": 2}, {"step": 9, "loss": 1.0, "overflows": 3}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one.resume(tmp_path / "metrics.jsonl", 5)
    assert one.overflows == 2


def test_counts_are_taken_up_at_the_step_where_the_run_resumes(tmp_path):
    path, one = tmp_path / "metrics.jsonl", guard(3)
    rows = [{"step": s, "pictures": ["a"]} for s in (2, 4, 5)] + [{"step": 6, "loss": 1.0}]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 7, "pi')
    for step, counts in [(1, (0, 0)), (3, (1, 0)), (5, (3, 2)), (6, (3, 0))]:
        one.resume(path, step)
        assert (one.total, one.in_row) == counts
    one.resume(tmp_path / "none", 5)
    assert (one.total, one.in_row) == (0, 0)


def test_a_message_names_a_few_of_many_images():
    names = [f"{i}.png" for i in range(20)]
    assert guard().notice(1, np.nan, names).endswith("6.png, 7.png and 12 more")


def test_the_number_without_skipping_is_refused():
    with pytest.raises(pydantic.ValidationError, match="max_skipped without effect"):
        TrainConfig(max_skipped=2)


@pytest.fixture
def bad_image(monkeypatch):
    """One image of the seven makes the loss NaN."""
    load = Images.load

    def load_or_nan(self, i, **sample):
        return load(self, i, **sample) * (np.nan if self.names[i] == BAD else 1)

    monkeypatch.setattr(Images, "load", load_or_nan)


def test_skipped_steps_change_nothing_and_a_resumed_run_ends_in_the_same_bytes(train, bad_image):
    flags = ["--train.steps", 8, "--log.every", 3]
    whole = train("whole", *flags, *SKIP, "--checkpoint.every", 1)
    assert whole.status == 0, whole.err
    skipped = [row for row in metrics(whole.folder) if "pictures" in row]
    assert all(BAD in row["pictures"] and row["loss"] is None for row in skipped)
    assert [row["skipped"] for row in skipped] == [1, 2]  # 16 images of 7: each twice at least
    loras = contents(whole.folder / "loras")
    for step in (row["step"] for row in skipped):
        assert f"step {step} is skipped: its loss (nan)" in whole.out
        before, after = (f"step-{n:06d}.safetensors" for n in (step - 1, step))
        assert before not in loras or loras[before] == loras[after]

    first = skipped[0]["step"]
    stopped = train("a", *flags)
    assert stopped.status == 2 and f"error: step {first}: " in stopped.err and BAD in stopped.err
    again = train("a", *flags, *SKIP)
    assert again.status == 0, again.err
    assert [(row["step"], row.get("skipped")) for row in metrics(again.folder)] == [
        (row["step"], row.get("skipped")) for row in metrics(whole.folder)
    ]
    others = contents(again.folder / "loras")
    assert loras["step-000008.safetensors"] == others["step-000008.safetensors"]
    assert all(others[name] == loras[name] for name in others.keys() & loras.keys())


def test_the_state_before_the_steps_that_failed_is_saved(train, monkeypatch):
    """Every step from the fourth on fails, between two checkpoints."""
    load = Images.load

    def load_or_nan(self, i, *, seed, sample):
        return load(self, i, seed=seed, sample=sample) * (np.nan if sample >= 6 else 1)

    monkeypatch.setattr(Images, "load", load_or_nan)
    flags = ["--train.steps", 8, "--checkpoint.every", 8, *SKIP, "--train.max_skipped", 2]
    run = train("a", *flags)
    assert run.status == 2 and "error: step 5: " in run.err and "2 in a row" in run.err
    checkpoints = run.folder / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["3"]
    listing = json.loads((checkpoints / "3/leaves/metadata").read_text())["leaves"]
    (digest,) = {leaf[2] for name, leaf in listing.items() if name == "step"}
    assert digest == hashlib.sha256(b"int32[]" + np.int32(3).tobytes()).hexdigest()

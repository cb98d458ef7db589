"""Want of memory, as XLA and Python say it."""

import jax
import pytest

from flax_sd.errors import UserError
from flax_sd.system.memory import explain_out_of_memory

XLA = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.1GiB.\nmore lines"


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError(XLA), MemoryError()])
def test_it_ends_in_what_helps(error):
    with (
        pytest.raises(UserError, match="not enough memory") as found,
        explain_out_of_memory(lambda: ["--a 1"]),
    ):
        raise error
    assert str(found.value).endswith("makes it smaller: --a 1") and "more lines" not in str(
        found.value
    )


def test_other_errors_stay_what_they_are():
    other = jax.errors.JaxRuntimeError("INTERNAL: a bug")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="a bug"),
        explain_out_of_memory(lambda: []),
    ):
        raise other


def test_a_run_names_its_flags_and_its_page_says_so(train, monkeypatch):
    def exhausted(*args, **options):
        raise jax.errors.JaxRuntimeError(XLA)

    monkeypatch.setattr("flax_sd.training.run.train_step.make_train_step", exhausted)
    run = train("a")
    assert run.status == 2 and "3.1GiB" in run.err and "--train.remat blocks" in run.err
    page = (run.folder / "report.html").read_text("utf-8")
    assert "Ended after step 0 of 4 by an error:" in page and "3.1GiB" in page
    assert 'http-equiv="refresh"' not in page


def test_so_does_the_sampling_command(model, tmp_path, monkeypatch, capsys):
    from flax_sd import cli

    def exhausted(*args, **options):
        raise jax.errors.JaxRuntimeError(XLA)

    monkeypatch.setattr("flax_sd.pipelines.stable_diffusion.StableDiffusion.generate", exhausted)
    args = ["--model", str(model), "--prompt", "a", "--out", str(tmp_path / "out")]
    assert cli.sample(args) == 2 and "--batch-size 1" in capsys.readouterr().err

"""Captions of more than 75 tokens, from the config to steps, cache, check and samples."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from flax_sd.commands.plan import program
from flax_sd.config.flags import read_flags
from flax_sd.generation.job import prepare
from flax_sd.generation.options import SampleOptions
from flax_sd.run_folder import saved_config
from flax_sd.system import sharding
from flax_sd.system.progress import Progress
from flax_sd.training.inputs import class_images, encoded
from flax_sd.training.inputs.batches import tokenize
from flax_sd.training.inputs.data_check import check
from flax_sd.training.inputs.datasets import open_sets
from flax_sd.training.inputs.encoding_cache import Store
from flax_sd.training.outputs.summary import summary
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task

LONGER = ["--data.max_token_length", 150]
ENDS = ["very " * 99 + end for end in ("red", "blue")]  # told apart by the 100th token alone
LOSSES = ("loss", "val_loss", "base_loss")
INVERSION = ["--train.mode", "textual_inversion", "--tokens.names", "<cat>=cat"]


def test_all_of_a_caption_is_encoded(parse):
    for more, shape in ([], (2, 77, 12)), (LONGER, (2, 152, 12)):
        parts = load_model(parse(*more), "float32")
        made = make_task(parse(*more), parts)
        ids = tokenize(ENDS, parts.tokenizers)
        red, blue = states = np.asarray(made.text(made.frozen, ids).text)
        assert states.shape == shape and np.array_equal(red, blue) == (more == [])
    batch = made.encode(made.frozen, np.zeros((2, 32, 32, 3), np.float32), ids)
    np.testing.assert_allclose(batch.text.text, states, atol=1e-5)  # so too where each step encodes


def test_a_new_token_past_the_75th_is_read(parse):
    caption = "dog " * 80 + "<cat>"
    short, long = (
        load_model(parse(*INVERSION, *more), "float32").tokenizer([caption])
        for more in ([], LONGER)
    )
    assert 49408 not in short and np.argwhere(long == 49408).tolist() == [[0, 1, 6]]


def test_states_of_another_length_are_not_found(parse, tmp_path):
    def key(*flags):
        tokenizer = load_model(parse(*flags), "float32").tokenizer
        return encoded.EncodedCaptions([tokenizer], ["a text encoder"], 0, Store(tmp_path)).key(
            "a cat"
        )

    assert key() == key("--data.max_token_length", 75) != key(*LONGER)


def test_the_check_names_what_is_not_read(parse, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("cat " * 150 + "tail")

    def found(length):
        config = parse("--data.path", tmp_path, "--data.max_token_length", length)
        report = check(config, open_sets(config))
        (findings,) = report.findings.values()
        return [f.text for f in findings if f.kind == "long caption"], report.text()

    assert found(225)[0] == [] and found(150)[0] == ["not read: 'tail'"]
    assert "long caption (1): has more tokens than data.max_token_length" in found(75)[1]


def test_a_run_of_another_length_is_refused(parse):
    changed = saved_config.differences(parse(), parse(*LONGER))
    assert [*changed.values()] == ["data.max_token_length is 75 in the run and 150 now"]


def test_the_plan_counts_all_chunks(parse):
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])

    def flops(*flags):
        config = parse("--compute_dtype", "float32", *flags)
        return np.array(program.Program(config, mesh).flops(1))

    assert (flops(*LONGER) > flops()).all()


def test_what_is_drawn_with_it_reads_as_much(parse, model, tmp_path):
    (line,) = [line for line in summary(parse(*LONGER)) if line.startswith("generate images")]
    assert "--max-token-length 150" in line
    assert "--max-token-length" not in "".join(summary(parse()))
    asked = ["--data.regularisation", tmp_path / "class", "--data.class_prompt", "a cat"]
    drawn = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(class_images, "open_sets", lambda config: None)
        patched.setattr(class_images.run, "run", lambda options, _: drawn.append(options))
        class_images.generate(parse(*asked, *LONGER), Progress())
    assert [options.max_token_length for options in drawn] == [150]


def test_a_image_says_how_much_was_read(model, tmp_path):
    def records(*more):
        flags = ["--model", model, "--prompt", "a", "--out", tmp_path / "out", *more]
        return [*prepare(read_flags(SampleOptions, [*map(str, flags)])).records.values()]

    (plain,), (longer,) = records(), records("--max-token-length", 150)
    assert longer == plain | {"max_token_length": 150} and "max_token_length" not in plain


@pytest.fixture
def shown(train, images, tmp_path):
    """Trains on one caption, and draws it."""

    def run(name, caption, *flags):
        folder = tmp_path / f"pictures {name}"
        shutil.copytree(images, folder)
        rows = [{"file_name": f"{i}.png", "text": caption} for i in range(7)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        drawn = ["--sample.prompts", caption, "--sample.steps", 1]
        data = ["--data.path", folder, "--data.center_crop", "true"]
        measured = ["--data.held_out", folder, "--data.held_out_base", folder]
        ended = train(name, *data, *measured, *drawn, *LONGER, *flags)
        assert ended.status == 0, ended.err
        assert "long caption" not in ended.out and "cut off" not in ended.err
        rows = ended.metrics()
        values = [row[name] for row in rows for name in LOSSES if name in row]
        return values, (ended.folder / "samples/step-000000.png").read_bytes()

    return run


def test_a_run_reads_captions_and_prompts_whole(shown):
    """What is trained, measured and drawn follows the last of a caption's 100 tokens."""
    red, blue = (shown(name, caption) for name, caption in zip("ab", ENDS, strict=True))
    assert len(red[0]) == 4 + 2 * 2 and all(a != b for a, b in zip(red[0], blue[0], strict=True))
    assert red[1] != blue[1]

"""New tokens of a run: how they begin, the reference script's steps, files, and resuming."""

import pathlib

import diffusers
import jax
import numpy as np
import pytest
import torch

from flax_sd import cli
from flax_sd.config import TokensConfig
from flax_sd.config import file as config_file
from flax_sd.data import open_images
from flax_sd.errors import UserError
from flax_sd.models.tokenizer import Tokenizer
from flax_sd.models.vae import Moments
from flax_sd.pipelines.stable_diffusion import StableDiffusion
from flax_sd.run_folder import result_files
from flax_sd.training.losses import DiffusionDraws, EncodedBatch, PlainLoss
from flax_sd.training.optim import make_optimizer
from flax_sd.training.optim.rates import Rates
from flax_sd.training.setup import new_tokens
from flax_sd.training.setup.base_model import abstract_model, load_model
from flax_sd.training.setup.task import make_task
from flax_sd.training.step import init_state, make_train_step
from tests import tiny
from tests.parity import NETWORK, assert_close, to_torch
from tests.training_runs import contents, metrics, tensors

ROOT = pathlib.Path(__file__).parents[3]
TOKENIZER = Tokenizer.load(tiny.TOKENIZER)
STEPS, RATE = 3, 1e-2


def begun(model, tokens):
    """Rows and tokenizer of a model with these new tokens."""
    text_encoder = StableDiffusion.load(model).text_encoders[0]
    tokenizer = new_tokens.begin(TokensConfig.model_validate(tokens), text_encoder, TOKENIZER)
    embeddings = text_encoder.text_model.embeddings
    return np.asarray(embeddings.new_tokens[...]), embeddings.token_embedding.embedding, tokenizer


def test_tokens_begin_as_old_words(model):
    rows, table, tokenizer = begun(model, {"names": {"<a>": "two dogs", "<b>": "cat"}})
    two, dogs, cat = TOKENIZER.encode("two dogs cat")
    assert np.array_equal(rows, np.asarray(table)[[two, dogs, cat]])
    assert tokenizer.encode("<b><a>") == [49410, 49408, 49409]
    rows, table, _ = begun(model, {"names": {"<a>": "two dogs", "<b>": "cat"}, "vectors": 3})
    assert np.array_equal(rows, np.asarray(table)[[two, dogs, two, cat, cat, cat]])


def test_more_old_words_than_vectors_are_refused(model):
    with pytest.raises(UserError, match="vectors is 1: <a> starts as 'two dogs', which has 2 tok"):
        begun(model, {"names": {"<a>": "two dogs", "<b>": "cat"}, "vectors": 1})
    with pytest.raises(UserError, match="'dog' is in the vocabulary already"):
        begun(model, {"names": {"dog": "cat"}})


def test_a_token_that_no_caption_holds_is_refused(images):
    cfg = TokensConfig(names={"<Cat>": "cat"})
    settings = config_file.Config().data.model_copy(update={"path": str(images)})
    with pytest.raises(UserError, match=r'no caption of .* contains <Cat>: .* as "{}, <Cat>"'):
        new_tokens.check_captions(cfg, open_images(settings))
    held = settings.model_copy(update={"template": "{}, <cat>"})
    new_tokens.check_captions(cfg, open_images(held))


def test_long_captions_are_counted_with_every_vector():
    cfg = TokensConfig(names={"<cat>": "cat"}, vectors=3)
    tokenizer = new_tokens.counted(cfg, TOKENIZER)
    assert not tokenizer.cut_off("dog " * 72 + "<cat>")
    assert tokenizer.cut_off("dog " * 73 + "<cat> here") == "<cat> here"


def test_each_token_has_a_file():
    def names(*tokens, best=False):
        cfg = TokensConfig(names=dict.fromkeys(tokens, "cat"))
        return [
            path.name for path in result_files.token_files(cfg, pathlib.Path(), best=best).values()
        ]

    assert names("<cat>") == ["learned_embeds.safetensors"]
    assert names("<cat>", best=True) == ["learned_embeds_best.safetensors"]
    files = ["learned_embeds_cat.safetensors", "learned_embeds_my-dog.safetensors"]
    assert names("<cat>", "<my-dog>") == files


@pytest.fixture
def parse(config_file):
    return lambda *flags: _parse(config_file, *flags)


def _parse(path, *flags):
    return config_file.parse(path, [str(flag) for flag in flags])


INVERSION = ["--train.mode", "textual_inversion", "--tokens.names", "<cat>=cat"]


def test_the_rows_alone_are_trained_and_have_a_rate_of_their_own(parse):
    made = make_task(alone := parse(*INVERSION), load_model(alone, "bfloat16"))
    ((path, leaf),) = jax.tree_util.tree_leaves_with_path(made.params)
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    assert name.startswith("text_encoder.text_model.embeddings.new_tokens")
    assert leaf.shape == (1, 12) and leaf.dtype == np.float32
    assert made.text is None  # token ids go to the step, and nothing of captions is kept
    flags = ["--tokens.names", "<cat>=cat", "--optim.rates", "new_tokens=5"]
    assert Rates.of(parse(*flags).optim).peak(name) == pytest.approx(5e-3)
    both = make_task(parse(*flags), load_model(parse(*flags), "float32"))
    assert {*both.params} == {"unet", "text_encoder"}
    assert len(jax.tree.leaves(both.params["text_encoder"])) == 1
    text = make_task(cfg := parse(*flags, "--train.text_encoder"), abstract_model(cfg, "float32"))
    assert len(jax.tree.leaves(text.params["text_encoder"])) == 1 + 2 * 8


def batch_of(seed, ids):
    rng = np.random.default_rng(seed)
    mean, logvar, posterior, noise = rng.normal(size=(4, len(ids), 5, 3, 4)).astype(np.float32)
    draws = DiffusionDraws(posterior, rng.integers(0, 1000, len(ids)), noise)
    return EncodedBatch(Moments(mean, logvar - 3), (ids,)), draws


@pytest.mark.slow
def test_steps_are_those_of_the_reference_script(parse, model):
    """examples/textual_inversion: AdamW on the whole table, then the old rows are put back."""
    config = parse(
        *INVERSION, "--tokens.vectors", 2, "--optim.max_grad_norm", 0, "--optim.learning_rate", RATE
    )
    parts = load_model(config, "float32")
    made, tokenizer = make_task(config, parts), parts.tokenizer
    fed = PlainLoss(
        lambda key, pair: pair[1], lambda p, f, pair, d: made.loss.loss(p, f, pair[0], d)
    )
    tx = make_optimizer(config.optim, STEPS)
    state, step = init_state(made.params, tx, 0, scaled=False), make_train_step(fed, tx)

    theirs = tiny.load(model)
    theirs.tokenizer.add_tokens(["<cat>", "<cat>_1"])
    new = theirs.tokenizer.convert_tokens_to_ids(["<cat>", "<cat>_1"])
    theirs.text_encoder.resize_token_embeddings(len(theirs.tokenizer), mean_resizing=False)
    table = theirs.text_encoder.get_input_embeddings().weight
    table.data[new] = table.data[theirs.tokenizer.encode("cat", add_special_tokens=False)]
    old = table.detach().clone()
    adamw = torch.optim.AdamW([table], lr=RATE, weight_decay=0.01)
    betas = {name: value for name, value in tiny.NOISE.items() if name.startswith("beta")}
    process = diffusers.DDPMScheduler(**betas)

    captions = ["a <cat>", "<cat>, <cat> and dogs", "no such thing"]
    ids = tokenizer(captions)
    for n in range(STEPS):
        batch, draws = batch_of(n, ids)
        state, metrics = step(state, made.frozen, (batch, draws))
        mean, logvar = map(to_torch, batch.moments)
        latents = 0.3 * (mean + torch.exp(0.5 * logvar) * to_torch(draws.posterior))
        noise, t = to_torch(draws.noise), torch.from_numpy(draws.timesteps)
        states = theirs.text_encoder(torch.from_numpy(ids).long())[0]
        out = theirs.unet(process.add_noise(latents, noise, t), t, states).sample
        loss = torch.nn.functional.mse_loss(out, noise)
        assert float(metrics.loss) == pytest.approx(loss.item(), rel=1e-4)
        loss.backward()
        adamw.step()
        adamw.zero_grad()
        kept = torch.ones(len(table), dtype=torch.bool)
        kept[new] = False
        table.data[kept] = old[kept]

    (ours,) = jax.tree.leaves(state.params)
    wanted, start = table.detach()[new].numpy(), old[new].numpy()
    assert (np.linalg.norm(wanted - start, axis=1) > 0.5 * RATE).all()
    error = np.linalg.norm(ours - wanted)
    assert error <= 1e-3 * np.linalg.norm(wanted - start)


TOKENS = {"<cat>": "cat", "<dog>": "two dogs"}
PIVOTAL = ["--tokens.names", *(f"{a}={b}" for a, b in TOKENS.items())]
PIVOTAL += ["--data.template", "{} of <cat> and <dog>", "--optim.rates", "new_tokens=20"]


@pytest.fixture(scope="module")
def pivotal(config_file, images, tmp_path_factory):
    """A run of four steps, and one that stopped after two and went on."""
    measured = ["--data.held_out", str(images), "--validation.every", "2"]
    root = tmp_path_factory.mktemp("pivotal")
    for name, steps in [("whole", "4"), ("resumed", "2"), ("resumed", "4")]:
        output = ["--output", str(root / name), "--train.steps", steps]
        assert cli.train([str(config_file), *output, *PIVOTAL, *measured]) == 0
    return root


def files_of(folder):
    own = (
        f"{folder.name}.safetensors",
        f"{folder.name}_best.safetensors",
    )  # with their name inside
    files = contents(folder).items()
    return {k: v for k, v in files if k.endswith(".safetensors") and k not in own}


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bytes(pivotal):
    whole = files_of(pivotal / "whole")
    assert whole == files_of(pivotal / "resumed")
    for step in ("step-000002", "step-000004"):
        assert {f"embeddings/{step}_{name}.safetensors" for name in ("cat", "dog")} < whole.keys()
    assert (
        whole["learned_embeds_cat.safetensors"]
        == (whole["embeddings/step-000004_cat.safetensors"])
        != whole["embeddings/step-000002_cat.safetensors"]
    )


@pytest.mark.slow
def test_the_tokens_of_the_best_state_are_a_result(pivotal):
    lines = metrics(pivotal / "whole")
    losses = {row["step"]: row["val_loss"] for row in lines if row["step"] and "val_loss" in row}
    whole = files_of(pivotal / "whole")
    saved = whole[f"embeddings/step-{min(losses, key=losses.__getitem__):06d}_cat.safetensors"]
    assert whole["learned_embeds_best_cat.safetensors"] == saved


@pytest.mark.slow
def test_lora_and_tokens_give_the_same_image_in_diffusers(pivotal, model):
    folder = pivotal / "whole"
    ours, theirs = StableDiffusion.load(model), tiny.load(model)
    prompts = ["<cat> beside <dog>"] * 2
    given = {"negative_prompt": ["<dog>"] * 2, "seed": [3, 4], "output": "latents", **tiny.STEPS}
    ours.add_lora(folder / "lora.safetensors")
    theirs.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    for name in ("learned_embeds_cat.safetensors", "learned_embeds_dog.safetensors"):
        ours.add_embedding(folder / name)
        theirs.load_textual_inversion(folder, weight_name=name)
    expected = tiny.draw(theirs, prompts, ["<dog>"] * 2, [3, 4], **tiny.STEPS)
    actual = ours.generate(prompts, **given)
    assert_close(actual, expected, NETWORK)
    for token in TOKENS:
        ours.remove_embedding(token)
    assert not np.allclose(ours.generate(["cat beside two dogs"] * 2, **given), actual, atol=1e-3)


def test_the_recipe_is_the_reference_scripts():
    """C4: the defaults of diffusers' textual_inversion.py 0.42.1, called as in its README."""
    config = config_file.load(ROOT / "configs" / "textual_inversion.yaml")
    optim, shown = config.optim, config.data
    assert (optim.learning_rate, optim.weight_decay, optim.max_grad_norm) == (4 * 5e-4, 1e-2, 0)
    assert (optim.method, optim.schedule, optim.epsilon) == ("adamw", "constant", 1e-8)
    assert shown.random_flip and (shown.interpolation, shown.resolution) == ("bicubic", 512)
    assert config.train.batch_size == 4 and config.train.steps == 3000


def test_the_recipe(train, model, images):
    """Two steps of configs/textual_inversion.yaml, on the tiny model and images."""
    flags = ["--model.path", model, "--data.path", images, "--data.held_out", images]
    flags += ["--data.template", "{} with <my-cat>", "--data.resolution", 32, "--train.steps", 2]
    flags += ["--sample.steps", 1, "--sample.prompts", "a <my-cat>", "--optim.learning_rate", 0.1]
    run = train("a", *flags, config=ROOT / "configs" / "textual_inversion.yaml")
    assert run.status == 0, run.err
    names = {path.name for path in run.folder.iterdir()}
    assert not {"lora.safetensors", "loras", "model"} & names
    (token,) = tensors(run.folder / "learned_embeds.safetensors").items()
    assert token[0] == "<my-cat>" and token[1].shape == (1, 12)
    start, *_, end = [line["val_loss"] for line in run.metrics() if "val_loss" in line]
    assert start != end
    with np.load(run.folder / "samples" / "before.npz") as before:
        grids = [(run.folder / "samples" / f"step-00000{n}.png").read_bytes() for n in (0, 2)]
        assert before["prompts"].tolist() == ["a <my-cat>"] and grids[0] != grids[1]
    assert "--embedding" in run.out and "--lora" not in run.out.split("generate images")[1]

"""Encoding once: the losses of encoding at each step, nothing done twice, networks that leave."""

import contextlib
import gc
import json
import os
import shutil
import weakref

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from flax_sd.config.file import parse
from flax_sd.data import Images
from flax_sd.system import sharding
from flax_sd.system.progress import Progress
from flax_sd.training.inputs import batches as inputs
from flax_sd.training.inputs.batches import feed
from flax_sd.training.inputs.datasets import open_sets
from flax_sd.training.inputs.encoding import rows_at_once
from flax_sd.training.setup.base_model import load_model
from flax_sd.training.setup.task import make_task
from tests.threads import meeting
from tests.training_runs import assert_same_lora, contents, make_images

ONCE = ["--data.center_crop", "true"]
EACH_STEP = [*ONCE, "--data.encode_once", "false"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flax_sd" / "encoded"


def count(cache):
    return sum(path.is_file() for path in cache.rglob("*"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--data.random_flip", "true", "--train.caption_dropout", 0.3, "--train.steps", 8],
        ["--train.text_encoder", "true"],
        ["--train.mode", "full"],
        ["--data.shuffle_tags", "true", "--data.tag_separator", " ", "--train.steps", 6],
    ],
    ids=["flipped", "text encoder trained", "full", "captions vary"],
)
def test_losses_are_those_of_a_run_that_encodes_at_each_step(train, images, flags):
    flags = [*flags, "--data.held_out", images]
    once, each = train("a", *ONCE, *flags), train("b", *EACH_STEP, *flags)
    assert once.status == each.status == 0, once.err + each.err
    assert "encoded:" in once.out and "encoded:" not in each.out
    ours, theirs = once.metrics(), each.metrics()
    assert len(ours) == len(theirs) and "val_loss" in ours[-1]
    for a, b in zip(ours, theirs, strict=True):
        for name in {"loss", "val_loss"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-5), (a["step"], name)
    if "full" not in flags:
        assert_same_lora(once.lora(), each.lora())


@pytest.mark.parametrize("option, value", [("seed", 1), ("train.caption_dropout", 0.5)])
def test_what_is_drawn_of_the_data_follows_its_options(config_file, option, value):
    def shown(*flags):
        config = parse(config_file, [str(flag) for flag in flags])
        seen = []

        class Recorder:
            source = open_sets(config).train

            def batch(self, batch):
                seen.append((batch.indices.tolist(), "" in batch.captions))

        with contextlib.closing(feed(config, Recorder(), sharding.make_mesh(1, 1))) as fed:
            for _ in range(6):
                next(fed)
        return [indices for indices, _ in seen], any(dropped for _, dropped in seen)

    (order, dropped), (other_order, others_dropped) = shown(), shown(f"--{option}", value)
    assert not dropped
    assert (order != other_order, others_dropped) == (option == "seed", option != "seed")


def test_a_second_run_finds_everything(train, cache):
    first = train("a", *ONCE)
    assert "7 images, 0 of them found in the cache" in first.out
    assert "8 captions, 0 of them found in the cache" in first.out  # the empty one too
    assert count(cache) == 15
    kept = contents(cache)
    second = train("b", *ONCE)
    assert "7 images, 7 of them found" in second.out and "8 captions, 8 of" in second.out
    assert second.lora().keys() == first.lora().keys()
    assert all(np.array_equal(second.lora()[key], value) for key, value in first.lora().items())
    assert contents(cache) == kept


def test_a_cache_that_is_half_there_is_filled(train, cache):
    whole = train("a", *ONCE).lora()
    for path in sorted(p for p in cache.rglob("*") if p.is_file())[::2]:
        path.unlink()
    damaged = next(p for p in cache.rglob("*") if p.is_file())
    os.truncate(damaged, 100)
    again = train("b", *ONCE).lora()
    assert count(cache) == 15
    assert all(np.array_equal(again[key], value) for key, value in whole.items())


def test_whatever_changes_the_latents_is_encoded_anew(train, cache, model, tmp_path, monkeypatch):
    train("a", *ONCE)
    before = count(cache)
    train("b", *ONCE, "--data.random_flip", "true", "--train.steps", 8)
    assert count(cache) == before + 7  # the mirror images
    train("c", *ONCE, "--data.resolution", 24)
    assert count(cache) == before + 14
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((other / "vae" / "config.json").read_text())
    (other / "vae" / "config.json").write_text(json.dumps(config | {"norm_num_groups": 1}))
    train("d", *ONCE, "--model.path", other)
    assert count(cache) == before + 21  # the captions' states are those of before
    train("e", *ONCE, "--model.clip_skip", 1)
    assert count(cache) == before + 29
    padded = tmp_path / "padded"  # A3: the same words are other ids there
    shutil.copytree(model, padded)
    tokens = {name: "<|endoftext|>" for name in ("eos_token", "unk_token")}
    tokens |= {"bos_token": "<|startoftext|>", "pad_token": "!"}
    (padded / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(tokens))
    assert train("f", *ONCE, "--model.path", padded).status == 0
    assert count(cache) == before + 37
    monkeypatch.setattr("flax_sd.training.inputs.encoded.code_version", lambda: "another")
    train("g", *ONCE)
    assert count(cache) == before + 37 + 15


def test_images_that_are_cropped_anew_are_encoded_at_each_step(train, cache):
    run = train("a")
    assert run.status == 0 and count(cache) == 0
    assert "encodes at each step: 7 of 7 images are cropped at random" in run.out


def test_square_images_need_no_centre_crop(train, cache, tmp_path):
    folder = make_images(tmp_path, 3)
    for path in folder.glob("*.png"):
        Image.open(path).resize((32, 32)).save(path)
    run = train("a", "--data.path", folder)
    assert run.status == 0 and count(cache) == 3 + 4


def test_few_steps_encode_only_what_they_show(train, cache):
    run = train("a", *ONCE, "--train.steps", 2)
    assert "4 images are shown, fewer than the data set has" in run.out and count(cache) == 0


def test_a_disk_without_room_is_left_alone(train, cache, monkeypatch):
    monkeypatch.setattr(inputs.Store, "room", lambda self: 1000)
    run = train("a", *ONCE)
    assert run.status == 0 and "more than half of the free space" in run.out and count(cache) == 0


def test_only_what_is_missing_needs_room(train, cache, monkeypatch):
    train("a", *ONCE)
    monkeypatch.setattr(inputs.Store, "room", lambda self: 1000)
    run = train("b", *ONCE)  # as when the run before, or this one before a kill, took the room
    assert run.status == 0 and "7 images, 7 of them found" in run.out


def test_an_entry_that_goes_away_in_mid_run_is_named(train, cache, monkeypatch):
    prepare = inputs.prepare

    def then_lost(*args):
        prepared = prepare(*args)
        for path in cache.rglob("*.safetensors"):
            path.unlink()
        return prepared

    monkeypatch.setattr("flax_sd.training.run.prepare", then_lost)
    run = train("a", *ONCE)
    assert run.status == 2
    assert "is not there" in run.err and "run the same command again to encode it" in run.err
    monkeypatch.undo()


@pytest.fixture
def prepared(config_file):
    """What a run prepares, and its parts."""

    def make(*flags):
        config = parse(config_file, list(flags))
        parts = load_model(config, "float32")
        task = make_task(config, parts)
        sets = open_sets(config)
        mesh = sharding.make_mesh(-1, 1)
        return inputs.prepare(config, task, parts, sets, mesh, Progress())

    return make


def test_masks_are_those_of_the_images_as_encoded_once_or_at_each_step(
    prepared, config_file, tmp_path
):
    folder, losses, masks = make_images(tmp_path, 7), [], []
    for path in list(folder.glob("*.png")):
        mask = Image.new("L", (40, 50))
        mask.paste("white", (0, 0, 20, 50))
        mask.save(path.with_name(f"{path.stem}-masklabel.png"))
    flags = ["--data.path", str(folder), "--data.random_flip", "true", "--train.steps", "8"]
    flags += ["--data.mask", "file", "--data.unmasked_weight", "0.1", *ONCE]
    for once in ("true", "false"):
        options = [*flags, "--data.encode_once", once]
        made = prepared(*options)
        assert isinstance(made.train, inputs.FromCache if once == "true" else inputs.EncodeOnTheFly)
        batches = feed(parse(config_file, options), made.train, sharding.make_mesh(-1, 1))
        with contextlib.closing(batches):
            fed = [next(batches).batch for _ in range(8)]
        masks.append(np.stack([batch.mask for batch in fed]))
        draws = made.task.loss.draw(jax.random.key(0), fed[0])
        given = made.task.params, made.frozen
        loss = jax.jit(made.task.loss.loss)
        losses.append(np.stack([loss(*given, batch, draws) for batch in fed]))
    np.testing.assert_array_equal(*masks)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    middle = masks[0].shape[-1] // 2
    left, right = masks[0][..., :middle], masks[0][..., middle:]
    flipped = left[..., 0, 0] < 0.5
    assert flipped.any() and not flipped.all()
    np.testing.assert_allclose(np.where(flipped[..., None, None], right, left), 1, atol=0.02)
    np.testing.assert_allclose(np.where(flipped[..., None, None], left, right), 0.1, atol=0.02)
    whole = loss(*given, fed[0]._replace(mask=None), draws)
    assert (losses[1][0] < 0.8 * np.asarray(whole)).all()  # 0.55 if the error is alike everywhere


def test_so_many_threads_read_what_is_encoded(prepared, monkeypatch):
    monkeypatch.setattr(Images, "crop", meeting(Images.crop, 4))
    assert isinstance(prepared(*ONCE, "--data.workers", "4").train, inputs.FromCache)


def test_networks_without_more_to_do_are_no_part_of_the_steps(prepared):
    assert set(prepared(*ONCE).frozen) == {"unet"}
    assert set(prepared(*ONCE, "--train.text_encoder", "true").frozen) == {"unet", "text_encoder"}
    assert set(prepared(*ONCE, "--data.wildcards", "true").frozen) == {"unet", "text_encoder"}
    assert set(prepared(*EACH_STEP).frozen) == {"unet", "text_encoder", "vae"}
    assert set(prepared("--train.mode", "vae", *ONCE).frozen) == {"vae"}


@pytest.mark.parametrize("samples", [False, True])
def test_they_leave_the_device(train, monkeypatch, samples):
    from flax_sd.training import run as module

    seen, loaded = {}, []
    load, go = module.load_model, module.Run._loop

    def watched(*args):
        model = load(*args)
        networks = [model.networks[name] for name in ("vae", "text_encoder")]
        loaded.extend(map(weakref.ref, jax.tree.leaves([nnx.state(net) for net in networks])))
        return model

    def look(self, *args):
        gc.collect()
        seen["on the device"] = {type(ref()) for ref in loaded}
        networks = dict(self.model.networks)
        if self.samples is not None:
            pipeline = self.samples._sampler._pipeline
            networks |= {"vae": pipeline.vae, "text_encoder": pipeline.text_encoders[0]}
        leaves = {name: jax.tree.leaves(nnx.state(net)) for name, net in networks.items()}
        seen.update({n: {type(x).__module__ for x in found} for n, found in leaves.items()})
        return go(self, *args)

    monkeypatch.setattr(module, "load_model", watched)
    monkeypatch.setattr(module.Run, "_loop", look)
    flags = ["--sample.prompts", "a cat", "--sample.steps", 2] if samples else []
    run = train("a", *ONCE, *flags)
    assert run.status == 0, run.err
    assert len(loaded) > 10 and seen.pop("on the device") == {type(None)}
    kept = {name for name in ("vae", "text_encoder") if name in seen}
    assert kept == ({"vae", "text_encoder"} if samples else set())
    assert all(seen[name] == {"numpy"} for name in kept) and seen["unet"] != {"numpy"}


@pytest.mark.parametrize(
    "side, devices, rows", [(512, 1, 1), (128, 1, 16), (1024, 2, 2), (32, 1, 16)]
)
def test_small_images_are_encoded_more_at_once(side, devices, rows):
    assert rows_at_once(side, devices) == rows

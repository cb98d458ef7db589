"""The breaks that mutation_test.py makes, and the tests that should notice each."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One break of the package; paths are from the root of the checkout."""

    name: str  # what is broken
    file: str
    old: str  # is there exactly once
    new: str
    tests: tuple[str, ...]  # that have to do with it, the likeliest to notice first


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
        "rate.decay(path)",
        "rate.weight_decay",
        ("tests/training/optim/test_build.py", "tests/training/optim/test_rates.py"),
    ),
    Mutation(
        "rates by pattern do not reach prodigy and dadapt",
        "flax_sd/training/optim/build.py",
        "u * (rate.peak(path) / rate.learning_rate)",
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
        "left = 1 - end - std**2",
        "left = 1 - end",
        ("tests/samplers/methods/test_ddim.py", "tests/samplers/test_loop.py"),
    ),
    Mutation(
        "Euler's first noise with leading timesteps lacks the variance of x_0",
        "flax_sd/samplers/sigmas.py",
        "np.sqrt(largest**2 + 1)",
        "np.sqrt(largest**2)",
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
        "self._made_by = clip_skip, code_version(), *text_encoders",
        "self._made_by = code_version(), *text_encoders",
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

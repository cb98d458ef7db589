"""Jitted functions: which share one program, what is an argument, and the compiler's options."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_sd
from flax_sd.config import LossConfig, OptimConfig
from flax_sd.diffusion.schedule import NoiseSchedule
from flax_sd.models.kernels.convolution import conv3x3
from flax_sd.models.vae import AutoencoderKL
from flax_sd.system import compiler, program, sharding
from flax_sd.system.program import divided
from flax_sd.weights.networks import OneKey


@program.remembered
def built(*args, **kwargs):
    return object()


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: {"b": [1, 2.5], "a": "x"}, {"b": [1, 3.5], "a": "x"}),
        (lambda: np.arange(3.0), np.arange(3)),
        (lambda: jnp.ones(2), np.zeros(2, np.float32)),
        (lambda: OptimConfig(rates={"up": 2.0}), OptimConfig(rates={"up": 3.0})),
        (lambda: (LossConfig(), None), (LossConfig(weight="min_snr"), None)),
        (lambda: NoiseSchedule.from_config({}), NoiseSchedule.from_config({"beta_end": 0.1})),
    ],
    ids=["mapping", "dtype", "array", "patterns", "section", "schedule"],
)
def test_a_builder_gives_one_result_for_equal_contents(make, other):
    assert built(make(), key=make()) is built(make(), key=make())
    assert built(make(), key=make()) is not built(make(), key=other)
    assert built(make()) is not built(other)


def test_a_builder_compares_functions_by_identity_and_refuses_what_has_no_contents():
    one, two = (lambda: None), (lambda: None)
    assert built(one) is built(one) is not built(two)
    with pytest.raises(TypeError, match="unhashable"):
        built({1, 2})


def test_a_large_program_is_scheduled_for_the_smallest_peak(monkeypatch):
    """Without it the transformed kernels of all layers are made first and held together."""

    def layers(x, kernels):
        for kernel in kernels:
            x = jnp.tanh(conv3x3(x, kernel))
        return x

    def temporaries(jit):
        lowered = jit(layers).lower(x, [kernel] * 6)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(1, 32, 32, 64), (3, 3, 64, 64)]
    )
    plain = temporaries(jax.jit)
    assert temporaries(program.jit) == plain
    monkeypatch.setattr(program, "LARGE_PROGRAM_WEIGHTS", x.size + 6 * kernel.size)
    assert temporaries(program.jit) < 0.6 * plain
    without_kernels = functools.partial(program.jit, weights=lambda x, kernels: x)
    assert temporaries(without_kernels) == plain


def test_the_bundled_base_is_small_and_each_network_of_sd15_large():
    def count(network):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network)))

    base = flax_sd.StableDiffusion.load("bundled:base")
    assert (
        sum(map(count, (base.unet, base.vae, *base.text_encoders))) < program.LARGE_PROGRAM_WEIGHTS
    )
    widths = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    smallest = dataclasses.replace(base.vae.config, norm_num_groups=32, **widths)
    assert (
        count(nnx.eval_shape(lambda: AutoencoderKL(smallest, rngs=OneKey())))
        > program.LARGE_PROGRAM_WEIGHTS
    )


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch):
    compiler.compiler_options.cache_clear()
    monkeypatch.setattr(compiler, "LEVEL", {"xla_cpu_of_another_time": True})
    assert program.jit(lambda x: x + 1)(jnp.ones(2)).tolist() == [2, 2]
    compiler.compiler_options.cache_clear()


@pytest.fixture
def unset_precision():
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", None)
    yield
    jax.config.update("jax_default_matmul_precision", before)


def test_float32_is_multiplied_as_float32_unless_the_user_says_otherwise(unset_precision):
    """B2: by JAX's default a TPU rounds to bfloat16 and a GPU to TF32."""

    def compiled(dtype):
        weights = jax.ShapeDtypeStruct((8, 8), dtype)
        product = program.jit(lambda w, x: x.astype(w.dtype) @ w, weights=lambda w, x: w)
        return product.lower(weights, jax.ShapeDtypeStruct((4, 8), jnp.float32))

    assert "precision = [HIGHEST, HIGHEST]" in compiled(jnp.float32).as_text()
    assert "operand_precision={highest,highest}" in compiled(jnp.float32).compile().as_text()
    assert "HIGHEST" not in compiled(jnp.bfloat16).as_text()
    with jax.default_matmul_precision("tensorfloat32"):
        assert "HIGHEST" not in compiled(jnp.float32).as_text()


class Named(NamedTuple):
    name: str
    rate: float
    steps: int


def settings(**changes):
    """Settings of every kind: numbers in a tuple, in an array, and what is no number."""
    given = {"name": "adamw", "rate": 0.1, "steps": 3} | changes
    return {"own": Named(**given), "table": np.arange(3.0, dtype=np.float32)}


def test_settings_that_differ_in_numbers_have_one_structure():
    numbers, structure = divided(settings())
    other, same = divided(settings(rate=0.7))
    assert structure == same and hash(structure) == hash(same)
    assert [np.shape(number) for number in numbers] == [(), (3,)] and other[0] == np.float32(0.7)
    filled = structure.filled(other)
    assert filled["own"] == Named("adamw", np.float32(0.7), 3)


@pytest.mark.parametrize("changes", [{"name": "lion"}, {"steps": 4}, {"rate": 0.0}])
def test_names_counts_and_what_is_off_are_structure(changes):
    assert divided(settings(**changes)).structure != divided(settings()).structure


def test_a_fixed_argument_is_no_constant(monkeypatch):
    made = program.jit(lambda first, x: first[0] * x)
    one, two = (made.with_first([np.float32(number)]) for number in (2, 3))
    x = jnp.ones(2)
    assert one(x).tolist() == [2, 2] and two(x).tolist() == [3, 3]
    assert one.lower(x).as_text() == two.lower(x).as_text()


def test_what_was_traced_is_not_traced_for_a_call():
    """The loop counts a step's FLOPs before it starts it."""
    traced = []

    def scaled(factor, x):
        traced.append(x)
        return factor * x

    mesh = sharding.make_mesh(-1, 1)
    scale = program.jit(scaled).with_first(np.array(3, np.float32), mesh)
    x = sharding.replicate(jnp.ones(2), mesh)
    scale.trace(x)
    assert scale(x).tolist() == [3, 3]
    assert len(traced) == 1

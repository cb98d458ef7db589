"""The compiler's options, its programs on disk, and the memory it gives back."""

import dataclasses
import functools
import os
import platform

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
from flax_sd.system import compiler
from flax_sd.system.allocator import environment
from flax_sd.weights.networks import OneKey
from tests.processes import run

COMPILE = """
import sys
import jax, jax.numpy as jnp
from flax_sd.system import compiler
compiler.set_up()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(sum("cache_hits" in name for name in hits))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return tmp_path


def test_a_second_process_takes_what_the_first_compiled(home):
    first, second = (int(run(COMPILE, XDG_CACHE_HOME=home)) for _ in range(2))
    assert first == 0 < second
    folder = home / "flax_sd" / "compiled"
    assert folder.stat().st_mode & 0o077 == 0
    assert any(folder.iterdir())


def test_the_users_own_folder_is_taken(home):
    run(COMPILE, XDG_CACHE_HOME=home, JAX_COMPILATION_CACHE_DIR=home / "mine")
    assert (home / "mine").is_dir() and not (home / "flax_sd").exists()


def test_an_empty_name_turns_it_off(home):
    assert int(run(COMPILE, XDG_CACHE_HOME=home, JAX_COMPILATION_CACHE_DIR="")) == 0
    assert not any(home.iterdir())


def test_a_user_without_a_name_compiles_without_a_cache(home, monkeypatch):
    """F20: JAX would warn of each program that it cannot keep."""

    def nobody(number):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    before = jax.config.values["jax_compilation_cache_dir"]
    compiler._keep_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == before and not any(home.iterdir())


@compiler.remembered
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
    assert temporaries(compiler.jit) == plain
    monkeypatch.setattr(compiler, "LARGE_PROGRAM_WEIGHTS", x.size + 6 * kernel.size)
    assert temporaries(compiler.jit) < 0.6 * plain
    without_kernels = functools.partial(compiler.jit, weights=lambda x, kernels: x)
    assert temporaries(without_kernels) == plain


def test_the_bundled_base_is_small_and_each_network_of_sd15_large():
    def count(network):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network)))

    base = flax_sd.StableDiffusion.load("bundled:base")
    assert (
        sum(map(count, (base.unet, base.vae, *base.text_encoders))) < compiler.LARGE_PROGRAM_WEIGHTS
    )
    widths = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    smallest = dataclasses.replace(base.vae.config, norm_num_groups=32, **widths)
    assert (
        count(nnx.eval_shape(lambda: AutoencoderKL(smallest, rngs=OneKey())))
        > compiler.LARGE_PROGRAM_WEIGHTS
    )


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch):
    compiler._compiler_options.cache_clear()
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_cpu_of_another_time": True})
    monkeypatch.setattr(compiler, "LARGE_PROGRAM_WEIGHTS", 1)
    assert compiler.jit(lambda x: x + 1)(jnp.ones(2)).tolist() == [2, 2]
    compiler._compiler_options.cache_clear()


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
        program = compiler.jit(lambda w, x: x.astype(w.dtype) @ w, weights=lambda w, x: w)
        return program.lower(weights, jax.ShapeDtypeStruct((4, 8), jnp.float32))

    assert "precision = [HIGHEST, HIGHEST]" in compiled(jnp.float32).as_text()
    assert "operand_precision={highest,highest}" in compiled(jnp.float32).compile().as_text()
    assert "HIGHEST" not in compiled(jnp.bfloat16).as_text()
    with jax.default_matmul_precision("tensorfloat32"):
        assert "HIGHEST" not in compiled(jnp.float32).as_text()


def test_however_many_commands_one_listener(monkeypatch):
    heard = []
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", heard.append)
    compiler._give_memory_back.cache_clear()
    for _ in range(3):
        compiler._give_memory_back()
    assert len(heard) == (platform.libc_ver()[0] == "glibc")


MEMORY = """
import jax, jax.numpy as jnp, re, sys
from flax_sd.system import compiler
if sys.argv[1:] == ["give"]:
    compiler._give_memory_back()
jax.jit(lambda x: sum(jnp.sin(x * i) @ x for i in range(120))).lower(jnp.ones((64, 64))).compile()
print(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc_trim")
def test_the_memory_of_compiling_is_given_back():
    kept, given = (
        int(run(MEMORY, *args, JAX_COMPILATION_CACHE_DIR="", XLA_FLAGS="", **environment()))
        for args in ([], ["give"])  # optimised as programs are: that takes the memory
    )
    assert given < 0.7 * kept


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_gpu_deterministic_ops=true"),
        ("--xla_a=1", "--xla_a=1 --xla_gpu_deterministic_ops=true"),
        ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
    ],
)
def test_determinism_leaves_the_users_flags_alone(monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    compiler.ask_for_determinism()
    compiler.ask_for_determinism()
    assert os.environ["XLA_FLAGS"] == after

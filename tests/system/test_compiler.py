"""The compiler's options, its programs on disk, and the memory it gives back."""

import os
import platform
import textwrap

import jax
import pytest

import flax_sd
from flax_sd.system import compiler
from flax_sd.system.allocator import environment
from flax_sd.system.compiler import LEVEL, SCHEDULER
from tests.processes import run

COMPILE = """
import sys
import jax, jax.numpy as jnp
from flax_sd.system import compiler
compiler.MIN_KEPT_SECONDS = 0.0  # JAX's own would keep none of what follows
compiler.set_up()
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


FROM_PYTHON = """
import sys
import jax
import flax_sd
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(1.0)  # before a model is loaded, as a user's own program
print(jax.config.values["jax_compilation_cache_dir"])
flax_sd.StableDiffusion.load(sys.argv[1])
jax.jit(lambda x: x + 2)(1.0)
print(jax.config.values["jax_compilation_cache_dir"])
"""


def test_a_model_loaded_from_python_keeps_programs_but_importing_does_not(home, folders):
    ours = home / "flax_sd" / "compiled"
    assert run(FROM_PYTHON, folders / "sd1", XDG_CACHE_HOME=home).split() == ["None", str(ours)]
    assert any(ours.iterdir())


def test_loading_leaves_a_cache_that_jax_was_told(home, folders, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(home / "mine"))
    try:
        flax_sd.StableDiffusion.load(folders / "sd1")
        assert jax.config.values["jax_compilation_cache_dir"] == str(home / "mine")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not (home / "flax_sd").exists()


def test_a_user_without_a_name_compiles_without_a_cache(home, monkeypatch):
    """F20: JAX would warn of each program that it cannot keep."""

    def nobody(number):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        compiler._keep_programs()
        assert jax.config.values["jax_compilation_cache_dir"] is None and not any(home.iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


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


OPTIONS = """
from flax_sd.system import compiler
print(compiler.compiler_options(True))
"""


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        ({}, LEVEL | SCHEDULER),
        ({"XLA_FLAGS": "--xla_backend_optimization_level=2"}, SCHEDULER),
        (
            {"XLA_FLAGS": "--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_DEFAULT"},
            LEVEL,
        ),
        ({"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}, SCHEDULER),
    ],
    ids=["ours", "level", "scheduler", "jax"],
)
def test_what_the_user_chose_stays(monkeypatch, chosen, options):
    """An option of a program would override it."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert run(OPTIONS, **chosen).strip() == str(options)


def test_the_users_limits_of_the_cache_stay(home):
    code = """
        from flax_sd.system import compiler
        import jax
        compiler.set_up()
        print(jax.config.values["jax_compilation_cache_max_size"])
        print(jax.config.values["jax_persistent_cache_min_compile_time_secs"])
    """
    given = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "3"}
    shown = run(textwrap.dedent(code), XDG_CACHE_HOME=home, **given).split()
    assert shown == [str(compiler.MAX_BYTES), "3.0"]

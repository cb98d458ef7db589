"""Where compiled programs are kept, and that the second process takes them from there."""

import pytest

from tests.processes import run

COMPILE = """
import sys
import jax, jax.numpy as jnp
from flax_sd import compile_cache
compile_cache.enable()
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

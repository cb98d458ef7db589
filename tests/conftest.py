"""What every test shares: exact arithmetic in JAX, and the folder of real files if there is one."""

import os
import pathlib
import signal
import tempfile
from importlib.metadata import version

# Not the caches in the user's home but some of these tests, shared by all their processes, the
# workers of pytest-xdist too. JAX reads its own when it is imported.
if "XDG_CACHE_HOME" not in os.environ:
    caches = tempfile.TemporaryDirectory(prefix="caches-")
    os.environ["XDG_CACHE_HOME"] = caches.name
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
# Most of the tests' time is XLA compiling small programs that run once: without LLVM's
# optimisations, with its older emitters of loops, and all in one module, that takes a tenth of it.
# Matrix products and convolutions are XLA's own either way. Another version may stop at flags that
# it lacks.
if version("jax").startswith("0.10.") and "optimization_level" not in os.environ.get(
    "XLA_FLAGS", ""
):
    quick = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    quick += " --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

import jax
import pytest

pytest_plugins = ["tests.training_runs"]
jax.config.update("jax_default_matmul_precision", "highest")
# Processes that nohup starts inherit an ignored SIGHUP, and tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real weights, LoRA files and images (`FLAX_SD_TEST_DATA`)."""
    folder = os.environ.get("FLAX_SD_TEST_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("FLAX_SD_TEST_DATA does not name a folder of real test files")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Tiny models as diffusers saves them: sd1, sd2."""
    from tests import tiny  # torch and diffusers take seconds to import

    root = tmp_path_factory.mktemp("models")
    for family in ("sd1", "sd2"):
        tiny.save(family, root / family)
    return root


@pytest.fixture(scope="session")
def pairs(folders):
    """The same models, loaded here and in diffusers."""
    import flax_sd
    from tests import tiny

    return {
        family: (flax_sd.StableDiffusion.load(folders / family), tiny.load(folders / family))
        for family in ("sd1", "sd2")
    }

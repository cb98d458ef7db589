"""What every test shares: exact arithmetic in JAX, and the folder of real files if there is one."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
    """The folder of real weights, LoRA files and pictures (`FLAX_SD_TEST_DATA`)."""
    folder = os.environ.get("FLAX_SD_TEST_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("FLAX_SD_TEST_DATA does not name a folder of real test files")
    return pathlib.Path(folder)
